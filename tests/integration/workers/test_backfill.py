"""Candles made of trades are the exchange's own, where both exist; edges that are not whole are left out; a kill
changes nothing."""

import signal

import pytest
from live_lab import read
from worker_lab import sample_candles

from streamforge.core.times import TimeRange, to_ms
from streamforge.exchange.binance.rest import BinanceRest
from streamforge.exchange.simulator.app import Simulator, serve_app
from streamforge.messages.records import Candle
from streamforge.store.base import open_store

MARKETS = ("BTCUSDT", "ETHUSDT")
SPAN, WHOLE = "2021-05-10T00:20:2021-05-13T05:40", TimeRange.parse("2021-05-10T01:00:2021-05-13T05:00")
LOAD = {"TYPE": "api_trades", "SYMBOL": ",".join(MARKETS), "TIME_RANGE": SPAN}
CONNECT = {
    "TYPE": "api_trades",
    "UPSTREAM": "loader-producer__a1b2c3",
    "AGGREGATE": "1h",
    "AGGREGATE_COLLECTION": "candles_made",
    "AGGREGATE_TOPIC": "made",
    "BATCH_ROWS": "300",
}


def identity(candle: Candle) -> tuple:
    "The fields of a candle that trades determine, with volume rounded to the eight digits of the exchange."
    return (
        candle.symbol,
        candle.open_time,
        candle.open,
        candle.high,
        candle.low,
        candle.close,
        round(candle.volume, 8),
    )


async def stored(lab) -> list[Candle]:
    async with open_store(lab.places.store_url) as store:
        return [
            Candle(**row)
            for row in (await store.read("candles_made", columns=list(Candle.__struct_fields__))).to_pylist()
        ]


@pytest.mark.slow
async def test_candles_of_trades_are_the_exchange_s_own(new_lab):
    calm, rough = new_lab("calm"), new_lab("rough")
    async with serve_app(Simulator.open()) as url, BinanceRest(url) as rest:
        own = {
            identity(candle) for symbol in MARKETS async for page in rest.klines(symbol, "1h", WHOLE) for candle in page
        }
        for lab in (calm, rough):
            assert await lab.run("loader-producer", BINANCE_API_URL=url, SOURCE="rest", **LOAD) == 0
    assert await calm.run("arango-connector", **CONNECT) == 0
    for point in ("after-candles:2", "after-write:3"):
        assert await rough.run("arango-connector", FAILPOINT=point, **CONNECT) == -signal.SIGKILL
    assert await rough.run("arango-connector", **CONNECT) == 0
    aggregated = await stored(calm)
    assert {identity(candle) for candle in aggregated} == own and len(aggregated) == len(own) == len(MARKETS) * 76
    assert await stored(rough) == aggregated
    published = await read(rough, Candle, "made")
    assert {identity(candle) for candle in published} == own and {candle.open_time for candle in published} == set(
        range(WHOLE.start, WHOLE.end, 3_600_000)
    )
    assert {candle.close for candle in aggregated} == {
        candle.close
        for candle in sample_candles(MARKETS, "2021-05-10:2021-05-14")
        if to_ms("2021-05-10T01:00") <= candle.open_time < to_ms("2021-05-13T05:00")
    }
