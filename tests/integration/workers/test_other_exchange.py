"""Another exchange than Binance, through manager, loader and connector into the store: ccxt's class of Kraken against
a stand-in with the shapes of Kraken's documentation."""

import sqlite3
import sys
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner
from worker_lab import data_command

from streamforge.cli.main import app
from streamforge.cli.services import open_lab
from streamforge.client.client import Client
from streamforge.core.errors import BadConfig
from streamforge.core.samples import candles
from streamforge.core.times import TimeRange, find_gaps, to_ms
from streamforge.exchange.simulator.app import serve_app
from streamforge.ledger.entries import LedgerKey, read_entry
from streamforge.ledger.ranges import Ranges
from streamforge.store.base import open_store

sys.path.insert(0, str(Path(__file__).parents[2]))
from standins.kraken import KEPT, KrakenStandIn  # noqa: E402

HOUR = 3_600_000
SPAN = TimeRange.parse("2021-04-01:2021-05-02")  # begins before what Kraken keeps, and has two outages
NOW = to_ms("2021-05-02T12:30")
KRAKEN = LedgerKey("candles_1h", "BTCUSD", "candles", "1h", "kraken")


def rows_of_sample() -> list[tuple]:
    table = candles("BTCUSDT", "2021-04-05:2021-05-03")
    columns = [getattr(table, name).tolist() for name in ("open_time", "open", "high", "low", "close", "volume")]
    return [(time // 1_000, *numbers) for time, *numbers in zip(*columns, strict=True)]


@pytest.fixture
async def kraken(monkeypatch):
    "A stand-in that the name `kraken` stands for, in this process and in those that it starts."
    standin = KrakenStandIn(rows_of_sample(), NOW)
    async with serve_app(standin) as url:
        monkeypatch.setenv("STREAMFORGE_EXCHANGES", f"kraken=ccxt://kraken?url={url}&pace=20")
        yield standin


def given(standin: KrakenStandIn) -> list[tuple]:
    "The closed rows of the range that the stand-in gives."
    kept = [row for row in standin.candles if row[0] * 1_000 <= NOW][-KEPT:]
    return [(time * 1_000, *numbers) for time, *numbers in kept if time * 1_000 in SPAN]


@pytest.mark.slow
async def test_candles_of_kraken_reach_the_store_and_its_ledger(lab, kraken):
    wanted = given(kraken)
    missing = Ranges.of(*((gap.start, gap.end) for gap in find_gaps([row[0] for row in wanted], SPAN, "1h")))
    async with (
        open_lab(lab.places, env={"TELEMETRY_INTERVAL": "0.1"}) as platform,
        Client(platform.url) as client,
    ):
        flow = await client.start(exchange="kraken", symbol="BTC/USD", type="api_candles_1h", time_range=str(SPAN))
        done = await client.wait(flow["queue_id"], timeout=90)
        assert done["status"] == "finished", done
        rows = (await platform.store.read("candles_1h")).to_pylist()
        entry = await read_entry(platform.store, KRAKEN)
        binance = await read_entry(platform.store, LedgerKey("candles_1h", "BTCUSD", "candles", "1h"))
    names = ("open_time", "open", "high", "low", "close", "volume")
    assert [tuple(row[name] for name in names) for row in rows] == wanted
    assert {(row["exchange"], row["symbol"]) for row in rows} == {("kraken", "BTCUSD")}
    assert all(row["close_time"] == row["open_time"] + HOUR - 1 for row in rows)
    assert all(row["number_of_trades"] is None and row["quote_asset_volume"] is None for row in rows)
    assert entry.loaded == Ranges.of((SPAN.start, SPAN.end)) - missing, "what it no longer keeps is not loaded"
    assert missing.size // HOUR == (SPAN.end - SPAN.start) // HOUR - len(wanted) > 5
    assert not binance.asked

    code, out = await data_command(lab.home, "verify", "--json")
    (verified,) = msgspec.json.decode(out)
    assert code == 0 and verified["rows"] == len(wanted) and verified["wanted"] == 0, out
    code, out = await data_command(lab.home, "status", "--json")
    assert code == 0 and "kraken" in out


@pytest.mark.slow
async def test_a_repair_asks_the_exchange_that_the_rows_are_of(lab, kraken):
    env = {"EXCHANGE": "kraken", "SYMBOL": "BTCUSD", "TYPE": "api_candles_1h"}
    connector = await lab.start("arango-connector", UPSTREAM="loader-producer__a1b2c3", **env)
    assert await lab.run("loader-producer", TIME_RANGE="2021-04-10:2021-04-12", **env) == 0
    assert await connector.wait() == 0
    lost = to_ms("2021-04-10T05:00")
    with sqlite3.connect(lab.home / "store.db") as database:
        assert database.execute('delete from "candles_1h" where open_time = ?', (lost,)).rowcount == 1
    assert (await data_command(lab.home, "verify"))[0] == 65
    kraken.requests.clear()
    code, out = await data_command(lab.home, "repair")
    assert code == 0, out
    assert any("/OHLC" in request for request in kraken.requests)
    assert (await data_command(lab.home, "verify"))[0] == 0


@pytest.mark.slow
async def test_trades_of_kraken_reach_the_store(lab, kraken):
    begin = SPAN.start // 1_000
    kraken.trades = [(n, 30_000.0 + n, 0.5, begin + n * 7.25, "bs"[n % 2]) for n in range(1, 1_501)]
    env = {"EXCHANGE": "kraken", "SYMBOL": "BTCUSD", "TYPE": "api_trades"}
    connector = await lab.start("arango-connector", UPSTREAM="loader-producer__a1b2c3", **env)
    assert await lab.run("loader-producer", TIME_RANGE="2021-04-01:2021-04-02", **env) == 0
    assert await connector.wait() == 0
    async with open_store(lab.places.store_url) as store:
        rows = (await store.read("trades")).to_pylist()
    assert [(row["exchange"], row["trade_id"]) for row in rows] == [("kraken", n) for n in range(1, 1_501)]
    assert (await data_command(lab.home, "verify"))[0] == 0


async def test_an_unknown_symbol_and_a_missing_class_end_with_64(lab, kraken):
    env = {"TYPE": "api_candles_1h", "TIME_RANGE": "2021-04-10:2021-04-12"}
    assert await lab.run("loader-producer", EXCHANGE="kraken", SYMBOL="NOPEUSD", **env) == 64
    assert await lab.run("loader-producer", EXCHANGE="krakenn", SYMBOL="BTCUSD", **env) == 64
    messages = [event.message for event in await lab.events("error")]
    assert "NOPEUSD" in messages[0] and "did you mean kraken" in messages[1]


@pytest.mark.slow
async def test_a_live_type_is_refused_at_the_request(lab, kraken):
    async with open_lab(lab.places) as platform, Client(platform.url) as client:
        with pytest.raises(BadConfig, match="live streams"):
            await client.start(exchange="kraken", symbol="BTC/USD", type="ws_candles_1m")
        with pytest.raises(BadConfig, match="name of an exchange"):
            await client.start(
                exchange="http://127.0.0.1", symbol="BTCUSD", type="api_candles_1h", time_range=str(SPAN)
            )
        assert await client.list() == []


def test_start_takes_the_exchange():
    assert "--exchange" in CliRunner().invoke(app, ["start", "--help"], env={"COLUMNS": "200"}).output
