"""The embedded bus beside a SQLite table used as a queue: `python tests/bench/bus/bus.py [--json FILE] [--records N]`.

Writes a list of {work, unit, ours, peer, peer_name, ratio}; a ratio above 1 means that ours is better.
"""

import argparse
import asyncio
import json
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from streamforge.bus.base import Message, TopicSpec, open_bus

VALUE = b"x" * 243  # with its key a record of 250 bytes
KEYS = [f"MARKET{i}" for i in range(8)]
BATCH = 5_000
PEER = "SQLite table (WAL)"


def open_table(path: Path) -> sqlite3.Connection:
    "The peer: a table with an offset, as one writes in an afternoon."
    db = sqlite3.connect(path, isolation_level=None, timeout=30)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=OFF")  # it survives kill -9 and not a power cut, as ours
    db.execute(
        "CREATE TABLE IF NOT EXISTS queue (offset INTEGER PRIMARY KEY, key TEXT, value BLOB, headers BLOB, at INTEGER)"
    )
    return db


def write_table(db: sqlite3.Connection, rows: list[tuple]) -> None:
    db.execute("BEGIN IMMEDIATE")
    db.executemany("INSERT INTO queue (key, value, headers, at) VALUES (?, ?, ?, ?)", rows)
    db.execute("COMMIT")


def read_table(db: sqlite3.Connection, offset: int, limit: int = BATCH) -> list[tuple]:
    return db.execute(
        "SELECT offset, key, value, headers, at FROM queue WHERE offset > ? ORDER BY offset LIMIT ?", (offset, limit)
    ).fetchall()


async def throughput(url: str, table: Path, count: int, partitions: int) -> list[dict]:
    "Write all in batches, then read all in batches, ours and the peer's in turns."
    db = open_table(table)
    batch = [Message(VALUE, key=KEYS[i % 8]) for i in range(BATCH)]
    rows = [(record.key, record.value, b"", 0) for record in batch]
    async with open_bus(url) as bus:
        topic = f"bench-{partitions}"
        await bus.create_topic(topic, TopicSpec(partitions=partitions))
        wrote = wrote_peer = cpu = 0.0
        for _ in range(count // BATCH):
            began, used = time.perf_counter(), time.process_time()
            await bus.publish(topic, batch)
            middle, cpu = time.perf_counter(), cpu + time.process_time() - used
            write_table(db, rows)
            wrote, wrote_peer = wrote + middle - began, wrote_peer + time.perf_counter() - middle
        async with bus.subscribe([topic], "bench") as consumer:
            began, used, seen = time.perf_counter(), time.process_time(), 0
            while seen < count:
                records = await consumer.poll(max_records=BATCH)
                seen += len(records.records)
                await consumer.commit(records.end_offsets)
            read, read_cpu = time.perf_counter() - began, time.process_time() - used
        began, offset = time.perf_counter(), 0
        while unread := read_table(db, offset):
            offset = unread[-1][0]
        read_peer = time.perf_counter() - began
    db.close()
    what = f"{count:,} records of 250 bytes in batches of {BATCH:,}, {partitions} partition{'s' * (partitions > 1)}"
    return [
        line(f"write {what}", "records/s", count / wrote, count / wrote_peer),
        line(f"write {what}: per second of CPU time", "records/s", count / cpu, None),
        line(f"read and commit {what}", "records/s", count / read, count / read_peer),
        line(f"read and commit {what}: per second of CPU time", "records/s", count / read_cpu, None),
    ]


def line(
    work: str, unit: str, ours: float, peer: float | None, peer_name: str = PEER, *, less_is_better: bool = False
) -> dict:
    ratio = None if not peer or not ours else round(peer / ours if less_is_better else ours / peer, 2)
    return {
        "work": work,
        "unit": unit,
        "ours": round(ours, 3),
        "peer": peer and round(peer, 3),
        "peer_name": peer_name,
        "ratio": ratio,
    }


# -- other processes: `python bus.py ROLE ...`


async def tick(url: str, topic: str, table: str, count: int, rate: float) -> None:
    "Write one record at a time, each with the moment of its writing."
    db = open_table(Path(table)) if table else None
    async with open_bus(url) as bus:
        sys.stdin.readline()
        start = time.perf_counter()
        for i in range(count):
            await asyncio.sleep(max(start + i / rate - time.perf_counter(), 0))
            moment = b"%d" % time.monotonic_ns()
            if db:
                db.execute("INSERT INTO queue (key, value, headers, at) VALUES ('a', ?, x'', 0)", (moment,))
            else:
                await bus.publish(topic, [Message(moment, key="a")])


async def idle(url: str, topic: str, seconds: float) -> None:
    "Twenty consumers of twenty groups that wait; prints the CPU time that they took together."
    async with open_bus(url) as bus:
        consumers = [bus.subscribe([topic], f"idle-{i}") for i in range(20)]
        for consumer in consumers:
            await consumer.__aenter__()
        print("ready", flush=True)

        async def listen(consumer) -> None:
            while True:
                await consumer.poll()

        began = resource.getrusage(resource.RUSAGE_SELF)
        tasks = [asyncio.create_task(listen(consumer)) for consumer in consumers]
        await asyncio.sleep(seconds)
        ended = resource.getrusage(resource.RUSAGE_SELF)
        print(ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime, flush=True)
        for task in tasks:
            task.cancel()


def start(role: str, *args: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, __file__, role, *map(str, args)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


async def wake_up(url: str, table: Path, count: int, rate: float) -> list[dict]:
    "From just before the write in one process to the record in another."
    ours, peer = [], []
    async with open_bus(url) as bus:
        await bus.create_topic("ticks")
        async with bus.subscribe(["ticks"], "bench") as consumer:
            await consumer.poll(max_wait=0)
            writer = start("tick", url, "ticks", "", count, rate)
            writer.stdin.write("go\n")
            writer.stdin.flush()
            while len(ours) < count:
                batch = await consumer.poll(max_wait=5)
                now = time.monotonic_ns()
                ours += [(now - int(record.value)) / 1e6 for record in batch.records]
            writer.communicate()
    db, offset = open_table(table), 0
    db.execute("DELETE FROM queue")
    writer = start("tick", url, "", table, count, rate)
    writer.stdin.write("go\n")
    writer.stdin.flush()
    while len(peer) < count:
        rows, now = read_table(db, offset), time.monotonic_ns()
        peer += [(now - int(row[2])) / 1e6 for row in rows]
        offset = rows[-1][0] if rows else offset
        if not rows:
            await asyncio.sleep(0.01)  # a table cannot call: its readers look a hundred times a second
    writer.communicate()
    name = f"{PEER}, polled every 10 ms"
    return [
        line(
            f"wake-up at {rate:.0f} records/s across processes, p50",
            "ms",
            statistics.median(ours),
            statistics.median(peer),
            name,
            less_is_better=True,
        ),
        line(
            f"wake-up at {rate:.0f} records/s across processes, p99",
            "ms",
            statistics.quantiles(ours, n=100)[98],
            statistics.quantiles(peer, n=100)[98],
            name,
            less_is_better=True,
        ),
    ]


async def idle_cost(url: str, table: Path, seconds: float) -> list[dict]:
    "CPU time of twenty waiting consumers."
    async with open_bus(url) as bus:
        await bus.create_topic("quiet", TopicSpec(partitions=4))
    process = await asyncio.to_thread(start, "idle", url, "quiet", seconds)
    assert process.stdout.readline() == "ready\n"
    used = float(process.stdout.readline())
    process.communicate()
    db = open_table(table)
    began, cpu = time.monotonic(), time.process_time()
    while time.monotonic() - began < seconds:
        for _ in range(20):
            read_table(db, 1 << 40)
        await asyncio.sleep(0.01)
    peer = time.process_time() - cpu
    return [
        line(
            "20 idle consumers in one process",
            "% of a core",
            100 * used / seconds,
            100 * peer / seconds,
            f"{PEER}, polled every 10 ms",
            less_is_better=True,
        )
    ]


async def bench(count: int) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        url, results = f"embedded://{folder}/bus", []
        for partitions in (1, 8):
            results += await throughput(url, Path(folder, f"queue{partitions}.db"), count, partitions)
        results += await wake_up(url, Path(folder, "ticks.db"), 2_000, 200)
        return results + await idle_cost(url, Path(folder, "ticks.db"), 10)


if __name__ == "__main__":
    if sys.argv[1:2] == ["tick"]:
        asyncio.run(tick(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]), float(sys.argv[6])))
    elif sys.argv[1:2] == ["idle"]:
        asyncio.run(idle(sys.argv[2], sys.argv[3], float(sys.argv[4])))
    else:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--json", type=Path)
        parser.add_argument("--records", type=int, default=300_000)
        options = parser.parse_args()
        results = asyncio.run(bench(options.records))
        for result in results:
            print(json.dumps(result))
        if options.json:
            options.json.write_text(json.dumps(results, indent=1))
