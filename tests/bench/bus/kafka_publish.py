"""Publishing and reading on a real broker beside bare clients: `python tests/bench/bus/kafka_publish.py [--json
FILE] [--records N] [--peers DIR]`.

Every variant runs in a process of its own, on a topic of its own, in turns; the medians are written as {work, unit,
ours, peer, peer_name, ratio}, a ratio above 1 means that ours is better. The broker is the one of `make servers`,
or KAFKA_BOOTSTRAP_SERVERS. Peers that cannot be imported are left out with a note; --peers (or PEERS) names a
folder to find them in.
"""

import argparse
import asyncio
import json
import logging
import os
import secrets
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2])] + [part for part in os.environ.get("PEERS", "").split(":") if part]

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition  # noqa: E402
from servers import url_of  # noqa: E402

from streamforge.bus.base import Message, TopicSpec, open_bus  # noqa: E402

PLACE = os.environ.get("KAFKA_BOOTSTRAP_SERVERS") or url_of("kafka").removeprefix("kafka://")
KEYS, PARTITIONS, BATCH = [f"MARKET{i}USDT" for i in range(24)], 8, 5_000
VALUE = b"x" * 284  # a candle as compact JSON


async def publish_ours(topic: str, count: int) -> float:
    messages = [Message(VALUE, key=KEYS[i % 24]) for i in range(BATCH)]
    async with open_bus(f"kafka://{PLACE}") as bus:
        await bus.publish(topic, messages[:1])
        began = time.perf_counter()
        pending: set[asyncio.Task] = set()
        for _ in range(count // BATCH):  # four batches under way, as a loader has that reads ahead
            pending.add(asyncio.create_task(bus.publish(topic, messages)))
            if len(pending) == 4:
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.gather(*pending)
        return count / (time.perf_counter() - began)


async def publish_aiokafka(topic: str, count: int) -> float:
    async with AIOKafkaProducer(bootstrap_servers=PLACE, acks="all", enable_idempotence=True) as producer:
        await producer.send_and_wait(topic, b"", key=b"warm")
        began = time.perf_counter()
        for i in range(count):
            await producer.send(topic, VALUE, key=KEYS[i % 24].encode())
        await producer.flush()
        return count / (time.perf_counter() - began)


async def publish_confluent(topic: str, count: int) -> float:
    from confluent_kafka import Producer

    failed: list[object] = []
    producer = Producer(
        {
            "bootstrap.servers": PLACE,
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "linger.ms": 20,
            "batch.size": 256 * 1024,
        }
    )
    producer.produce(topic, b"", b"warm")
    producer.flush()
    began = time.perf_counter()
    for i in range(count):
        while True:
            try:
                producer.produce(
                    topic, VALUE, KEYS[i % 24], on_delivery=lambda error, _: failed.append(error) if error else None
                )
                break
            except BufferError:
                producer.poll(0.05)
        if i % 1000 == 0:
            producer.poll(0)
    producer.flush()
    assert not failed, failed[0]
    return count / (time.perf_counter() - began)


async def read_ours(topic: str, count: int) -> float:
    async with open_bus(f"kafka://{PLACE}") as bus, bus.subscribe([topic], topic) as consumer:
        began, seen = time.perf_counter(), 0
        while seen < count:
            batch = await consumer.poll(max_records=BATCH, max_wait=1)
            seen += len(batch.records)
            await consumer.commit(batch.end_offsets)
        return count / (time.perf_counter() - began)


async def read_aiokafka(topic: str, count: int) -> float:
    async with AIOKafkaConsumer(
        topic, bootstrap_servers=PLACE, group_id=f"{topic}-peer", auto_offset_reset="earliest", enable_auto_commit=False
    ) as consumer:
        began, seen = time.perf_counter(), 0
        while seen < count:
            batches = await consumer.getmany(timeout_ms=1000, max_records=BATCH)
            seen += sum(len(value) for value in batches.values())
            await consumer.commit(
                {pair: rows[-1].offset + 1 for pair, rows in batches.items()} or {TopicPartition(topic, 0): 0}
            )
        return count / (time.perf_counter() - began)


async def read_confluent(topic: str, count: int) -> float:
    from confluent_kafka import Consumer

    consumer = Consumer(
        {
            "bootstrap.servers": PLACE,
            "group.id": f"{topic}-librdkafka",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([topic])
    first = consumer.consume(1, 30)
    began, seen = time.perf_counter(), len(first)
    while seen < count:
        rows = [
            (record.topic(), record.partition(), record.offset(), record.key(), record.value(), record.timestamp())
            for record in consumer.consume(BATCH, 1)
        ]
        seen += len(rows)
        if rows:
            consumer.commit(asynchronous=False)
    consumer.close()
    return count / (time.perf_counter() - began)


ROLES = {
    role.__name__: role
    for role in (publish_ours, publish_aiokafka, publish_confluent, read_ours, read_aiokafka, read_confluent)
}


def child(role: str, topic: str, count: int) -> float:
    "One variant in a fresh process."
    done = subprocess.run(
        [sys.executable, __file__, "--role", role, topic, str(count)], capture_output=True, text=True, timeout=600
    )
    if done.returncode:
        raise SystemExit(f"{role} failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def importable(name: str) -> bool:
    importable_here = (
        subprocess.run(
            [sys.executable, "-c", f"import {name}"],
            env=os.environ | {"PYTHONPATH": os.environ.get("PEERS", "")},
            capture_output=True,
        ).returncode
        == 0
    )
    if not importable_here:
        print(f"{name} cannot be imported and is left out; --peers names the folder where it is", file=sys.stderr)
    return importable_here


async def bench(count: int, rounds: int) -> list[dict]:
    peers = ["aiokafka"] + ["confluent"] * importable("confluent_kafka")
    rates: dict[str, list[float]] = {}
    async with open_bus(f"kafka://{PLACE}") as bus:
        for _ in range(rounds):
            for name in ["ours", *peers]:
                topic = f"bench-{secrets.token_hex(4)}"
                await bus.create_topic(topic, TopicSpec(partitions=PARTITIONS))
                rates.setdefault(f"publish_{name}", []).append(
                    await asyncio.to_thread(child, f"publish_{name}", topic, count)
                )
                if name == "ours":
                    for reader in ["ours", *peers]:
                        rates.setdefault(f"read_{reader}", []).append(
                            await asyncio.to_thread(child, f"read_{reader}", topic, count)
                        )
                await bus.delete_topic(topic)
    out = []
    names = {
        "aiokafka": ("aiokafka `send`, idempotent", "aiokafka getmany + commit"),
        "confluent": ("confluent-kafka produce, linger 20, 256 KiB", "confluent-kafka consume(5000) + commit"),
    }
    for i, (what, work) in enumerate(
        (("publish", "publish, acks=all, idempotent"), ("read", "read as records and commit every batch"))
    ):
        for peer in peers:
            ours, theirs = (statistics.median(rates[f"{what}_{role}"]) for role in ("ours", peer))
            out.append(
                {
                    "work": f"{work}: {count:,} records of 284 bytes, 24 keys, 8 partitions",
                    "unit": "records/s",
                    "ours": round(ours),
                    "peer": round(theirs),
                    "peer_name": names[peer][i],
                    "ratio": round(ours / theirs, 2),
                }
            )
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default=os.environ.get("PEERS", ""))
    parser.add_argument("--role", nargs=3, metavar=("ROLE", "TOPIC", "RECORDS"))
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    if options.role:
        print(asyncio.run(ROLES[options.role[0]](options.role[1], int(options.role[2]))))
    elif not PLACE:
        sys.exit("no kafka server: `make servers` starts one, or set KAFKA_BOOTSTRAP_SERVERS")
    else:
        os.environ["PEERS"] = options.peers
        results = asyncio.run(bench(options.records, options.rounds))
        for result in results:
            print(json.dumps(result))
        if options.json:
            options.json.write_text(json.dumps(results, indent=1))
