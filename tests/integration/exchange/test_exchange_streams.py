"""Live sources against the simulator over real sockets: cuts, silence and ends, and nothing lost, doubled or out of
order."""

import asyncio
import time
from contextlib import asynccontextmanager

import httpx
import pytest
from msgspec import structs
from steady import Steady

from streamforge.core.errors import BadRecord
from streamforge.core.samples import SAMPLES
from streamforge.core.times import TimeRange, to_ms
from streamforge.exchange.binance.archive import Archive
from streamforge.exchange.binance.archive_files import candle_records, trade_records
from streamforge.exchange.binance.book_feed import BookFeed, BookOptions
from streamforge.exchange.binance.followers import CandleFollower, TradeFollower
from streamforge.exchange.binance.requests import Retry
from streamforge.exchange.binance.rest import BinanceRest
from streamforge.exchange.binance.socket import StreamOptions
from streamforge.exchange.binance.streams import Streams
from streamforge.exchange.binance.trades import agg_trades, fill_trades
from streamforge.exchange.files import read_file
from streamforge.exchange.simulator.app import Simulator, serve_app
from streamforge.exchange.simulator.faults import Fault
from streamforge.exchange.simulator.streams import StreamRules
from streamforge.messages.records import BookSnapshot, DepthUpdate

NOON, HOUR = to_ms("2021-05-19T12:00"), 3_600_000
MARKETS = ("BTCUSDT", "ETHUSDT")
QUICK = StreamOptions(silence=20.0, overlap=0.2)
MISHAPS = {
    "none": (),
    "cut in a frame": (Fault(kind="truncated", after=20), Fault(kind="truncated", after=60)),
    "silence": (Fault(kind="silence", after=30, seconds=60.0),),
    "closed": (Fault(kind="close", after=25), Fault(kind="refuse", times=2, seconds=0.5)),
    "announced end": (Fault(kind="shutdown", after=40, seconds=30.0),),
    "skipped": (Fault(kind="gap", after=10, times=5),),
    "doubled": (Fault(kind="duplicates", after=10, times=20),),
    "exchanged": (Fault(kind="reversed", after=10, times=5),),
    "not a number": (Fault(kind="nan", after=10, times=3),),
}


@pytest.fixture(scope="module")
def tables():
    return {market: read_file(SAMPLES / f"{market}.parquet") for market in MARKETS}


@asynccontextmanager
async def lab(tables, mishap=(), speed=54_000.0, **rules):
    "A running market, its REST client and the address of its streams."
    sim = Simulator(tables, now=NOON, pace=Steady())
    sim.streams.rules = StreamRules(ping=0.2, **rules)
    sim.faults.add(*(structs.replace(fault, path="/ws") for fault in mishap))
    async with serve_app(sim) as url, BinanceRest(url, retry=Retry(first=0.02)) as rest:
        sim.clock.set(NOON, speed)
        yield sim, rest, "ws" + url[4:]


class Watched:
    "Streams whose events are read, and the longest wait between two of them."

    def __init__(self, url, names, options, mishap=""):
        if mishap == "silence":  # else a machine under load could pass for a silent exchange
            options = structs.replace(options, silence=0.5)
        self.reasons, self.longest = [], 0.0
        self.streams = Streams(url, names, options=options, on_reconnect=self.reasons.append)

    async def __aiter__(self):
        async with self.streams, asyncio.timeout(60):
            last = None
            async for event in self.streams:
                now = time.monotonic()
                self.longest = max(self.longest, now - last) if last else 0.0
                last = now
                yield event


async def candles_live(rest, events, end):
    follower, record = CandleFollower("1h", dict.fromkeys(MARKETS, NOON - HOUR)), {market: [] for market in MARKETS}
    async for event in events:
        try:
            step = follower.take(event.data)
        except BadRecord:
            continue
        if step.missing:
            async for page in rest.klines(step.symbol, "1h", step.missing):
                record[step.symbol] += page
        if step.closed:
            record[step.symbol].append(step.closed)
        if min(follower.last.values()) >= end:
            return {k: [candle for candle in v if candle.open_time <= end] for k, v in record.items()}


@pytest.mark.parametrize("mishap", MISHAPS)
async def test_no_candle_is_lost_or_doubled(tables, mishap):
    async with lab(tables, MISHAPS[mishap]) as (sim, rest, url):
        events = Watched(url, [f"{market.lower()}@kline_1h" for market in MARKETS], QUICK, mishap)
        live = await candles_live(rest, events, NOON + 40 * HOUR)
        for symbol in MARKETS:
            whole = [
                candle async for page in rest.klines(symbol, "1h", TimeRange(NOON, NOON + 41 * HOUR)) for candle in page
            ]
            assert [candle.open_time for candle in live[symbol]] == [candle.open_time for candle in whole] and len(
                whole
            ) == 41
            assert live[symbol] == whole
        assert events.longest < 15, events.longest
        assert bool(events.reasons) == (mishap in ("cut in a frame", "silence", "closed", "announced end")), (
            events.reasons
        )


@pytest.mark.parametrize("mishap", MISHAPS)
async def test_no_trade_is_lost_or_doubled(tables, mishap):
    async with lab(tables, MISHAPS[mishap]) as (sim, rest, url):
        before = agg_trades(rest, "BTCUSDT", TimeRange(NOON - HOUR, NOON + 1))
        last = [trade async for page in before for trade in page][-1].trade_id
        follower, record, events = (
            TradeFollower({"BTCUSDT": last}),
            [],
            Watched(url, ["btcusdt@aggTrade"], QUICK, mishap),
        )
        async for event in events:
            try:
                step = follower.take(event.data)
            except BadRecord:
                continue
            if step.missing:
                record += [trade async for page in fill_trades(rest, "BTCUSDT", step.missing) for trade in page]
            record += [step.trade] if step.trade else []
            if len(record) >= 400:
                break
        whole = agg_trades(rest, "BTCUSDT", TimeRange(NOON + 1, sim.clock.ms()))
        assert record == [trade async for page in whole for trade in page][: len(record)] and whole.gaps == []
        assert record[0].trade_id == last + 1 and events.longest < 15


async def test_the_daily_cut_is_taken_over_without_a_hole(tables):
    async with lab(tables, life=30.0, notice=0.0) as (sim, rest, url):
        options = StreamOptions(silence=20.0, overlap=0.2, lifetime=0.7)
        events, epochs, ids = Watched(url, ["btcusdt@aggTrade"], options), set(), []
        async for event in events:
            ids.append(TradeFollower().take(event.data).trade.trade_id)
            epochs.add(event.epoch)
            if len(events.reasons) >= 4 and len(ids) > 200:
                break
        assert ids == list(range(ids[0], ids[0] + len(ids))) and epochs == {1} and set(events.reasons) == {"lifetime"}


@pytest.mark.parametrize("mishap", MISHAPS)
async def test_the_book_is_the_exchange_s_own(tables, mishap):
    later = [
        structs.replace(fault, after=fault.after + 600 * (fault.kind != "refuse")) for fault in MISHAPS[mishap]
    ]  # the book is in sequence by then
    async with lab(tables, later, speed=20.0) as (sim, rest, url):
        resyncs, events = [], Watched(url, [f"{market.lower()}@depth@100ms" for market in MARKETS], QUICK, mishap)
        options = BookOptions(levels=10, every_ms=1_000, pause=0.1)
        feed, updates, books = (
            BookFeed(
                aiter(events), rest.depth, options=options, on_resync=lambda *arguments: resyncs.append(arguments)
            ),
            [],
            [],
        )
        async for record in feed:
            (books if isinstance(record, BookSnapshot) else updates).append(record)
            if len(books) >= 30 and len(updates) > 1_200:
                break
        for symbol in MARKETS:
            ids = [update.u for update in updates if isinstance(update, DepthUpdate) and update.s == symbol]
            assert ids == sorted(set(ids))
        assert all(book.bids[0][0] < book.asks[0][0] and len(book.bids) == len(book.asks) == 10 for book in books)
        for book in (next(book for book in reversed(books) if book.symbol == symbol) for symbol in MARKETS):
            sim.clock.set(book.timestamp, 0.0)
            true = await rest.depth(book.symbol, 5_000)
            assert true.last_update_id == book.last_update_id
            assert book.bids == [(float(p), float(q)) for p, q in true.bids[:10]]
            assert book.asks == [(float(p), float(q)) for p, q in true.asks[:10]]
        quiet = ("none", "announced end", "doubled")
        lost = {"lost", "silence"} & set(events.reasons)  # a machine under load may look like a silent exchange
        assert mishap == "exchanged" or bool(resyncs) == (mishap not in quiet) or (mishap in quiet and lost), (
            resyncs
        )  # exchanged: perhaps with the other market
        assert {fault.kind for fault in sim.faults.injected} == {fault.kind for fault in later}


async def test_the_archive_gives_what_rest_gives(tables, tmp_path):
    async with lab(tables, speed=0.0) as (sim, rest, url):
        sim.now = to_ms("2021-08-10T12:00")
        span = TimeRange.parse("2021-05-20:2021-08-10T06:00")
        sim.faults.add(Fault(kind="flipped"), Fault(kind="server_error", path="/data/"))
        async with Archive(tmp_path, "http" + url[2:], retry=Retry(first=0.02)) as archive:
            read = archive.klines("BTCUSDT", "1h", span)
            got = [candle async for table in read for candle in candle_records(table)]
            trades = archive.agg_trades("BTCUSDT", TimeRange.parse("2021-06-01:2021-06-04"))
            archived = [trade async for table in trades for trade in trade_records(table)]
        for missing in read.missing:
            got += [candle async for page in rest.klines("BTCUSDT", "1h", missing) for candle in page]
        whole = [candle async for page in rest.klines("BTCUSDT", "1h", span) for candle in page]
        assert sorted(got, key=lambda candle: candle.open_time) == whole and read.missing[-1].end == span.end
        by_rest = agg_trades(rest, "BTCUSDT", TimeRange.parse("2021-06-01:2021-06-04"))
        assert archived == [trade async for page in by_rest for trade in page] and trades.gaps == [] == trades.missing


async def test_a_proxy_of_the_environment_is_not_used_for_loopback(tables, monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with (
        lab(tables) as (sim, rest, url),
        httpx.AsyncClient(trust_env=False),
        Streams(url, ["btcusdt@aggTrade"]) as streams,
    ):
        assert (await asyncio.wait_for(anext(streams), 60)).stream == "btcusdt@aggTrade"
