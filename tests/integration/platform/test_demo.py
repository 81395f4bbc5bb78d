"""The demo, small, over the caller's own files: its report agrees with an independent count."""

import asyncio
import csv
import sys
from pathlib import Path

import pytest
from small_demo import small_demo
from worker_lab import real_places

from streamforge.cli.demo.run import DemoOptions
from streamforge.core.samples import candles
from streamforge.runs.folds import WalkForward
from streamforge.store.base import open_store

sys.path.insert(0, str(Path(__file__).parents[2]))
from servers import need  # noqa: E402

HOUR, MARKETS, SPAN = 3_600_000, ("BTCUSDT", "ETHUSDT", "XRPUSDT"), "2022-01-01:2022-06-03"
HOLES = {
    "ETHUSDT": (1_000, 1_001, 1_002, 3_400),
    "XRPUSDT": (50,),
}  # rows that the files do not have; 3,400 lies in the live range
FEW = {"seeds": 2, "draws": 5}  # several of each are joined; how many makes no other path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """CSV files with holes, as they come from somewhere else. One folder for all runs that are compared: the command
    that a report repeats names it."""
    folder = tmp_path_factory.mktemp("candles")
    for symbol in MARKETS:
        rows = candles(symbol, SPAN).drop(index=list(HOLES.get(symbol, ())))
        rows.to_csv(folder / f"{symbol}.csv", index=False)
    return folder


def holes_of(path):
    "Ten lines that know nothing of StreamForge: (start, end, missing) of each hole of a file."
    with path.open() as file:
        times = [int(row["open_time"]) for row in csv.DictReader(file)]
    return [(a + HOUR, b, (b - a) // HOUR - 1) for a, b in zip(times, times[1:], strict=False) if b - a > HOUR], times


def lasting(report):
    "Figures without how long things took."
    if isinstance(report, dict):
        return {
            k: lasting(v)
            for k, v in report.items()
            if k not in ("seconds", "steps_per_second", "latency_ms_p50", "latency_ms_p99")
        }
    return [lasting(value) for value in report] if isinstance(report, list) else report


@pytest.fixture(scope="module")
def embedded(files, tmp_path_factory):
    "Home and figures of the run on embedded defaults."
    home = tmp_path_factory.mktemp("home")
    return home, asyncio.run(small_demo(files, home, **FEW))


@pytest.mark.slow
@pytest.mark.timeout(500)
async def test_the_demo_over_own_files(files, embedded):
    home, report = embedded
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
async def test_the_demo_reports_the_same_on_real_servers(files, embedded, tmp_path, monkeypatch):
    "Kafka, PostgreSQL and MinIO change no figure: not a candle, not an edge, not a model's bytes, not a decision."
    kafka, postgresql, minio = need("kafka"), need("postgresql"), need("minio")
    _, expected = embedded
    with real_places(tmp_path, kafka, postgresql) as places:
        for name, url in {**places, "STREAMFORGE_ARTIFACTS_URL": minio}.items():
            monkeypatch.setenv(name, url)
        report = await small_demo(files, tmp_path / "home", **FEW)
    assert lasting(report) == lasting(expected)


def test_the_demo_draws_enough_markets_for_a_p_value():
    "These tests draw fewer, so that they end; the demo itself can reach 5 %, and in full it is any other walk-forward."
    usual, full = DemoOptions().walk_forward(), DemoOptions(full=True).walk_forward()
    assert 1 / (usual.draws + 1) <= 0.05
    assert usual.seeds > 1
    assert full == WalkForward(seed=usual.seed, ppo=usual.ppo)
