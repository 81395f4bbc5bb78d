"""From a tick to the decision on it, through a real broker: `python tests/bench/bus/kafka_latency.py [--json FILE]
[--seconds N] [--rounds N]`.

A driver writes 200 ticks a second to a topic of 8 partitions; an echo in another process reads each, decodes it and
writes a decision to a second topic, which the driver reads. Ours is the bus (`poll`, `publish`), the peer a bare
aiokafka echo with tuned settings (`getmany`, idempotent `send`, linger 0). In turns; medians of the rounds, as
{work, unit, ours, peer, peer_name, ratio}: a ratio above 1 means that ours is faster.
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

sys.path.insert(0, str(Path(__file__).parents[2]))

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition  # noqa: E402
from servers import url_of  # noqa: E402

from streamforge.bus.base import Message, TopicSpec, open_bus  # noqa: E402

PLACE = os.environ.get("KAFKA_BOOTSTRAP_SERVERS") or url_of("kafka").removeprefix("kafka://")
RATE, WARM, KEYS = 200, 2, [f"MARKET{i}USDT" for i in range(24)]


def decide(value: bytes) -> bytes:
    tick = json.loads(value)
    return json.dumps(
        {"symbol": tick["symbol"], "action": "hold", "price": tick["close"], "sent": tick["sent"]}
    ).encode()


async def echo_ours(ticks: str, decisions: str) -> None:
    async with open_bus(f"kafka://{PLACE}") as bus, bus.subscribe([ticks], ticks) as consumer:
        await bus.publish(decisions, [])
        print("ready", flush=True)
        publishing: set[asyncio.Task] = set()
        async for (
            batch
        ) in consumer.batches():  # as the peer does, the next tick is read before the last decision is acknowledged
            publishing.add(
                asyncio.create_task(
                    bus.publish(decisions, [Message(decide(record.value), key=record.key) for record in batch.records])
                )
            )
            if len(publishing) >= 64:
                await asyncio.wait(publishing, return_when=asyncio.FIRST_COMPLETED)
            publishing -= {task for task in publishing if task.done() and task.result()}


async def echo_aiokafka(ticks: str, decisions: str) -> None:
    consumer = AIOKafkaConsumer(
        ticks, bootstrap_servers=PLACE, group_id=ticks, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    async with (
        consumer,
        AIOKafkaProducer(bootstrap_servers=PLACE, acks="all", enable_idempotence=True, linger_ms=0) as producer,
    ):
        print("ready", flush=True)
        while True:
            for rows in (await consumer.getmany(timeout_ms=1000)).values():
                for row in rows:
                    await producer.send(decisions, decide(row.value), key=row.key)


async def drive(role: str, seconds: float) -> list[float]:
    "Latencies in ms of the ticks after the warm-up; raises where one is lost."
    ticks, decisions = f"ticks-{secrets.token_hex(4)}", f"decisions-{secrets.token_hex(4)}"
    async with open_bus(f"kafka://{PLACE}") as bus:
        await bus.create_topic(ticks, TopicSpec(partitions=8))
        await bus.create_topic(decisions)
        echo = await asyncio.to_thread(
            subprocess.Popen,
            [sys.executable, __file__, "--role", role, ticks, decisions],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert await asyncio.to_thread(echo.stdout.readline) == "ready\n"
        consumer = AIOKafkaConsumer(bootstrap_servers=PLACE, auto_offset_reset="earliest")
        async with consumer, AIOKafkaProducer(bootstrap_servers=PLACE, linger_ms=0) as producer:
            consumer.assign([TopicPartition(decisions, 0)])
            try:
                return await measure(consumer, producer, ticks, seconds)
            finally:
                echo.kill()
                await asyncio.to_thread(echo.wait)
                await bus.delete_topic(ticks)
                await bus.delete_topic(decisions)


async def measure(consumer: AIOKafkaConsumer, producer: AIOKafkaProducer, ticks: str, seconds: float) -> list[float]:
    latencies: dict[int, float] = {}
    count = int(RATE * (WARM + seconds))

    async def collect() -> None:
        while len(latencies) < count:
            for rows in (await consumer.getmany(timeout_ms=1000)).values():
                now = time.monotonic_ns()
                for row in rows:
                    sent = json.loads(row.value)["sent"]
                    latencies[sent] = (now - sent) / 1e6

    collecting, sent = asyncio.create_task(collect()), list[int]()
    start = time.monotonic()
    for i in range(count):
        await asyncio.sleep(max(0.0, start + i / RATE - time.monotonic()))
        sent.append(time.monotonic_ns())
        tick = {
            "symbol": KEYS[i % 24],
            "interval": "1m",
            "open_time": i,
            "open": 1.0,
            "high": 1.0,
            "low": 1.0,
            "close": 1.0 + i,
            "volume": 1.0,
            "sent": sent[-1],
        }
        await producer.send(ticks, json.dumps(tick).encode(), key=KEYS[i % 24].encode())
    await asyncio.wait_for(collecting, 30)
    return [latencies[tick] for tick in sent[RATE * WARM :]]


async def bench(seconds: float, rounds: int) -> list[dict]:
    p50, p99 = {"ours": [], "aiokafka": []}, {"ours": [], "aiokafka": []}
    for i in range(rounds):
        for role in sorted(p50, reverse=bool(i % 2)):
            latencies = await drive(f"echo_{role}", seconds)
            p50[role].append(statistics.median(latencies))
            p99[role].append(statistics.quantiles(latencies, n=100)[98])
            print(f"round {i}, {role}: p50 {p50[role][-1]:.2f} ms, p99 {p99[role][-1]:.2f} ms", file=sys.stderr)
    out = []
    for name, values in (("p50", p50), ("p99", p99)):
        ours, peer = statistics.median(values["ours"]), statistics.median(values["aiokafka"])
        out.append(
            {
                "work": (
                    f"tick to decision at {RATE}/s, 8 partitions, {name}, median of {rounds} rounds of {seconds:g} s"
                ),
                "unit": "ms",
                "ours": round(ours, 2),
                "peer": round(peer, 2),
                "peer_name": "bare aiokafka, getmany + idempotent send, linger 0",
                "ratio": round(peer / ours, 2),
            }
        )
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--role", nargs=3, metavar=("ROLE", "TICKS", "DECISIONS"))
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    if options.role:
        asyncio.run({"echo_ours": echo_ours, "echo_aiokafka": echo_aiokafka}[options.role[0]](*options.role[1:]))
    elif not PLACE:
        sys.exit("no kafka server: `make servers` starts one, or set KAFKA_BOOTSTRAP_SERVERS")
    else:
        results = asyncio.run(bench(options.seconds, options.rounds))
        for result in results:
            print(json.dumps(result))
        if options.json:
            options.json.write_text(json.dumps(results, indent=1))
