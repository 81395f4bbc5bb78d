"""Data that proves itself complete: nothing is asked twice, nothing is lost by a kill, a repair asks for exactly
what lacks."""

import asyncio
import signal
import sys
from pathlib import Path
from urllib.parse import parse_qs
from uuid import uuid4

import msgspec
import pytest
from worker_lab import data_command, until

from streamforge.cli.services import open_lab
from streamforge.client.client import Client
from streamforge.core.samples import candles
from streamforge.core.times import TimeRange, find_gaps
from streamforge.exchange.simulator.app import Simulator, serve_app
from streamforge.exchange.simulator.faults import Fault
from streamforge.ledger.entries import LedgerKey, Notes, read_entry, read_ledger, update_entry
from streamforge.ledger.ranges import Ranges
from streamforge.messages.records import Candle, decode
from streamforge.store.base import open_store

sys.path.insert(0, str(Path(__file__).parents[2]))
from servers import need  # noqa: E402

HOUR, SPAN = 3_600_000, "2021-04-15:2021-09-15"
LOAD = {"TYPE": "api_candles_1h", "SYMBOL": "BTCUSDT,ETHUSDT", "TIME_RANGE": SPAN}
LOADER = "loader-producer__a1b2c3"
CONNECT = {"TYPE": "api_candles_1h", "UPSTREAM": LOADER}
WHOLE = Ranges.of((TimeRange.parse(SPAN).start, TimeRange.parse(SPAN).end))
BTC = LedgerKey("candles_1h", "BTCUSDT", "candles", "1h")


def holes_of_file(symbol="BTCUSDT") -> Ranges:
    return Ranges.of(
        *(
            (gap.start, gap.end)
            for gap in find_gaps(candles(symbol, SPAN).open_time.tolist(), TimeRange.parse(SPAN), "1h")
        )
    )


def asked(exchange) -> list[tuple[str, int, int]]:
    "Which candles were asked for: (symbol, start, end)."
    queries = [parse_qs(query) for _, path, query, _ in exchange.log if path.endswith("klines")]
    ranges = [query for query in queries if "endTime" in query]  # without: the first candle of a market
    spans = [(query["symbol"][0], int(query["startTime"][0]), int(query["endTime"][0]) + 1) for query in ranges]
    # shorter than an hour: does the candle before a hole reach into it?
    return [(symbol, start, end) for symbol, start, end in spans if end - start >= HOUR]


async def load_and_store(lab, url, **more):
    connector = await lab.start("arango-connector", **CONNECT | more)
    assert await lab.run("loader-producer", BINANCE_API_URL=url, **LOAD | more) == 0
    assert await asyncio.wait_for(connector.wait(), 120) == 0


@pytest.mark.slow
async def test_a_second_run_asks_for_nothing_and_a_repair_for_exactly_what_lacks(lab):
    "The same records, byte for byte, without a request; then rows are lost, and only they are asked for."
    exchange = Simulator.open()
    planted = (WHOLE.parts[0][0] + 500 * HOUR, WHOLE.parts[0][0] + 503 * HOUR)
    exchange.faults.add(Fault(kind="gap", symbol="BTCUSDT", start=planted[0], end=planted[1], times=0))
    holes = holes_of_file() | Ranges.of(planted)
    async with serve_app(exchange) as url:
        await load_and_store(lab, url)
        first = [(record.value, record.key) for record in await lab.records("wf-1-data")]
        async with open_store(lab.places.store_url) as store:
            entry = await read_entry(store, BTC)
        assert entry.asked == WHOLE and entry.loaded == entry.verified == WHOLE - holes and entry.settled == holes

        exchange.log.clear()
        await load_and_store(lab, url, QUEUE_ID="wf-2", TELEMETRY_PRODUCER_ID=LOADER)
        assert [(record.value, record.key) for record in await lab.records("wf-2-data")] == first and list(
            exchange.log
        ) == []
        (finished,) = [
            event for event in await lab.events("finished") if event.queue_id == "wf-2" and "from_store" in event.extra
        ]
        assert (
            finished.extra["from_store"] == len(first)
            and finished.extra["asked"] == 0
            and sum(gap["missing"] for gap in finished.extra["gaps"])
            == (holes.size + holes_of_file("ETHUSDT").size) // HOUR
        )

        code, out = await data_command(lab.home, "verify", "--json")
        assert code == 0 and all(
            record["wanted"] == 0 and record["impossible"] == [] for record in msgspec.json.decode(out)
        )
        lost = await _lose_rows(lab)
        code, out = await data_command(lab.home, "verify", "--json")
        assert code == 65 and {record["symbol"]: record["holes"] for record in msgspec.json.decode(out)} == {
            "BTCUSDT": [list(gap) for gap in lost],
            "ETHUSDT": [],
        }

        exchange.log.clear()
        code, out = await data_command(lab.home, "repair", "--json", BINANCE_API_URL=url)
        assert code == 0 and [
            (record["lacked"], record["stored"], record["still"]) for record in msgspec.json.decode(out)
        ] == [(4, 4, 0)]
        assert sorted(asked(exchange)) == [("BTCUSDT", *gap) for gap in lost]

        exchange.log.clear()
        code, out = await data_command(lab.home, "repair", BINANCE_API_URL=url)
        assert code == 0 and "nothing to repair" in out and not exchange.log
        code, out = await data_command(
            lab.home, "repair", "--again", "--symbol", "BTCUSDT", "--json", BINANCE_API_URL=url
        )
        assert code == 0 and set(asked(exchange)) == {("BTCUSDT", *hole) for hole in holes}, (
            "again asks for what was denied, and for nothing else"
        )
        exchange.log.clear()
        code, out = await data_command(
            lab.home, "repair", "--fill", "--symbol", "BTCUSDT", "--json", BINANCE_API_URL=url
        )
        assert code == 0 and not exchange.log and msgspec.json.decode(out)[0]["filled"] == holes.size // HOUR
    async with open_store(lab.places.store_url) as store:
        rows = {
            row["open_time"]: row for row in (await store.read("candles_1h", where={"symbol": "BTCUSDT"})).to_pylist()
        }
        assert (await read_entry(store, BTC)).filled == holes
    assert len(rows) == WHOLE.size // HOUR and sum(bool(row["filled"]) for row in rows.values()) == holes.size // HOUR
    for start, end in holes:
        for moment in range(start, end, HOUR):
            assert (
                rows[moment]["volume"] == 0
                and rows[moment]["close"] == rows[moment]["open"] == rows[start - HOUR]["close"]
                and rows[moment]["filled"]
            )
    code, out = await data_command(lab.home, "status", "--json")
    assert (
        code == 0
        and {record["symbol"]: record["filled"] for record in msgspec.json.decode(out)}["BTCUSDT"] == holes.size // HOUR
    )


async def _lose_rows(lab) -> Ranges:
    "Four rows are gone, in two places."
    start = WHOLE.parts[0][0] + 1_000 * HOUR
    lost = Ranges.of((start, start + HOUR), (start + 50 * HOUR, start + 53 * HOUR))
    _delete(lab, lost)
    return lost


def _delete(lab, lost: Ranges) -> None:
    "The port has no delete, so the file is opened as what it is."
    import sqlite3

    with sqlite3.connect(lab.places.store_url.removeprefix("sqlite:///")) as db:
        for first, last in lost:
            db.execute(
                "DELETE FROM candles_1h WHERE symbol = 'BTCUSDT' AND open_time >= ? AND open_time < ?", (first, last)
            )


@pytest.mark.slow
async def test_a_running_manager_repairs_on_request(lab):
    "`data repair --url`: a workflow of the manager asks for the one row that is gone, and stores it the usual way."
    span = TimeRange.parse("2021-05-01:2021-05-03")
    lost = span.start + 20 * HOUR
    exchange = Simulator.open()
    async with (
        serve_app(exchange) as url,
        open_lab(lab.places, env={"BINANCE_API_URL": url, "TELEMETRY_INTERVAL": "0.1"}) as platform,
        Client(platform.url) as client,
    ):
        flow = await client.start(symbol="BTCUSDT", type="api_candles_1h", time_range=str(span))
        assert (await client.wait(flow["queue_id"], timeout=60))["status"] == "finished"
        before = (
            (await platform.store.read("candles_1h")).to_pylist(),
            (await platform.store.read("candles_1h_enriched")).to_pylist(),
        )
        _delete(lab, Ranges.of((lost, lost + HOUR)))
        assert await platform.store.count("candles_1h") == 47
        exchange.log.clear()
        code, out = await data_command(lab.home, "repair", "--url", platform.url)
        assert code == 0 and f"repaired by a workflow of {platform.url}" in out and "…" not in out
        assert asked(exchange) == [("BTCUSDT", lost, lost + HOUR)]
        flows = [flow for flow in await client.list() if flow["queue_id"].startswith("wf-repair")]
        assert [flow["status"] for flow in flows] == ["finished"], flows
        assert (
            (await platform.store.read("candles_1h")).to_pylist(),
            (await platform.store.read("candles_1h_enriched")).to_pylist(),
        ) == before


@pytest.mark.slow
@pytest.mark.parametrize("point", ["before-publish:3", "after-publish:2", "after-ledger:2", "before-finished:1"])
async def test_a_killed_loader_leaves_the_same_topic_and_the_same_ledger(lab, point):
    exchange = Simulator.open()
    async with serve_app(exchange) as url:
        assert await lab.run("loader-producer", FAILPOINT=point, BINANCE_API_URL=url, **LOAD) == -signal.SIGKILL
        await load_and_store(lab, url)
        code, out = await data_command(
            lab.home, "repair", "--json", BINANCE_API_URL=url
        )  # what was denied just before the kill may not have been noted
        assert code == 0 and all(record["lacked"] == record["missing"] for record in msgspec.json.decode(out))
    rows = [decode(Candle, record.value) for record in await lab.records("wf-1-data")]
    for symbol in ("BTCUSDT", "ETHUSDT"):
        assert [row.open_time for row in rows if row.symbol == symbol] == candles(symbol, SPAN).open_time.tolist()
    async with open_store(lab.places.store_url) as store:
        entry = await read_entry(store, BTC)
        assert (
            entry.loaded == entry.verified == WHOLE - holes_of_file()
            and entry.asked == WHOLE
            and entry.settled == holes_of_file()
        )
    assert (await data_command(lab.home, "verify", "--range", SPAN))[0] == 0


@pytest.mark.parametrize("server", ["sqlite", "postgresql"])
async def test_writers_of_one_ledger_lose_nothing(tmp_path, server):
    "Sixteen writers over two connections, each noting its own hours of the same market."
    url = f"sqlite:///{tmp_path}/store.db" if server == "sqlite" else need("postgresql")
    market = LedgerKey(f"ledger_{uuid4().hex[:8]}", "BTCUSDT", "candles", "1h")

    async def write(store, n):
        notes = Notes(store, every=0)
        for hour in range(n, 160, 16):
            notes.note(market, "loaded" if n % 2 else "verified", Ranges.of((hour * HOUR, (hour + 1) * HOUR)))
            await notes.write(now=False)

    async with open_store(url) as one, open_store(url) as two:
        try:
            await asyncio.gather(*(write(one if n < 8 else two, n) for n in range(16)))
            (entry,) = (await read_ledger(one, collection=market.collection)).values()
            assert entry.loaded | entry.verified == Ranges.of((0, 160 * HOUR)) and entry.loaded.size == 80 * HOUR
            await update_entry(two, market, lambda entry: entry.note("absent", Ranges.of((0, 160 * HOUR))))
            assert not (await read_entry(one, market)).loaded
        finally:
            await one.delete("ledger", market.id)


async def test_a_target_with_one_source_refuses_another_type(lab):
    "loader-api-trades loads trades, whatever its TYPE."
    assert await lab.run("loader-api-trades", SYMBOL="BTCUSDT", TYPE="api_candles_1h", TIME_RANGE=SPAN) == 64
    (error,) = await until(lambda: lab.events("error"))
    assert error.extra["error_type"] == "BadSetting" and error.extra["field"] == "TYPE"
