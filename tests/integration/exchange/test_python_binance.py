"""python-binance, unchanged, against the simulator: only its addresses are set."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from streamforge.core.samples import SAMPLES
from streamforge.core.times import to_ms
from streamforge.exchange.files import read_file
from streamforge.exchange.simulator.app import Simulator, serve_app
from streamforge.exchange.simulator.book import level_price

binance = pytest.importorskip("binance", reason="needs python-binance, one of the developers' tools")
from binance.exceptions import BinanceAPIException  # noqa: E402
from binance.ws.depthcache import DepthCacheManager  # noqa: E402

NOON, HOUR = to_ms("2021-05-19T12:00"), 3_600_000


@pytest.fixture(scope="module")
def tables():
    return {name: read_file(SAMPLES / f"{name}.parquet") for name in ("BTCUSDT", "ETHUSDT")}


@asynccontextmanager
async def exchange(tables, now=NOON, **options):
    "A simulator, the client and its sockets, of which only the addresses are changed."
    sim = Simulator(tables, now=now)
    async with serve_app(sim) as url:
        client = binance.AsyncClient(**options)
        client.API_URL = f"{url}/api"
        sockets = binance.BinanceSocketManager(client)
        sockets.STREAM_URL = f"ws{url[4:]}/"
        try:
            yield sim, client, sockets
        finally:
            await client.close_connection()


async def test_markets_time_and_tickers(tables):
    async with exchange(tables) as (_, client, _):
        info = await client.get_exchange_info()
        assert [market["symbol"] for market in info["symbols"]] == ["BTCUSDT", "ETHUSDT"]
        market = await client.get_symbol_info("BTCUSDT")
        assert {row["filterType"] for row in market["filters"]} >= {"PRICE_FILTER", "LOT_SIZE", "NOTIONAL"}
        assert await client.get_server_time() == {"serverTime": NOON}
        assert await client.ping() == {}
        price = float((await client.get_symbol_ticker(symbol="BTCUSDT"))["price"])
        assert len(await client.get_all_tickers()) == 2
        day = await client.get_ticker(symbol="BTCUSDT")
        assert float(day["lastPrice"]) == price == float((await client.get_avg_price(symbol="BTCUSDT"))["price"])
        best = await client.get_orderbook_ticker(symbol="BTCUSDT")
        book = await client.get_order_book(symbol="BTCUSDT", limit=5)
        assert (float(best["bidPrice"]), float(best["askPrice"])) == (
            float(book["bids"][0][0]),
            float(book["asks"][0][0]),
        )


async def test_candles_and_trades_over_several_pages(tables):
    table = tables["BTCUSDT"]
    async with exchange(tables, now=to_ms("2022-01-01")) as (_, client, _):
        rows = [
            row
            async for row in await client.get_historical_klines_generator("BTCUSDT", "1h", "2021-04-06", "2021-09-06")
        ]
        first = int(table.open_time.searchsorted(to_ms("2021-04-06")))
        assert len(rows) > 3_000
        assert [row[0] for row in rows] == table.open_time[first : first + len(rows)].tolist()
        assert [float(row[5]) for row in rows] == table.volume[first : first + len(rows)].tolist()
        assert all(float(field) >= 0 for row in rows for field in row)  # no null anywhere
        trades = [trade async for trade in client.aggregate_trade_iter("BTCUSDT", start_str=to_ms("2021-12-20"))]
        assert [trade["a"] for trade in trades] == list(range(trades[0]["a"], trades[0]["a"] + len(trades)))
        assert len(trades) == 12 * 24 * 12
        recent = await client.get_recent_trades(symbol="BTCUSDT", limit=10)
        older = await client.get_historical_trades(symbol="BTCUSDT", fromId=recent[0]["id"], limit=10)
        assert recent == older and recent[-1]["id"] == trades[-1]["a"]


async def test_wrong_symbols_and_intervals_are_its_own_errors(tables):
    async with exchange(tables) as (_, client, _):
        for call, code in (
            (client.get_klines(symbol="LUNAUSDT", interval="1h"), -1121),
            (client.get_klines(symbol="BTCUSDT", interval="7h"), -1120),
            (client.get_klines(symbol="BTCUSDT", interval="5m"), -1120),
            (client.get_klines(symbol="btc/usdt", interval="1h"), -1100),
            (client.get_recent_trades(), -1102),
            (client.get_ticker(symbol="LUNAUSDT"), -1121),
        ):
            with pytest.raises(BinanceAPIException) as caught:
                await call
            assert caught.value.code == code and caught.value.status_code == 400


@pytest.mark.parametrize("rate", [None, 100])
async def test_its_depth_cache_is_the_simulators_book_at_every_event(tables, rate):
    async with exchange(tables) as (sim, client, sockets):
        manager = DepthCacheManager(client, "BTCUSDT", bm=sockets, limit=5_000, ws_interval=rate)
        theirs, compared = sim.market("BTCUSDT").book, 0
        async with manager, asyncio.timeout(120):
            while not sim.streams.open:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            sim.clock.set(NOON, speed=5)
            while compared < 40:
                cache = await manager.recv()
                tick = theirs.tick_of(manager._last_update_id)
                middle = theirs.middles(tick, tick)[0]
                bids, asks = (
                    [[float(level_price(k)), float(quantity)] for k, quantity in side.items()]
                    for side in theirs.top(middle, tick, 100)
                )
                assert cache.get_bids()[:100] == bids and cache.get_asks()[:100] == asks
                compared += 1


async def test_streams_of_candles_trades_tickers_and_books(tables):
    async with exchange(tables) as (sim, client, sockets):
        streams = ["kline_1h", "trade", "aggTrade", "miniTicker", "ticker", "bookTicker", "depth5", "depth20@100ms"]
        names = [f"btcusdt@{stream}" for stream in streams] + ["!miniTicker@arr", "!ticker@arr"]
        seen = {}
        async with sockets.multiplex_socket(names) as socket, asyncio.timeout(120):
            sim.clock.set(NOON, speed=300)
            while set(seen) < set(names):
                message = await socket.recv()
                seen.setdefault(message["stream"], message["data"])
        assert seen["btcusdt@kline_1h"]["k"]["t"] == NOON
        assert all(float(seen["btcusdt@kline_1h"]["k"][name]) >= 0 for name in "ohlcvqVQn")
        assert seen["btcusdt@trade"]["t"] == seen["btcusdt@aggTrade"]["a"]
        assert (len(seen["btcusdt@depth5"]["bids"]), len(seen["btcusdt@depth20@100ms"]["asks"])) == (5, 20)
        assert float(seen["btcusdt@bookTicker"]["b"]) < float(seen["btcusdt@bookTicker"]["a"])
        assert {row["s"] for row in seen["!miniTicker@arr"]} <= {"BTCUSDT", "ETHUSDT"}


async def test_times_in_microseconds(tables):
    async with exchange(tables, time_unit="MICROSECOND") as (sim, client, sockets):
        assert await client.get_server_time() == {"serverTime": NOON * 1_000}
        row = (await client.get_klines(symbol="BTCUSDT", interval="1h", startTime=(NOON - HOUR) * 1_000, limit=1))[0]
        assert (row[0], row[6]) == ((NOON - HOUR) * 1_000, NOON * 1_000 - 1)
        async with sockets.trade_socket("BTCUSDT") as socket, asyncio.timeout(60):
            sim.clock.set(NOON, speed=600)
            event = await socket.recv()
        assert NOON * 1_000 < event["T"] < (NOON + HOUR) * 1_000
