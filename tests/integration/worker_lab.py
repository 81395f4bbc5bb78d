"""Real worker processes over a bus and a store in a folder of the test's own."""

import asyncio
import contextlib
import hashlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from streamforge.bus.base import Message, Record, TopicSpec, open_bus
from streamforge.core.samples import candles
from streamforge.core.settings import read_places
from streamforge.core.urls import parse_url
from streamforge.messages.control import Command, Event, decode_event, encode_control
from streamforge.messages.records import Candle, candles_of, encode
from streamforge.store.base import open_store


async def until(condition: Callable[[], Awaitable[object]], timeout: float = 90.0) -> object:
    "Wait for a condition; its value."
    deadline = time.monotonic() + timeout
    while not (value := await condition()):
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.02)
    return value


async def data_command(home: Path, *arguments: str, **env: str) -> tuple[int, str]:
    "`streamforge data ...` in a process: exit code and what it prints."
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "streamforge.cli.main", "data", *arguments, "--home", str(home)),
        env=os.environ | env,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 120)
    return process.returncode or 0, out.decode()


async def data_rows(home: Path, *arguments: str, **env: str) -> tuple[int, list[dict[str, Any]]]:
    "`streamforge data ... --json` in a process: exit code and the rows that it prints."
    code, out = await data_command(home, *arguments, "--json", **env)
    return code, msgspec.json.decode(out)


class WorkerLab:
    "One home folder, or one corner of real servers, and the workers that live in it."

    def __init__(self, home: Path, places: Mapping[str, str] | None = None):
        self.home = home
        self.queue = f"wf-{secrets.token_hex(4)}" if places else "wf-1"
        self.data = f"{self.queue}-data"
        self.control, self.events_topic = (
            f"{self.queue}-{name}" if places else name for name in ("queue-control", "queue-events")
        )
        self.env = {
            "STREAMFORGE_HOME": str(home),
            "QUEUE_ID": self.queue,
            "TELEMETRY_INTERVAL": "0.1",
            **(places or {}),
        }
        if places:
            self.env |= {"QUEUE_CONTROL_TOPIC": self.control, "QUEUE_EVENTS_TOPIC": self.events_topic}
        self.places = read_places(self.env)
        self.started: list[asyncio.subprocess.Process] = []

    async def start(self, target: str, **env: str) -> asyncio.subprocess.Process:
        "A worker process, as a job starts one."
        variables = os.environ | self.env | {"TELEMETRY_PRODUCER_ID": f"{target}__a1b2c3"} | env
        with (self.home / f"{target}-{len(self.started)}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "streamforge.cli.main", "worker", target, env=variables, stdout=log, stderr=log
            )
        self.started.append(process)
        return process

    async def run(self, target: str, timeout: float = 120, **env: str) -> int:
        "A worker's exit code."
        return await asyncio.wait_for((await self.start(target, **env)).wait(), timeout)

    def close(self) -> None:
        for process in self.started:
            if process.returncode is None:
                process.kill()

    @asynccontextmanager
    async def bus(self):
        async with open_bus(self.places.bus_url) as bus:
            yield bus

    async def records(self, topic: str) -> list[Record]:
        "All that lies in a topic, by partition and offset."
        records: list[Record] = []
        async with self.bus() as bus:
            if topic not in await bus.topics():
                return []
            count = sum((await bus.end_offsets(topic)).values()) - sum((await bus.begin_offsets(topic)).values())
            if count:
                async for batch in bus.tail(topic):
                    records += batch.records
                    if len(records) >= count:
                        break
        return sorted(records, key=lambda record: (record.partition, record.offset))

    async def length(self, topic: str) -> int:
        async with self.bus() as bus:
            return sum((await bus.end_offsets(topic)).values()) if topic in await bus.topics() else 0

    async def events(self, *statuses: str) -> list[Event]:
        "Decode the events of the workflow, of these statuses or all."
        return [
            event
            for event in map(decode_event, [record.value for record in await self.records(self.events_topic)])
            if not statuses or event.status in statuses
        ]

    async def command(self, command: str, queue_id: str = "", **more: str) -> None:
        queue = queue_id or self.queue
        async with self.bus() as bus:
            await bus.publish(
                self.control, [Message(encode_control(Command(command=command, queue_id=queue, **more)), queue)]
            )

    async def fill(
        self,
        values: list[tuple[str, bytes]],
        topic: str = "",
        partitions: int = 2,
        producer: str = "loader-producer__a1b2c3",
    ) -> None:
        "Put records (key, value) into a topic and say on behalf of a loader that this is all."
        topic = topic or self.data
        async with self.bus() as bus:
            for name, count in ((topic, partitions), (self.events_topic, 1), (self.control, 1)):
                await bus.create_topic(name, TopicSpec(partitions=count))
            await bus.publish(topic, [Message(value, key) for key, value in values])
            event = Event(
                queue_id=self.queue,
                producer=producer,
                status="finished",
                instance="1",
                seq=0,
                timestamp=0.0,
                finished=True,
                end_offsets={topic: await bus.end_offsets(topic)},
            )
            await bus.publish(self.events_topic, [Message(encode_control(event), self.queue)])

    async def contents(self, collection: str = "candles_1h", topic: str = "") -> dict[str, dict[tuple, bytes]]:
        """Stored rows, enriched rows, the enriched stream with each candle once, and dead letters, each by its
        identity. A stream with two different records of one candle is wrong."""
        topic, parts = topic or self.data, dict[str, dict[tuple, bytes]]()
        async with open_store(self.places.store_url) as store:
            schemas = await store.collections()
            for name in (collection, f"{collection}_enriched"):
                rows = (await store.read(name)).to_pylist() if name in schemas else []
                parts[name] = {
                    tuple(row[column] for column in schemas[name].key): msgspec.json.encode(
                        {k: v for k, v in row.items() if k != "revision"}
                    )
                    for row in rows
                }
        once: dict[tuple, bytes] = {}
        for record in await self.records(f"{topic}-enriched"):
            row = msgspec.json.decode(record.value)
            key = (row["exchange"], row["symbol"], row["interval"], row["open_time"])
            assert once.setdefault(key, record.value) == record.value, f"two different records of {key}"
        parts["stream"] = once
        parts["dead"] = {
            (record.partition, dict(record.headers)["sf.dlq.offset"]): record.value
            for record in await self.records(f"{topic}-dlq")
        }
        return parts

    async def fingerprint(self, collection: str = "candles_1h", topic: str = "") -> dict[str, str]:
        "sha256 of each part of the contents, sorted by identity."
        return {
            name: _digest(part[key] for key in sorted(part))
            for name, part in (await self.contents(collection, topic)).items()
        }

    async def forget(self) -> None:
        "Delete what was left on real servers."
        if self.queue == "wf-1":
            return
        async with self.bus() as bus:
            for topic in [topic for topic in await bus.topics() if topic.startswith(self.queue)]:
                await bus.delete_topic(topic)
        if self.places.store_url.startswith("postgresql"):
            _on_database("dropdb", self.places.store_url, "--force", "--if-exists")


@contextlib.contextmanager
def real_places(home: Path, kafka: str, postgresql: str):
    "Environment variables of a worker lab on this broker, with a database of its own."
    place, _, query = postgresql.partition("?")
    url = f"{place.rpartition('/')[0]}/t{secrets.token_hex(5)}?{query}"
    _on_database("createdb", url)
    yield {"STREAMFORGE_BUS_URL": kafka, "STREAMFORGE_STORE_URL": url}
    _on_database("dropdb", url, "--force", "--if-exists")


def _on_database(program: str, url: str, *options: str) -> None:
    "PostgreSQL's own programs, for what a store does not do."
    address = parse_url(url, {})
    host, port = address.hosts[0].split(":")
    env = os.environ | {"PGPASSWORD": address.password({}, "POSTGRES_PASSWORD")}
    subprocess.run(
        [program, "-h", host, "-p", port, "-U", address.user, *options, address.path],
        env=env,
        check=True,
        capture_output=True,
        timeout=30,
    )


def _digest(parts) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(part + b"\n")
    return total.hexdigest()


def sample_candles(
    symbols: tuple[str, ...] = ("BTCUSDT", "ETHUSDT"), time_range: str = "2021-05-01:2021-05-30"
) -> list[Candle]:
    "Real candles of some markets, as they would have come live."
    rows = [
        candle
        for s in symbols
        for candle in candles_of({k: v.to_numpy() for k, v in candles(s, time_range).items()}, s, "1h", 3_600_000)
    ]
    return sorted(rows, key=lambda row: row.open_time)


def bad_values(good: bytes) -> Mapping[str, bytes]:
    "Every way in which a record can be wrong."
    return {
        "broken JSON": good[:-9],
        "NaN": good.replace(b'"volume":', b'"volume":NaN,"was":'),
        "invalid UTF-8": b"\xff\xfe" + good,
        "empty": b"",
        "unknown schema": b'{"e": "depthUpdate", "E": 1, "s": "BTCUSDT"}',
        "impossible": good.replace(b'"low":', b'"low":1e9,"was":'),
    }


def stream_with_nonsense(rows: list[Candle], every: int = 60) -> list[tuple[str, bytes]]:
    "Records of these candles, with a bad one now and then, and some twice."
    values = [(row.symbol, encode(row)) for row in rows]
    bad = list(bad_values(values[0][1]).values())
    for n in range(len(values) // every, 0, -1):
        values.insert(n * every, (values[n * every][0], bad[n % len(bad)]))
    return values + values[100:140]
