"""A small walk-forward over real worker processes: two folds, again without running, one that fails, one that is
stopped."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from streamforge.artifacts.base import open_artifacts
from streamforge.core.errors import BadSetting, NotEnoughData, NotFound
from streamforge.core.samples import candles
from streamforge.core.settings import read_places
from streamforge.evaluation.results import combine
from streamforge.features.frame import panel_of
from streamforge.jobs.base import open_jobs
from streamforge.runs.datasets import freeze
from streamforge.runs.experiments import experiments
from streamforge.runs.folds import ERROR, EXECUTED, INPUTS, RESULT, WalkForward, fold_folder, plan_folds
from streamforge.runs.walk_forward import fold_job, walk_forward
from streamforge.store.base import open_store

pytestmark = pytest.mark.slow
TINY = WalkForward(
    folds=2,
    embargo=8,
    window=4,
    seeds=2,
    draws=3,
    seed=7,
    gnn={"window": 24, "hidden": 2, "heads": 1, "layers": 1, "epochs": 1, "stride": 4},
    ppo={"steps": 1_024, "n_envs": 16, "n_steps": 32, "batch_size": 256, "n_epochs": 1, "episode": 32},
)


class Place:
    "Open ports in a folder of the test's own, with a frozen dataset."

    def __init__(self, home: Path):
        self.places = read_places({"STREAMFORGE_HOME": str(home)})
        self.output, self.stack = home / "walk-forward", AsyncExitStack()

    async def __aenter__(self) -> "Place":
        enter = self.stack.enter_async_context
        self.artifacts = await enter(open_artifacts(self.places.artifacts_url))
        self.store = await enter(open_store(self.places.store_url))
        self.jobs = await enter(open_jobs("process://?slots=2", {"STREAMFORGE_HOME": self.places.home}))
        panel = panel_of(
            {symbol: candles(symbol, "2022-01-01:2022-02-05") for symbol in ("BTCUSDT", "ETHUSDT", "DOGEUSDT")}
        )
        self.data = await freeze(self.artifacts, "tiny", panel, interval="1h")
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stack.aclose()

    async def run(self, config: WalkForward, **options):
        options = {
            "dataset": "tiny",
            "version": self.data.version,
            "output": self.output,
            "config": config,
            "store": self.store,
            "timeout": 240.0,
        } | options
        return await walk_forward(self.jobs, self.artifacts, self.places, **options)

    def planned(self, config: WalkForward):
        return plan_folds(self.data, config, artifacts_url=self.places.artifacts_url, output=self.output)


@pytest.fixture
async def place(tmp_path):
    async with Place(tmp_path) as place:
        yield place


async def test_two_folds_once(place):
    "Both folds are done, combined and reported; the second time no job is started; the experiment is on record."
    seen: list[tuple[int, int]] = []
    first = await place.run(TINY, progress=lambda done, folds: seen.append((done, folds)))
    assert seen == [(0, 2), (1, 2), (2, 2)]
    assert first.reused == 0
    folders = [fold_folder(fold) for fold in place.planned(TINY)]
    assert all({path.name for path in folder.iterdir()} == {EXECUTED, INPUTS, RESULT} for folder in folders)

    combined = {account.name: account for account in combine(first.results)}
    assert list(combined) == ["agent", "agent_without_graph", "buy_and_hold", "cash"]
    rows = [result.rows["test"] for result in first.results]
    assert rows[0][1] == rows[1][0] and len(combined["agent"].curve.equity) == rows[1][1] - rows[0][0]
    assert combined["cash"].performance.total_return == 0 and combined["buy_and_hold"].performance.max_drawdown > 0
    assert all(
        result.gnn["auc"] is not None
        and result.dataset_sha256 == place.data.version
        and result.seeds == [7 + result.fold, 1_007 + result.fold]
        for result in first.results
    )
    assert "agent with graph features" in first.report.read_text(encoding="utf-8")

    written, before = [(folder / RESULT).stat().st_mtime_ns for folder in folders], len(await place.jobs.list())
    again = await place.run(TINY)
    assert again.reused == 2 and again.results == first.results and len(await place.jobs.list()) == before
    assert [
        (folder / RESULT).stat().st_mtime_ns for folder in folders
    ] == written and again.report.read_bytes() == first.report.read_bytes()
    logged = await experiments(place.store, "walk-forward")
    assert [event.status for event in logged] == ["finished"] * 2 and logged[0].metrics == logged[1].metrics
    assert logged[0].id == first.experiment and logged[0].artifacts["report"] == logged[1].artifacts["report"]


async def test_failing_fold_names_notebook_and_cell(place):
    "Batches that do not divide a rollout are refused by a cell; the error comes through processes with its class."
    config = msgspec.structs.replace(TINY, seeds=1, ppo=TINY.ppo | {"batch_size": 7})
    with pytest.raises(
        BadSetting,
        match=r"fold \d: .*walk_forward_fold\.ipynb, cell \d+ \(id \w+\): BadSetting: expected a rollout of 16 \* 32 ",
    ):
        await place.run(config)
    states = [job.state for job in await place.jobs.list()]
    assert "failed" in states and all(state in ("failed", "stopped") for state in states)
    assert not any((fold_folder(fold) / RESULT).exists() for fold in place.planned(config))
    assert any(
        (fold_folder(fold) / ERROR).exists() and (fold_folder(fold) / EXECUTED).exists()
        for fold in place.planned(config)
    )
    assert [experiment.status for experiment in await experiments(place.store)] == ["failed"]


async def test_bad_requests_start_nothing(place):
    "A request that cannot be carried out is refused before any job."
    with pytest.raises(NotFound):
        await place.run(TINY, version="0" * 64)
    with pytest.raises(BadSetting, match="expected a purge of at least the horizon of 9 rows, found 4"):
        await place.run(msgspec.structs.replace(TINY, gnn=TINY.gnn | {"horizon": 9}))
    with pytest.raises(NotEnoughData, match="expected at least 10 rows in test of fold 0"):
        await place.run(msgspec.structs.replace(TINY, folds=400))
    assert await place.jobs.list() == []
    job = fold_job(place.planned(TINY)[0], place.places, "wf-bad")
    without_rows = {k: v for k, v in msgspec.json.decode(job.env["FOLD_PARAMETERS"]).items() if k != "rows"}
    await place.jobs.start(
        msgspec.structs.replace(job, env=job.env | {"FOLD_PARAMETERS": msgspec.json.encode(without_rows).decode()})
    )
    status = await place.jobs.wait(job.name, timeout=120)
    assert (status.state, status.exit_code, status.tries) == ("failed", 64, 1) and "`rows`" in await place.jobs.log(
        job.name
    )


def kernels_of(pid: int) -> list[int]:
    "Kernels that the process `pid` has started."
    kernels = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"ipykernel" in (stat.parent / "cmdline").read_bytes():
                kernels.append(int(stat.parent.name))
        except (OSError, ValueError):
            continue
    return kernels


def alive(pid: int) -> bool:
    "Whether a process runs: it exists and is no zombie."
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_stop_reaches_the_kernel(place):
    "SIGTERM to the worker ends the notebook's kernel too, and no result is left."
    long = msgspec.structs.replace(TINY, ppo=TINY.ppo | {"steps": 50_000_000})
    parameters = place.planned(long)[0]
    job, deadline = fold_job(parameters, place.places, "wf-stop"), time.monotonic() + 90
    await place.jobs.start(job)
    kernels: list[int] = []
    while not kernels or not (fold_folder(parameters) / EXECUTED).exists():
        assert time.monotonic() < deadline, await place.jobs.log(job.name)
        await asyncio.sleep(0.1)
        status = await place.jobs.status(job.name)
        kernels = kernels_of(status.pid) if status.pid else []
    await place.jobs.stop(job.name, grace=15)
    status = await place.jobs.wait(job.name, timeout=30)
    while any(alive(kernel) for kernel in kernels):
        assert time.monotonic() < deadline + 30, f"{kernels} still run"
        await asyncio.sleep(0.1)
    assert status.state == "stopped" and status.exit_code == 75, await place.jobs.log(job.name)
    assert not (fold_folder(parameters) / RESULT).exists()
