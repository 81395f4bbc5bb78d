"""Real worker processes over a bus and a store in a folder of the test's own."""

import asyncio
import hashlib
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from streamforge.bus.base import Message, Record, TopicSpec, open_bus
from streamforge.core.samples import candles
from streamforge.core.settings import read_places
from streamforge.messages.control import Command, Event, decode_event, encode_control
from streamforge.messages.records import Candle, candles_of, encode
from streamforge.store.base import open_store


async def until(condition: Callable[[], Awaitable[object]], timeout: float = 30.0) -> object:
    "Wait for a condition; its value."
    deadline = time.monotonic() + timeout
    while not (value := await condition()):
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.02)
    return value


class House:
    "One home folder, and the workers that live in it."

    def __init__(self, home: Path):
        self.home = home
        self.env = {"STREAMFORGE_HOME": str(home), "QUEUE_ID": "wf-1", "TELEMETRY_INTERVAL": "0.1"}
        self.places = read_places(self.env)
        self.started: list[asyncio.subprocess.Process] = []

    async def start(self, target: str, **env: str) -> asyncio.subprocess.Process:
        "A worker process, as a job starts one."
        told = os.environ | self.env | {"TELEMETRY_PRODUCER_ID": f"{target}__a1b2c3"} | env
        with (self.home / f"{target}-{len(self.started)}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "streamforge.cli.main", "worker", target, env=told, stdout=log, stderr=log
            )
        self.started.append(process)
        return process

    async def run(self, target: str, timeout: float = 60, **env: str) -> int:
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
        found: list[Record] = []
        async with self.bus() as bus:
            if topic not in await bus.topics():
                return []
            count = sum((await bus.end_offsets(topic)).values()) - sum((await bus.begin_offsets(topic)).values())
            if count:
                async for batch in bus.tail(topic):
                    found += batch.records
                    if len(found) >= count:
                        break
        return sorted(found, key=lambda o: (o.partition, o.offset))

    async def length(self, topic: str) -> int:
        async with self.bus() as bus:
            return sum((await bus.end_offsets(topic)).values()) if topic in await bus.topics() else 0

    async def events(self, *statuses: str) -> list[Event]:
        "What was said, of these kinds or all."
        return [o for o in map(decode_event, [o.value for o in await self.records("queue-events")]) if not statuses or o.status in statuses]

    async def command(self, command: str, queue_id: str = "wf-1", **more: str) -> None:
        async with self.bus() as bus:
            await bus.publish("queue-control", [Message(encode_control(Command(command=command, queue_id=queue_id, **more)), queue_id)])

    async def fill(self, values: list[tuple[str, bytes]], topic: str = "wf-1-data", partitions: int = 2, producer: str = "loader-producer__a1b2c3") -> None:
        "Put records (key, value) into a topic and say on behalf of a loader that this is all."
        async with self.bus() as bus:
            for name, count in ((topic, partitions), ("queue-events", 1), ("queue-control", 1)):
                await bus.create_topic(name, TopicSpec(partitions=count))
            await bus.publish(topic, [Message(value, key) for key, value in values])
            event = Event(queue_id="wf-1", producer=producer, status="finished", instance="1", seq=0, timestamp=0.0, finished=True, end_offsets={topic: await bus.end_offsets(topic)})
            await bus.publish("queue-events", [Message(encode_control(event), "wf-1")])

    async def fingerprint(self, collection: str = "candles_1h", topic: str = "wf-1-data") -> dict[str, str]:
        "sha256 of stored rows, of enriched rows, of the enriched stream with each candle once, and of the dead letters."
        prints: dict[str, str] = {}
        async with open_store(self.places.store_url) as store:
            for name in (collection, f"{collection}_enriched"):
                prints[name] = _digest(map(msgspec.json.encode, (await store.read(name)).to_pylist()))
        once: dict[tuple, bytes] = {}
        for record in await self.records(f"{topic}-enriched"):
            row = msgspec.json.decode(record.value)
            key = (row["symbol"], row["interval"], row["open_time"])
            assert once.setdefault(key, record.value) == record.value, f"two truths about {key}"
        prints["stream"] = _digest(once[key] for key in sorted(once))
        prints["dead"] = _digest(sorted({dict(o.headers)["sf.dlq.offset"] + o.value for o in await self.records(f"{topic}-dlq")}))
        return prints


def _digest(parts) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(part + b"\n")
    return total.hexdigest()


def sample_candles(symbols: tuple[str, ...] = ("BTCUSDT", "ETHUSDT"), time_range: str = "2021-05-01:2021-05-30") -> list[Candle]:
    "Real candles of some markets, as they would have come live."
    rows = [o for s in symbols for o in candles_of({k: v.to_numpy() for k, v in candles(s, time_range).items()}, s, "1h", 3_600_000)]
    return sorted(rows, key=lambda o: o.open_time)


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
    values = [(o.symbol, encode(o)) for o in rows]
    bad = list(bad_values(values[0][1]).values())
    for n in range(len(values) // every, 0, -1):
        values.insert(n * every, (values[n * every][0], bad[n % len(bad)]))
    return values + values[100:140]
