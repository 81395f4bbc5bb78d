"""Stores from before there was a second exchange: what they hold is Binance's, and stays where it is.

`one_exchange.db` was written by the release before keys named an exchange (commit 8ff010f): a connector stored a day
of BTCUSDT and ETHUSDT from the packaged sample, without one hour that the ledger knows as missing at the exchange, and
forty trades; decisions of an agent, an edge and a workflow were put beside them."""

import asyncio
import json
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))
from servers import need  # noqa: E402
from standins.arango import standin  # noqa: E402
from worker_lab import WorkerLab, sample_candles  # noqa: E402

from streamforge.bus.base import open_bus  # noqa: E402
from streamforge.cli.data.repair import Filter, describe_market, ledger_markets, verify_markets  # noqa: E402
from streamforge.features.enricher import CANDLE_COLUMNS, Enricher  # noqa: E402
from streamforge.features.indicators import INDICATORS  # noqa: E402
from streamforge.messages.records import Decision, encode  # noqa: E402
from streamforge.store.base import Schema, open_store  # noqa: E402
from streamforge.store.schemas import CANDLES, DECISIONS, TRADES, VOLUME_BY_PRICE, market_where  # noqa: E402
from streamforge.store.sql.postgresql import Postgresql  # noqa: E402
from streamforge.visualizer.app import chart, markets  # noqa: E402
from streamforge.workers.connector.states import load_partition  # noqa: E402

GROUP, HOUR, DAY = "arango-connector-group-wf-1", 3_600_000, 1_621_382_400_000  # 2021-05-19
KEYS = {
    "candles_1h": CANDLES.key,
    "candles_1h_enriched": CANDLES.key,
    "decisions": DECISIONS.key,
    "trades": TRADES.key,
    "trades_volume": VOLUME_BY_PRICE.key,
    "edges": ("graph", "source", "target", "open_time"),
}
COUNTS = {"candles_1h": 47, "candles_1h_enriched": 47, "decisions": 12, "trades": 40, "edges": 1}
OPEN = """
import asyncio, sys
from streamforge.store.base import open_store

async def main():
    async with open_store(sys.argv[1]):
        pass

asyncio.run(main())
"""
DIE = """
import os, signal, sys
from streamforge.store.sql.connections import Connection

left, run = int(sys.argv[2]), Connection.run

def dying(self, sql, batch=None):
    global left
    if "exchange" in sql or "trades" in sql or left < int(sys.argv[2]):  # from the first statement of a migration on
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return run(self, sql, batch)

Connection.run = dying
"""


def old_store(folder: Path) -> str:
    shutil.copy(Path(__file__).with_name("one_exchange.db"), folder / "store.db")
    return f"sqlite:///{folder}/store.db"


async def python(*arguments: str) -> subprocess.CompletedProcess:
    return await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", *arguments], capture_output=True, text=True, timeout=300
    )


async def check_whole(url: str) -> None:
    "All rows are there, each with the exchange."
    async with open_store(url) as store:
        assert {name: schema.key for name, schema in (await store.collections()).items()} == KEYS
        for name, count in COUNTS.items():
            table = await store.read(name)
            assert table.num_rows == count, name
            assert name == "edges" or set(table["exchange"].to_pylist()) == {"binance"}


async def test_all_rows_are_there_and_name_their_exchange(tmp_path):
    url = old_store(tmp_path)
    await check_whole(url)
    async with open_store(url) as store:
        assert [market["candles"] for market in await markets(store)] == [23, 24]
        stored = (await store.read("candles_1h", where=market_where("BTCUSDT", "1h"))).to_pylist()
        sample = [row for row in sample_candles(time_range="2021-05-19:2021-05-20") if row.symbol == "BTCUSDT"]
        kept = [msgspec.to_builtins(row) | {"filled": None} for row in sample if row.open_time != DAY + 5 * HOUR]
        assert stored == kept
        assert (await store.get("workflow", "wf-1")).body["status"] == "finished"


async def test_status_and_verify_say_what_they_said(tmp_path):
    async with open_store(old_store(tmp_path)) as store:
        told = [describe_market(market, entry) for market, entry in (await ledger_markets(store, Filter())).items()]
        names = ("symbol", "kind", "asked", "loaded", "verified", "missing", "wanting", "percent")
        assert [[row[name] for name in names] for row in told] == [
            ["BTCUSDT", "candles", 24, 23, 23, 1, 0, 100.0],
            ["ETHUSDT", "candles", 24, 24, 24, 0, 0, 100.0],
            ["BTCUSDT", "trade_ids", 40, 40, 40, 0, 0, 100.0],
            ["BTCUSDT", "trades", 40_000, 40_000, 40_000, 0, 0, 100.0],
        ]
        for market, findings, entry in await verify_markets(store, Filter()):
            assert findings.rows == (40 if market.kind == "trade_ids" else 24 - entry.missing.size // HOUR)
            assert not findings.gaps(entry) and not findings.impossible
        assert len(await store.list("ledger")) == 4, "no ledger has moved"


async def test_a_connector_goes_on_from_its_checkpoint(tmp_path):
    url, lab = old_store(tmp_path), WorkerLab(tmp_path)
    rows = sorted(sample_candles(time_range="2021-05-19:2021-05-21"), key=lambda row: (row.open_time, row.symbol))
    rows = [row for row in rows if (row.symbol, row.open_time) != ("BTCUSDT", DAY + 5 * HOUR)]
    values = [(row.symbol, encode(row)) for row in rows]
    async with open_store(url) as store:
        checkpoints = {int(one.id[-1]): one.body["entries"][0]["offset"] for one in await store.list("checkpoint")}
        held = [
            await load_partition(store, GROUP, "wf-1-data", partition, offset)
            for partition, offset in checkpoints.items()
        ]
        found = {market: enricher.last_open_time for state in held for market, enricher in state.enrichers.items()}
        assert found == dict.fromkeys([("BTCUSDT", "1h"), ("ETHUSDT", "1h")], DAY + 23 * HOUR)
    await lab.fill(values[:47], producer="loader-producer__before")
    async with open_bus(lab.places.bus_url) as bus, bus.subscribe(["wf-1-data"], GROUP) as subscription:
        while sum((await bus.committed(GROUP, "wf-1-data")).values()) < 47:
            await subscription.poll(max_wait=1.0)
            await subscription.commit(subscription.positions())
        assert await bus.committed(GROUP, "wf-1-data") == checkpoints
    await lab.fill(values[47:], producer="loader-producer__after")
    assert await lab.run("arango-connector", TYPE="api_candles_1h", UPSTREAM="loader-producer__after") == 0
    async with open_store(url) as store:
        for symbol in ("BTCUSDT", "ETHUSDT"):
            table = await store.read("candles_1h_enriched", where=market_where(symbol, "1h"))
            own = [row for row in rows if row.symbol == symbol]
            assert table["open_time"].to_pylist() == [row.open_time for row in own]
            whole = Enricher().history(*([getattr(row, name) for row in own] for name in CANDLE_COLUMNS))
            np.testing.assert_array_equal(np.column_stack([table[name].to_numpy() for name in INDICATORS]), whole)
        assert await store.count("candles_1h_enriched") == len(rows)
    assert await lab.length("wf-1-data-enriched") == len(rows) - 47, "what was done is not done again"


async def test_decisions_are_read_back_and_not_doubled(tmp_path):
    async with open_store(old_store(tmp_path)) as store:
        rows = (await store.read("decisions", where={"agent": "a1"} | market_where("BTCUSDT", "1h"))).to_pylist()
        assert [row["action"] for row in rows] == ["hold", "buy"] * 3
        await store.upsert("decisions", [Decision(**row) for row in rows])
        await store.upsert("decisions", [Decision(**rows[0] | {"exchange": "kraken", "price": 9.0})])
        assert await store.count("decisions") == 13
        drawn = await chart(store, "candles_1h", "BTCUSDT", "1h")
        assert len(drawn["columns"]["close"]) == 23 and len(drawn["decisions"]) == 6


async def test_two_processes_open_it_at_once(tmp_path):
    url = old_store(tmp_path)
    for process in await asyncio.gather(*(python(OPEN, url) for _ in range(3))):
        assert process.returncode == 0, process.stderr
    await check_whole(url)


@pytest.mark.parametrize("statements", range(0, 9, 2))
async def test_a_process_that_dies_in_between_leaves_the_store_whole(tmp_path, statements):
    url = old_store(tmp_path)
    assert (await python(DIE + OPEN, url, str(statements))).returncode == -9
    await check_whole(url)


async def test_a_writer_of_the_earlier_release_goes_on(tmp_path):
    "Its statement names no exchange; it has opened the file before it was migrated."
    url = old_store(tmp_path)
    async with open_store(url):
        pass
    insert = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); "
        "db.execute(\"INSERT INTO trades (symbol, trade_id, price) VALUES ('BTCUSDT', 140, 1.5)\"); db.commit()"
    )
    assert (await python(insert, str(tmp_path / "store.db"))).returncode == 0
    async with open_store(url) as store:
        assert (await store.read("trades", last=1)).to_pylist()[0]["exchange"] == "binance"


OLD_TRADES = Schema(
    columns={name: kind for name, kind in TRADES.columns.items() if name != "exchange"}, key=("symbol", "trade_id")
)


async def test_postgresql_changes_the_key_in_place():
    url, name = need("postgresql"), f"t{secrets.token_hex(4)}"
    async with open_store(url):
        pass
    connection = Postgresql(url).connect()
    try:
        columns = 'symbol TEXT COLLATE "C" NOT NULL, trade_id BIGINT NOT NULL, price DOUBLE PRECISION, '
        columns += "quantity DOUBLE PRECISION, timestamp BIGINT, is_buyer_maker BOOLEAN"
        schema = msgspec.json.encode(OLD_TRADES).decode()
        for statement in (
            "BEGIN",
            f"CREATE TABLE {name} ({columns}, CONSTRAINT {name}_own PRIMARY KEY (symbol, trade_id))",
            f"INSERT INTO {name} SELECT 'BTCUSDT', n, n, 1, n, true FROM generate_series(1, 1000) AS n",
            f"INSERT INTO sf_collections VALUES ('{name}', '{name}', '{schema}')",
            "COMMIT",
        ):
            connection.run(statement)
        for process in await asyncio.gather(*(python(OPEN, url) for _ in range(2))):
            assert process.returncode == 0, process.stderr
        async with open_store(url) as store:
            assert (await store.collections())[name] == TRADES
            await store.ensure(name, TRADES)
            await store.upsert(name, [{"symbol": "BTCUSDT", "trade_id": n, "price": 0.5} for n in (1000, 1001)])
            await store.upsert(name, [{"exchange": "kraken", "symbol": "BTCUSDT", "trade_id": 1000, "price": 7.0}])
            table = await store.read(name, where=market_where("BTCUSDT"))
            assert table["price"].to_pylist() == [*map(float, range(1, 1000)), 0.5, 0.5]
            assert (await store.read(name, where=market_where("kraken:BTCUSDT")))["price"].to_pylist() == [7.0]
    finally:
        connection.run(f"DROP TABLE IF EXISTS {name}")
        connection.run(f"DELETE FROM sf_collections WHERE name = '{name}'")
        connection.close()


async def test_arangodb_keeps_the_keys_of_documents():
    with standin() as server:
        url = server.url()
        async with open_store(url) as store:  # the collection as the earlier release made it
            await store.ensure("trades", OLD_TRADES)
            await store.upsert("trades", [{"symbol": "BTCUSDT", "trade_id": n, "price": float(n)} for n in range(120)])
        lab = server.arango.databases["lab"].collections
        assert lab["trades"].indexes == [("symbol", "trade_id")] and "BTCUSDT:7" in lab["trades"].documents
        async with open_store(url) as store, open_store(url):
            assert (await store.collections())["trades"] == TRADES
            assert lab["trades"].indexes == [TRADES.key]
            await store.upsert("trades", [{"symbol": "BTCUSDT", "trade_id": 7, "price": 0.5}])
            await store.upsert("trades", [{"exchange": "kraken", "symbol": "BTCUSDT", "trade_id": 7, "price": 9.0}])
            assert await store.count("trades") == 121
            assert (await store.read("trades", where=market_where("BTCUSDT"), start=7, end=8))["price"][
                0
            ].as_py() == 0.5
            assert json.dumps(sorted(lab["trades"].documents)).count("kraken:BTCUSDT:7") == 1
