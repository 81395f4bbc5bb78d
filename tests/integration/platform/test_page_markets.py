"""What the page lists is right for every writer, and costs no read of candles."""

import numpy as np
import pandas as pd
import pyarrow as pa

from streamforge.core.samples import candles
from streamforge.ledger.entries import LedgerKey, update_entry
from streamforge.ledger.ranges import Ranges
from streamforge.ledger.verify import stored_markets
from streamforge.messages.records import candles_of
from streamforge.store.base import open_store
from streamforge.store.schemas import CANDLES, EDGES
from streamforge.visualizer.app import graphs, markets
from streamforge.workers.imports.files import import_frame

HOUR = 3_600_000


class CountingStore:
    "A store that notes which collections are read and counted."

    def __init__(self, store):
        self._store, self.reads, self.counts = store, [], []

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def read(self, collection, **options):
        self.reads.append(collection)
        return await self._store.read(collection, **options)

    async def count(self, collection, **options):
        self.counts.append((collection, options.get("where")))
        return await self._store.count(collection, **options)


def rows_of(symbol, span, exchange="binance"):
    table = {name: column.to_numpy() for name, column in candles("BTCUSDT", span).items()}
    rows = candles_of(table, symbol, "1h", HOUR)
    return pa.Table.from_pylist(
        [{name: getattr(row, name) for name in row.__struct_fields__} | {"exchange": exchange} for row in rows]
    )


async def load(store, collection, symbol, span, exchange="binance"):
    "Store candles with their ledger, as a loader and a connector do."
    rows = rows_of(symbol, span, exchange)
    await store.ensure(collection, CANDLES)
    await store.upsert(collection, rows)
    start, end = rows["open_time"][0].as_py(), rows["open_time"][-1].as_py() + HOUR
    key = LedgerKey(collection, symbol, "candles", "1h", exchange)
    await update_entry(store, key, lambda entry: entry.note("asked", Ranges.of((start, end))))
    await update_entry(store, key, lambda entry: entry.note("loaded", Ranges.of((start, end))))


def listed(answer):
    return [(m["collection"], m["exchange"], m["symbol"], m["interval"], m["candles"]) for m in answer]


async def test_no_candle_is_read_to_list_the_markets(tmp_path):
    async with open_store(f"sqlite:///{tmp_path}/store.db") as opened:
        store = CountingStore(opened)
        await load(store, "candles_1h", "BTCUSDT", "2021-05-10:2021-05-20")
        await load(store, "candles_1h", "BTCUSDT", "2021-05-10:2021-05-12", exchange="kraken")
        await load(store, "elsewhere", "BTCUSDT", "2021-05-10:2021-05-11")
        assert listed(await markets(store)) == [
            ("candles_1h", "binance", "BTCUSDT", "1h", 240),
            ("candles_1h", "kraken", "BTCUSDT", "1h", 48),
            ("elsewhere", "binance", "BTCUSDT", "1h", 24),
        ]
        assert (store.reads, store.counts) == ([], [])
        assert len(await stored_markets(store)) == 3 and store.reads == []


async def test_what_is_only_in_the_ledger_is_not_listed(tmp_path):
    "A market that was asked for, or whose candles no connector has stored yet."
    async with open_store(f"sqlite:///{tmp_path}/store.db") as store:
        await load(store, "candles_1h", "BTCUSDT", "2021-05-10:2021-05-11")
        for collection, symbol in (("candles_1h", "ETHUSDT"), ("nowhere", "BTCUSDT")):
            for state in ("asked", "loaded"):
                key = LedgerKey(collection, symbol, "candles", "1h")
                await update_entry(store, key, lambda entry, state=state: entry.note(state, Ranges.of((0, HOUR))))
        assert listed(await markets(store)) == [("candles_1h", "binance", "BTCUSDT", "1h", 24)]


async def test_imported_candles_and_such_without_a_ledger_are_listed(tmp_path):
    "Beside a market that has one: a connector makes candles of trades without noting them."
    async with open_store(f"sqlite:///{tmp_path}/store.db") as opened:
        store = CountingStore(opened)
        await load(store, "candles_1h", "BTCUSDT", "2021-05-10:2021-05-11")
        await opened.upsert("candles_1h", rows_of("ETHUSDT", "2021-05-10:2021-05-13"))
        ones = np.ones(50)
        prices = {name: ones for name in ("open", "high", "low", "close", "volume")}
        frame = pd.DataFrame({"open_time": 1_704_067_200_000 + HOUR * np.arange(50), **prices})
        await import_frame(opened, frame, symbol="BTC/USD", exchange="import")
        assert listed(await markets(store)) == [
            ("candles_1h", "import", "BTCUSD", "1h", 50),
            ("candles_1h", "binance", "BTCUSDT", "1h", 24),
            ("candles_1h", "binance", "ETHUSDT", "1h", 72),
        ]
        assert store.reads == [] and [where["symbol"] for _, where in store.counts] == ["ETHUSDT"]


async def test_graphs_are_listed_without_reading_their_edges(tmp_path):
    async with open_store(f"sqlite:///{tmp_path}/store.db") as opened:
        store = CountingStore(opened)
        await store.ensure("edges", EDGES)
        edge = {"source": "a", "target": "b", "weight": 1.0}
        await store.upsert("edges", [edge | {"graph": g, "open_time": n} for g in ("slow", "fast") for n in range(99)])
        assert [graph["graph"] for graph in await graphs(store)] == ["fast", "slow"] and store.reads == []
