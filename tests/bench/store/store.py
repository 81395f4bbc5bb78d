"""The SQL store beside what one writes without it: `python tests/bench/store/store.py [--json FILE] [--rows N]
[--rounds N]`.

Rows of 13 columns (candles) are upserted into typed tables, beside the same rows as JSON documents in a SQLite
table with a key (what a document store on a laptop does); then read into a DataFrame, beside `pandas.read_sql`,
from SQLite, from PostgreSQL where `make servers` started one, and from a frozen dataset. Both in one process, in
turns; the best of several rounds counts, because a shared machine only ever adds time. Writes a list of {work,
unit, ours, peer, peer_name, ratio}; a ratio above 1 means that ours is better.
"""

import argparse
import asyncio
import json
import os
import secrets
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import sqlalchemy as sa

sys.path.insert(0, str(Path(__file__).parents[2]))
from servers import url_of  # noqa: E402

from streamforge.artifacts.base import open_artifacts  # noqa: E402
from streamforge.features.frame import Panel  # noqa: E402
from streamforge.features.indicators import INDICATORS  # noqa: E402
from streamforge.messages.records import Candle  # noqa: E402
from streamforge.runs.datasets import freeze, load_panel, read_panel  # noqa: E402
from streamforge.store.arrow import as_arrow  # noqa: E402
from streamforge.store.base import open_store  # noqa: E402
from streamforge.store.schemas import CANDLES, enriched_schema  # noqa: E402
from streamforge.store.sql.postgresql import Postgresql  # noqa: E402

BATCH = 5_000  # as the connector writes them
HOUR, START = 3_600_000, 1_704_067_200_000  # ms; 2024
PRICES = ("open", "high", "low", "close", "volume")


def candles(count: int) -> list[Candle]:
    "Records as they come from the bus, eight markets in turns."
    numbers = dict(open=64628.17, high=64800.5, low=64500.01, close=64700.25, volume=812.43017)
    more = dict(quote_asset_volume=5.25e7, taker_buy_base_asset_volume=400.7, taker_buy_quote_asset_volume=2.6e7)
    return [
        Candle(
            symbol=f"MARKET{k % 8}",
            interval="1h",
            open_time=START + (k // 8) * HOUR,
            close_time=START + (k // 8 + 1) * HOUR - 1,
            number_of_trades=k,
            **{name: v + k for name, v in numbers.items()},
            **{name: v + k for name, v in more.items()},
        )
        for k in range(count)
    ]


def open_documents(path: Path) -> sqlite3.Connection:
    "The peer of writing: a JSON document per row, its key beside it."
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=NORMAL")
    db.execute("PRAGMA secure_delete=OFF")  # as ours; some builds of SQLite have it on
    db.execute("CREATE TABLE documents (key TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID")
    return db


def write_documents(db: sqlite3.Connection, batch: list[Candle]) -> None:
    rows = [
        (f"{candle.symbol}/{candle.interval}/{candle.open_time:015}", msgspec.json.encode(candle).decode())
        for candle in batch
    ]
    db.execute("BEGIN IMMEDIATE")
    db.executemany("INSERT INTO documents VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET body = excluded.body", rows)
    db.execute("COMMIT")


def clocked(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


async def writing(folder: Path, rows: list[Candle], rounds: int) -> list[dict]:
    """Upsert into empty tables, then the same rows again: from records, and from columns, which is what the
    connector hands over (it makes them while the batch before is written)."""
    best: dict[str, float] = {}

    def note(name: str, took: float) -> None:
        best[name] = min(took, best.get(name, took))

    for number in range(rounds):
        db = open_documents(folder / f"documents-{number}.db")
        async with (
            open_store(f"sqlite:///{folder}/store-{number}.db") as store,
            open_store(f"sqlite:///{folder}/columns-{number}.db") as second,
        ):
            await store.ensure("candles", CANDLES)
            await second.ensure("candles", CANDLES)
            for work in ("new rows", "same rows again"):
                records = columns = peer = 0.0
                for i in range(0, len(rows), BATCH):
                    batch = rows[i : i + BATCH]
                    table = as_arrow(batch, CANDLES)
                    began = time.perf_counter()
                    await store.upsert("candles", batch)
                    records += time.perf_counter() - began
                    began = time.perf_counter()
                    await second.upsert("candles", table)
                    columns += time.perf_counter() - began
                    peer += clocked(lambda batch=batch, db=db: write_documents(db, batch))
                note(f"{work} records", records)
                note(f"{work} columns", columns)
                note(f"{work} peer", peer)
        db.close()
    return [
        result(
            f"upsert of {form}, {work}, 13 columns",
            "rows/s",
            len(rows) / best[f"{work} {form}"],
            len(rows) / best[f"{work} peer"],
            "JSON documents in SQLite, from records",
        )
        for form in ("columns", "records")
        for work in ("new rows", "same rows again")
    ]


async def filled(url: str, collection: str, rows: list[Candle]) -> None:
    "A collection with all rows."
    async with open_store(url) as store:
        await store.ensure(collection, CANDLES)
        for i in range(0, len(rows), BATCH):
            await store.upsert(collection, rows[i : i + BATCH])


async def reading(name: str, url: str, collection: str, engine: sa.Engine, count: int, rounds: int) -> list[dict]:
    "All rows into a DataFrame, and one market's; the peer has its own way to the same rows."
    columns, results = ", ".join(Candle.__struct_fields__), []
    everything = f"SELECT {columns} FROM {collection} ORDER BY symbol, interval, open_time"
    market = f"SELECT {columns} FROM {collection} WHERE symbol = 'MARKET3' AND interval = '1h' ORDER BY open_time"
    cases = [
        (f"{count:,} rows", {}, everything, count),
        (
            f"a market of {count // 8:,} rows",
            {"exchange": "binance", "symbol": "MARKET3", "interval": "1h"},
            market,
            count // 8,
        ),
    ]
    async with open_store(url) as store:
        for work, where, sql, expected in cases:
            ours, peer = [], []
            for _ in range(rounds):
                began = time.perf_counter()
                frame = (await store.read(collection, where=where, columns=Candle.__struct_fields__)).to_pandas()
                ours.append(time.perf_counter() - began)
                assert frame.shape == (expected, len(Candle.__struct_fields__))
                del frame
                peer.append(clocked(lambda sql=sql: pd.read_sql(sql, engine)))
            results.append(
                result(
                    f"{name}: {work} into a DataFrame, 13 columns",
                    "rows/s",
                    expected / min(ours),
                    expected / min(peer),
                    "pandas.read_sql",
                )
            )
    engine.dispose()
    return results


async def indicators_stored(folder: Path, panel: Panel) -> None:
    "The panel's prices and indicators as rows, where the peer reads them."
    async with open_store(f"sqlite:///{folder}/enriched.db") as store:
        await store.ensure("enriched", enriched_schema(INDICATORS))
        for n, symbol in enumerate(panel.symbols):
            columns = {price: getattr(panel, price)[:, n] for price in PRICES} | dict(
                zip(INDICATORS, panel.indicators[:, n].T, strict=True)
            )
            numbers = {name: pa.array(v, from_pandas=True) for name, v in columns.items()}
            names = {
                "symbol": pa.repeat(symbol, len(panel)),
                "interval": pa.repeat("1h", len(panel)),
                "open_time": pa.array(panel.open_time),
            }
            await store.upsert("enriched", pa.table(names | numbers))


def as_frame(panel: Panel) -> pd.DataFrame:
    "A row per market and hour, as the peer has it."
    count = len(panel.symbols)
    keys = {
        "symbol": pd.Categorical.from_codes(np.tile(np.arange(count), len(panel)), panel.symbols),
        "open_time": np.repeat(panel.open_time, count),
    }
    prices = pd.DataFrame(keys | {price: getattr(panel, price).ravel() for price in PRICES}, copy=False)
    return pd.concat(
        [prices, pd.DataFrame(panel.indicators.reshape(-1, len(INDICATORS)), columns=list(INDICATORS), copy=False)],
        axis=1,
    )


async def frozen(folder: Path, count: int, rounds: int) -> list[dict]:
    """Prices and indicators of all markets, from a dataset that was frozen once (its features come with it), beside
    the same columns by SQL."""
    sql = (
        f"SELECT symbol, open_time, {', '.join([*PRICES, *INDICATORS])} FROM enriched ORDER BY symbol, interval, "
        "open_time"
    )
    async with (
        open_store(f"sqlite:///{folder}/read.db") as store,
        open_artifacts(f"file://{folder}/artifacts") as artifacts,
    ):
        panel = await read_panel(store, "candles", [f"MARKET{k}" for k in range(8)], "1h")
        await indicators_stored(folder, panel)
        manifest = await freeze(artifacts, "bench", panel, interval="1h")
        ours, peer, engine = [], [], sa.create_engine(f"sqlite:///{folder}/enriched.db")
        for number in range(rounds):
            began = time.perf_counter()
            frame = as_frame((await load_panel(artifacts, "bench", manifest.version))[0])
            ours.append(time.perf_counter() - began)
            assert frame.shape == (count, 2 + len(PRICES) + len(INDICATORS))
            del frame
            if number < 2:  # it takes long
                peer.append(clocked(lambda: pd.read_sql(sql, engine)))
    engine.dispose()
    work = (
        f"frozen dataset: {count:,} rows into a DataFrame, checked by sha256, "
        f"{2 + len(PRICES) + len(INDICATORS)} columns"
    )
    return [
        result(work, "rows/s", count / min(ours), count / min(peer), "pandas.read_sql of the same columns from SQLite")
    ]


async def on_server(rows: list[Candle], rounds: int) -> list[dict]:
    "The same from PostgreSQL, if one runs."
    if not (url := url_of("postgresql")):
        return []
    address, collection = Postgresql(url).address, f"bench_{secrets.token_hex(4)}"
    host, _, port = address.hosts[0].rpartition(":")
    place = sa.URL.create(
        "postgresql+psycopg",
        address.user,
        address.password(os.environ, "POSTGRES_PASSWORD"),
        host,
        int(port),
        address.path,
    )
    try:
        await filled(url, collection, rows)
        return await reading("PostgreSQL", url, collection, sa.create_engine(place), len(rows), rounds)
    finally:
        connection = Postgresql(url).connect()
        connection.run(f"DROP TABLE IF EXISTS {collection}")
        connection.run(f"DELETE FROM sf_collections WHERE name = '{collection}'")
        connection.close()


def result(work: str, unit: str, ours: float, peer: float, peer_name: str) -> dict:
    return {
        "work": work,
        "unit": unit,
        "ours": round(ours),
        "peer": round(peer),
        "peer_name": peer_name,
        "ratio": round(ours / peer, 2),
    }


async def main(rows: int, rounds: int) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        everything = candles(rows)
        home = Path(folder)
        results = await writing(home, everything[: min(rows, 400_000)], rounds)
        await filled(f"sqlite:///{home}/read.db", "candles", everything)
        shutil.copy(home / "read.db", home / "copy.db")  # one process, two SQLite libraries: never on the same file
        results += await reading(
            "SQLite",
            f"sqlite:///{home}/read.db",
            "candles",
            sa.create_engine(f"sqlite:///{home}/copy.db"),
            rows,
            rounds,
        )
        results += await frozen(home, rows, rounds)
        return results + await on_server(everything, rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    results = asyncio.run(main(asked.rows, asked.rounds))
    for line in results:
        sys.stdout.write(json.dumps(line) + "\n")
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=2))
