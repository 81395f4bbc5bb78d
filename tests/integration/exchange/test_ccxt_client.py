"""ccxt, unchanged, against the simulator: only its addresses are set. What it reads is compared with what the
simulator serves, and its own order book with the simulator's at many moments."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from streamforge.core.samples import SAMPLES
from streamforge.core.times import to_ms
from streamforge.exchange.files import read_file
from streamforge.exchange.simulator.app import Simulator, serve_app
from streamforge.exchange.simulator.tickers import day_ticker

pytest.importorskip("ccxt", reason="needs the extra exchanges (ccxt)")
import ccxt.pro  # noqa: E402

NOON, HOUR = to_ms("2021-05-19T12:00"), 3_600_000


@pytest.fixture(scope="module")
def tables():
    return {name: read_file(SAMPLES / f"{name}.parquet") for name in ("BTCUSDT", "ETHUSDT")}


@asynccontextmanager
async def exchange(tables, now=NOON, **options):
    "A simulator and ccxt's Binance class, of which only the addresses are changed."
    sim = Simulator(tables, now=now)
    async with serve_app(sim) as url:
        client = ccxt.pro.binance({"options": {"defaultType": "spot", "fetchMarkets": {"types": ["spot"]}} | options})
        client.urls["api"] |= {"public": f"{url}/api/v3", "private": f"{url}/api/v3"}
        client.urls["api"]["ws"]["spot"] = f"ws{url[4:]}/ws"
        client.rateLimit = 1
        try:
            yield sim, client
        finally:
            await client.close()


async def connected(sim, many=1):
    async with asyncio.timeout(60):
        while len(sim.streams.open) < many or not all(connection.names for connection in sim.streams.open):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_markets_have_their_rules(tables):
    async with exchange(tables) as (sim, client):
        markets = await client.load_markets()
        assert set(markets) == {"BTC/USDT", "ETH/USDT"}
        market = markets["BTC/USDT"]
        assert (market["id"], market["base"], market["quote"], market["active"]) == ("BTCUSDT", "BTC", "USDT", True)
        assert (market["spot"], market["margin"], market["type"]) == (True, False, "spot")
        assert market["precision"]["price"] == 0.01 and market["limits"]["cost"]["min"] == 5
        assert client.price_to_precision("BTC/USDT", 38_700.12345) == "38700.12"
        assert await client.fetch_time() == NOON


async def test_candles_of_several_pages(tables):
    table = tables["BTCUSDT"]
    async with exchange(tables) as (_, client):
        rows, since = [], NOON - 1_000 * HOUR
        while page := await client.fetch_ohlcv("BTC/USDT", "1h", since, 300):
            rows, since = rows + page, page[-1][0] + HOUR
            if len(page) < 300:
                break
        first = int((table.open_time >= rows[0][0]).argmax())
        closed = rows[:-1]  # noon has just begun
        assert [row[0] for row in closed] == table.open_time[first : first + len(closed)].tolist()
        for place, name in enumerate(("open", "high", "low", "close", "volume"), 1):
            assert [row[place] for row in closed] == getattr(table, name)[first : first + len(closed)].tolist()
        assert rows[-1][0] == NOON and rows[-1][5] == 0
    async with exchange(tables, now=to_ms("2023-01-01")) as (_, client):
        since = int(table.open_time[0])
        pages = await client.fetch_ohlcv(
            "BTC/USDT", "1h", since, 5_000, {"paginate": True, "until": since + 5_100 * HOUR}
        )
        assert len(pages) == 5_000 and len({row[0] for row in pages}) == len(pages)
        for interval in ("1d", "1w", "1M"):
            row = (await client.fetch_ohlcv("BTC/USDT", interval, to_ms("2021-06-01"), 1))[0]
            assert row[2] >= row[4] > 0 and row[5] > 0


async def test_trades_book_and_tickers(tables):
    async with exchange(tables) as (sim, client):
        trades = await client.fetch_trades("BTC/USDT", NOON - HOUR, 1_000)
        row = tables["BTCUSDT"].open_time.searchsorted(NOON - HOUR)
        assert len(trades) == 12 and sum(trade["amount"] for trade in trades) == pytest.approx(
            tables["BTCUSDT"].volume[row], abs=1e-6
        )
        single = await client.fetch_trades("BTC/USDT", None, 5, {"fetchTradesMethod": "publicGetTrades"})
        assert [trade["id"] for trade in single] == [trade["id"] for trade in trades[-5:]]
        book = await client.fetch_order_book("BTC/USDT", 10)
        assert len(book["bids"]) == 10 and book["bids"][0][0] < book["asks"][0][0]
        ticker = await client.fetch_ticker("BTC/USDT")
        shown = day_ticker(sim.market("BTCUSDT"), NOON)
        assert (ticker["last"], ticker["high"]) == (float(shown["lastPrice"]), float(shown["highPrice"]))
        assert (ticker["bid"], ticker["ask"]) == (book["bids"][0][0], book["asks"][0][0])
        assert set(await client.fetch_tickers()) == {"BTC/USDT", "ETH/USDT"}
        assert (await client.fetch_last_prices())["BTC/USDT"]["price"] == ticker["last"]
        assert (await client.fetch_bids_asks())["ETH/USDT"]["bid"] > 0


async def test_wrong_symbols_and_intervals_are_its_own_errors(tables):
    async with exchange(tables) as (sim, client):
        await client.load_markets()
        with pytest.raises(ccxt.BadSymbol):
            await client.fetch_ticker("LUNA/USDT")
        with pytest.raises(ccxt.BadSymbol):  # asked of the exchange itself
            await client.publicGetKlines({"symbol": "LUNAUSDT", "interval": "1h"})
        with pytest.raises(ccxt.BadRequest):
            await client.fetch_ohlcv("BTC/USDT", "7h")
        with pytest.raises(ccxt.BadRequest):
            await client.fetch_ohlcv("BTC/USDT", "5m")  # the file has hours only
        with pytest.raises(ccxt.BadSymbol):
            await client.publicGetTicker24hr({"symbol": "LUNAUSDT"})


@pytest.mark.parametrize("options", [{}, {"watchOrderBookRate": 1000}])
async def test_its_own_book_is_the_simulators_at_every_event(tables, options):
    async with exchange(tables, **options) as (sim, client):
        await client.load_markets()
        sim.clock.set(NOON, speed=2)
        book, compared = await asyncio.wait_for(client.watch_order_book("BTC/USDT", 1_000), 60), 0
        async with asyncio.timeout(120):
            while compared < 40:
                book = await client.watch_order_book("BTC/USDT", 1_000)
                theirs = sim.market("BTCUSDT").book
                tick = theirs.tick_of(book["nonce"])
                middle = theirs.middles(tick, tick)[0]
                for side, levels in zip(("bids", "asks"), theirs.top(middle, tick, 100), strict=True):
                    assert [list(level) for level in book[side][:100]] == levels_of(levels)
                compared += 1


def levels_of(levels):
    from streamforge.exchange.simulator.book import level_price

    return [[float(level_price(k)), float(quantity)] for k, quantity in levels.items()]


async def test_streams_of_candles_trades_and_tickers(tables):
    async with exchange(tables) as (sim, client):
        await client.load_markets()
        sim.clock.set(NOON, speed=600)
        async with asyncio.timeout(120):
            candle = await client.watch_ohlcv("BTC/USDT", "1h")
            trades = await client.watch_trades("BTC/USDT")
            ticker = await client.watch_ticker("BTC/USDT")
            best = await client.watch_bids_asks(["BTC/USDT"])
            months = await client.watch_ohlcv("BTC/USDT", "1M")
        assert candle[0][0] >= NOON and candle[0][5] > 0 and months[0][0] == to_ms("2021-05-01")
        source = sim.market("BTCUSDT").trades.source
        number = int(trades[0]["id"]) - source.first_id
        assert trades[0]["price"] == source.columns(number, number + 1).price[0]
        assert ticker["last"] > 0 and best["BTC/USDT"]["bid"] < best["BTC/USDT"]["ask"]
