"""The connector beside the shortest loop that stores candles: `python tests/bench/workers/connector.py [--json
FILE] [--markets N]`.

Ours reads a topic of the packaged candles, writes rows, computes 15 indicators, writes enriched rows, publishes
enriched records, checkpoints and commits. The peer reads the same topic through the same bus, decodes with `json`
and writes the candles with `sqlite3`, nothing else: it shows what all of the rest costs. One process each in turns;
the best of several rounds counts. Writes a list of {work, unit, ours, peer, peer_name, ratio}.
"""

import argparse
import asyncio
import gc
import json
import logging
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

import structlog

from streamforge.bus.base import Message, TopicSpec, open_bus
from streamforge.core.samples import SYMBOLS, candles
from streamforge.core.settings import read_places
from streamforge.messages.control import Event, encode_control
from streamforge.messages.records import candles_of, encode
from streamforge.store.schemas import CANDLES
from streamforge.workers.runtime.worker import serve

ENV = {
    "QUEUE_ID": "wf-1",
    "TELEMETRY_PRODUCER_ID": "arango-connector__a",
    "TYPE": "api_candles_1h",
    "UPSTREAM": "loader-producer__a",
}


async def fill(home: str, markets: tuple[str, ...]) -> int:
    "The topic, in time order, and the word that this is all."
    rows = [
        candle
        for s in markets
        for candle in candles_of({k: v.to_numpy() for k, v in candles(s).items()}, s, "1h", 3_600_000)
    ]
    rows.sort(key=lambda candle: candle.open_time)
    async with open_bus(read_places({"STREAMFORGE_HOME": home}).bus_url) as bus:
        await bus.create_topic("wf-1-data", TopicSpec(partitions=4))
        await bus.create_topic("queue-events")
        for n in range(0, len(rows), 5_000):
            await bus.publish("wf-1-data", [Message(encode(row), row.symbol) for row in rows[n : n + 5_000]])
        ends = {"wf-1-data": await bus.end_offsets("wf-1-data")}
        finished = Event(
            queue_id="wf-1",
            producer="loader-producer__a",
            status="finished",
            instance="1",
            seq=0,
            timestamp=0.0,
            finished=True,
            end_offsets=ends,
        )
        await bus.publish("queue-events", [Message(encode_control(finished), "wf-1")])
    return len(rows)


async def peer(home: str, count: int) -> None:
    "Read, decode, write, commit."
    names = [column for column in CANDLES.columns if column != "filled"]
    db = sqlite3.connect(f"{home}/peer.db", isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=NORMAL")
    db.execute(f"CREATE TABLE candles ({', '.join(names)}, PRIMARY KEY ({', '.join(CANDLES.key)})) WITHOUT ROWID")
    insert = f"INSERT OR REPLACE INTO candles VALUES ({', '.join('?' * len(names))})"
    async with (
        open_bus(read_places({"STREAMFORGE_HOME": home}).bus_url) as bus,
        bus.subscribe(["wf-1-data"], "peer") as subscription,
    ):
        done = 0
        while done < count:
            batch = await subscription.poll()
            rows = [json.loads(record.value) for record in batch.records]
            db.execute("BEGIN IMMEDIATE")
            db.executemany(insert, [[row[name] for name in names] for row in rows])
            db.execute("COMMIT")
            await subscription.commit(batch.end_offsets)
            done += len(rows)
    db.close()


async def main(markets: int, rounds: int) -> list[dict]:
    gc.set_threshold(50_000, 20, 50)  # as a worker's process does
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    best: dict[str, float] = {}
    for number in range(rounds + 1):  # the first round warms kernels and caches up
        with tempfile.TemporaryDirectory() as home:
            count = await fill(home, SYMBOLS[:markets] if number else SYMBOLS[:1])
            began = time.perf_counter()
            assert await serve("arango-connector", ENV | {"STREAMFORGE_HOME": home}) == 0
            middle = time.perf_counter()
            await peer(home, count)
            took = {"ours": middle - began, "peer": time.perf_counter() - middle}
        if number:
            best = {name: max(best.get(name, 0.0), count / seconds) for name, seconds in took.items()}
    about = {"work": f"topic to stored, enriched and published, {count:,} candles", "unit": "candles/s"}
    name = "json + sqlite3, candles only"
    return [
        about
        | {
            "ours": round(best["ours"]),
            "peer": round(best["peer"]),
            "peer_name": name,
            "ratio": round(best["ours"] / best["peer"], 2),
        }
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markets", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    results = asyncio.run(main(asked.markets, asked.rounds))
    for line in results:
        sys.stdout.write(json.dumps(line) + "\n")
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=2))
