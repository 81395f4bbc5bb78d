"""A live market in this process, loaders of it in theirs, and what a reader of their topics must find."""

import asyncio
from contextlib import asynccontextmanager

from steady import Steady
from worker_lab import WorkerLab, until

from streamforge.core.samples import SAMPLES
from streamforge.core.times import TimeRange, iso, to_ms
from streamforge.exchange.binance.book import Applied, OrderBook
from streamforge.exchange.binance.models import DepthSnapshot
from streamforge.exchange.binance.rest import BinanceRest
from streamforge.exchange.binance.trades import agg_trades
from streamforge.exchange.files import read_file
from streamforge.exchange.simulator.app import Simulator, serve_app
from streamforge.exchange.simulator.faults import Fault
from streamforge.exchange.simulator.streams import StreamRules
from streamforge.messages.records import BookSnapshot, Candle, DepthUpdate, Trade, decode

NOON, HOUR = to_ms("2021-05-19T12:00"), 3_600_000
MARKETS = ("BTCUSDT", "ETHUSDT")
QUICK = {"SYMBOL": ",".join(MARKETS), "WS_SILENCE_SECONDS": "20", "WS_OVERLAP_SECONDS": "0.2"}
_tables: dict = {}


def mishaps(path: str) -> dict[str, tuple]:
    "Faults of a stream by name: (faults, rules, variables of the worker)."
    return {
        "nothing": ((), {}, {}),
        "cut in a frame": (
            (Fault(kind="truncated", path=path, after=10), Fault(kind="truncated", path=path, after=40)),
            {},
            {},
        ),
        "silence": ((Fault(kind="silence", path=path, after=15, seconds=60.0),), {}, {"WS_SILENCE_SECONDS": "0.5"}),
        "closed and refused": (
            (Fault(kind="close", path=path, after=12), Fault(kind="refuse", times=2, after=2, seconds=0.3)),
            {},
            {},
        ),
        "serverShutdown": ((Fault(kind="shutdown", path=path, after=20, seconds=1.0),), {}, {}),
        "24 h cut": ((), {"life": 1.0, "notice": 0.0}, {}),
        "taken over before the cut": ((), {"life": 1.5, "notice": 0.0}, {"WS_LIFETIME_SECONDS": "0.7"}),
        "skipped, doubled, damaged": (
            (
                Fault(kind="gap", path=path, after=10, times=5),
                Fault(kind="duplicates", path=path, after=25, times=10),
                Fault(kind="nan", path=path, after=45, times=3),
                Fault(kind="reversed", path=path, after=60, times=5),
            ),
            {},
            {},
        ),
    }


@asynccontextmanager
async def market(*faults: Fault, speed: float = 36_000.0, connections: int = 1, **rules):
    """The simulator at noon; its time begins when so many clients have connected. Gives it, its REST client, and
    the variables of a worker."""
    for symbol in MARKETS:
        _tables.setdefault(symbol, read_file(SAMPLES / f"{symbol}.parquet"))
    sim = Simulator(_tables, now=NOON, pace=Steady())
    sim.streams.rules = StreamRules(ping=0.2, **rules)
    sim.faults.add(*faults)

    async def begin() -> None:
        async def connected() -> bool:
            return sim.streams.connected >= connections

        await until(connected)
        sim.clock.set(NOON, speed)

    async with serve_app(sim) as url, BinanceRest(url) as rest:
        clock = asyncio.create_task(begin())
        try:
            yield sim, rest, {"BINANCE_API_URL": url, "BINANCE_WS_URL": "ws" + url[4:]}
        finally:
            clock.cancel()
            sim.faults.clear()


def span(before: float, after: float) -> TimeRange:
    "Hours around noon."
    return TimeRange(NOON - int(before * HOUR), NOON + int(after * HOUR))


def text_of(wanted: TimeRange) -> str:
    return f"{iso(wanted.start)}:{iso(wanted.end)}"


async def true_candles(rest: BinanceRest, symbol: str, wanted: TimeRange) -> list[Candle]:
    return [candle async for page in rest.klines(symbol, "1h", wanted) for candle in page]


async def true_trades(rest: BinanceRest, symbol: str, wanted: TimeRange) -> list[Trade]:
    return [trade async for page in agg_trades(rest, symbol, wanted) for trade in page]


async def read(lab: WorkerLab, kind: type, topic: str = "", symbol: str = "") -> list:
    "Records of a topic, as they lie there."
    return [
        decoded
        for decoded in (decode(kind, record.value) for record in await lab.records(topic or lab.data))
        if not symbol or decoded.symbol == symbol
    ]


async def read_books(lab: WorkerLab, topic: str = "") -> list[DepthUpdate | BookSnapshot]:
    return [
        decode(DepthUpdate if b'"e":' in record.value else BookSnapshot, record.value)
        for record in await lab.records(topic or lab.data)
    ]


def floats(levels: list[tuple[str, str]]) -> list[tuple[float, float]]:
    return [(float(p), float(q)) for p, q in levels]


def rebuilt(records: list, symbol: str) -> list[tuple[BookSnapshot, OrderBook | None]]:
    "What readers who begin at each snapshot have at the next one; None for those who saw a hole between, and wait."
    mine = [record for record in records if (record.symbol if isinstance(record, BookSnapshot) else record.s) == symbol]
    books: list[tuple[BookSnapshot, OrderBook | None]] = []
    book, moved = OrderBook(symbol), False
    for record in mine:
        if isinstance(record, DepthUpdate):
            moved = book.last_update_id is not None and book.apply(record) is not Applied.HOLE
            continue
        books.append((record, book if moved else None))
        book, moved = OrderBook(symbol), False
        assert book.load(
            DepthSnapshot(
                record.last_update_id,
                *([(f"{p:.8f}", f"{q:.8f}") for p, q in side] for side in (record.bids, record.asks)),
            ),
            len(record.bids),
        )
    return books[1:]


async def check_books(
    sim: Simulator, rest: BinanceRest, records: list, symbol: str, levels: int = 20
) -> tuple[int, int]:
    """Every snapshot and every reader's book is the exchange's own, never crossed; how many readers got through,
    and how many waited."""
    readers = rebuilt(records, symbol)
    for snapshot, book in readers:
        assert snapshot.bids[0][0] < snapshot.asks[0][0], "crossed"
        sim.clock.set(snapshot.timestamp, 0.0)
        true = await rest.depth(symbol, 100)
        assert (
            true.last_update_id == snapshot.last_update_id
            and snapshot.bids[:levels] == floats(true.bids)[:levels]
            and snapshot.asks[:levels] == floats(true.asks)[:levels]
        )
        if book:
            assert [floats(side) for side in book.best_levels(levels)] == [
                snapshot.bids[:levels],
                snapshot.asks[:levels],
            ]
    whole = sum(book is not None for _, book in readers)
    return whole, len(readers) - whole
