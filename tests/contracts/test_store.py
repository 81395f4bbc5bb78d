"What every store must do. Written against the port alone: it knows no adapter."

import asyncio
import json
import math
import random
import subprocess
import sys
import time

import msgspec
import pyarrow as pa
import pytest

from streamforge.core.errors import BadData, BadName, Conflict, NotFound
from streamforge.store.base import Document, Schema, open_store
from streamforge.store.schemas import CANDLES, EDGES, TRADES, market_where

MIXED = Schema(
    columns={"name": "text", "at": "int", "count": "int", "price": "float", "note": "text", "good": "bool"},
    key=("name", "at"),
)


@pytest.fixture
async def store(store_url):
    async with open_store(store_url) as opened:
        yield opened


def edge(moment: int, weight: float | None = 0.5, source: str = "BTCUSDT", **more) -> dict:
    return {"graph": "g", "source": source, "target": "ETHUSDT", "open_time": moment, "weight": weight} | more


def random_rows(seed: int, count: int) -> list[dict]:
    "Rows with the extremes of every type."
    rng = random.Random(seed)
    ints = [None, 0, 1, -1, 2**63 - 1, -(2**63), 2**53 + 1]
    floats = [None, 0.0, -0.0, 0.1 + 0.2, 5e-324, 1.7976931348623157e308, -1e-300, 1 / 3]
    texts = [None, "", "ö", "日本", "a'b\"c", "%_\\", "\n\t", "🙂", "NULL"]
    return [
        {
            "name": rng.choice(["a", "B", "_", "ä", "z"]),
            "at": at,
            "count": rng.choice(ints),
            "price": rng.choice(floats),
            "note": rng.choice(texts),
            "good": rng.choice([None, True, False]),
        }
        for at in range(count)
    ]


def by_key(rows: list[dict]) -> list[dict]:
    return sorted(rows, key=lambda row: (row["name"], row["at"]))


async def test_what_is_written_is_what_is_read(store, fresh):
    rows = random_rows(7, 2_000)
    await store.ensure(fresh, MIXED)
    assert await store.upsert(fresh, rows) == len(rows)
    table = await store.read(fresh)
    assert table.column_names == list(MIXED.columns)
    assert [str(column.type) for column in table.columns] == ["string", "int64", "int64", "double", "string", "bool"]
    assert table.to_pylist() == by_key(rows)  # sorted by key, text by code point


@pytest.mark.parametrize("form", ["mappings", "structs", "arrow", "other order"])
async def test_every_form_of_a_batch(store, fresh, form):
    rows = [row for row in random_rows(8, 250) if row["note"] is not None]
    Row = msgspec.defstruct("Row", list(MIXED.columns))
    Turned = msgspec.defstruct("Turned", list(reversed(MIXED.columns)))
    batch = {
        "mappings": rows,
        "structs": [Row(**row) for row in rows],
        "arrow": pa.Table.from_pylist(rows),
        "other order": [Turned(**row) for row in rows],
    }
    await store.ensure(fresh, MIXED)
    assert await store.upsert(fresh, batch[form]) == len(rows)
    assert (await store.read(fresh)).to_pylist() == by_key(rows)


async def test_again_changes_nothing_and_later_replaces(store, fresh):
    await store.ensure(fresh, MIXED)
    rows = random_rows(9, 300)
    await store.upsert(fresh, rows)
    await store.upsert(fresh, rows[100:])
    assert await store.count(fresh) == 300 and (await store.read(fresh)).to_pylist() == by_key(rows)
    name, at = rows[0]["name"], rows[0]["at"]
    await store.upsert(fresh, [{"name": name, "at": at, "note": "new"}])  # replaced whole: the rest is null
    assert (await store.read(fresh, start=at, end=at + 1)).to_pylist() == [
        {"name": name, "at": at, "count": None, "price": None, "note": "new", "good": None}
    ]


async def test_of_two_rows_in_a_batch_the_later_stays(store, fresh):
    await store.ensure(fresh, EDGES)
    await store.upsert(fresh, [edge(1, 0.1), edge(2, 0.2), edge(1, 0.3)])
    await store.upsert(fresh, [edge(5, k / 1000) for k in range(1000)])
    assert (await store.read(fresh))["weight"].to_pylist() == [0.3, 0.2, 0.999]


async def test_an_empty_batch(store, fresh):
    await store.ensure(fresh, EDGES)
    assert await store.upsert(fresh, []) == 0
    table = await store.read(fresh, columns=["weight", "source"])
    assert table.num_rows == 0 and table.schema.names == ["weight", "source"] and str(table["weight"].type) == "double"


WRONG = {
    "nan": {"weight": math.nan},
    "infinity": {"weight": math.inf},
    "minus infinity": {"weight": -math.inf},
    "text for a number": {"weight": "0.5"},
    "bool for a number": {"weight": True},
    "number for text": {"source": 7},
    "bytes for text": {"source": b"BTCUSDT"},
    "float for an int": {"open_time": 1.5},
    "whole float for an int": {"open_time": 1.0},
    "too large an int": {"open_time": 2**63},
    "null in the key": {"open_time": None},
    "null text in the key": {"source": None},
    "list": {"weight": [1.0]},
    "unknown column": {"colour": "red"},
    "half a character": {"target": "\ud800"},
}


@pytest.mark.parametrize("wrong", WRONG, ids=list(WRONG))
@pytest.mark.parametrize("at", [0, 700, 1_234])
async def test_a_wrong_value_is_refused_and_nothing_of_its_batch_written(store, fresh, wrong, at):
    await store.ensure(fresh, EDGES)
    await store.upsert(fresh, [edge(-1)])
    batch = [edge(k) for k in range(1_235)]
    batch[at] = edge(at) | WRONG[wrong]
    with pytest.raises(BadData) as refused:
        await store.upsert(fresh, batch)
    assert next(iter(WRONG[wrong])) in (refused.value.field, "target")
    assert await store.count(fresh) == 1


async def test_a_key_must_be_whole(store, fresh):
    await store.ensure(fresh, EDGES)
    with pytest.raises(BadData):
        await store.upsert(fresh, [{"graph": "g", "source": "a", "open_time": 1, "weight": 1.0}])
    with pytest.raises(BadData):
        await store.upsert(fresh, [edge(1), {"graph": "g", "source": "a", "open_time": 1}])
    with pytest.raises(BadData):
        await store.upsert(
            fresh, pa.table({"graph": ["g"], "source": ["a"], "target": ["b"], "open_time": [1], "weight": [math.nan]})
        )
    assert await store.count(fresh) == 0


async def test_ranges(store, fresh):
    await store.ensure(fresh, EDGES)
    await store.upsert(
        fresh, [edge(k, float(k), source) for k in range(10) for source in ("BTCUSDT", "ADAUSDT", "ada", "_X")]
    )

    async def read(**asked):
        return [(row["source"], row["open_time"]) for row in (await store.read(fresh, **asked)).to_pylist()]

    everything = [(source, k) for source in ("ADAUSDT", "BTCUSDT", "_X", "ada") for k in range(10)]
    assert await read() == everything
    assert await read(start=3, end=5) == [row for row in everything if row[1] in (3, 4)]
    assert await read(start=8) == [row for row in everything if row[1] >= 8]
    assert await read(end=1) == [row for row in everything if row[1] == 0]
    assert await read(start=5, end=5) == []
    assert await read(where={"source": "ada"}, start=7) == [("ada", 7), ("ada", 8), ("ada", 9)]
    assert await read(where={"source": ["ada", "_X"], "graph": "g"}, start=9) == [("_X", 9), ("ada", 9)]
    assert await read(where={"source": []}) == [] and await read(where={"source": "nobody' OR 1=1 --"}) == []
    assert await read(where={"source": "ada"}, last=2) == [("ada", 8), ("ada", 9)]
    assert await read(where={"source": "ada"}, end=5, last=2) == [("ada", 3), ("ada", 4)]
    assert await read(last=8) == [row for row in everything if row[1] >= 8]  # the latest rows, whatever their market
    assert await read(last=0) == [] and await read(last=10**6) == everything
    assert await store.count(fresh) == 40 and await store.count(fresh, where={"source": ["ada", "_X"]}) == 20


async def test_one_symbol_at_two_exchanges(store, fresh):
    await store.ensure(fresh, TRADES)
    here = [{"symbol": "BTCUSDT", "trade_id": n, "price": float(n)} for n in range(1, 5)]  # of the default exchange
    there = [row | {"exchange": "kraken", "price": row["price"] / 8} for row in here[1:]]
    other = [row | {"exchange": "okx", "symbol": "ETHUSDT"} for row in here]
    assert await store.upsert(fresh, here + there + other) == 11
    assert await store.upsert(fresh, there) == 3
    assert await store.count(fresh) == 11
    assert await store.count(fresh, where=market_where("kraken:BTCUSDT")) == 3

    async def prices(where, **limits):
        table = await store.read(fresh, where=where, columns=["exchange", "price"], **limits)
        return [tuple(row.values()) for row in table.to_pylist()]

    assert await prices(market_where("BTCUSDT")) == [("binance", float(n)) for n in range(1, 5)]
    assert await prices(market_where("kraken:BTCUSDT"), last=2) == [("kraken", n / 8) for n in (3, 4)]
    assert await prices(market_where("okx:BTCUSDT")) == []
    # without an exchange: every exchange's rows of the symbol, sorted by key
    assert await prices({"symbol": "BTCUSDT"}, start=2, end=3) == [("binance", 2.0), ("kraken", 0.25)]
    assert await prices({"symbol": "BTCUSDT"}, last=2) == [("binance", 4.0), ("kraken", 0.5)]
    assert await store.count(fresh, where={"symbol": "BTCUSDT"}) == 7


async def test_distinct_values_of_the_key(store, fresh):
    "Of many rows, by code point; the columns must be the first of the key."
    markets = [("binance", "BTCUSDT"), ("binance", "ETHUSDT"), ("kraken", "BTCUSD"), ("kraken", "a'b"), ("kraken", "Ω")]
    row = {"price": 1.0, "quantity": 1.0, "timestamp": 1, "is_buyer_maker": False}
    await store.ensure(fresh, TRADES)
    assert await store.distinct(fresh, ["exchange"]) == []
    for exchange, symbol in reversed(markets):
        rows = [row | {"exchange": exchange, "symbol": symbol, "trade_id": id} for id in range(50)]
        await store.upsert(fresh, rows)
    assert await store.distinct(fresh, ["exchange", "symbol"]) == markets
    assert await store.distinct(fresh, ["exchange"]) == [("binance",), ("kraken",)]
    for wrong in (["symbol"], ["symbol", "exchange"], ["exchange", "symbol", "trade_id"], ["price"], ["nope"], []):
        with pytest.raises(BadData, match="first columns of the key \\(exchange symbol\\)"):
            await store.distinct(fresh, wrong)
    with pytest.raises(NotFound):
        await store.distinct(f"{fresh}_no", ["exchange"])


async def test_columns(store, fresh):
    await store.ensure(fresh, EDGES)
    await store.upsert(fresh, [edge(k, float(k)) for k in range(3)])
    table = await store.read(fresh, columns=["weight", "source"], where={"source": "BTCUSDT"})
    assert table.to_pydict() == {"weight": [0.0, 1.0, 2.0], "source": ["BTCUSDT"] * 3}
    assert (await store.read(fresh, columns=["source"], where={"source": "BTCUSDT"})).to_pydict() == {
        "source": ["BTCUSDT"] * 3
    }
    assert (await store.read(fresh, columns=["weight"], last=2)).to_pydict() == {"weight": [1.0, 2.0]}
    for wrong in ({"columns": ["colour"]}, {"where": {"colour": "red"}}, {"where": {"weight": "1"}}):
        with pytest.raises(BadData):
            await store.read(fresh, **wrong)


async def test_a_collection_that_does_not_exist(store, fresh):
    with pytest.raises(NotFound):
        await store.read(fresh)
    with pytest.raises(NotFound):
        await store.upsert(fresh, [edge(1)])
    assert await store.count(fresh) == 0 and fresh not in await store.collections()


async def test_ensure(store, store_url, fresh):
    await store.ensure(fresh, EDGES)
    await store.upsert(fresh, [edge(1)])
    await store.ensure(fresh, EDGES)
    wider = Schema(columns=EDGES.columns | {"lag": "int", "kept": "bool"}, key=EDGES.key)
    async with open_store(store_url) as other:
        await other.ensure(fresh, wider)
    await store.upsert(fresh, [edge(2, lag=3, kept=True)])
    assert (await store.read(fresh, columns=["lag", "kept", "weight"])).to_pylist() == [
        {"lag": None, "kept": None, "weight": 0.5},
        {"lag": 3, "kept": True, "weight": 0.5},
    ]
    await store.ensure(fresh, EDGES)  # fewer columns: they stay
    assert (await store.collections())[fresh] == wider
    for columns, key in (
        ({"weight": "text"}, EDGES.key),
        ({}, ("source", "graph", "target", "open_time")),
        ({}, ("graph", "source", "open_time")),
    ):
        with pytest.raises(Conflict):
            await store.ensure(fresh, Schema(columns=EDGES.columns | columns, key=key))
    assert (await store.collections())[fresh] == wider


async def test_names_that_a_database_would_stumble_over(store, fresh):
    names = [
        "candles",
        "Candles",
        "CANDLES",
        "select",
        "sqlite_master",
        "pg_class",
        "a.b-c_d",
        "x" * 150,
        "x" * 151,
        "0",
    ]
    collections = [f"{fresh}{name}" for name in names] + [f"select-{fresh}", f"sqlite_{fresh}", f"sf_{fresh}"]
    schema = Schema(
        columns={"order": "text", "group": "int", "a.b-c": "float", "FROM": "text", "0": "int"}, key=("order", "group")
    )
    for number, name in enumerate(collections):
        await store.ensure(name, schema)
        await store.upsert(name, [{"order": "by", "group": number, "a.b-c": 0.5, "FROM": "x", "0": 0}])
    for number, name in enumerate(collections):
        assert (await store.read(name)).to_pylist() == [
            {"order": "by", "group": number, "a.b-c": 0.5, "FROM": "x", "0": 0}
        ]
    for wrong in ('x"; DROP TABLE documents; --', "", "a/b", "../x", "a b"):
        with pytest.raises(BadName):
            await store.ensure(wrong, schema)
        with pytest.raises(BadName):
            await store.ensure(fresh, Schema(columns={"at": "int", wrong: "text"}, key=("at",)))
    with pytest.raises(BadName):
        await store.ensure(fresh, Schema(columns={"at": "int", "x": "decimal"}, key=("at",)))


async def test_documents(store, fresh):
    kind = f"{fresh}-workflow"
    assert await store.get(kind, "wf-1") is None and await store.list(kind) == []
    body = {"status": "loading", "numbers": [1, 2.5, None, True], "text": "ö'\"%", "deep": {"a": {}}}
    assert await store.put(kind, "wf-1", body) == 1
    assert await store.get(kind, "wf-1") == Document(kind, "wf-1", 1, body)
    assert await store.put(kind, "wf-1", {"status": "done"}) == 2
    assert (await store.get(kind, "wf-1")).body == {"status": "done"}  # written whole
    assert await store.put(kind, "wf-1", {"status": "over"}, version=2) == 3
    for version in (0, 1, 2, 4):
        with pytest.raises(Conflict):
            await store.put(kind, "wf-1", {"status": "lost"}, version=version)
    with pytest.raises(Conflict):
        await store.put(kind, "wf-2", {}, version=1)
    assert await store.put(kind, "wf-2", {}, version=0) == 1
    assert [document.id for document in await store.list(kind)] == ["wf-1", "wf-2"] and await store.list(
        f"{fresh}-other"
    ) == []
    await store.delete(kind, "wf-1")
    await store.delete(kind, "wf-1")
    assert await store.get(kind, "wf-1") is None and await store.put(kind, "wf-1", {}, version=0) == 1


async def test_documents_by_prefix(store, fresh):
    ids = ["a", "a%b", "a_b", "aXb", "A", "b/c:d", "b/c", "ä", "a" * 300]
    for id in ids:
        await store.put(fresh, id, {})
    for prefix in ("", "a", "a%", "a_", "b/", "A", "ä", "aa", "zz"):
        assert [document.id for document in await store.list(fresh, prefix=prefix)] == sorted(
            document for document in ids if document.startswith(prefix)
        ), prefix


@pytest.mark.parametrize(
    "body",
    [{"auc": math.nan}, {"auc": math.inf}, {"x": {1, 2}}, {"x": b"bytes"}, {"x": object()}],
    ids=["NaN", "infinity", "a set", "bytes", "an object"],
)
async def test_a_document_is_json(store, fresh, body):
    with pytest.raises(BadData):
        await store.put(fresh, "one", body)
    assert await store.get(fresh, "one") is None


async def test_of_many_writers_of_one_version_one_wins(store, store_url, fresh):
    async with open_store(store_url) as other:
        for version in range(5):
            tries = [(store, other)[k % 2].put(fresh, "one", {"writer": k}, version=version) for k in range(12)]
            results = await asyncio.gather(*tries, return_exceptions=True)
            won = [k for k, result in enumerate(results) if result == version + 1]
            assert len(won) == 1 and sum(isinstance(result, Conflict) for result in results) == 11
            assert await store.get(fresh, "one") == Document(fresh, "one", version + 1, {"writer": won[0]})


WRITER = """
import asyncio, json, sys
from streamforge.store.base import Schema, open_store
from streamforge.store.schemas import EDGES
async def main(url, collection, me, batches, rows):
    async with open_store(url) as store:
        await store.ensure(collection, Schema(columns=EDGES.columns | {f"by_{me}": "int"}, key=EDGES.key))
        print("ready", flush=True)
        sys.stdin.readline()
        generation = 0
        while batches < 0 or generation < batches:
            base = generation * rows if batches > 0 else 0
            edge = {"graph": me, "source": "a", "target": "b", "weight": float(generation), f"by_{me}": generation}
            batch = [edge | {"open_time": base + k} for k in range(rows)]
            await store.upsert(collection, batch)
            await store.put("counter", f"{collection}-{me}", {"generation": generation})
            generation += 1
            if batches < 0: print(generation, flush=True)
asyncio.run(main(*sys.argv[1:4], *map(int, sys.argv[4:])))
"""


def writer(url: str, collection: str, me: str, batches: int, rows: int) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER, url, collection, me, str(batches), str(rows)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


async def test_processes_write_at_once_and_add_columns_at_once(store, store_url, fresh):
    "Four processes widen one collection: none is refused, no row is lost, every column is there."
    await store.ensure(fresh, EDGES)
    writers = [writer(store_url, fresh, me, 10, 500) for me in "abcd"]
    try:
        for process in writers:
            assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
        for process in writers:
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in writers:
            assert await asyncio.to_thread(process.wait, 60) == 0
    finally:
        for process in writers:
            process.kill()
            process.communicate()
    assert (await store.collections())[fresh].columns.keys() == EDGES.columns.keys() | {f"by_{me}" for me in "abcd"}
    assert await store.count(fresh) == 4 * 10 * 500
    for me in "abcd":
        table = await store.read(fresh, where={"graph": me}, columns=["open_time", f"by_{me}"])
        assert table.to_pydict() == {"open_time": list(range(5_000)), f"by_{me}": [k // 500 for k in range(5_000)]}
        assert (await store.get("counter", f"{fresh}-{me}")).version == 10


@pytest.mark.parametrize("seed", range(3))
async def test_a_killed_writer_leaves_whole_batches(store, store_url, fresh, seed):
    "kill -9 at any moment: the rows are all of one generation, and the next process can write at once."
    await store.ensure(fresh, EDGES)
    process = writer(store_url, fresh, "a", -1, 3_000)
    try:
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("go\n")
        process.stdin.flush()
        await asyncio.to_thread(process.stdout.readline)  # one generation is in
        await asyncio.sleep(random.Random(seed).uniform(0, 0.2))
    finally:
        process.kill()
        printed = json.loads((process.communicate()[0].strip().splitlines() or ["1"])[-1])
    table = await store.read(fresh)
    generations = set(table["weight"].to_pylist())
    assert table.num_rows == 3_000 and len(generations) == 1 and generations.pop() >= printed - 1
    began = time.monotonic()
    await store.upsert(fresh, [edge(1)])
    assert time.monotonic() - began < 30


async def test_the_event_loop_goes_on(store, fresh):
    "While 60,000 rows are written and read, the other tasks of the event loop run."
    await store.ensure(fresh, CANDLES)
    rows = [
        {"symbol": "BTCUSDT", "interval": "1m", "open_time": k, "close_time": k}
        | dict.fromkeys(("open", "high", "low", "close", "volume"), 0.5 + k)
        for k in range(60_000)
    ]
    late, last = [], time.perf_counter()

    async def tick():
        nonlocal last
        while True:
            await asyncio.sleep(0.002)
            late.append((now := time.perf_counter()) - last)
            last = now

    ticking, began = asyncio.create_task(tick()), time.perf_counter()
    await store.upsert(fresh, rows)
    assert (await store.read(fresh)).num_rows == len(rows)
    took = time.perf_counter() - began
    ticking.cancel()
    assert len(late) > 5 and max(late) < max(took / 3, 0.1), (max(late), took)


async def test_many_calls_at_once(store, fresh):
    await store.ensure(fresh, EDGES)
    await asyncio.gather(*(store.upsert(fresh, [edge(k * 10 + j) for j in range(10)]) for k in range(50)))
    counts = await asyncio.gather(*(store.count(fresh) for _ in range(20)))
    assert counts == [500] * 20


async def test_a_column_that_is_empty_for_long(store, fresh):
    "A driver must not conclude a type from the first rows: an indicator that came late begins with many nulls."
    await store.ensure(fresh, MIXED)
    late = {"count": 7, "price": 0.5, "note": "late", "good": True}
    rows = [{"name": "a", "at": k} for k in range(20_000)] + [{"name": "a", "at": 20_000} | late]
    await store.upsert(fresh, rows)
    table = await store.read(fresh, where={"name": "a"})
    assert (
        table.slice(20_000).to_pylist() == [{"name": "a", "at": 20_000} | late] and table["price"].null_count == 20_000
    )
    assert [str(column.type) for column in table.columns] == ["string", "int64", "int64", "double", "string", "bool"]


async def test_text_that_some_database_cannot_keep(store, fresh):
    await store.ensure(fresh, MIXED)
    for wrong in ("a\0b", "\0", "\ud800"):
        for batch in ([{"name": "a", "at": 1, "note": wrong}], [{"name": wrong, "at": 1}]):
            with pytest.raises(BadData):
                await store.upsert(fresh, batch)
        assert (await store.read(fresh, where={"name": wrong})).num_rows == 0 and await store.count(
            fresh, where={"name": wrong}
        ) == 0
        with pytest.raises((BadData, BadName)):
            await store.put(fresh, wrong, {})
    with pytest.raises(BadData):
        await store.put(fresh, "one", {"text": "\ud800"})
    assert await store.put(fresh, "one", {"text": "a\0b"}) == 1 and (await store.get(fresh, "one")).body == {
        "text": "a\0b"
    }


async def test_a_caller_that_is_cancelled_leaves_nothing_half_done(store, fresh):
    await store.ensure(fresh, EDGES)
    for moment in range(5):
        task = asyncio.create_task(store.upsert(fresh, [edge(k, float(moment)) for k in range(3_000)]))
        await asyncio.sleep(0.004 * moment)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        table = await store.read(fresh)
        assert table.num_rows in (0, 3_000) and len(set(table["weight"].to_pylist())) <= 1


OLD = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("PRAGMA journal_mode=WAL")
db.execute("CREATE TABLE sf_collections (name TEXT NOT NULL, physical TEXT NOT NULL, schema TEXT NOT NULL, "
    "PRIMARY KEY (name), UNIQUE (physical))")
db.execute("CREATE TABLE sf_documents (kind TEXT NOT NULL, id TEXT NOT NULL, version BIGINT NOT NULL, "
    "body TEXT NOT NULL, PRIMARY KEY (kind, id)) WITHOUT ROWID")
keys = "graph TEXT NOT NULL, source TEXT NOT NULL, target TEXT NOT NULL, open_time BIGINT NOT NULL"
db.execute(f"CREATE TABLE edges ({keys}, weight DOUBLE, PRIMARY KEY (graph, source, target, open_time)) WITHOUT ROWID")
db.execute("INSERT INTO sf_collections VALUES ('edges', 'edges', ?)", (sys.argv[2],))
db.execute("INSERT INTO sf_documents VALUES ('workflow', 'wf-1', 3, ?)", ('{"status":"done"}',))
db.executemany("INSERT INTO edges VALUES ('g', 'BTCUSDT', 'ETHUSDT', ?, ?)", [(1, 0.5), (2, None), (3, 2)])
db.commit()
"""


async def test_a_file_of_an_earlier_version_opens(tmp_path):
    """Written by Python's own SQLite, in the tables that SQLAlchemy made: in another process, as two libraries must
    not share a file in one."""
    await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", OLD, tmp_path / "store.db", msgspec.json.encode(EDGES).decode()],
        check=True,
    )
    async with open_store(f"sqlite:///{tmp_path}/store.db") as store:
        assert (await store.read("edges", columns=["open_time", "weight"])).to_pydict() == {
            "open_time": [1, 2, 3],
            "weight": [0.5, None, 2.0],
        }
        assert await store.get("workflow", "wf-1") == Document("workflow", "wf-1", 3, {"status": "done"})
        await store.ensure("edges", Schema(columns=EDGES.columns | {"lag": "int"}, key=EDGES.key))
        assert (
            await store.upsert("edges", [edge(2, 0.25, lag=1)]) == 1
            and await store.put("workflow", "wf-1", {}, version=3) == 4
        )
    read = (
        "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('SELECT weight, lag FROM edges ORDER BY "
        "open_time').fetchall(), end='')"
    )
    finished = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", read, tmp_path / "store.db"], check=True, capture_output=True, text=True
    )
    assert finished.stdout == "[(0.5, None), (0.25, 1), (2.0, None)]"
