"""What an exchange refuses for good: an interval that it does not have, trades without numbered ids. A load is refused
before the ledger notes anything as wanted; a repair of an older ledger ends by itself, and tells of it by name."""

import sys
from pathlib import Path

import msgspec
import pytest
from worker_lab import data_command, sample_candles

from streamforge.cli.services import open_lab
from streamforge.client.client import Client
from streamforge.core.samples import candles
from streamforge.core.times import TimeRange, to_ms
from streamforge.exchange.simulator.app import Simulator, serve_app
from streamforge.ledger.entries import LedgerKey, read_ledger, update_entry
from streamforge.ledger.ranges import Ranges
from streamforge.messages.records import Trade
from streamforge.store.base import open_store
from streamforge.store.schemas import CANDLES, TRADES

sys.path.insert(0, str(Path(__file__).parents[2]))
from standins.kraken import KrakenStandIn  # noqa: E402

HOUR = 3_600_000
SPAN = TimeRange.parse("2021-05-01:2021-05-02")
WHOLE = Ranges.of((SPAN.start, SPAN.end))


@pytest.fixture
async def simulator():
    async with serve_app(Simulator.open()) as url:
        yield url


@pytest.fixture
async def kraken(monkeypatch):
    "A stand-in that the name `kraken` stands for, with hours, and with trades whose ids are no numbers."
    table = candles("BTCUSDT", "2021-04-28:2021-05-03")
    columns = [getattr(table, name).tolist() for name in ("open_time", "open", "high", "low", "close", "volume")]
    rows = [(time // 1_000, *numbers) for time, *numbers in zip(*columns, strict=True)]
    trades = [(f"T{n}", 30_000.0, 0.5, SPAN.start // 1_000 + n, "b") for n in range(5)]
    standin = KrakenStandIn(rows, to_ms("2021-05-02T12:30"), trades=trades)
    async with serve_app(standin) as url:
        monkeypatch.setenv("STREAMFORGE_EXCHANGES", f"kraken=ccxt://kraken?url={url}&pace=20")
        yield {"EXCHANGE": "kraken", "SYMBOL": "BTCUSD"}


async def ledger_of(lab):
    async with open_store(lab.places.store_url) as store:
        return await read_ledger(store)


async def ask_for(lab, *keys: LedgerKey) -> None:
    "Note a day as asked, as a load did that was refused by an earlier release."
    async with open_store(lab.places.store_url) as store:
        for key in keys:
            await update_entry(store, key, lambda entry: entry.note("asked", WHOLE))


async def refused_load(lab, **order: str) -> str:
    "The error of a load that must be refused, with nothing noted."
    assert await lab.run("loader-producer", TIME_RANGE=str(SPAN), **order) == 64
    assert await ledger_of(lab) == {}
    (event,) = await lab.events("error")
    assert event.finished
    return f"{event.extra['error_type']}: {event.message}"


async def repaired(lab, *options: str, **env: str) -> dict[str, dict]:
    "The rows of a repair that ends with 0, by market; afterwards nothing is wanted, and another repair ends as well."
    code, out = await data_command(lab.home, "repair", "--json", *options, **env)
    assert code == 0, out
    checked, found = await data_command(lab.home, "verify", "--json", **env)
    assert checked == 0 and not any(row["wanted"] for row in msgspec.json.decode(found)), found
    assert (await data_command(lab.home, "repair", *options, **env))[0] == 0
    return {f"{row['symbol']} {row['interval']}": row for row in msgspec.json.decode(out)}


async def test_an_interval_that_the_exchange_lacks_is_refused_before_it_is_noted(lab, simulator):
    order = {"TYPE": "api_candles_5m", "BINANCE_API_URL": simulator}
    error = await refused_load(lab, SYMBOL="BTCUSDT,ETHUSDT,NOUSDT", **order)
    assert error.startswith("BadInterval: ") and "found '5m'" in error and "-1120" in error
    assert (await data_command(lab.home, "verify"))[0] == 0


@pytest.mark.slow
async def test_a_repair_tells_what_is_refused_and_goes_on_with_the_others(lab, simulator):
    "Of a ledger with a left-over `asked`: five minutes are denied, and the lost hour of another market is had."
    rows = sample_candles(("ETHUSDT",), str(SPAN))
    async with open_store(lab.places.store_url) as store:
        await store.ensure("candles_1h", CANDLES)
        await store.upsert("candles_1h", rows[:7] + rows[8:])
    minutes = [LedgerKey("candles_5m", symbol, "candles", "5m") for symbol in ("BTCUSDT", "ETHUSDT", "GONEUSDT")]
    await ask_for(lab, *minutes, LedgerKey("candles_1h", "ETHUSDT", "candles", "1h"))
    assert (await data_command(lab.home, "verify"))[0] == 65
    told = await repaired(lab, BINANCE_API_URL=simulator)
    assert told["ETHUSDT 1h"]["stored"] == 1 and told["ETHUSDT 1h"]["message"] == ""
    for symbol in ("BTCUSDT", "ETHUSDT"):
        row = told[f"{symbol} 5m"]
        assert row["message"] == "cannot be had: the exchange has no 5m"
        assert (row["lacked"], row["missing"], row["still"]) == (288, 288, 0)
    assert told["GONEUSDT 5m"]["message"] == "cannot be had: neither the exchange nor its archive knows it"
    code, out = await data_command(lab.home, "repair", "--again", BINANCE_API_URL=simulator)
    assert code == 0 and "BTCUSDT: cannot be had: the exchange has no 5m" in out


@pytest.mark.slow
async def test_a_queue_manager_refuses_and_repairs_in_the_same_way(lab, simulator):
    minutes = LedgerKey("candles_5m", "BTCUSDT", "candles", "5m")
    async with (
        open_lab(lab.places, env={"BINANCE_API_URL": simulator, "TELEMETRY_INTERVAL": "0.1"}) as platform,
        Client(platform.url) as client,
    ):
        flow = await client.start(symbol="BTCUSDT", type="api_candles_5m", time_range=str(SPAN))
        done = await client.wait(flow["queue_id"], timeout=90)
        assert done["status"] == "error" and "found '5m'" in done["message"], done
        assert await read_ledger(platform.store) == {}
        await ask_for(lab, minutes)
        code, out = await data_command(lab.home, "repair", "--json", "--url", platform.url)
    (row,) = msgspec.json.decode(out)
    assert code == 0 and row["message"] == "cannot be had: the exchange has no 5m" and row["missing"] == 288


@pytest.mark.slow
async def test_a_workflow_that_fails_hides_no_other_market(lab, simulator):
    "An exchange that is down: its error comes after the table. One of which only files were imported is not asked."
    markets = {"binance": "ETHUSDT", "kraken": "BTCUSD", "mine": "BTCUSD"}
    await ask_for(lab, *(LedgerKey("candles_1h", markets[name], "candles", "1h", name) for name in markets))
    env = {"BINANCE_API_URL": simulator, "STREAMFORGE_EXCHANGES": "kraken=ccxt://kraken?url=http://127.0.0.1:9&pace=1"}
    code, out = await data_command(lab.home, "repair", **env)
    assert code == 75 and "mine:BTCUSD: no exchange has it (expected binance or an exchange that ccxt knows" in out, out
    assert "name its URL in STREAMFORGE_EXCHANGES if it was loaded, else import its files again" in out, out
    assert [line.split()[3:] for line in out.splitlines() if "ETHUSDT" in line] == [["24", "24", "0", "0", "0"]]
    code, out = await data_command(lab.home, "verify", "--json", "--exchange", "binance")
    assert code == 0 and msgspec.json.decode(out)[0]["good"] == 24


@pytest.mark.slow
async def test_ccxt_refuses_an_interval_in_the_same_way(lab, kraken):
    error = await refused_load(lab, TYPE="api_candles_2h", **kraken)
    assert error.startswith("BadInterval: expected an interval of kraken (1m 5m ") and "found '2h'" in error
    await ask_for(lab, LedgerKey("candles_2h", "BTCUSD", "candles", "2h", "kraken"))
    row = (await repaired(lab))["BTCUSD 2h"]
    assert row["message"] == "cannot be had: the exchange has no 2h" and row["missing"] == 12


@pytest.mark.slow
async def test_trades_that_cannot_be_counted_are_refused_in_the_same_way(lab, kraken):
    "Ids that are no numbers; a ledger that was written when they were has holes that nobody can fill."
    assert "expected trades with numbers as ids, found 'T" in await refused_load(lab, TYPE="api_trades", **kraken)
    ids, times = (LedgerKey("trades", "BTCUSD", kind, exchange="kraken") for kind in ("trade_ids", "trades"))
    await ask_for(lab, times)
    trade = Trade(
        exchange="kraken",
        symbol="BTCUSD",
        trade_id=1,
        price=1.0,
        quantity=1.0,
        timestamp=SPAN.start,
        is_buyer_maker=True,
    )
    async with open_store(lab.places.store_url) as store:
        await store.ensure("trades", TRADES)
        await store.upsert("trades", [trade, msgspec.structs.replace(trade, trade_id=4, timestamp=SPAN.start + 9)])
        await update_entry(store, ids, lambda entry: entry.note("loaded", Ranges.of((1, 5))))
    row = (await repaired(lab))["BTCUSD "]
    assert row["message"].startswith("cannot be had: expected trades with numbers as ids")
    assert (row["lacked"], row["missing"], row["still"]) == (2, 2, 0)


async def test_what_cannot_be_requested_is_not_noted_as_asked(lab, simulator):
    "A range of which only files could give more: nothing of it is wanted when it has been looked at."
    rows = sample_candles(("ETHUSDT", "BTCUSDT"), str(SPAN))
    stored = [msgspec.structs.replace(row, exchange="mine" if row.symbol == "ETHUSDT" else "binance") for row in rows]
    async with open_store(lab.places.store_url) as store:
        await store.ensure("candles_1h", CANDLES)
        await store.upsert("candles_1h", stored)
    before = ("--range", "2021-04-01:2021-04-02", "--exchange", "mine")
    for command in ("verify", "repair", "verify"):  # the first looks at rows that no ledger knows
        assert (await data_command(lab.home, command, *before))[0] == 65
    assert (await data_command(lab.home, "verify"))[0] == 0
    known = await ledger_of(lab)
    assert {key.exchange: entry.asked for key, entry in known.items()} == {"mine": WHOLE, "binance": WHOLE}
    async with open_lab(lab.places, env={"BINANCE_API_URL": simulator, "STREAMFORGE_EXCHANGES": ""}) as platform:
        code, _ = await data_command(lab.home, "repair", *before, "--url", platform.url)
    assert code == 64 and await ledger_of(lab) == known
    assert (await data_command(lab.home, "repair"))[0] == 0


async def test_a_filter_that_names_nothing_is_refused(lab):
    async with open_store(lab.places.store_url) as store:
        await store.ensure("candles_1h", CANDLES)
        await store.upsert("candles_1h", sample_candles(("ETHUSDT",), str(SPAN)))
    for command in ("verify", "repair"):
        for option in (
            ("--symbol", "DOGE"),
            ("--symbol", "ETH/USDT,DOGE"),
            ("--interval", "5m"),
            ("--exchange", "okx"),
        ):
            assert (await data_command(lab.home, command, *option))[0] == 65, (command, option)
    assert (await data_command(lab.home, "verify", "--symbol", "eth/usdt"))[0] == 0
