"""Candles as exchanges really have them, from the exchange to the ledger: loaded by REST and from files, verified,
repaired, filled in and enriched. The hours around the stops follow those of Binance in January and February 2018."""

import asyncio
import sqlite3

import msgspec
import numpy as np
import pytest
from wild_exchange import WildExchange, kline, kline_event
from worker_lab import data_rows, until

from streamforge.core.times import to_ms
from streamforge.features.enricher import CANDLE_COLUMNS, Enricher
from streamforge.ledger.entries import LedgerKey, read_entry, update_entry
from streamforge.ledger.ranges import Ranges
from streamforge.store.base import open_store

HOUR = 3_600_000
STOP, REGULAR = to_ms("2018-02-08"), to_ms("2018-02-11T04:00")
RESTART = to_ms("2018-02-09T09:28:14.789")
SPAN = "2018-02-07T12:00:2018-02-12"


def hours(*pairs) -> list:
    return [kline(start, end, 100 + n % 7) for n, (start, end) in enumerate(pairs)]


def full(start: int, end: int) -> list[tuple[int, int]]:
    return [(time, time + HOUR - 1) for time in range(start, end, HOUR)]


OFF_GRID = hours(
    *full(to_ms("2018-02-07"), STOP),
    (STOP, STOP + 1_694_788),
    *full(RESTART, REGULAR - 2 * HOUR + 1_694_789),
    (REGULAR - 2 * HOUR + 1_694_789, REGULAR - HOUR + 1_694_788),
    (REGULAR - HOUR + 1_694_789, REGULAR - 1),
    *full(REGULAR, to_ms("2018-02-14")),
)
CUT = hours(*full(to_ms("2018-02-01"), STOP), (STOP, STOP + 14_838), *full(STOP + 2 * HOUR, to_ms("2018-02-14")))
STOPPED = Ranges.of((STOP + HOUR, RESTART - 1_694_789))  # 32 whole hours


async def load(lab, urls, **more):
    "Load and store the hours of two markets."
    env = {"TYPE": "api_candles_1h", "SYMBOL": "OFFUSDT,CUTUSDT", "TIME_RANGE": SPAN, **urls, **more}
    assert await lab.run("loader-producer", **env) == 0
    assert await lab.run("arango-connector", UPSTREAM="loader-producer__a1b2c3", **env) == 0


async def stored(lab, symbol, collection="candles_1h"):
    async with open_store(lab.places.store_url) as store:
        return (await store.read(collection, where={"symbol": symbol})).to_pylist()


async def entry_of(lab, symbol):
    async with open_store(lab.places.store_url) as store:
        return await read_entry(store, LedgerKey("candles_1h", symbol, "candles", "1h"))


async def streamed(lab, ending):
    "The enriched candles in the topics of all workflows whose names end so."
    async with lab.bus() as bus:
        topics = [name for name in await bus.topics() if name.endswith(ending)]
    return [msgspec.json.decode(record.value) for topic in topics for record in await lab.records(topic)]


def inside(rows):
    low, high = to_ms("2018-02-07T12:00"), to_ms("2018-02-12")
    return [(row[0], row[6]) for row in rows if low <= row[0] < high]


async def test_candles_around_a_stop_are_what_the_exchange_has(lab):
    "Loaded, verified, repaired and filled in; the enriched rows follow one another; nothing is made up between them."
    async with WildExchange({"OFFUSDT": OFF_GRID, "CUTUSDT": CUT}).serve() as urls:
        await load(lab, urls, SOURCE="rest")
        for symbol, rows in (("OFFUSDT", OFF_GRID), ("CUTUSDT", CUT)):
            assert [(row["open_time"], row["close_time"]) for row in await stored(lab, symbol)] == inside(rows)
        entry = await entry_of(lab, "OFFUSDT")
        assert entry.missing == STOPPED == entry.settled and entry.loaded == entry.verified
        assert entry.asked - STOPPED == entry.verified and entry.off_grid.size == 43
        code, found = await data_rows(lab.home, "verify", **urls)
        counts = {row["symbol"]: row for row in found}
        assert code == 0, found
        assert (len(counts["OFFUSDT"]["off_grid"]), len(counts["OFFUSDT"]["short"])) == (43, 2)
        assert (counts["OFFUSDT"]["missing"], counts["CUTUSDT"]["missing"]) == (32, 1)
        assert len(counts["CUTUSDT"]["short"]) == 1 and not counts["CUTUSDT"]["impossible"]
        assert (await data_rows(lab.home, "repair", **urls))[0] == 0
        code, repaired = await data_rows(lab.home, "repair", "--fill", **urls)
        assert code == 0 and {row["symbol"]: row["filled"] for row in repaired} == {"OFFUSDT": 32, "CUTUSDT": 1}
        assert await data_rows(lab.home, "repair", "--fill", **urls) == (0, [])
        assert (await data_rows(lab.home, "verify", **urls))[0] == 0
    rows, enriched = await stored(lab, "OFFUSDT"), await stored(lab, "OFFUSDT", "candles_1h_enriched")
    assert sorted(row["open_time"] for row in rows if row["filled"]) == list(range(*STOPPED.parts[0], HOUR))
    assert [(row["open_time"], row["filled"]) for row in enriched] == [
        (row["open_time"], row["filled"]) for row in rows
    ]
    sent = [row for row in await streamed(lab, "-enriched") if row["symbol"] == "OFFUSDT"]
    assert sorted(row["open_time"] for row in sent if row.get("filled")) == list(range(*STOPPED.parts[0], HOUR))
    assert len(sent) == len(rows) and all(row.get("filled") in (None, True) for row in sent)
    assert [(row["open_time"], row["close_time"]) for row in rows if not row["filled"]] == inside(OFF_GRID)


async def test_files_and_rest_give_the_same_rows_around_a_stop(lab):
    "The close times are the archive's own; no candle is published twice."
    async with WildExchange({"OFFUSDT": OFF_GRID, "CUTUSDT": CUT}).serve() as urls:
        env = {"TYPE": "api_candles_1h", "SYMBOL": "OFFUSDT,CUTUSDT", "TIME_RANGE": SPAN, **urls}
        for source in ("rest", "archive"):
            assert await lab.run("loader-producer", **env, SOURCE=source, QUEUE_ID=f"wf-{source}") == 0
    by_rest, by_files = [
        [record.value for record in await lab.records(f"wf-{name}-data")] for name in ("rest", "archive")
    ]
    assert len(by_rest) == len(inside(OFF_GRID)) + len(inside(CUT))
    assert by_files == by_rest


async def test_a_lost_candle_between_two_neighbours_is_found_and_repaired(lab):
    "Its neighbours reach into all the slots that it covers."
    async with WildExchange({"OFFUSDT": OFF_GRID, "CUTUSDT": CUT}).serve() as urls:
        await load(lab, urls, SOURCE="rest")
        before = await stored(lab, "OFFUSDT")
        lost = RESTART + 20 * HOUR
        await asyncio.to_thread(_delete, lab.places.store_url, lost)
        code, found = await data_rows(lab.home, "verify", **urls)
        assert code == 65 and sum(row["wanted"] for row in found) == 1
        assert (await data_rows(lab.home, "repair", **urls))[0] == 0
        assert (await data_rows(lab.home, "verify", **urls))[0] == 0
    assert await stored(lab, "OFFUSDT") == before


LOST = RESTART + 20 * HOUR  # both of its neighbours reach into its slot, [LOST_SLOT, LOST_SLOT + HOUR)
LOST_SLOT = LOST - 1_694_789
WITHOUT = [row for row in OFF_GRID if row[0] != LOST]
HOLES = STOPPED | Ranges.of((LOST_SLOT, LOST_SLOT + HOUR))


@pytest.mark.parametrize("source", ["rest", "archive", "delisted"])
async def test_a_candle_that_the_exchange_lacks_between_two_off_the_grid_is_denied(lab, source):
    "It is told and counted, no flat candle is laid over its neighbours, and it is stored once the exchange has it."
    wild = WildExchange({"OFFUSDT": WITHOUT, "CUTUSDT": CUT})
    if source == "delisted":
        wild.delisted.add("OFFUSDT")
    async with wild.serve() as urls:
        await load(lab, urls, SOURCE="rest" if source == "rest" else "archive")
        assert (await entry_of(lab, "OFFUSDT")).missing == HOLES
        code, found = await data_rows(lab.home, "verify", **urls)
        counts = {row["symbol"]: (row["rows"], row["good"], row["missing"], row["wanted"]) for row in found}
        assert code == 0 and counts["OFFUSDT"] == (75, 75, 33, 0), "108 hours, one row for each slot that has one"
        code, repaired = await data_rows(lab.home, "repair", "--fill", "--symbol", "OFFUSDT", **urls)
        assert code == 0 and repaired[0]["filled"] == 32
        assert await data_rows(lab.home, "repair", "--fill", "--symbol", "OFFUSDT", **urls) == (0, [])
        wild.rows["OFFUSDT"] = OFF_GRID
        wild.delisted.clear()
        code, repaired = await data_rows(lab.home, "repair", "--again", "--symbol", "OFFUSDT", **urls)
        assert code == 0 and [(row["stored"], row["still"]) for row in repaired] == [(1, 0)]
    rows = [(row["open_time"], row["close_time"]) for row in await stored(lab, "OFFUSDT") if not row["filled"]]
    assert rows == inside(OFF_GRID)


async def test_a_candle_that_the_files_lack_between_two_off_the_grid_comes_by_rest(lab):
    wild = WildExchange({"OFFUSDT": OFF_GRID, "CUTUSDT": CUT})
    wild.archived = {"OFFUSDT": WITHOUT, "CUTUSDT": CUT}
    async with wild.serve() as urls:
        await load(lab, urls, SOURCE="archive")
        assert [int(query["startTime"]) for query in wild.log if query["symbol"] == "OFFUSDT"].count(LOST_SLOT) == 1
        assert (await entry_of(lab, "OFFUSDT")).missing == STOPPED
    assert [(row["open_time"], row["close_time"]) for row in await stored(lab, "OFFUSDT")] == inside(OFF_GRID)


@pytest.mark.parametrize("exchange", ["import", "binance"])
async def test_a_file_that_lacks_a_candle_between_two_off_the_grid_says_so(lab, tmp_path, exchange):
    "Of an exchange it is asked for; of a user's own data it is a hole. So is the hour of the return to the grid."
    slots, rows = [*range(10), *range(22, 30)], {}
    rows |= {STOP + n * HOUR: STOP + (n + 1) * HOUR - 1 for n in slots}
    rows |= {STOP + n * HOUR + 1_694_789: STOP + (n + 1) * HOUR + 1_694_788 for n in range(10, 21)}
    whole = [kline(opens, closes) for opens, closes in sorted(rows.items())]
    lost = STOP + 14 * HOUR + 1_694_789
    file = tmp_path / "OWNUSDT-1h.csv"
    file.write_text(
        "open_time,open,high,low,close,volume,close_time\n"
        + "".join(",".join(map(str, row[:7])) + "\n" for row in whole if row[0] != lost)
    )
    wild = WildExchange({"OWNUSDT": whole})
    wild.files = False
    async with wild.serve() as urls:
        assert (await data_rows(lab.home, "import", str(file), "--exchange", exchange))[0] == 0
        code, found = await data_rows(lab.home, "verify", **urls)
        assert (found[0]["rows"], found[0]["good"], found[0]["missing"] + found[0]["wanted"]) == (28, 28, 2)
        assert (code, found[0]["wanted"]) == ((0, 0) if exchange == "import" else (65, 2))
        code, repaired = await data_rows(lab.home, "repair", **urls)
        figures = [(row["stored"], row["missing"], row["still"]) for row in repaired]
        assert code == 0 and figures == ([] if exchange == "import" else [(1, 1, 0)])
        assert (await data_rows(lab.home, "verify", **urls))[0] == 0
        assert await data_rows(lab.home, "repair", **urls) == (0, [])
        code, listed = await data_rows(lab.home, "list", **urls)
        assert code == 0 and listed[0]["rows"] == (28 if exchange == "import" else 29)


def _delete(url: str, open_time: int, collection: str = "candles_1h", symbol: str = "%") -> None:
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        where = f"DELETE FROM {collection} WHERE open_time = ? AND symbol LIKE ?"
        assert connection.execute(where, (open_time, symbol)).rowcount == 1


async def test_a_loader_that_dies_among_candles_off_the_grid_publishes_each_once(lab):
    async with WildExchange({"OFFUSDT": OFF_GRID}).serve() as urls:
        for moment in ("2018-02-09T20:00", "2018-02-10T20:00"):  # the first try ends inside the stretch
            env = {"TYPE": "api_candles_1h", "SYMBOL": "OFFUSDT", "SOURCE": "rest", **urls}
            assert await lab.run("loader-producer", **env, TIME_RANGE=f"2018-02-07T12:00:{moment}") == 0
        assert await lab.run("loader-producer", **env, TIME_RANGE=SPAN) == 0
    times = [msgspec.json.decode(record.value)["open_time"] for record in await lab.records(lab.data)]
    assert times == [open_time for open_time, _ in inside(OFF_GRID)]


async def test_indicators_over_candles_off_the_grid_are_those_of_their_history(lab):
    "The next candle is the next one, wherever it opens."
    async with WildExchange({"OFFUSDT": OFF_GRID, "CUTUSDT": CUT}).serve() as urls:
        await load(lab, urls, SOURCE="rest")
    rows, enriched = await stored(lab, "OFFUSDT"), await stored(lab, "OFFUSDT", "candles_1h_enriched")
    enricher = Enricher()
    values = enricher.history(*(np.array([row[name] for row in rows]) for name in CANDLE_COLUMNS))
    assert [row["open_time"] for row in enriched] == [row["open_time"] for row in rows]
    for n, name in enumerate(enricher.names):
        got = np.array([np.nan if row[name] is None else row[name] for row in enriched])
        np.testing.assert_array_equal(got, values[:, n])


async def test_an_exchange_that_has_nothing_for_a_while_loses_nothing(lab):
    "It answers every question with an empty page; what it denied is due after an hour, and in the end all is there."
    wild = WildExchange({"LATEUSDT": hours(*full(to_ms("2024-03-01"), to_ms("2024-03-05")))})
    async with wild.serve() as urls:
        wild.silent = True
        env = {"TYPE": "api_candles_1h", "SYMBOL": "LATEUSDT", "TIME_RANGE": "2024-03-01:2024-03-05", **urls}
        assert await lab.run("loader-producer", **env, SOURCE="rest") == 0
        entry = await entry_of(lab, "LATEUSDT")
        denied_at = entry.no_data[0].at
        assert entry.missing.size == 96 * HOUR == entry.due(denied_at + HOUR).size
        assert not entry.due(denied_at + HOUR - 1)
        assert (await data_rows(lab.home, "verify", **urls))[0] == 0
        code, out = await data_rows(lab.home, "status", **urls)
        assert code == 0 and (out[0]["denied"], out[0]["due"]) == (96, out[0]["denied_at"] + HOUR)
        wild.silent = False
        assert await data_rows(lab.home, "repair", **urls) == (0, [])
        key = LedgerKey("candles_1h", "LATEUSDT", "candles", "1h")
        async with open_store(lab.places.store_url) as store:
            await update_entry(store, key, lambda entry: _earlier(entry, HOUR))
        code, repaired = await data_rows(lab.home, "repair", **urls)
        assert code == 0 and [row["stored"] for row in repaired] == [96]
        assert await data_rows(lab.home, "repair", **urls) == (0, [])
    assert len(await stored(lab, "LATEUSDT")) == 96


async def test_denied_hours_are_asked_for_when_they_are_due(lab):
    "A hole that the exchange fills later is found by a repair, which asks for nothing before it is due."
    whole = hours(*full(to_ms("2024-03-01"), to_ms("2024-03-05")))
    wild = WildExchange({"HOLEUSDT": whole[:20] + whole[26:]})
    async with wild.serve() as urls:
        env = {"TYPE": "api_candles_1h", "SYMBOL": "HOLEUSDT", "TIME_RANGE": "2024-03-01:2024-03-05", **urls}
        assert await lab.run("loader-producer", **env, SOURCE="rest") == 0
        assert await lab.run("arango-connector", UPSTREAM="loader-producer__a1b2c3", **env) == 0
        wild.rows["HOLEUSDT"] = whole
        wild.log.clear()
        assert await data_rows(lab.home, "repair", **urls) == (0, []) and not wild.log
        key = LedgerKey("candles_1h", "HOLEUSDT", "candles", "1h")
        async with open_store(lab.places.store_url) as store:
            await update_entry(store, key, lambda entry: _earlier(entry, HOUR))
        code, repaired = await data_rows(lab.home, "repair", **urls)
        assert code == 0 and [row["stored"] for row in repaired] == [6]
    assert len(await stored(lab, "HOLEUSDT")) == 96 and not (await entry_of(lab, "HOLEUSDT")).missing


def _earlier(entry, ms):
    "The same entry, with denials that are older."
    gaps = tuple(msgspec.structs.replace(gap, at=gap.at - ms) for gap in entry.no_data)
    return msgspec.structs.replace(entry, no_data=gaps)


MINUTE, DECEMBER = 60_000, to_ms("2017-12-18")


def minutes_of_december():
    """Minutes around three stops, in the manner of Binance's of December 2017: an hour's one after which candles open off
    the grid until one is cut short to get back; one shorter than a minute; and one that ends on the grid."""

    def at(minute, ms=0):
        return DECEMBER + minute * MINUTE + ms

    def run(start, end):
        return [(time, time + MINUTE - 1) for time in range(start, end, MINUTE)]

    return hours(
        *run(at(0), at(100)),
        (at(100), at(100, 12_343)),
        *run(at(131, 17_345), at(191, 17_345)),
        (at(191, 17_345), at(192) - 1),
        *run(at(192), at(300)),
        (at(300), at(300, 4_999)),
        *run(at(300, 41_000), at(350, 41_000)),
        *run(at(360), at(420)),
    )


async def test_minutes_around_several_stops_are_loaded_verified_repaired_and_filled(lab):
    """Files, REST and the store agree; what is lost in between comes back, and only slots without any candle are filled.

    Nothing opens in minutes 101 to 130 and 350 to 359, which are 40. The last candle off the grid ends in minute 350.
    In minute 300 two candles open.
    """
    rows = minutes_of_december()
    times = [(row[0], row[6]) for row in rows]
    stopped = [DECEMBER + minute * MINUTE for minute in (*range(101, 131), *range(351, 360))]
    env = {"TYPE": "api_candles_1m", "SYMBOL": "DECUSDT", "TIME_RANGE": "2017-12-18:2017-12-18T07:00"}
    wild = WildExchange({"DECUSDT": rows}, "1m")
    async with wild.serve() as urls:
        assert await lab.run("loader-producer", **env, **urls, SOURCE="rest") == 0
        assert await lab.run("arango-connector", UPSTREAM="loader-producer__a1b2c3", **env) == 0
        before = await stored(lab, "DECUSDT", "candles_1m")
        assert [(row["open_time"], row["close_time"]) for row in before] == times
        code, found = await data_rows(lab.home, "verify", **urls)
        assert code == 0 and (found[0]["rows"], found[0]["good"], found[0]["missing"]) == (381, 380, 40)
        assert (len(found[0]["off_grid"]), len(found[0]["short"]), found[0]["impossible"]) == (111, 3, [])
        lost = [DECEMBER + 100 * MINUTE, DECEMBER + 131 * MINUTE + 17_345, DECEMBER + 340 * MINUTE + 41_000]
        lost += [DECEMBER + 300 * MINUTE + 41_000]  # the first one of the minute is still there
        for time in lost:
            await asyncio.to_thread(_delete, lab.places.store_url, time, "candles_1m")
        code, found = await data_rows(lab.home, "verify", **urls)
        assert code == 65 and found[0]["wanted"] == len(lost)
        code, repaired = await data_rows(lab.home, "repair", **urls)
        assert code == 0 and repaired[0]["still"] == 0
        assert await stored(lab, "DECUSDT", "candles_1m") == before
        code, repaired = await data_rows(lab.home, "repair", "--fill", **urls)
        assert code == 0 and repaired[0]["filled"] == 39
        assert await data_rows(lab.home, "repair", "--fill", **urls) == (0, [])
        assert (await data_rows(lab.home, "verify", **urls))[0] == 0
    after = await stored(lab, "DECUSDT", "candles_1m")
    assert [row["open_time"] for row in after if row["filled"]] == stopped
    assert [row for row in after if not row["filled"]] == before


async def test_minutes_that_the_files_lack_around_several_stops_come_by_rest(lab):
    "Among them the second candle of a minute, after one that was cut short, and the short one at a return to the grid."
    rows = minutes_of_december()
    lacked = {DECEMBER + ms for ms in (300 * MINUTE + 41_000, 191 * MINUTE + 17_345, 340 * MINUTE + 41_000)}
    env = {"TYPE": "api_candles_1m", "SYMBOL": "DECUSDT", "TIME_RANGE": "2017-12-18:2017-12-19", "SOURCE": "archive"}
    wild = WildExchange({"DECUSDT": rows}, "1m")
    wild.archived = {"DECUSDT": [row for row in rows if row[0] not in lacked]}
    async with wild.serve() as urls:
        assert await lab.run("loader-producer", **env, **urls) == 0
    records = [msgspec.json.decode(record.value) for record in await lab.records(lab.data)]
    assert [(row["open_time"], row["close_time"]) for row in records] == [(row[0], row[6]) for row in rows]
    async with open_store(lab.places.store_url) as store:
        entry = await read_entry(store, LedgerKey("candles_1m", "DECUSDT", "candles", "1m"))
    holes = ((101, 131), (350, 360), (420, 1_440))
    assert entry.missing == Ranges.of(*((DECEMBER + a * MINUTE, DECEMBER + b * MINUTE) for a, b in holes))


async def test_a_repair_from_files_that_do_not_exist_takes_rest(lab):
    "The archive has nothing of the market: REST gives the rows."
    wild = WildExchange({"OFFUSDT": OFF_GRID, "CUTUSDT": CUT})
    async with wild.serve() as urls:
        await load(lab, urls, SOURCE="rest")
        before = await stored(lab, "OFFUSDT")
        await asyncio.to_thread(_delete, lab.places.store_url, before[30]["open_time"], symbol="OFFUSDT")
        wild.files = False
        code, repaired = await data_rows(lab.home, "repair", "--source", "archive", **urls)
        assert code == 0 and [(row["stored"], row["still"]) for row in repaired] == [(1, 0)]
    assert await stored(lab, "OFFUSDT") == before


async def test_a_market_that_nobody_has_any_more_holds_up_no_repair(lab, tmp_path):
    """A row is lost of a market that has left the exchange and has no files, of one that is traded, and of one that a user
    has imported: what can be had is stored, the rest is told, and the repair ends."""
    wild = WildExchange({"OFFUSDT": OFF_GRID, "CUTUSDT": CUT})
    (tmp_path / "OWNUSDT.csv").write_text(
        "open_time,open,high,low,close,volume\n"
        + "".join(f"{STOP + n * HOUR},100,102,99,101,{n + 1}\n" for n in range(6))
    )
    async with wild.serve() as urls:
        await load(lab, urls, SOURCE="rest")
        assert (await data_rows(lab.home, "import", str(tmp_path / "OWNUSDT.csv"), "--exchange", "import"))[0] == 0
        before = await stored(lab, "OFFUSDT")
        lost = {"OFFUSDT": before[30]["open_time"], "CUTUSDT": STOP - HOUR, "OWNUSDT": STOP + 2 * HOUR}
        for symbol, time in lost.items():
            await asyncio.to_thread(_delete, lab.places.store_url, time, symbol=symbol)
        assert (await data_rows(lab.home, "verify", **urls))[0] == 65
        wild.delisted.add("CUTUSDT")
        wild.files = False
        code, repaired = await data_rows(lab.home, "repair", **urls)
        figures = {row["symbol"]: (row["stored"], row["missing"], row["still"]) for row in repaired}
        assert figures == {"OFFUSDT": (1, 0, 0), "CUTUSDT": (0, 1, 0), "OWNUSDT": (0, 0, 1)} and code == 65
        assert {row["symbol"] for row in repaired if "import its files again" in row["message"]} == {"OWNUSDT"}
        assert await stored(lab, "OFFUSDT") == before
        assert (await data_rows(lab.home, "import", str(tmp_path / "OWNUSDT.csv"), "--exchange", "import"))[0] == 0
        assert (await data_rows(lab.home, "verify", **urls))[0] == 0
        assert (await data_rows(lab.home, "repair", **urls))[0] == 0
        (denied,) = [gap for gap in (await entry_of(lab, "CUTUSDT")).no_data if gap.start == STOP - HOUR]
        assert denied.count >= 0  # it may be known again: asked again when it is due
        wild.files = True
        code, repaired = await data_rows(lab.home, "repair", "--again", "--symbol", "CUTUSDT", **urls)
        assert code == 0 and repaired[0]["stored"] == 1  # the archive has it now


@pytest.mark.parametrize("lacks", [False, True])
async def test_a_live_loader_follows_a_market_through_a_stop(lab, lacks):
    """The stream has a candle cut short, one twice, skips one, and falls silent before the last one off the grid has
    closed: each candle that opens in the range once and in order, and what nobody has in the ledger. Where the exchange
    lacks the one that was skipped, its slot is a hole, although both neighbours reach into it."""
    skipped = RESTART + HOUR
    kept = [row for row in OFF_GRID if not lacks or row[0] != skipped]
    wild, rows = WildExchange({"OFFUSDT": kept}), {row[0]: row for row in kept}
    wild.now, end = STOP + HOUR // 6, to_ms("2018-02-09T14:00")

    def frame(opens, *, closed=True):
        wild.now = max(wild.now, rows[opens][6] if closed else opens)
        return kline_event("OFFUSDT", "1h", rows[opens], closed=closed)

    async def live():
        yield frame(STOP, closed=False)
        yield frame(STOP)
        yield frame(RESTART, closed=False)
        yield frame(STOP)
        yield frame(RESTART)
        yield frame(RESTART + 2 * HOUR, closed=False)  # and one hour was skipped
        yield frame(RESTART + 2 * HOUR)
        yield frame(RESTART + 3 * HOUR)
        yield frame(RESTART + 4 * HOUR, closed=False)
        await until(lambda: lab.length(lab.data))
        wild.now = end + 1
        asked = len(wild.log)

        async def asked_again() -> bool:
            return len(wild.log) > asked

        await until(asked_again)
        wild.now = end + HOUR // 2

    wild.live = live
    env = {"TYPE": "ws_candles_1h", "SYMBOL": "OFFUSDT", "TIME_RANGE": "2018-02-07T20:00:2018-02-09T14:00"}
    async with wild.serve() as urls:
        assert await lab.run("loader-ws-candles", **env, **urls, WS_SILENCE_SECONDS="60") == 0
        assert await lab.run("arango-connector", UPSTREAM="loader-ws-candles__a1b2c3", **env) == 0
        published = [msgspec.json.decode(record.value) for record in await lab.records(lab.data)]
        assert [(row["open_time"], row["close_time"]) for row in published] == [
            (row[0], row[6]) for row in kept if end - 42 * HOUR <= row[0] < end
        ]
        entry = await entry_of(lab, "OFFUSDT")
        hole = Ranges.of((skipped - 1_694_789, skipped - 1_694_789 + HOUR)) if lacks else Ranges()
        assert entry.missing == STOPPED | hole and entry.off_grid.size == 5 - lacks
        code, found = await data_rows(lab.home, "verify", **urls)
        assert code == 0 and (len(found[0]["off_grid"]), len(found[0]["short"])) == (5 - lacks, 1)
        code, repaired = await data_rows(lab.home, "repair", **urls)  # the denials are years old, so they are due
        assert code == 0 and [(row["missing"], row["still"]) for row in repaired] == [(32 + lacks, 0)]
