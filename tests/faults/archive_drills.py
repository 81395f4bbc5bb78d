"""What a loader survives whose files are damaged or missing, and a loader of trades its own death."""

import asyncio
import random
import signal
from contextlib import asynccontextmanager

from drill import Lab, drill
from other_archive import DAMAGES, OtherArchive, damaged
from worker_lab import WorkerLab, until

from streamforge.core.samples import SAMPLES, candles
from streamforge.exchange.files import read_folder
from streamforge.exchange.simulator.app import Simulator, serve_app
from streamforge.exchange.simulator.faults import Fault
from streamforge.messages.records import Candle, Trade, decode

SPAN = "2021-04-10:2021-07-05"
CANDLES = {"TYPE": "api_candles_1h", "SYMBOL": "BTCUSDT", "TIME_RANGE": SPAN, "SOURCE": "archive"}
TRADES = {"TYPE": "api_trades", "SYMBOL": "BTCUSDT", "TIME_RANGE": "2021-05-10:2021-05-16"}
DAY = "/data/spot/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2021-05-19.zip"
MONTH = "/data/spot/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2021-05.zip"
FAULTS = {  # what is wrong, and how many files cannot be used because of it
    "damaged once": ((Fault(kind="flipped", path=MONTH),), 0),
    "damaged": ((Fault(kind="flipped", path=MONTH, times=2),), 1),
    "wrong checksum": ((Fault(kind="checksum", path=f"{MONTH}.CHECKSUM", times=0),), 1),
    "wrong checksums of a month and a day": (
        (
            Fault(kind="checksum", path=f"{MONTH}.CHECKSUM", times=0),
            Fault(kind="checksum", path=f"{DAY}.CHECKSUM", times=0),
        ),
        2,
    ),
    "404": (
        (
            Fault(kind="server_error", status=404, path=f"{MONTH}.CHECKSUM", times=0),
            Fault(
                kind="server_error",
                status=404,
                path="/data/spot/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2021-05-20.zip.CHECKSUM",
                times=0,
            ),
        ),
        0,
    ),
}


@asynccontextmanager
async def exchange():
    "REST and archive at one address; enough trades per day that files pay."
    simulator = Simulator(read_folder(SAMPLES), per_candle=120)
    async with serve_app(simulator) as url:
        yield simulator, {"BINANCE_API_URL": url, "BINANCE_ARCHIVE_URL": url}


async def published(workers: WorkerLab, kind: type, name: str) -> dict[tuple, bytes]:
    "Each record of the data topic once; two that differ are wrong."
    once: dict[tuple, bytes] = {}
    for record in await workers.records(workers.data):
        row = decode(kind, record.value)
        key = (row.symbol, getattr(row, name))
        assert once.setdefault(key, record.value) == record.value, f"two truths about {key}"
    return once


@drill("archive: damaged zip, wrong checksum, 404", runs=10, short=5)
async def bad_files(lab: Lab, runs: int) -> None:
    "A file is fetched once more, then named and not used; its rows come from days or by REST."
    async with lab.workers() as workers, exchange() as (_, urls):
        assert await workers.run("loader-producer", **urls, **CANDLES | {"SOURCE": "rest"}) == 0
        truth = await published(workers, Candle, "open_time")
    assert [place for _, place in truth] == candles("BTCUSDT", SPAN).open_time.tolist(), (
        "the undisturbed loader lost or invented candles"
    )
    for n in range(runs):
        name = list(FAULTS)[n % len(FAULTS)]
        async with lab.workers() as workers, exchange() as (simulator, urls):
            simulator.faults.add(*FAULTS[name][0])
            code = await workers.run("loader-producer", **urls, **CANDLES)
            figures = [event.extra["archive"]["not_used"] for event in await workers.events("finished")]
            lab.outcome.judge(
                {"stream": truth}, {"stream": await published(workers, Candle, "open_time")}, f"run {n} {name}"
            )
            right = (code, figures) == (0, [FAULTS[name][1]])
            lab.outcome.check(right, f"run {n} {name}: code {code}, files that were not used {figures}")


@drill("archive: files damaged at their origin", runs=len(DAMAGES), short=4)
async def bad_rows(lab: Lab, runs: int) -> None:
    "Rows twice, interleaved, of another month or with other prices, under a checksum that fits: named and not used."
    async with lab.workers() as workers, exchange() as (_, urls):
        assert await workers.run("loader-producer", **urls, **CANDLES | {"SOURCE": "rest"}) == 0
        truth = await published(workers, Candle, "open_time")
    for n in range(runs):
        name, simulator = list(DAMAGES)[n % len(DAMAGES)], Simulator(read_folder(SAMPLES))
        files = {path: damaged(simulator, path, name) for path in (MONTH, DAY)}
        async with lab.workers() as workers, serve_app(OtherArchive(simulator, files)) as url:
            urls = {"BINANCE_API_URL": url, "BINANCE_ARCHIVE_URL": url}
            code = await workers.run("loader-producer", **urls, **CANDLES)
            failed = [event.extra["archive"]["failed"] for event in await workers.events("finished")]
            lab.outcome.judge(
                {"stream": truth}, {"stream": await published(workers, Candle, "open_time")}, f"run {n} {name}"
            )
            right = (code, len(failed[0])) == (0, 2)
            lab.outcome.check(right, f"run {n} {name}: code {code}, files that were not used {failed}")


@drill("trades loader killed (-9)", runs=12, short=3)
async def trades_killed(lab: Lab, runs: int) -> None:
    """After a publish, with everything published and noted but nothing stored, or at any moment; from files and by
    REST. The hole that it had passed is still reported."""
    hole = (1_620_788_400_000, 1_620_795_600_000)  # two hours of 2021-05-12

    @asynccontextmanager
    async def market(rest: bool):
        async with exchange() as (simulator, urls):
            simulator.faults.add(
                Fault(kind="gap", path="/api/v3/aggTrades", symbol="BTCUSDT", start=hole[0], end=hole[1], times=0)
            )
            simulator.faults.add(
                Fault(
                    kind="server_error",
                    status=404,
                    path="/data/spot/daily/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2021-05-12.zip.CHECKSUM",
                    times=0,
                )
            )
            yield urls | TRADES | ({"SOURCE": "rest"} if rest else {})

    async with lab.workers() as workers, market(True) as env:
        assert await workers.run("loader-producer", **env) == 0
        truth = await published(workers, Trade, "trade_id")
        (gap,) = (await workers.events("finished"))[0].extra["gaps"]
    ids = {place for _, place in truth}
    assert ids == set(range(min(ids), max(ids) + 1)) - set(range(gap["start"], gap["end"])), (
        "ids with holes that were not reported"
    )
    for n in range(runs):
        chance = random.Random(n)
        async with lab.workers() as workers, market(n % 4 > 1) as env:
            if n % 3:
                code = await workers.run(
                    "loader-producer",
                    FAILPOINT=f"after-publish:{1 + n // 3}" if n % 3 == 1 else "before-finished:1",
                    **env,
                )
            else:
                worker, upto = await workers.start("loader-producer", **env), chance.randrange(1, len(truth))

                async def far_enough(worker=worker, upto=upto, workers=workers) -> bool:
                    return worker.returncode is not None or await workers.length(workers.data) >= upto

                await until(far_enough)
                if worker.returncode is None:
                    worker.kill()
                code = await asyncio.wait_for(worker.wait(), 120)
            again = await workers.run("loader-producer", **env)
            lab.outcome.judge({"stream": truth}, {"stream": await published(workers, Trade, "trade_id")}, f"run {n}")
            reported = [
                (gap["start"], gap["end"])
                for done in (await workers.events("finished"))[-1:]
                for gap in done.extra["gaps"]
            ]
            right = code in (0, -signal.SIGKILL) and again == 0 and reported == [(gap["start"], gap["end"])]
            lab.outcome.check(right, f"run {n}: {code}, then {again}, reported {reported}")
