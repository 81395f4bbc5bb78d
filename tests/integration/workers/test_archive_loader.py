"""Loaders that take files where they can: the same records as by REST, through damage, kills and holes; trades from
end to end."""

import asyncio
import signal
import sqlite3
from contextlib import asynccontextmanager

import pytest
from other_archive import OtherArchive, damaged, rows_at, zipped
from worker_lab import data_rows

from streamforge.core.samples import SAMPLES, candles
from streamforge.core.times import TimeRange, find_gaps
from streamforge.exchange.files import read_folder
from streamforge.exchange.simulator.app import Simulator, serve_app
from streamforge.exchange.simulator.faults import Fault
from streamforge.ledger.entries import LedgerKey, read_entry
from streamforge.ledger.ranges import Ranges
from streamforge.messages.records import Trade, decode
from streamforge.store.base import open_store

HOUR, SPAN = 3_600_000, "2021-04-20:2021-06-03"
DAY = "/data/spot/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2021-06-01.zip"
MONTH = "/data/spot/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2021-05.zip"
LOAD = {"TYPE": "api_candles_1h", "SYMBOL": "BTCUSDT", "TIME_RANGE": SPAN, "SOURCE": "archive"}
TRADES = {"TYPE": "api_trades", "SYMBOL": "BTCUSDT", "TIME_RANGE": "2021-05-11:2021-05-14"}
WHOLE = Ranges.of((TimeRange.parse(SPAN).start, TimeRange.parse(SPAN).end))


@asynccontextmanager
async def exchange(**options):
    "REST and archive at one address, and the variables that name it."
    sim = Simulator(read_folder(SAMPLES), **options)
    async with serve_app(sim) as url:
        yield sim, {"BINANCE_API_URL": url, "BINANCE_ARCHIVE_URL": url}


def asked(sim, ending: str) -> int:
    return sum(path.endswith(ending) for _, path, _, _ in sim.log)


async def values(lab, queue="wf-1") -> list[bytes]:
    return [record.value for record in await lab.records(f"{queue}-data")]


@pytest.mark.slow
async def test_files_and_rest_give_the_same_records_whatever_dies(lab):
    "A month, days, a day that only REST has; killed twice on the way; the files that are here are not fetched again."
    async with exchange() as (sim, urls):
        assert await lab.run("loader-producer", QUEUE_ID="wf-rest", **urls, **LOAD | {"SOURCE": "rest"}) == 0
        assert not asked(sim, ".zip") and not asked(sim, ".CHECKSUM")
        sim.faults.add(Fault(kind="server_error", status=404, path=f"{DAY}.CHECKSUM", times=0))
        for point in ("after-publish:1", "before-publish:2"):
            assert await lab.run("loader-producer", FAILPOINT=point, **urls, **LOAD) == -signal.SIGKILL
        assert await lab.run("loader-producer", **urls, **LOAD) == 0
        assert await values(lab) == await values(lab, "wf-rest")
        assert asked(sim, MONTH) == 1 and asked(sim, f"{DAY}.CHECKSUM") >= 1 and not asked(sim, DAY)
    report = (await lab.events("finished"))[-1].extra
    span = TimeRange.parse(SPAN)
    holes = Ranges.of(
        *((gap.start, gap.end) for gap in find_gaps(candles("BTCUSDT", SPAN).open_time.tolist(), span, "1h"))
    )
    assert sum(gap["missing"] for gap in report["gaps"]) == holes.size // HOUR and report["archive_reissued"] == []
    async with open_store(lab.places.store_url) as store:
        entry = await read_entry(store, LedgerKey("candles_1h", "BTCUSDT", "candles", "1h"))
    assert entry.loaded == WHOLE - holes and entry.asked == WHOLE and entry.missing == holes == entry.settled


@pytest.mark.slow
async def test_a_file_that_cannot_be_used_stops_nothing(lab):
    """A month whose checksum is wrong for good, and of another market a day with other prices than REST's: both are
    named, their rows come from elsewhere, and the differing ones are kept."""
    day = DAY.replace("BTC", "ETH")
    simulator = Simulator(read_folder(SAMPLES))
    simulator.faults.add(Fault(kind="checksum", path=f"{MONTH}.CHECKSUM", times=0))
    load = LOAD | {"SYMBOL": "BTCUSDT,ETHUSDT"}
    async with serve_app(OtherArchive(simulator, {day: damaged(simulator, day, "another price")})) as url:
        urls = {"BINANCE_API_URL": url, "BINANCE_ARCHIVE_URL": url}
        assert await lab.run("loader-producer", QUEUE_ID="wf-rest", **urls, **load | {"SOURCE": "rest"}) == 0
        assert await lab.run("loader-producer", **urls, **load) == 0
        assert asked(simulator, MONTH) == 2 and asked(simulator, MONTH.replace("BTC", "ETH")) == 1
    assert await values(lab) == await values(lab, "wf-rest")
    event = (await lab.events("finished"))[-1]
    figures, log = event.extra["archive"], next(lab.home.glob("loader-producer-1.log")).read_text()
    assert [failed["file"] for failed in figures["failed"]] == ["BTCUSDT-1h-2021-05", "ETHUSDT-1h-2021-06-01"]
    assert all(failed["file"] in log and failed["reason"] in log for failed in figures["failed"])
    assert [(market["symbol"], market["outcome"]) for market in event.extra["markets"]] == [
        ("BTCUSDT", "loaded"),
        ("ETHUSDT", "loaded"),
    ]
    async with open_store(lab.places.store_url) as store:
        (document,) = await store.list("archive-evidence")
    assert document.id == "ETHUSDT-1h-2021-06-01" and len(document.body["rows"]) == 5
    assert all(row["archive"]["open"] == 1.5 != row["rest"]["open"] for row in document.body["rows"])


@pytest.mark.slow
async def test_trades_from_files_and_rest_are_stored_complete_and_repaired(lab):
    """Three days: `auto` takes files, since they pay; of one REST has all but a hole of ids; a kill in between;
    then rows are lost."""
    hole = TimeRange.parse("2021-05-12T03:00:2021-05-12T05:00")
    async with exchange(per_candle=120) as (sim, urls):
        sim.faults.add(
            Fault(
                kind="server_error",
                status=404,
                path="/data/spot/daily/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2021-05-12.zip.CHECKSUM",
                times=0,
            )
        )
        sim.faults.add(
            Fault(kind="gap", path="/api/v3/aggTrades", symbol="BTCUSDT", start=hole.start, end=hole.end, times=0)
        )
        connector = await lab.start(
            "arango-connector", TYPE="api_trades", SYMBOL="BTCUSDT", UPSTREAM="loader-producer__a1b2c3"
        )
        assert await lab.run("loader-producer", FAILPOINT="after-publish:2", **urls, **TRADES) == -signal.SIGKILL
        assert (
            await lab.run("loader-producer", **urls, **TRADES) == 0
            and await asyncio.wait_for(connector.wait(), 120) == 0
        )
        trades = [decode(Trade, value) for value in await values(lab)]
        ids = [trade.trade_id for trade in trades]
        gaps = [(a + 1, b) for a, b in zip(ids, ids[1:], strict=False) if b != a + 1]
        (finished,) = [event for event in await lab.events("finished") if "from_store" in event.extra]
        assert (
            [(gap["start"], gap["end"]) for gap in finished.extra["gaps"]] == gaps
            and len(gaps) == 1
            and gaps[0][1] - gaps[0][0] == 240 == finished.extra["missing"]
        )
        assert (
            ids == sorted(set(ids))
            and not any(trade.timestamp in hole for trade in trades)
            and finished.extra["archive_lacked"] > 0
        )
        await _stored(lab, trades)

        code, verified = await data_rows(lab.home, "verify")
        assert code == 0 and [(row["rows"], row["wanted"], row["missing"]) for row in verified] == [(len(ids), 0, 240)]
        lost = [(ids[0], ids[0] + 3), (ids[6_000], ids[6_000] + 50)]
        with sqlite3.connect(lab.places.store_url.removeprefix("sqlite:///")) as db:
            for first, last in lost:
                db.execute("DELETE FROM trades WHERE trade_id >= ? AND trade_id < ?", (first, last))
        code, verified = await data_rows(lab.home, "verify")
        assert code == 65 and verified[0]["holes"] == [list(gap) for gap in lost]
        sim.log.clear()
        code, repaired = await data_rows(lab.home, "repair", **urls)
        assert code == 0 and [(row["lacked"], row["stored"], row["still"]) for row in repaired] == [(53, 53, 0)]
        assert 0 < asked(sim, "aggTrades") <= 20 and not asked(sim, ".zip"), list(sim.log)
        await _stored(lab, trades)
        code, entries = await data_rows(lab.home, "status")
        assert code == 0 and [
            (entry["verified"], entry["missing"]) for entry in entries if entry["kind"] == "trade_ids"
        ] == [(len(ids), 240)]


@pytest.mark.slow
async def test_trades_that_two_days_have_are_counted(lab):
    "A day that begins with the last two trades of the day before: in the event, and by id in the ledger."
    day = "/data/spot/daily/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2021-05-12.zip"
    simulator = Simulator(read_folder(SAMPLES), per_candle=120)
    before, second = rows_at(simulator, day.replace("05-12", "05-11")), rows_at(simulator, day)
    files = {day: zipped(**{"BTCUSDT-aggTrades-2021-05-12": b"".join(before[-2:] + second)})}
    async with serve_app(OtherArchive(simulator, files)) as url:
        urls = {"BINANCE_API_URL": url, "BINANCE_ARCHIVE_URL": url}
        assert await lab.run("loader-producer", **urls, **TRADES) == 0
    ids = [decode(Trade, value).trade_id for value in await values(lab)]
    last = int(before[-1].split(b",")[0])
    assert ids == list(range(ids[0], ids[-1] + 1)) and ids[0] < last < ids[-1]
    figures = (await lab.events("finished"))[-1].extra["archive"]
    assert (figures["repeated"], figures["failed"]) == (2, [])
    async with open_store(lab.places.store_url) as store:
        entry = await read_entry(store, LedgerKey("trades", "BTCUSDT", "trade_ids"))
    assert entry.repeated == Ranges.of((last - 1, last + 1))


@pytest.mark.slow
async def test_a_market_that_has_left_the_exchange_comes_from_its_files(lab):
    "Candles and trades of it beside a market that is traded and one that is unknown; a damaged day is not to be had."
    everything = Simulator(read_folder(SAMPLES))
    listed = Simulator({symbol: table for symbol, table in read_folder(SAMPLES).items() if symbol != "ETHUSDT"})
    month = "/data/spot/monthly/klines/ETHUSDT/1h/ETHUSDT-1h-2021-05.zip"
    day = "/data/spot/daily/klines/ETHUSDT/1h/ETHUSDT-1h-2021-05-21.zip"
    files = {path: damaged(everything, path, "interleaved rows") for path in (month, day)}
    order = {"SYMBOL": "BTCUSDT,ETHUSDT,NOUSDT", "TIME_RANGE": "2021-05-19:2021-05-23"}
    async with serve_app(OtherArchive(everything, files)) as archive, serve_app(listed) as api:
        urls = {"BINANCE_API_URL": api, "BINANCE_ARCHIVE_URL": archive}
        assert await lab.run("loader-producer", **urls, **order, TYPE="api_candles_1h") == 0
        assert await lab.run("loader-producer", QUEUE_ID="wf-2", **urls, **order, TYPE="api_trades") == 0
    for queue, kind, count in (("wf-1", "candles", 72), ("wf-2", "trades", 96 * 12)):
        event = next(event for event in await lab.events("finished") if event.queue_id == queue)
        markets = {market["symbol"]: market for market in event.extra["markets"]}
        outcomes = {symbol: (market["outcome"], market["records"]) for symbol, market in markets.items()}
        assert outcomes["ETHUSDT"] == ("loaded", count) and outcomes["NOUSDT"] == ("unknown", 0), (kind, outcomes)
        assert outcomes["BTCUSDT"][0] == "loaded"
        assert "no longer listed" in markets["ETHUSDT"]["message"]
        assert "NOUSDT unknown" in event.message and "2 of 3 markets" in event.message
    gone = TimeRange.parse("2021-05-21:2021-05-22")
    async with open_store(lab.places.store_url) as store:
        entry = await read_entry(store, LedgerKey("candles_1h", "ETHUSDT", "candles", "1h"))
        assert entry.missing == Ranges.of((gone.start, gone.end)) and not entry.wanting
        assert not (await read_entry(store, LedgerKey("candles_1h", "NOUSDT", "candles", "1h"))).asked


async def test_lost_trades_of_a_market_that_has_left_the_exchange_hold_up_no_repair(lab):
    "They are told as missing, and the repair ends; nothing else is lost."
    tables, order = read_folder(SAMPLES), TRADES | {"TIME_RANGE": "2021-05-11:2021-05-12", "SOURCE": "rest"}
    async with serve_app(Simulator(tables, per_candle=12)) as url:
        assert await lab.run("loader-producer", BINANCE_API_URL=url, **order) == 0
        assert await lab.run("arango-connector", UPSTREAM="loader-producer__a1b2c3", **order) == 0
    ids = [decode(Trade, value).trade_id for value in await values(lab)]
    with sqlite3.connect(lab.places.store_url.removeprefix("sqlite:///")) as db:
        db.execute("DELETE FROM trades WHERE trade_id BETWEEN ? AND ?", (ids[50], ids[52]))
    assert (await data_rows(lab.home, "verify"))[0] == 65
    async with serve_app(Simulator({"ETHUSDT": tables["ETHUSDT"]})) as url:
        code, repaired = await data_rows(lab.home, "repair", BINANCE_API_URL=url)
    assert code == 0 and [(row["lacked"], row["missing"], row["still"]) for row in repaired] == [(3, 3, 0)]
    code, verified = await data_rows(lab.home, "verify")
    assert code == 0 and [(row["rows"], row["missing"]) for row in verified] == [(len(ids) - 3, 3)]


async def _stored(lab, trades):
    "Every trade once, and volume by price that adds up."
    async with open_store(lab.places.store_url) as store:
        rows = (await store.read("trades")).to_pylist()
        volume = await store.read("trades_volume")
    assert [row["trade_id"] for row in rows] == [trade.trade_id for trade in trades] and [
        row["price"] for row in rows
    ] == [trade.price for trade in trades]
    total = sum(volume["buy_volume"].to_pylist()) + sum(volume["sell_volume"].to_pylist())
    assert total == pytest.approx(sum(trade.quantity for trade in trades)) and sum(volume["trades"].to_pylist()) == len(
        trades
    )
