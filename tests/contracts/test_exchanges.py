"""What every adapter of an exchange must do, told against the port alone.

Binance's adapter and ccxt's class of Binance ask the simulator; ccxt's class of Kraken asks a stand-in, whose shapes
are those of Kraken's documentation. All three have the packaged sample's BTC market, with its outages.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from standins.kraken import KEPT, KrakenStandIn

from streamforge.core.errors import BadInterval, BadName, ExchangeError, Refused, StreamForgeError, UnknownSymbol
from streamforge.core.samples import SAMPLES
from streamforge.core.times import TimeRange, find_gaps, to_ms
from streamforge.exchange.base import Exchange
from streamforge.exchange.binance.adapter import BinanceExchange
from streamforge.exchange.binance.requests import Retry
from streamforge.exchange.ccxt.adapter import CcxtExchange
from streamforge.exchange.ccxt.client import CcxtRetry
from streamforge.exchange.files import CandleTable, read_file
from streamforge.exchange.simulator.app import Simulator, serve_app
from streamforge.exchange.simulator.faults import Fault
from streamforge.messages.records import Candle, Trade

HOUR = 3_600_000
NOW = to_ms("2021-08-01T12:30")  # inside a candle
WHOLE = TimeRange.parse("2021-04-05:2021-08-02")
COLUMNS = ("open_time", "open", "high", "low", "close", "volume")


@dataclass
class Lab:
    "An adapter, and what its exchange has."

    exchange: Exchange
    symbol: str
    rows: list[tuple]  # closed candles that the exchange gives
    set_now: Callable[[int], None]
    inject: Callable[[str], None]  # a fault into the next request
    faults: tuple[str, ...]
    trades: list[tuple[int, int]]  # id and time [ms]


def sample() -> CandleTable:
    return read_file(SAMPLES / "BTCUSDT.parquet")


def sample_rows(table: CandleTable) -> list[tuple]:
    columns = [getattr(table, name).tolist() for name in COLUMNS]
    return [row for row in zip(*columns, strict=True) if WHOLE.start <= row[0] and row[0] + HOUR <= NOW]


@asynccontextmanager
async def simulated(kind: str) -> AsyncIterator[Lab]:
    table = sample()
    sim = Simulator({"BTCUSDT": table}, now=NOW)

    def set_now(moment: int) -> None:
        sim.now = moment

    history = sim.market("BTCUSDT").trades
    columns = history.columns(0, history.source.index_at(NOW + 1))
    trades = list(zip(range(history.source.first_id, 2**62), columns.time.tolist(), strict=False))
    async with serve_app(sim) as address:
        exchange: Exchange
        if kind == "binance":
            exchange = BinanceExchange(address.replace("http", "binance"), retry=Retry(first=0.01))
        else:
            exchange = CcxtExchange(f"ccxt://binance?url={address}&pace=1", retry=CcxtRetry(first=0.01), pause=0)
        async with exchange:
            faults = (
                "server_error",
                "html",
                "truncated",
                "too_many",
                "empty",
                "gap",
                "duplicates",
                "shifted",
                "reversed",
            )
            yield Lab(
                exchange,
                "BTCUSDT",
                sample_rows(table),
                set_now,
                lambda kind: sim.faults.add(Fault(kind=kind)),
                faults,
                trades,
            )


@asynccontextmanager
async def kraken() -> AsyncIterator[Lab]:
    table = sample()
    columns = [getattr(table, name).tolist() for name in COLUMNS]
    rows = [(time // 1_000, *numbers) for time, *numbers in zip(*columns, strict=True)]
    traded = [(n, 30_000.0 + n, 0.5, WHOLE.start / 1_000 + n * 7.123, "bs"[n % 2]) for n in range(1, 2_500)]
    standin = KrakenStandIn(rows, NOW, trades=traded)

    def set_now(moment: int) -> None:
        standin.now = moment

    async with serve_app(standin) as address:
        async with CcxtExchange(
            f"ccxt://kraken?url={address}&pace=1", retry=CcxtRetry(first=0.01), pause=0
        ) as exchange:
            yield Lab(
                exchange,
                "BTCUSD",
                sample_rows(table)[-KEPT + 1 :],  # of the 720 that it keeps the last is forming
                set_now,
                standin.faults.append,
                ("down", "unavailable", "html", "busy", "empty"),
                [(id_, int(time * 1_000)) for id_, _, _, time, _ in traded],
            )


LABS = {  # an adapter, and what it asks: one line for each
    "binance": lambda: simulated("binance"),
    "ccxt-binance": lambda: simulated("ccxt-binance"),
    "ccxt-kraken": kraken,
}


@pytest.fixture(params=LABS)
async def lab(request) -> AsyncIterator[Lab]:
    async with LABS[request.param]() as opened:
        yield opened


async def load(lab: Lab, span: TimeRange = WHOLE) -> tuple[list[Candle], list]:
    reader, candles = lab.exchange.candles(lab.symbol, "1h", span), []
    async for page in reader:
        assert page, "an empty page"
        candles += page
    return candles, reader.gaps


def row_of(candle: Candle) -> tuple:
    return tuple(getattr(candle, name) for name in COLUMNS)


async def test_markets_are_named_and_ruled(lab):
    markets = await lab.exchange.markets()
    assert lab.symbol in {market.symbol for market in markets}
    one = await lab.exchange.market(lab.symbol)
    assert one in markets
    assert (one.exchange, one.symbol, one.status) == (lab.exchange.name, lab.symbol, "trading")
    assert one.base + one.quote == lab.symbol and one.market_id
    for value in (one.tick_size, one.lot_size, one.min_notional, one.listed_from, one.ended_at):
        assert value is None or value > 0


async def test_a_symbol_is_found_however_it_is_written(lab):
    plain = await lab.exchange.market(lab.symbol)
    for text in (lab.symbol.lower(), f"{plain.base}/{plain.quote}", f"{plain.base}-{plain.quote}"):
        assert await lab.exchange.market(text) == plain
    slashed, day = f"{plain.base}/{plain.quote}".lower(), TimeRange(NOW - 24 * HOUR, NOW)
    rows = [candle async for page in lab.exchange.candles(slashed, "1h", day) for candle in page]
    assert rows and {row.symbol for row in rows} == {lab.symbol}
    trades = await anext(aiter(lab.exchange.trades(slashed, TimeRange(lab.trades[-1][1], lab.trades[-1][1] + 1))))
    assert {trade.symbol for trade in trades} == {lab.symbol}
    assert (await lab.exchange.order_book(slashed)).symbol == lab.symbol


async def test_an_unknown_symbol_is_refused_by_name(lab):
    with pytest.raises(UnknownSymbol, match="NOPEUSD"):
        await lab.exchange.market("NOPEUSD")
    with pytest.raises(UnknownSymbol, match="NOPEUSD"):
        [page async for page in lab.exchange.candles("NOPEUSD", "1h", WHOLE)]
    with pytest.raises(UnknownSymbol, match="NOPEUSD"):
        await lab.exchange.order_book("NOPEUSD")
    with pytest.raises((UnknownSymbol, BadName)):
        await lab.exchange.market("")


async def test_an_unknown_interval_is_refused_with_those_that_there_are(lab):
    for interval in ("7m", "1H", "", "1M"):
        with pytest.raises(BadInterval, match="1h"):
            lab.exchange.candles(lab.symbol, interval, WHOLE)
    assert {"1m", "1h", "1d"} <= set(lab.exchange.intervals)


async def test_the_time_is_the_exchanges(lab):
    assert abs(await lab.exchange.server_time() - NOW) < 1_000


async def test_every_closed_candle_comes_once_and_what_lacks_is_a_gap(lab):
    candles, gaps = await load(lab)
    assert [row_of(candle) for candle in candles] == lab.rows
    assert gaps == find_gaps([row[0] for row in lab.rows], TimeRange(WHOLE.start, NOW - HOUR + 1), "1h")
    for candle in candles:
        assert (candle.exchange, candle.symbol, candle.interval) == (lab.exchange.name, lab.symbol, "1h")
        assert candle.close_time == candle.open_time + HOUR - 1


async def test_the_forming_candle_waits_for_its_close(lab):
    end = NOW // HOUR * HOUR + HOUR
    last = TimeRange(end - 3 * HOUR, end + HOUR)
    for now, count in ((end - 1_000, 2), (end, 3)):  # its last millisecond, and the first after it
        lab.set_now(now)
        candles, gaps = await load(lab, last)
        assert len(candles) == count and not gaps


async def test_what_is_not_sent_is_null(lab):
    candles, _ = await load(lab, TimeRange(NOW - 40 * HOUR, NOW))
    rest = ("quote_asset_volume", "number_of_trades", "taker_buy_base_asset_volume", "taker_buy_quote_asset_volume")
    for candle in candles:
        assert all(getattr(candle, name) is None for name in rest)  # the sample has none of them
    assert lab.exchange.computed <= {"close_time"}


async def test_a_range_without_candles_ends(lab):
    assert await load(lab, TimeRange(NOW + 24 * HOUR, NOW + 48 * HOUR)) == ([], [])
    candles, gaps = await load(lab, TimeRange(WHOLE.start - 48 * HOUR, WHOLE.start - 24 * HOUR))
    assert candles == [] and sum(gap.missing for gap in gaps) == 24


async def test_a_fault_changes_nothing_that_is_loaded(lab):
    wanted = await load(lab)
    for kind in lab.faults:
        lab.inject(kind)
        assert await load(lab) == wanted, kind


async def test_trades_come_once_and_in_order(lab):
    start = lab.trades[10][1]
    for seconds, begin in ((3_600, start), (6 * 3_600, start), (1, start - 1)):
        span = TimeRange(begin, begin + seconds * 1_000)
        reader, trades = lab.exchange.trades(lab.symbol, span), []
        async for page in reader:
            assert page, "an empty page"
            trades += page
        assert [(trade.trade_id, trade.timestamp) for trade in trades] == [row for row in lab.trades if row[1] in span]
        assert not reader.gaps
        assert all(isinstance(trade, Trade) and trade.exchange == lab.exchange.name for trade in trades)
        assert {trade.symbol for trade in trades} <= {lab.symbol}


async def test_a_book_is_sorted_and_not_crossed(lab):
    book = await lab.exchange.order_book(lab.symbol, 10)
    bids, asks = [price for price, _ in book.bids], [price for price, _ in book.asks]
    assert len(bids) == len(asks) == 10
    assert bids == sorted(bids, reverse=True) and asks == sorted(asks) and bids[0] < asks[0]
    assert (book.exchange, book.symbol) == (lab.exchange.name, lab.symbol)
    assert abs(book.timestamp - NOW) < 1_000


async def test_markets_are_read_at_the_same_time(lab):
    results = await asyncio.gather(*(load(lab, TimeRange(NOW - n * HOUR, NOW)) for n in (20, 40, 60)))
    assert [len(candles) for candles, _ in results] == [19, 39, 59]


async def test_an_exchange_that_cannot_be_reached_says_so():
    quick = {
        BinanceExchange: ("binance://127.0.0.1:1", Retry(first=0.001, attempts=2)),
        CcxtExchange: ("ccxt://kraken?url=http://127.0.0.1:1&pace=1", CcxtRetry(first=0.001, attempts=2)),
    }
    for adapter, (url, retry) in quick.items():
        async with adapter(url, retry=retry) as exchange:
            with pytest.raises(ExchangeError):
                await exchange.server_time()


@pytest.mark.parametrize(("fault", "error"), [("restricted", Refused), ("limit", ExchangeError)])
async def test_krakens_refusals_become_ours(fault, error):
    standin = KrakenStandIn([], NOW)
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    async with serve_app(standin) as address:
        async with CcxtExchange(f"ccxt://kraken?url={address}&pace=1") as exchange:
            exchange.client.sleep = sleep
            standin.faults.extend(20 * [fault])
            with pytest.raises(error) as refusal:
                await exchange.server_time()
    assert isinstance(refusal.value, StreamForgeError) and "kraken" in str(refusal.value)
    assert [round(seconds) for seconds in waited] == ([60] * 9 if fault == "limit" else [])
