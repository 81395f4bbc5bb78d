"""Values that were altered in the store are found by the checksums of the ledger and had back, and no honest rewrite
is called damage."""

import asyncio
import contextlib
import json
import sqlite3
import sys
from pathlib import Path
from urllib.parse import parse_qs

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from streamforge.bus.base import open_bus
from streamforge.cli.data import transfer  # noqa: F401  (registers `import`)
from streamforge.cli.data.commands import data_app
from streamforge.cli.data.repair import Filter, repair_all, run_here, targets_of
from streamforge.core.logs import logging_to
from streamforge.core.settings import read_places
from streamforge.core.times import now_ms, to_ms
from streamforge.exchange.simulator.app import Simulator, serve_app
from streamforge.ledger import sums as sums_module
from streamforge.ledger import verify as module
from streamforge.ledger.entries import LedgerKey, Notes, body_of, read_entry, update_entry
from streamforge.ledger.ranges import Ranges
from streamforge.ledger.sums import read_sums
from streamforge.ledger.verify import verify, verify_loaded
from streamforge.messages.records import Candle, decode
from streamforge.store.base import open_store
from streamforge.store.schemas import CANDLES

sys.path.insert(0, str(Path(__file__).parents[2]))
from servers import need  # noqa: E402
from standins.arango import standin  # noqa: E402

HOUR, DAY, START = 3_600_000, 86_400_000, to_ms("2021-05-01")
DAYS, SPAN = 10, Ranges.of((START, START + 10 * DAY))
BTC = LedgerKey("candles_1h", "BTCUSDT", "candles", "1h")


class Lab:
    "A store with ten days of hours that a loader and a connector have brought from the simulated exchange."

    def __init__(self, home: Path, exchange: Simulator):
        self.places, self.home, self.exchange = read_places({"STREAMFORGE_HOME": str(home)}), home, exchange

    def opened(self):
        return open_store(self.places.store_url)

    async def data(self, command: str, *options: str):
        "`streamforge data COMMAND` in another thread: its exit code and output."
        arguments = [command, "--home", str(self.home), *options]
        result = await asyncio.to_thread(CliRunner().invoke, data_app, arguments)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout

    async def verify(self) -> tuple[int, dict]:
        code, out = await self.data("verify", "--json")
        return code, {row["symbol"]: row for row in json.loads(out)}["BTCUSDT"]

    async def clean(self) -> bool:
        code, row = await self.verify()
        return (code, row["changed"], row["wanted"], row["good"] + row["filled"]) == (0, 0, 0, row["rows"])

    def sql(self, *statements: str) -> None:
        with contextlib.closing(sqlite3.connect(self.home / "store.db")) as db, db:
            for statement in statements:
                assert db.execute(statement).rowcount > 0, statement

    async def rows(self) -> list[dict]:
        async with self.opened() as store:
            return (await store.read("candles_1h", where={"symbol": "BTCUSDT"})).to_pylist()


@pytest.fixture
async def lab(tmp_path, monkeypatch):
    exchange = Simulator.open()
    async with serve_app(exchange) as url:
        monkeypatch.setenv("BINANCE_API_URL", url)
        lab = Lab(tmp_path, exchange)
        async with lab.opened() as store:
            await store.ensure("candles_1h", CANDLES)
            await update_entry(store, BTC, lambda entry: entry.note("asked", SPAN))
        with logging_to(tmp_path / "repair.log", "repair"):
            (row,) = (await repair_all(lab.places, Filter())).markets
        assert (row["stored"], row["still"]) == (24 * DAYS, 0)
        exchange.log.clear()
        yield lab


def days(*numbers: int) -> list[list[int]]:
    return [list(part) for part in Ranges.of(*((START + n * DAY, START + (n + 1) * DAY) for n in numbers))]


def at(*hours: int) -> str:
    return f"WHERE symbol = 'BTCUSDT' AND open_time IN ({', '.join(str(START + hour * HOUR) for hour in hours)})"


SWAPPED = "open, high, low, close, volume"
DAMAGE = {  # what is altered -> the days in which it is found
    "ten volumes": (
        [f"UPDATE candles_1h SET volume = volume * 1.01 {at(*range(2, 240, 24))}"],
        [*range(10)],
    ),
    "a volume by its last bit": ([f"UPDATE candles_1h SET volume = volume * (1 + 3e-16) {at(30)}"], [1]),
    "a price": ([f"UPDATE candles_1h SET close = (open + close) / 2 {at(30)}"], [1]),
    "a pair of rows": (
        [
            f"UPDATE candles_1h SET ({SWAPPED}) = (SELECT {SWAPPED} FROM candles_1h AS other WHERE "
            f"other.symbol = 'BTCUSDT' AND other.open_time + candles_1h.open_time = {2 * START + 101 * HOUR}) {at(50, 51)}"
        ],
        [2],
    ),
    "a mark of filled": ([f"UPDATE candles_1h SET filled = 1 {at(70)}"], [2]),
    "a number where there was none": ([f"UPDATE candles_1h SET number_of_trades = 7 {at(100)}"], [4]),
    "a close time": ([f"UPDATE candles_1h SET close_time = close_time - 1 {at(100)}"], [4]),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_altered_rows_are_found_and_had_back(lab, damage):
    "`verify` names exactly the days, also a second time; `repair` asks for nothing else and brings equal rows."
    before, (statements, found) = await lab.rows(), DAMAGE[damage]
    lab.sql(*statements)
    assert await lab.rows() != before
    for _ in range(2):
        code, row = await lab.verify()
        assert (code, row["changed_ranges"], row["changed"]) == (65, days(*found), 24 * len(found))
        assert (row["good"], row["wanted"], row["holes"]) == (24 * (DAYS - len(found)), 0, [])
    _, out = await lab.data("verify")
    assert "values were changed in" in out and "`streamforge data repair` asks the exchange" in out
    lab.exchange.log.clear()
    code, out = await lab.data("repair", "--json")
    (row,) = json.loads(out)
    assert (code, row["lacked"], row["stored"], row["still"]) == (0, 24 * len(found), 24 * len(found), 0)
    assert await lab.rows() == before
    assert await lab.clean()
    async with lab.opened() as store:
        entry = await read_entry(store, BTC)
        assert (entry.summed, entry.changed, entry.rewriting) == (SPAN, Ranges(), ())
        assert len((await read_sums(store, BTC, entry)).runs) == DAYS


async def test_what_is_altered_beside_a_lost_row_is_found_once_that_is_back(lab):
    before = await lab.rows()
    lab.sql(f"DELETE FROM candles_1h {at(25)}", f"UPDATE candles_1h SET volume = volume + 1 {at(30)}")
    code, row = await lab.verify()
    assert (code, row["wanted"], row["changed"]) == (65, 1, 0)
    code, out = await lab.data("repair")
    assert code == 65 and "`streamforge data repair` asks the exchange" in out
    assert (await lab.verify())[1]["changed_ranges"] == days(1)
    assert (await lab.data("repair"))[0] == 0 and await lab.rows() == before and await lab.clean()


async def test_a_filled_candle_that_was_altered_is_filled_in_again(lab):
    "No exchange has it, so a plain repair says what does help; the real candles of the day are left alone."
    lab.sql(f"DELETE FROM candles_1h {at(40, 41)}")
    hole = Ranges.of((START + 40 * HOUR, START + 42 * HOUR))
    async with lab.opened() as store:
        await update_entry(store, BTC, lambda entry: entry.note("ended", hole, now_ms()))
    assert (await lab.data("repair", "--fill"))[0] == 0 and await lab.clean()
    before = await lab.rows()
    assert [row["open_time"] for row in before if row["filled"]] == [START + 40 * HOUR, START + 41 * HOUR]
    lab.sql(f"UPDATE candles_1h SET close = close + 1, high = high + 1 {at(41)}")
    code, row = await lab.verify()
    assert (code, row["changed_ranges"]) == (65, [list(part) for part in hole])
    code, out = await lab.data("repair")
    assert code == 65 and "`streamforge data repair --fill` writes flat candles" in out
    assert (await lab.data("repair", "--fill"))[0] == 0 and await lab.rows() == before and await lab.clean()


async def test_what_is_written_again_is_no_damage(lab):
    "A loader brings other values of a day; while they are on their way, and after that, nothing is called changed."
    other = [row | {"volume": row["volume"] + 1} for row in (await lab.rows())[30:54]]
    slots = Ranges.of((START + 30 * HOUR, START + 54 * HOUR))
    async with lab.opened() as store:
        notes = Notes(store)
        notes.note(BTC, "rewriting", slots)
        await notes.write()
        assert await lab.clean(), "nothing has been written yet"
        await store.upsert("candles_1h", other[:10])
        assert await lab.clean(), "the half of it"
        notes.note(BTC, "loaded", slots)
        await notes.write()
        assert await lab.clean(), "published"
        await store.upsert("candles_1h", other)
        assert await lab.clean(), "written"
        assert (await read_entry(store, BTC)).summed == SPAN - slots, "not all may have been written"
        await verify_loaded(store, "candles_1h", ["BTCUSDT"])
        assert (await read_entry(store, BTC)).summed == SPAN, "all has been written"
    assert await lab.clean()
    lab.sql(f"UPDATE candles_1h SET volume = volume + 1 {at(40)}")
    assert (await lab.verify())[1]["changed_ranges"] == days(1)


async def test_the_sums_of_what_was_written_long_ago_are_noted_by_verify(lab):
    async with lab.opened() as store:
        long_ago = now_ms() - 2 * HOUR
        await update_entry(store, BTC, lambda entry: entry.note("rewriting", SPAN, at=long_ago))
        assert await lab.clean()
        assert (await read_entry(store, BTC)).summed == SPAN


async def test_candles_that_arrive_belong_to_no_sum_of_before(lab):
    "Hours of a new day come one by one, with a verification after each; then the day is one run."
    template = (await lab.rows())[-1]
    async with lab.opened() as store:
        for hour in range(240, 264):
            time = START + hour * HOUR
            slot = Ranges.of((time, time + HOUR))
            await store.upsert("candles_1h", [template | {"open_time": time, "close_time": time + HOUR - 1}])
            await update_entry(
                store, BTC, lambda entry, slot=slot: entry.note("asked", slot).note("loaded", slot, at=now_ms())
            )
            findings, entry = await verify(store, BTC)
            assert not findings.changed and entry.summed == Ranges.of((START, time + HOUR))
        assert len((await read_sums(store, BTC, entry)).runs) == DAYS + 1
    lab.sql(f"UPDATE candles_1h SET volume = volume + 1 {at(250)}")
    assert (await lab.verify())[1]["changed_ranges"] == days(10)


@pytest.mark.parametrize("moment", ["while reading", "before the note"])
async def test_a_writer_beside_a_verification_causes_no_alarm(lab, monkeypatch, moment):
    "It drops the sums and writes between the moments at which the verification reads ledger, rows and ledger."
    other = [row | {"volume": row["volume"] + 1} for row in (await lab.rows())[24:48]]
    slots, done = Ranges.of((START + DAY, START + 2 * DAY)), []
    name = "inspect" if moment == "while reading" else "write_sums"
    original = getattr(module, name)

    async def meanwhile(store, *arguments):
        if not done:
            done.append(True)
            await update_entry(store, BTC, lambda entry: entry.note("rewriting", slots, at=now_ms()))
            await store.upsert("candles_1h", other)
            await verify_loaded(store, "candles_1h", ["BTCUSDT"])
        return await original(store, *arguments)

    monkeypatch.setattr(module, name, meanwhile)
    async with lab.opened() as store:
        findings, entry = await verify(store, BTC)
        assert done and not findings.changed and entry.verified == SPAN
    assert await lab.clean()
    lab.sql(f"UPDATE candles_1h SET volume = volume + 1 {at(30)}")
    assert (await lab.verify())[1]["changed_ranges"] == days(1)


async def test_an_older_ledger_gets_its_sums_with_the_first_verification(lab):
    async with lab.opened() as store:
        older = msgspec.structs.replace(await read_entry(store, BTC), summed=Ranges())
        assert "summed" not in body_of(older)
        await store.put("ledger", BTC.id, body_of(older))
        await store.delete("sums", BTC.id)
    assert await lab.clean()
    lab.sql(f"UPDATE candles_1h SET volume = volume + 1 {at(30)}")
    assert (await lab.verify())[1]["changed_ranges"] == days(1)


@pytest.mark.parametrize("verified", [False, True])
async def test_a_load_asks_for_changed_rows_instead_of_reading_them(lab, verified):
    "Whether or not `verify` has seen them before: one day is requested, the others are read from the store."
    before = await lab.rows()
    lab.sql(f"UPDATE candles_1h SET volume = volume + 1 {at(30)}")
    assert not verified or (await lab.verify())[0] == 65
    lab.exchange.log.clear()
    loader, connector = targets_of([(BTC, SPAN)], {})
    loader["parameters"] = {"SOURCE": "rest"}
    await run_here([loader, connector], lab.places, "load-again")
    queries = [parse_qs(query) for _, path, query, _ in lab.exchange.log if path.endswith("klines")]
    asked = [(int(query["startTime"][0]), int(query["endTime"][0]) + 1) for query in queries if "endTime" in query]
    assert asked == [(START + DAY, START + 2 * DAY)]
    volumes = list[float]()
    async with open_bus(lab.places.bus_url) as bus:
        async for batch in bus.tail("load-again-data"):
            volumes += [decode(Candle, record.value).volume for record in batch.records]
            if len(volumes) >= len(before):
                break
    assert volumes == [row["volume"] for row in before]
    assert await lab.rows() == before and await lab.clean()


async def test_altered_trades_are_asked_for_again_by_their_ids(lab, monkeypatch):
    "The first verification notes their sums; then a price, a time and a side are altered, and their blocks are found."
    for of in (module, sums_module):
        monkeypatch.setattr(of, "period_of", lambda market: 100 if market.kind == "trade_ids" else DAY)
    ids, span = LedgerKey("trades", "BTCUSDT", "trade_ids"), Ranges.of((START, START + 2 * DAY))
    loader, connector = targets_of([(ids, span)], {})
    loader["parameters"] = {"SOURCE": "rest"}
    await run_here([loader, connector], lab.places, "load-trades")

    async def rows():
        async with lab.opened() as store:
            return (await store.read("trades")).to_pylist()

    async def found():
        code, out = await lab.data("verify", "--collection", "trades", "--json")
        (row,) = json.loads(out)
        return code, row["changed_ranges"], row["wanted"]

    before = await rows()
    low, high = before[0]["trade_id"], before[-1]["trade_id"] + 1
    assert high - low == len(before) > 400 and await found() == (0, [], 0)
    blocks = [low // 100 * 100 + n * 100 for n in (1, 2, 3)]
    lab.sql(
        f"UPDATE trades SET price = price * 1.01 WHERE trade_id = {blocks[0] + 7}",
        f"UPDATE trades SET timestamp = timestamp + 1 WHERE trade_id = {blocks[1] + 50}",
        f"UPDATE trades SET is_buyer_maker = 1 - is_buyer_maker WHERE trade_id = {blocks[2] + 99}",
    )
    assert await found() == (65, [[blocks[0], blocks[2] + 100]], 0)
    code, out = await lab.data("repair", "--collection", "trades", "--json")
    (row,) = json.loads(out)
    assert (code, row["lacked"], row["stored"], row["still"]) == (0, 300, 300, 0)
    assert await rows() == before and await found() == (0, [], 0)


FILE = "time,open,high,low,close,volume\n" + "".join(
    f"{START + n * HOUR},100,101,99,100.5,{n + 1}\n" for n in range(72)
)


async def test_imported_rows_are_had_back_from_their_file(tmp_path):
    "No exchange can be asked: `verify` and `repair` say so, and a second import with --replace is the way."
    lab = Lab(tmp_path, Simulator.open())
    file = tmp_path / "BTCUSDT-1h.csv"
    file.write_text(FILE)
    described = [str(file), "--symbol", "BTCUSDT", "--interval", "1h", "--exchange", "import"]
    assert (await lab.data("import", *described))[0] == 0
    assert await lab.clean()
    before = await lab.rows()
    lab.sql(f"UPDATE candles_1h SET volume = volume + 1 {at(30)}")
    code, out = await lab.data("verify")
    assert code == 65 and "no exchange has it: import its files again, with --replace" in out
    code, out = await lab.data("repair")
    assert code == 65 and "import its files again, with --replace" in out and "no request was made" in out
    assert (await lab.verify())[1]["changed_ranges"] == days(1)
    assert (await lab.data("import", *described, "--replace"))[0] == 0
    assert await lab.rows() == before and await lab.clean()
    file.write_text(FILE.replace(",31\n", ",31.5\n"))
    assert (await lab.data("import", *described, "--replace"))[0] == 0
    assert await lab.rows() != before and await lab.clean(), "another value of the file is no damage"


@pytest.mark.parametrize("server", ["sqlite", "postgresql", "arangodb-standin"])
async def test_every_database_gives_the_same_sums(tmp_path, server):
    "Whole numbers, small ones, -0 and nulls: the sums are those of SQLite, whatever a database makes of the values."
    market = LedgerKey("sums_of_values", "SUMUSDT", "candles", "1h")
    draw = np.random.default_rng(5)
    prices = draw.uniform(1, 2, 48)
    rows = [
        {
            "symbol": "SUMUSDT",
            "interval": "1h",
            "open_time": START + n * HOUR,
            "close_time": START + (n + 1) * HOUR - 1,
            "open": 5.0 if n % 3 else prices[n],
            "high": 7.0,
            "low": 1e-9,
            "close": 5.0 if n % 2 else prices[n],
            "volume": -0.0 if n % 4 == 0 else float(n),
            "quote_asset_volume": None if n % 5 == 0 else 1e15 + n,
            "number_of_trades": None if n % 7 == 0 else n,
            "filled": True if n == 11 else None if n % 2 else False,
        }
        for n in range(48)
    ]
    async with contextlib.AsyncExitStack() as stack:
        if server == "arangodb-standin":
            url = stack.enter_context(standin()).url()
        else:
            url = need("postgresql") if server == "postgresql" else f"sqlite:///{tmp_path}/other.db"
        sums = []
        for one in (f"sqlite:///{tmp_path}/store.db", url):
            store = await stack.enter_async_context(open_store(one))
            await store.ensure(market.collection, CANDLES)
            await store.upsert(market.collection, rows)
            _, entry = await verify(store, market)
            sums.append((await read_sums(store, market, entry)).runs)
            again, _ = await verify(store, market)
            await store.delete("ledger", market.id)
            await store.delete("sums", market.id)
            assert not again.changed and not again.impossible
    assert [(run.start - START) // HOUR for run in sums[0]] == [0, 11, 12, 24]
    assert sums[1] == sums[0]
