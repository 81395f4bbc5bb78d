"""What a live loader survives: a line that is cut, falls silent and ends; an order book with holes; its own death."""

import asyncio
import random
import signal
import time
from contextlib import asynccontextmanager

from drill import Lab, drill, join_trainings
from live_lab import (
    MARKETS,
    QUICK,
    check_books,
    floats,
    market,
    mishaps,
    read_books,
    span,
    text_of,
    true_candles,
    true_trades,
)
from worker_lab import WorkerLab, until

from streamforge.core.times import TimeRange
from streamforge.exchange.simulator.faults import Fault
from streamforge.messages.records import BookSnapshot, Candle, Trade, decode, encode

KINDS = {
    "candles": ("loader-ws-candles", "ws_candles_1h", "@kline", Candle, true_candles),
    "trades": ("loader-ws-trades", "ws_trades", "@aggTrade", Trade, true_trades),
}
LINES = ("cut in a frame", "silence", "24 h cut", "serverShutdown", "taken over before the cut", "closed and refused")


def identity(record: Candle | Trade) -> tuple:
    return record.symbol, record.open_time if isinstance(record, Candle) else record.trade_id


async def truth(rest, kind: str, wanted: TimeRange) -> dict[str, dict[tuple, bytes]]:
    "What the exchange has in the range."
    return {
        "stream": {
            identity(record): encode(record)
            for symbol in MARKETS
            for record in await KINDS[kind][4](rest, symbol, wanted)
        }
    }


async def published(workers: WorkerLab, kind: str) -> tuple[dict[str, dict[tuple, bytes]], list[tuple]]:
    "Each record of the data topic once, and what came twice or out of order. Two truths about one record are an error."
    once: dict[tuple, bytes] = {}
    again: list[tuple] = []
    last: dict[str, int] = {}
    for record in await workers.records(workers.data):
        symbol, place = key = identity(decode(KINDS[kind][3], record.value))
        assert once.setdefault(key, record.value) == record.value, f"two different records of {key}"
        if place <= last.get(symbol, -1):
            again.append(key)
        last[symbol] = max(place, last.get(symbol, -1))
    return {"stream": once}, again


@asynccontextmanager
async def watched(simulator):
    "How long the market was without a client, once it had one; seconds."
    alone = [0.0]

    async def watch() -> None:
        since = None
        while True:
            now = time.monotonic()
            since = None if simulator.streams.open or not simulator.streams.connected else since or now
            alone[0] = max(alone[0], now - since if since else 0.0)
            await asyncio.sleep(0.02)

    task = asyncio.create_task(watch())
    try:
        yield alone
    finally:
        task.cancel()


@drill("WebSocket drop mid-frame, silence, 24 h cut", runs=12, short=3)
async def line_lost(lab: Lab, runs: int) -> None:
    "One kind a run; connected again within 5 s, every record once and in order."

    async def life(n: int) -> None:
        kind, fault, wanted = ("candles", "trades")[(n + n // len(LINES)) % 2], LINES[n % len(LINES)], span(3, 20)
        target, type_, path, *_ = KINDS[kind]
        faults, rules, more = mishaps(path)[fault]
        async with lab.workers() as workers, market(*faults, **rules) as (sim, rest, places), watched(sim) as alone:
            code = await workers.run(
                target, timeout=120, **QUICK | places | more | {"TYPE": type_, "TIME_RANGE": text_of(wanted)}
            )
            longest = alone[0]
            sim.faults.clear()
            records, again = await published(workers, kind)
            lab.outcome.judge(await truth(rest, kind, wanted), records, f"run {n} {kind} {fault}")
            last = (await workers.events("finished", "error"))[-1]
            holds = code == 0 and not again and longest < 5 and last.extra.get("reconnects", 0) > 0
            lab.outcome.check(
                holds,
                f"run {n} {kind} {fault}: code {code}, {len(again)} again, {longest:.1f} s alone, "
                f"{last.extra.get('reconnects')} reconnects",
            )

    await join_trainings([lambda n=n: life(n) for n in range(runs)])


async def true_book(sim, rest, symbol: str, moment: int) -> bytes:
    "The exchange's book at a moment."
    sim.clock.set(moment, 0.0)
    snapshot = await rest.depth(symbol, 1_000)
    return encode(
        BookSnapshot(
            symbol=symbol,
            timestamp=moment,
            bids=floats(snapshot.bids),
            asks=floats(snapshot.asks),
            last_update_id=snapshot.last_update_id,
        )
    )


@drill("depth hole, stale snapshot", runs=6, short=1)
async def book_lost(lab: Lab, runs: int) -> None:
    """Every snapshot of the topic is the exchange's own, every reader's book too, none crossed; each start over is
    counted."""
    for n in range(runs):
        wanted, chance = span(1, 1 / 60), random.Random(n)
        holes = [
            Fault(
                kind="gap", path="@depth", symbol=symbol, after=chance.randrange(50, 400), times=chance.randrange(1, 4)
            )
            for symbol in MARKETS
        ]
        async with (
            lab.workers() as workers,
            market(*holes, Fault(kind="stale", seconds=30.0, after=n % 3), speed=20.0) as (sim, rest, places),
        ):
            code = await workers.run(
                "loader-ws-orderbook",
                timeout=120,
                **QUICK | places | {"TYPE": "ws_depth", "SNAPSHOT_SECONDS": "5", "TIME_RANGE": text_of(wanted)},
            )
            sim.faults.clear()
            records, last = await read_books(workers), (await workers.events("finished", "error"))[-1]
            readers = [await check_books(sim, rest, records, symbol) for symbol in MARKETS]
            snapshots = [record for record in records if isinstance(record, BookSnapshot)]
            crossed = [snapshot for snapshot in snapshots if snapshot.bids[0][0] >= snapshot.asks[0][0]]
            published_books = {(snapshot.symbol, snapshot.timestamp): encode(snapshot) for snapshot in snapshots}
            lab.outcome.judge(
                {"books": {key: await true_book(sim, rest, *key) for key in published_books}},
                {"books": published_books},
                f"run {n}",
            )
            reported = {gap["symbol"] for gap in last.extra.get("gaps", ())}
            holds = (
                code == 0
                and not crossed
                and last.extra["resyncs"] >= len(MARKETS)
                and reported == set(MARKETS)
                and all(whole for whole, _ in readers)
            )
            lab.outcome.check(
                holds,
                f"run {n}: code {code}, {len(crossed)} crossed, {last.extra.get('resyncs')} started over, "
                f"gaps of {sorted(reported)}, readers {readers}",
            )


@drill("live loader killed (-9)", runs=12, short=2)
async def live_killed(lab: Lab, runs: int) -> None:
    "At a named point or at any moment; started again, it goes on from its own last record."

    async def life(n: int) -> None:
        kind, chance, wanted = ("candles", "trades")[n // 2 % 2], random.Random(n), span(3, 45)
        target, type_, *_ = KINDS[kind]
        async with lab.workers() as workers, market() as (sim, rest, places):
            env = QUICK | places | {"TYPE": type_, "TIME_RANGE": text_of(wanted)}
            if n % 2 == 0:
                code = await workers.run(
                    target,
                    **env,
                    FAILPOINT=f"{('before-publish', 'after-publish', 'after-ledger')[n // 2 % 3]}"
                    f":{chance.randrange(1, 4)}",
                )
            else:
                worker, upto = await workers.start(target, **env), chance.randrange(1, 30)

                async def far_enough() -> bool:
                    return worker.returncode is not None or await workers.length(workers.data) >= upto

                await until(far_enough)
                if worker.returncode is None:
                    worker.kill()
                code = await worker.wait()
            again = await workers.run(target, timeout=120, **env)
            records, twice = await published(workers, kind)
            lab.outcome.judge(await truth(rest, kind, wanted), records, f"run {n} {kind}")
            lab.outcome.check(
                (code, again) == (-signal.SIGKILL, 0), f"run {n} {kind}: {code}, then {again}, {len(twice)} twice"
            )

    await join_trainings([lambda n=n: life(n) for n in range(runs)])
