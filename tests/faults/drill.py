"""A drill: the same seeded data with a fault and without it, compared row by row."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "integration")]
from servers import url_of  # noqa: E402
from worker_lab import WorkerLab, real_places, sample_candles, stream_with_nonsense  # noqa: E402

CONNECT = {"TYPE": "api_candles_1h", "UPSTREAM": "loader-producer__a1b2c3", "BATCH_ROWS": "200"}
NEEDED = {"embedded": (), "kafka+postgresql": ("kafka", "postgresql"), "minio": ("minio",), "arangodb-standin": ()}
Contents = dict[str, dict[tuple, bytes]]


@dataclass
class Outcome:
    "What a drill came to. `lost`, `wrong` and `duplicated` count rows over all runs."

    fault: str
    on: str
    runs: int = 0
    exact: int = 0
    lost: int = 0
    wrong: int = 0
    duplicated: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    _spoilt = 0  # the last run that was not exact

    def judge(self, expected: Contents, actual: Contents, what: str = "") -> None:
        "Add one run."
        lost = sum(len(rows.keys() - actual[name].keys()) for name, rows in expected.items())
        more = sum(len(actual[name].keys() - rows.keys()) for name, rows in expected.items())
        wrong = sum(
            1
            for name, rows in expected.items()
            for key in rows.keys() & actual[name].keys()
            if rows[key] != actual[name][key]
        )
        self.runs, self.exact = self.runs + 1, self.exact + (lost + wrong + more == 0)
        self.lost, self.wrong, self.duplicated = self.lost + lost, self.wrong + wrong, self.duplicated + more
        if lost + wrong + more:
            self._spoilt = self.runs
            self.notes.append(f"{what}: lost {lost}, wrong {wrong}, doubled {more}")

    def check(self, holds: bool, what: str) -> None:
        "Add a condition that the fault's row asks for beside the rows; one that fails makes the last run inexact."
        if not holds:
            self.notes.append(what)
            self.exact, self._spoilt = self.exact - (self._spoilt != self.runs), self.runs

    def summary(self) -> dict[str, Any]:
        return asdict(self) | {"seconds": round(self.seconds, 1)}


@dataclass(frozen=True)
class Drill:
    "A fault and how it is made."

    fault: str
    run: Callable[["Lab", int], Awaitable[None]]
    on: tuple[str, ...]
    runs: int
    short: int  # runs in the short form; 0: not in it
    needs: tuple[str, ...] = ()  # servers, whatever it runs on


DRILLS: list[Drill] = []


def drill(
    fault: str,
    *,
    on: tuple[str, ...] = ("embedded", "kafka+postgresql"),
    runs: int = 1,
    short: int = 1,
    needs: tuple[str, ...] = (),
):
    "Register a drill."

    def register(run: Callable[["Lab", int], Awaitable[None]]):
        DRILLS.append(Drill(fault, run, on, runs, short, needs))
        return run

    return register


_expected: dict[str, Contents] = {}


class Lab:
    "Labs of workers for a drill, and the contents that an undisturbed run leaves."

    def __init__(self, on: str, folder: Path, outcome: Outcome):
        self.on, self.folder, self.outcome, self.opened = on, folder, outcome, 0

    @asynccontextmanager
    async def workers(self, **places: str) -> AsyncIterator[WorkerLab]:
        "An empty lab of workers; closed and deleted at the end."
        self.opened += 1
        home = self.folder / f"{self.opened}"
        home.mkdir(parents=True)
        with contextlib.ExitStack() as stack:
            real = (
                stack.enter_context(real_places(home, url_of("kafka"), url_of("postgresql")))
                if self.on == "kafka+postgresql"
                else {}
            )
            workers = WorkerLab(home, real | places if real or places else None)
            try:
                yield workers
            finally:
                workers.close()
                await asyncio.gather(*(process.wait() for process in workers.started))
                await workers.forget()

    async def stream(self) -> list[tuple[str, bytes]]:
        return stream_with_nonsense(sample_candles())

    async def expected(self) -> Contents:
        "The contents after a connector that runs undisturbed."
        if self.on not in _expected:
            async with self.workers() as workers:
                await workers.fill(await self.stream())
                assert await workers.run("arango-connector", **CONNECT) == 0, "the undisturbed run failed"
                _expected[self.on] = await workers.contents()
        return _expected[self.on]

    async def judge(self, workers: WorkerLab, what: str = "") -> None:
        self.outcome.judge(await self.expected(), await workers.contents(), what)


async def perform(drill: Drill, on: str, folder: Path, runs: int) -> Outcome:
    "Run a drill; an error of its own is a run that was not exact."
    outcome, began = Outcome(drill.fault, on), time.monotonic()
    try:
        await drill.run(Lab(on, folder, outcome), runs)
    except Exception as error:
        outcome.notes.append(f"{type(error).__name__}: {error}")
        outcome.runs += 1
    outcome.seconds = time.monotonic() - began
    return outcome


async def join_trainings(works: list[Callable[[], Awaitable[None]]], at_once: int = 2) -> None:
    "Two at a time; all are tried, the first error is raised at the end."
    turn = asyncio.Semaphore(at_once)

    async def one(work: Callable[[], Awaitable[None]]) -> None:
        async with turn:
            await work()

    for result in await asyncio.gather(*(one(work) for work in works), return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
