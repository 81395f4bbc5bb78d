"""The demo over markets that come and go: what is known of each decides what is done with it, and is told."""

import numpy as np
import pytest
from small_demo import small_demo

from streamforge.artifacts.base import open_artifacts
from streamforge.core.samples import candles
from streamforge.features.indicators import WARMUP
from streamforge.rl.policy import Policy
from streamforge.runs.models import load_model
from streamforge.store.base import open_store

HOUR = 3_600_000
LATE = 120  # hours that a market has which began within the live range
SHIFT = 28 * 60_000 + 14_789  # ms; how far Binance's hours lay behind the grid after its stop of February 2018


@pytest.fixture
def mixed(tmp_path):
    """A folder of markets that lived at different times; one ended before the history, one began within the live range,
    one has hours off the grid."""
    folder, span, day = tmp_path / "mixed", "2022-01-01:2023-06-15", 86_400_000
    folder.mkdir()
    whole = {symbol: candles(symbol, span) for symbol in ("BTCUSDT", "LTCUSDT", "DOGEUSDT", "ADAUSDT")}
    first = int(whole["BTCUSDT"].open_time.iloc[0])
    off = whole["ADAUSDT"]
    stopped = off.open_time.between(first + 150 * day, first + 152 * day)
    late = off.assign(open_time=off.open_time.where(~stopped, off.open_time + SHIFT))
    tables = {
        "BTCUSDT": whole["BTCUSDT"],
        "LTCUSDT": whole["LTCUSDT"][whole["LTCUSDT"].open_time < first + 360 * day],
        "DOGEUSDT": whole["DOGEUSDT"][whole["DOGEUSDT"].open_time >= first + 200 * day],
        "ADAUSDT": late[late.open_time != first + 152 * day + HOUR],  # the next one begins before the last is over
        "SOLUSDT": candles("SOLUSDT", "2021-04-10:2021-08-01"),
        "XRPUSDT": candles("XRPUSDT", span)[-LATE:],
    }
    for symbol, table in tables.items():
        table.to_csv(folder / f"{symbol}.csv", index=False)
    return folder, tables


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_the_demo_over_markets_that_come_and_go(mixed, tmp_path, capsys):
    folder, tables = mixed
    report = await small_demo(folder, tmp_path / "home", seeds=1, draws=1)  # neither matters to what is checked
    assert report["left_out"] == ["SOLUSDT", "XRPUSDT"]
    start, end = (int(np.datetime64(text, "ms").astype(np.int64)) for text in report["history"].split(":", 1))
    live_end = int(np.datetime64(report["live"].rpartition(":")[2], "ms").astype(np.int64))
    taking_part = {symbol: table for symbol, table in tables.items() if symbol != "SOLUSDT"}
    within = {s: t.open_time[t.open_time.between(start, live_end - 1)].tolist() for s, t in taking_part.items()}
    total = sum(len(times) for times in within.values())
    assert report["records"] == {"loaded": total, "stored": total, "enriched": total, "dead": 0}
    async with open_store(f"sqlite:///{tmp_path / 'home'}/store.db") as store:
        for symbol, times in within.items():
            assert (await store.read("candles_1h", where={"symbol": symbol}))["open_time"].to_pylist() == times
    assert sum(t % HOUR != 0 for t in within["ADAUSDT"]) >= 40
    live = sum(sum(t >= end for t in times) for times in within.values())
    assert live == 3 * 528 + LATE
    # of the market without a history no decision before its indicators are warm and the policy's window is full
    async with open_artifacts(f"file://{tmp_path / 'home'}/artifacts") as artifacts:
        policy = Policy.load((await load_model(artifacts, "ppo", report["ppo"]["version"]))[0])
    undecided = WARMUP + policy.config.window - 1
    async with open_store(f"sqlite:///{tmp_path / 'home'}/store.db") as store:
        decisions = await store.read("decisions", where={"symbol": "XRPUSDT"})
    assert decisions["open_time"].to_pylist() == within["XRPUSDT"][undecided:]
    assert report["agent"]["decisions"] == live - undecided
    assert report["agent"]["exact"]
    assert report["graph"]["nodes"] == 4
    shown = capsys.readouterr().out
    assert "of 4 markets stored and enriched" in " ".join(shown.split())
    page = next((tmp_path / "home" / "walk-forward").glob("report.html")).read_text()
    assert "markets</td><td>ADAUSDT, BTCUSDT, DOGEUSDT, LTCUSDT</td>" in page
    assert "Without candles in the test, their capital in cash: fold 1: LTCUSDT." in page
