"""A small calibration through real folds: killed and gone on with, repeated, damaged; the same seed, the same figures."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from streamforge.core.errors import NotEnoughData
from streamforge.runs.calibration import Calibration, calibrate, calibration_jobs, job_file, read_job

pytestmark = pytest.mark.slow
TINY = Calibration(
    kinds=("garch", "drift_regimes"),
    panels=2,
    markets=3,
    candles=600,
    seeds=1,
    steps=1_024,
    draws=19,
    agents=12,
    oracles=4,
    gnn={"window": 24, "hidden": 2, "heads": 1, "layers": 1, "epochs": 1, "stride": 4},
    ppo={"n_envs": 16, "n_steps": 32, "batch_size": 256, "n_epochs": 1, "episode": 32},
)


def plain(table):
    "A table without what may differ between runs."
    return msgspec.structs.replace(table, cpu_seconds=0.0, reused=0)


async def test_stopped_gone_on_with_and_damaged(tmp_path):
    "A calibration that is cancelled in the middle keeps what is done, and ends with the figures of one that was not."
    begun, seen = asyncio.Event(), []

    def moved(state):
        seen.append(state)
        if state.done >= len(calibration_jobs(TINY)) - 3:  # one panel of the models is done
            begun.set()

    folder = tmp_path / "calibration"
    task = asyncio.create_task(calibrate(TINY, folder, workers=2, progress=moved))
    waiting = asyncio.create_task(begun.wait())
    await asyncio.wait({task, waiting}, timeout=300, return_when=asyncio.FIRST_COMPLETED)
    assert begun.is_set() and not task.done()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    jobs = calibration_jobs(TINY)
    kept = [job for job in jobs if read_job(job_file(TINY, job, folder))]
    assert 0 < len(kept) < len(jobs)

    first = await calibrate(TINY, folder, workers=2)
    assert first.reused == len(kept) and first.jobs == len(jobs)
    assert [(row.kind, row.panels, row.markets) for row in first.planted] == [("garch", 2, 6), ("drift_regimes", 2, 6)]
    for row in first.planted:
        for own in row.agents.values():
            assert own.found + own.not_found + own.did_not_trade + own.no_timing == 2
            assert own.share is None  # of six markets
    assert first.planted[0].oracle_auc is None and first.planted[0].oracle_log_return == 0
    assert first.planted[1].oracle_auc > 0.5
    assert not list(folder.glob("*.work")) and all(path.stat().st_mode & 0o077 == 0 for path in folder.glob("*.json"))

    again = await calibrate(TINY, folder, workers=2)
    assert again.reused == len(jobs) and plain(again) == plain(first)

    broken = job_file(TINY, jobs[-1], folder)
    broken.write_bytes(broken.read_bytes()[:-40])
    mended = await calibrate(TINY, folder, workers=2)
    assert mended.reused == len(jobs) - 1 and plain(mended) == plain(first) and read_job(broken) is not None


async def test_the_same_seed_gives_the_same_figures(tmp_path, monkeypatch):
    monkeypatch.delattr(sys.modules["__main__"], "__spec__", raising=False)  # as a shell or a test runner may have it
    config = msgspec.structs.replace(TINY, kinds=("drift_regimes",), panels=1)
    tables = [await calibrate(config, tmp_path / name, workers=1) for name in ("one", "two")]
    assert plain(tables[0]) == plain(tables[1])
    other = await calibrate(msgspec.structs.replace(config, panels=0, seed=1), tmp_path / "one", workers=1)
    assert other.reused == 0 and other.rates != tables[0].rates


async def test_too_few_candles_are_refused_before_any_job(tmp_path):
    with pytest.raises(NotEnoughData, match="gnn_train of fold 0"):
        await calibrate(Calibration(candles=300), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def workers_of(pid):
    "Processes that a process has started."
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("how", (signal.SIGINT, signal.SIGKILL))
def test_the_command_is_stopped_and_goes_on(tmp_path, how):
    "Ctrl-C or a kill ends the command and its workers; the same command takes up what was kept and prints JSON only."
    small = ("--panels", "0", "--agents", "150", "--oracles", "0", "--candles", "800", "--markets", "3", "--json")
    command = [sys.executable, "-m", "streamforge.cli.main", "calibrate", *small, "--home", str(tmp_path)]
    folder = tmp_path / "calibration"
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True}
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have this process ignore it
    try:
        process = subprocess.Popen(command, **options)
    finally:
        signal.signal(signal.SIGINT, usual)
    try:
        while process.poll() is None and not list(folder.glob("agents-*.json")):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
        workers = workers_of(process.pid)
        os.kill(process.pid, how)
        process.communicate(timeout=120)
        deadline = time.monotonic() + 60
        while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert workers and not any(Path(f"/proc/{pid}").exists() for pid in workers)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    kept = len(list(folder.glob("agents-*.json")))
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL) and kept
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    figures = json.loads(done.stdout)
    assert figures["jobs"] == 30 and figures["reused"] == kept and len(figures["rates"]) == 26
    assert figures["command"].startswith("streamforge calibrate --panels 0 --markets 3 --candles 800")
    assert json.loads((folder / "calibration.json").read_text()) == figures
