"""A market whose symbol is not ASCII, and one that is written by hand, from a file of the simulated exchange through
manager, loader and connector into the store and out of it again."""

import asyncio
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest
from steady import Steady
from worker_lab import data_command, until

from streamforge.cli.services import open_lab
from streamforge.client.client import Client
from streamforge.core.errors import BadName
from streamforge.core.samples import candles
from streamforge.core.times import TimeRange, to_ms
from streamforge.exchange.files import read_folder
from streamforge.exchange.simulator.app import Simulator, serve_app
from streamforge.ledger.entries import LedgerKey, read_entry
from streamforge.ledger.ranges import Ranges
from streamforge.messages.records import Candle, decode

HOUR = 3_600_000
SPAN = TimeRange.parse("2021-05-01:2021-05-03")
CHINESE = "币安人生USDT"  # listed by Binance in 2025
COLUMNS = ("open_time", "open", "high", "low", "close", "volume")


@pytest.fixture
async def exchange(tmp_path, monkeypatch):
    "A simulated exchange of two files; workers in this environment ask it."
    folder = tmp_path / "files"
    folder.mkdir()
    for name, symbol in ((CHINESE, "ADAUSDT"), ("btc-usdt", "BTCUSDT")):
        candles(symbol, "2021-04-28:2021-05-06").to_csv(folder / f"{name}.csv", index=False)
    async with serve_app(Simulator(read_folder(folder))) as url:
        for name, value in {"BINANCE_API_URL": url, "BINANCE_ARCHIVE_URL": url}.items():
            monkeypatch.setenv(name, value)
        yield url


def sample(symbol: str) -> list[tuple]:
    "The candles that a file was made from, inside the range."
    table = candles(symbol, str(SPAN))
    return list(zip(*(table[name].tolist() for name in COLUMNS), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "symbol", "origin"),
    [("币安人生/usdt", CHINESE, "ADAUSDT"), ("btc/usdt", "BTCUSDT", "BTCUSDT")],
)
async def test_a_market_by_any_spelling_reaches_the_store(lab, exchange, asked, symbol, origin):
    async with (
        open_lab(lab.places, env={"TELEMETRY_INTERVAL": "0.1"}) as platform,
        Client(platform.url) as client,
    ):
        flow = await client.start(symbol=asked, type="api_candles_1h", time_range=str(SPAN))
        assert flow["queue_id"].isascii() and flow["symbol"] == symbol
        done = await client.wait(flow["queue_id"], timeout=90)
        assert done["status"] == "finished", done["message"]
        stored = (await platform.store.read("candles_1h")).to_pylist()
        enriched = (await platform.store.read("candles_1h_enriched")).to_pylist()
        entry = await read_entry(platform.store, LedgerKey("candles_1h", symbol, "candles", "1h"))
        drawn = await client._ask("GET", f"/api/candles?collection=candles_1h&symbol={asked}&interval=1h")
        with pytest.raises(BadName, match="found 'BTC USDT'"):
            await client._ask("GET", "/api/candles?collection=candles_1h&symbol=BTC%20USDT&interval=1h")
    wanted = sample(origin)
    for rows in (stored, enriched):
        assert [tuple(row[name] for name in COLUMNS) for row in rows] == wanted
        assert {row["symbol"] for row in rows} == {symbol}
    assert drawn["columns"]["symbol"] == [symbol] * len(wanted)
    assert entry.loaded == entry.verified == Ranges.of((SPAN.start, SPAN.end))

    code, out = await data_command(lab.home, "status", "--symbol", asked, "--json")
    (status,) = msgspec.json.decode(out)
    assert (code, status["symbol"], status["percent"]) == (0, symbol, 100.0)
    code, out = await data_command(lab.home, "verify", "--symbol", asked, "--json")
    (verified,) = msgspec.json.decode(out)
    assert (code, verified["rows"], verified["wanted"]) == (0, len(wanted), 0)
    assert (await data_command(lab.home, "repair", "--symbol", asked))[0] == 0
    code, out = await data_command(
        lab.home, "export", "candles_1h", "--symbol", asked, "--to", str(lab.home / "out"), "--json"
    )
    (exported,) = msgspec.json.decode(out)
    assert code == 0 and f"symbol={symbol}" in Path(exported["file"]).parts
    assert pq.read_table(exported["file"], partitioning=None)["close"].to_pylist() == [row[4] for row in wanted]
    assert list(read_folder(lab.home / "out")) == [symbol], "an export can be served again"


@pytest.mark.slow
async def test_a_worker_alone_takes_any_spelling(lab, exchange):
    env = {"SYMBOL": f"btc/usdt,{CHINESE.lower()}", "TYPE": "api_candles_1h"}
    connector = await lab.start("arango-connector", UPSTREAM="loader-producer__a1b2c3", **env)
    assert await lab.run("loader-producer", TIME_RANGE=str(SPAN), **env) == 0
    assert await connector.wait() == 0
    rows = (await lab.contents())["candles_1h"]
    assert {(key[0], key[1]) for key in rows} == {("binance", "BTCUSDT"), ("binance", CHINESE)}
    assert len(rows) == 2 * len(sample("BTCUSDT"))
    assert await lab.run("loader-producer", TIME_RANGE=str(SPAN), TYPE="api_candles_1h", SYMBOL="BTCUSDT,../x") == 64
    assert any("found '../x'" in event.message for event in await lab.events("error"))


@pytest.mark.slow
async def test_files_and_trades_of_a_market_that_is_not_ascii(lab, exchange):
    env = {"SYMBOL": CHINESE, "TYPE": "api_candles_1h", "SOURCE": "archive"}
    connector = await lab.start("arango-connector", UPSTREAM="loader-producer__a1b2c3", **env)
    assert await lab.run("loader-producer", TIME_RANGE=str(SPAN), **env) == 0
    assert await connector.wait() == 0
    assert len((await lab.contents())["candles_1h"]) == len(sample("ADAUSDT"))

    env = {"SYMBOL": CHINESE, "TYPE": "api_trades", "KAFKA_TOPIC": "trades"}
    connector = await lab.start("arango-connector", UPSTREAM="loader-producer__d4e5f6", **env)
    day = "2021-05-01:2021-05-02"
    assert await lab.run("loader-producer", TIME_RANGE=day, TELEMETRY_PRODUCER_ID="loader-producer__d4e5f6", **env) == 0
    assert await connector.wait() == 0
    code, out = await data_command(lab.home, "verify", "--symbol", CHINESE, "--json")
    rows = {row["interval"]: (row["rows"] > 0, row["wanted"]) for row in msgspec.json.decode(out)}
    assert (code, rows) == (0, {"1h": (True, 0), "trade_ids": (True, 0)})


async def test_a_live_market_that_is_not_ascii(lab, tmp_path):
    candles("ADAUSDT", "2021-04-28:2021-05-06").to_csv(tmp_path / f"{CHINESE}.csv", index=False)
    noon = to_ms("2021-05-01T12:00")
    sim = Simulator(read_folder(tmp_path), now=noon, pace=Steady())

    async def follow() -> int:
        env = {"BINANCE_API_URL": url, "BINANCE_WS_URL": f"ws{url[4:]}", "TIME_RANGE": "2021-05-01:2021-05-02"}
        return await lab.run("loader-ws-candles", SYMBOL="币安人生/usdt", TYPE="ws_candles_1h", **env)

    async def connected() -> bool:
        return sim.streams.connected > 0 or loader.done()

    async with serve_app(sim) as url:
        loader = asyncio.create_task(follow())
        await until(connected)
        sim.clock.set(noon, 36_000.0)
        assert await loader == 0, [event.message for event in await lab.events("error")]
    rows = [decode(Candle, record.value) for record in await lab.records(lab.data)]
    assert [(row.symbol, row.close) for row in rows] == [(CHINESE, row[4]) for row in sample("ADAUSDT")[:24]]
