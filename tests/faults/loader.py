"""What a REST loader survives: an exchange that misbehaves, and its own death."""

import asyncio
import random
import signal
import time
from collections import Counter
from contextlib import asynccontextmanager

from drill import Lab, drill, join_trainings
from worker_lab import WorkerLab, until

from streamforge.core.samples import candles
from streamforge.exchange.simulator.app import Simulator, serve_app
from streamforge.exchange.simulator.faults import Fault
from streamforge.messages.records import Candle, decode

SPAN = "2021-04-10:2021-10-10"
SYMBOLS = ("BTCUSDT", "ETHUSDT", "BNBUSDT")
LOAD = {"TYPE": "api_candles_1h", "SYMBOL": ",".join(SYMBOLS), "TIME_RANGE": SPAN}


async def published(workers: WorkerLab) -> dict[tuple, bytes]:
    "Each candle of the data topic once; two that differ are wrong."
    once: dict[tuple, bytes] = {}
    for record in await workers.records(workers.data):
        row = decode(Candle, record.value)
        assert once.setdefault((row.symbol, row.open_time), record.value) == record.value, (
            f"two truths about {row.symbol} {row.open_time}"
        )
    return once


_undisturbed: dict[tuple, bytes] = {}


@asynccontextmanager
async def exchange():
    simulator = Simulator.open()
    async with serve_app(simulator) as url:
        yield simulator, url


async def undisturbed(lab: Lab) -> dict[str, dict[tuple, bytes]]:
    "What the loader publishes when nothing happens: exactly the candles of the file."
    if not _undisturbed:
        async with lab.workers() as workers, exchange() as (_, url):
            assert await workers.run("loader-producer", BINANCE_API_URL=url, **LOAD) == 0
            _undisturbed.update(await published(workers))
        truth = {(symbol, int(open_time)) for symbol in SYMBOLS for open_time in candles(symbol, SPAN).open_time}
        assert _undisturbed.keys() == truth, "the undisturbed loader lost or invented candles"
    return {"stream": _undisturbed}


class Watched:
    "A simulator, and who asked it when: (moments of question and answer, client's port, status)."

    def __init__(self, simulator: Simulator):
        self.simulator, self.seen = simulator, list[tuple[float, float, int, int]]()

    async def __call__(self, scope, receive, send):
        came, port = time.monotonic(), scope["client"][1]

        async def send_and_note(message):
            if message["type"] == "http.response.start":
                self.seen.append((came, time.monotonic(), port, message["status"]))
            await send(message)

        await self.simulator(scope, receive, send_and_note)

    def too_early(self, retry_after: float) -> int:
        """Requests that cannot have been under way when a refusal was read: on the refused connection any, on each
        other one the second, before Retry-After has passed."""
        early = 0
        for _, refused, port, status in self.seen:
            if status in (418, 429):
                later = Counter(
                    where for came, _, where, _ in self.seen if refused < came < refused + retry_after - 0.02
                )
                early += later.pop(port, 0) + sum(count - 1 for count in later.values())
        return early


@asynccontextmanager
async def watched():
    app = Watched(Simulator.open())
    async with serve_app(app) as url:
        yield app, url


KINDS = ("too_many", "banned", "server_error", "waf", "html", "truncated", "slow", "duplicates", "shifted")


@drill("exchange: 429, 418, 5xx, timeout, truncated, HTML, duplicates", runs=18, short=4)
async def rude(lab: Lab, runs: int) -> None:
    "One kind a run, at several requests; the records are the same, and nothing is asked before Retry-After has passed."
    expected = await undisturbed(lab)

    async def life(n: int) -> None:
        async with lab.workers() as workers, watched() as (app, url):
            kind = KINDS[n % len(KINDS)]
            for after in (1, 3, 6):
                app.simulator.faults.add(
                    Fault(kind=kind, after=after, seconds=2 if kind in ("too_many", "banned") else 1)
                )
            code = await workers.run("loader-producer", timeout=120, BINANCE_API_URL=url, **LOAD)
            lab.outcome.judge(expected, {"stream": await published(workers)}, f"run {n} {kind}")
            early = app.too_early(2.0)
            lab.outcome.check(code == 0 and early == 0, f"run {n} {kind}: code {code}, {early} requests too early")

    await join_trainings([lambda n=n: life(n) for n in range(runs)])


@drill("exchange: gap, empty page", runs=4, short=1)
async def holes(lab: Lab, runs: int) -> None:
    "A hole is reported with its range and nothing is invented; an empty page ends nothing too early."
    expected, hour = (await undisturbed(lab))["stream"], 3_600_000

    async def life(n: int) -> None:
        chance = random.Random(n)
        times = sorted(open_time for symbol, open_time in expected if symbol == "ETHUSDT")
        first = times[chance.randrange(100, len(times) - 300)]
        hole = range(first, first + chance.randrange(1, 200) * hour, hour)
        async with lab.workers() as workers, exchange() as (simulator, url):
            simulator.faults.add(Fault(kind="gap", symbol="ETHUSDT", start=hole.start, end=hole.stop, times=0))
            if n % 2:
                simulator.faults.add(Fault(kind="empty", after=2))
            code = await workers.run("loader-producer", timeout=120, BINANCE_API_URL=url, **LOAD)
            left = {key: value for key, value in expected.items() if not (key[0] == "ETHUSDT" and key[1] in hole)}
            lab.outcome.judge({"stream": left}, {"stream": await published(workers)}, f"run {n}")
            done = await workers.events("finished")
            reported = {
                t
                for gap in (done[0].extra["gaps"] if done else [])
                if gap["symbol"] == "ETHUSDT"
                for t in range(gap["start"], gap["end"], hour)
            }
            lab.outcome.check(
                code == 0 and reported >= set(hole),
                f"run {n}: code {code}, {len(set(hole) - reported)} missing candles were not reported",
            )

    await join_trainings([lambda n=n: life(n) for n in range(runs)])


@drill("loader killed (-9)", runs=21, short=3)
async def loader_killed(lab: Lab, runs: int) -> None:
    """After a publish, with everything published and noted but nothing stored, or at any moment; started again, the
    topic holds every candle."""
    expected = await undisturbed(lab)

    async def life(n: int) -> None:
        chance = random.Random(n)
        async with lab.workers() as workers, exchange() as (simulator, url):
            simulator.faults.add(Fault(kind="slow", seconds=0.05, times=0))
            if n % 3 < 2:
                code = await workers.run(
                    "loader-producer",
                    FAILPOINT="before-finished:1" if n % 3 else f"after-publish:{1 + n // 3 % 5}",
                    BINANCE_API_URL=url,
                    **LOAD,
                )
            else:
                worker, upto = (
                    await workers.start("loader-producer", BINANCE_API_URL=url, **LOAD),
                    chance.randrange(1, len(expected["stream"])),
                )

                async def far_enough() -> bool:
                    return worker.returncode is not None or await workers.length(workers.data) >= upto

                await until(far_enough)
                if worker.returncode is None:
                    worker.kill()
                code = await worker.wait()
            again = await workers.run("loader-producer", BINANCE_API_URL=url, **LOAD)
            lab.outcome.judge(expected, {"stream": await published(workers)}, f"run {n}")
            lab.outcome.check(code in (0, -signal.SIGKILL) and again == 0, f"run {n}: {code}, then {again}")

    await join_trainings([lambda n=n: life(n) for n in range(runs)])


@drill("loader: SIGTERM in the middle", runs=6, short=1)
async def loader_evicted(lab: Lab, runs: int) -> None:
    "75 and `interrupted`, so that an evicted half-done load does not count as done; the next one completes it."
    expected = await undisturbed(lab)
    for n in range(runs):
        async with lab.workers() as workers, exchange() as (simulator, url):
            simulator.faults.add(Fault(kind="slow", seconds=0.3, times=0))
            worker = await workers.start("loader-producer", BINANCE_API_URL=url, **LOAD)
            await until(lambda: workers.length(workers.data))
            worker.terminate()
            code = await asyncio.wait_for(worker.wait(), 120)
            statuses = [event.status for event in await workers.events("interrupted", "finished", "error")]
            again = await workers.run("loader-producer", BINANCE_API_URL=url, **LOAD)
            lab.outcome.judge(expected, {"stream": await published(workers)}, f"run {n}")
            lab.outcome.check(
                (code, statuses, again) == (75, ["interrupted"], 0),
                f"run {n}: code {code}, events {statuses}, then {again}",
            )
