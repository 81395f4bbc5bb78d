"""The demo, small, over the caller's own files: its report agrees with an independent count."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from worker_lab import real_places

from streamforge.artifacts.base import open_artifacts
from streamforge.cli.demo.run import DemoOptions, run_demo
from streamforge.core.samples import candles
from streamforge.features.indicators import WARMUP
from streamforge.rl.policy import Policy
from streamforge.runs.models import load_model
from streamforge.store.base import open_store

sys.path.insert(0, str(Path(__file__).parents[2]))
from servers import need  # noqa: E402

HOUR, MARKETS, SPAN = 3_600_000, ("BTCUSDT", "ETHUSDT", "XRPUSDT"), "2022-01-01:2022-06-03"
HOLES = {
    "ETHUSDT": (1_000, 1_001, 1_002, 3_400),
    "XRPUSDT": (50,),
}  # rows that the files do not have; 3,400 lies in the live range


@pytest.fixture
def files(tmp_path):
    "CSV files with holes, as they come from somewhere else."
    folder = tmp_path / "candles"
    folder.mkdir()
    for symbol in MARKETS:
        rows = candles(symbol, SPAN).drop(index=list(HOLES.get(symbol, ())))
        rows.to_csv(folder / f"{symbol}.csv", index=False)
    return folder


def holes_of(path):
    "Ten lines that know nothing of StreamForge: (start, end, missing) of each hole of a file."
    with path.open() as file:
        times = [int(row["open_time"]) for row in csv.DictReader(file)]
    return [(a + HOUR, b, (b - a) // HOUR - 1) for a, b in zip(times, times[1:], strict=False) if b - a > HOUR], times


async def small_demo(files, home):
    "Its figures."
    home.mkdir()
    await run_demo(
        DemoOptions(
            source=str(files),
            seed=3,
            json=str(home / "out.json"),
            home=str(home),
            folds=2,
            ppo_steps=8_192,
            fold_steps=8_192,
        )
    )
    return json.loads((home / "out.json").read_bytes())


def lasting(report):
    "Figures without how long things took."
    if isinstance(report, dict):
        return {
            k: lasting(v)
            for k, v in report.items()
            if k not in ("seconds", "steps_per_second", "latency_ms_p50", "latency_ms_p99", "source")
        }
    return [lasting(value) for value in report] if isinstance(report, list) else report


_embedded: list = []  # figures of the run on embedded defaults


@pytest.mark.slow
@pytest.mark.timeout(500)
async def test_the_demo_over_own_files(files, tmp_path):
    home = tmp_path / "home"
    report = await small_demo(files, home)
    _embedded.append(report)
    want = {symbol: holes_of(files / f"{symbol}.csv") for symbol in MARKETS}
    assert report["gaps"] == [
        {"symbol": s, "start": a, "end": b, "missing": n} for s in MARKETS for a, b, n in want[s][0]
    ]
    total = sum(len(times) for _, times in want.values())
    assert report["records"] == {"loaded": total, "stored": total, "enriched": total, "dead": 0}
    async with open_store(f"sqlite:///{home}/store.db") as store:
        for symbol, (_, times) in want.items():
            assert (await store.read("candles_1h", where={"symbol": symbol}))["open_time"].to_pylist() == times
    agent = report["agent"]
    assert (
        agent["decisions"] == 3 * 528 - 1
        and agent["exact"]
        and agent["worst_difference"] <= 1e-9
        and 0 < agent["latency_ms_p50"] <= agent["latency_ms_p99"]
    )
    assert (
        report["ppo"]["steps"] >= 8_192
        and 0 < report["gnn"]["auc"] < 1
        and report["graph"]["nodes"] == 3
        and report["seed"] == 3
    )
    walk = report["walk_forward"]
    assert walk["folds"] == 2 and set(walk) == {
        "folds",
        "agent",
        "agent_without_graph",
        "buy_and_hold",
        "cash",
        "verdict",
    }
    assert walk["cash"]["total_return"] == 0 and {"sharpe", "sortino", "max_drawdown", "total_return"} <= set(
        walk["agent"]
    )
    assert report["shows"] == walk["verdict"]["shows"]
    assert report["command"] == f"streamforge demo --seed 3 --source {files}"
    timed = {
        own["name"]: own["timing"]["reason"] or own["timing"]["p_end_value"] for own in walk["verdict"]["strategies"]
    }
    assert timed["buy_and_hold"] == "no timing to test" and timed["cash"] == "did not trade"
    assert [stage["name"] for stage in report["stages"]] == [
        "load",
        "freeze",
        "graph",
        "gnn",
        "ppo",
        "live",
        "walk_forward",
    ] and (home / "walk-forward" / "report.html").stat().st_size > 100_000


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_the_demo_reports_the_same_on_real_servers(files, tmp_path, monkeypatch):
    "Kafka, PostgreSQL and MinIO change no figure: not a candle, not an edge, not a model's bytes, not a decision."
    kafka, postgresql, minio = need("kafka"), need("postgresql"), need("minio")
    expected = _embedded[0] if _embedded else await small_demo(files, tmp_path / "embedded")
    with real_places(tmp_path, kafka, postgresql) as places:
        for name, url in {**places, "STREAMFORGE_ARTIFACTS_URL": minio}.items():
            monkeypatch.setenv(name, url)
        report = await small_demo(files, tmp_path / "home")
    assert lasting(report) == lasting(expected)


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
        "LTCUSDT": whole["LTCUSDT"][whole["LTCUSDT"].open_time < first + 300 * day],
        "DOGEUSDT": whole["DOGEUSDT"][whole["DOGEUSDT"].open_time >= first + 200 * day],
        "ADAUSDT": late[late.open_time != first + 152 * day + HOUR],  # the next one begins before the last is over
        "SOLUSDT": candles("SOLUSDT", "2021-04-10:2021-08-01"),
        "XRPUSDT": candles("XRPUSDT", span)[-LATE:],
    }
    for symbol, table in tables.items():
        table.to_csv(folder / f"{symbol}.csv", index=False)
    return folder, tables


@pytest.mark.timeout(600)
async def test_the_demo_over_markets_that_come_and_go(mixed, tmp_path, capsys):
    folder, tables = mixed
    report = await small_demo(folder, tmp_path / "home")
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
