"""Kafka to SQLite beside its peers: `python tests/bench/bus/kafka_sink.py [--json FILE] [--records N] [--rounds N]
[--peers FOLDER]`.

100,000 JSON candles of 24 symbols in 8 partitions: read, decode, upsert in one transaction per batch, commit the
offsets after it. Ours is the real connector (INDICATORS=none) through `serve`, on the same broker in the same run;
each variant has a process of its own, the order alternates, the median of the rounds counts. First from a filled
topic (from the first row to the last commit), then with a loader publishing beside it (from the first publish to
the last commit; each is fed by a process of its own kind: ours by our bus, a peer by its own producer, as its users
would). Peers decode with what they bring (FastStream: pydantic models; Quix Streams: its JSON; confluent-kafka and
aiokafka: orjson) and write with executemany into a table of the same columns. A peer that cannot be imported is
left out with a note. KAFKA_URL or the servers of `make servers`.
"""

import argparse
import asyncio
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from operator import itemgetter
from pathlib import Path

BATCH = 10_000  # records that a sink asks for at once: the connector's default, and the same for all
MOST = 330  # seconds of measuring: no round begins that would end later
FIELDS = [
    "symbol",
    "interval",
    "open_time",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "close_time",
    "quote_asset_volume",
    "number_of_trades",
    "taker_buy_base_asset_volume",
    "taker_buy_quote_asset_volume",
]
TEXT, WHOLE = ("symbol", "interval"), ("open_time", "close_time", "number_of_trades")
SYMBOLS = [
    f"{name}USDT"
    for name in [
        "BTC",
        "ETH",
        "BNB",
        "SOL",
        "XRP",
        "ADA",
        "DOGE",
        "TRX",
        "DOT",
        "LTC",
        "LINK",
        "AVAX",
        "UNI",
        "ATOM",
        "XLM",
        "ETC",
        "FIL",
        "APT",
        "ARB",
        "OP",
        "NEAR",
        "INJ",
        "SUI",
        "PEPE",
    ]
]
PEERS = {"faststream": "faststream", "quix": "quixstreams", "confluent": "confluent_kafka", "aiokafka": "aiokafka"}


def values(count: int) -> list[tuple[str, bytes]]:
    "Keys and records."
    messages, start = [], 1_700_000_000_000
    for n in range(count):
        opened, price, volume = start + n // 24 * 60_000, round(100 + n % 997 * 0.01, 2), round(1 + n % 89 * 0.25, 2)
        row = (
            SYMBOLS[n % 24],
            "1m",
            opened,
            price,
            price + 1,
            price - 1,
            round(price + 0.5, 2),
            volume,
            opened + 59_999,
            round(volume * price, 2),
            n % 1523,
            volume / 2,
            round(volume * price / 2, 2),
        )
        messages.append(
            (SYMBOLS[n % 24], json.dumps(dict(zip(FIELDS, row, strict=True)), separators=(",", ":")).encode())
        )
    return messages


def database(path: str) -> sqlite3.Connection:
    "The peers' table, as they would make it."
    kinds = dict.fromkeys(TEXT, "TEXT") | dict.fromkeys(WHOLE, "INTEGER")
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=NORMAL")
    db.execute(
        f"CREATE TABLE candles_1m ({', '.join(field + ' ' + kinds.get(field, 'REAL') for field in FIELDS)}, "
        "PRIMARY KEY (symbol, interval, open_time)) WITHOUT ROWID"
    )
    return db


UPSERT = f"INSERT INTO candles_1m VALUES ({','.join('?' * len(FIELDS))}) ON CONFLICT DO UPDATE SET " + ", ".join(
    f"{field}=excluded.{field}" for field in FIELDS[3:]
)


def upsert(db: sqlite3.Connection, rows: list) -> None:
    "One transaction."
    db.execute("BEGIN")
    db.executemany(UPSERT, rows)
    db.execute("COMMIT")


class Clock:
    "When the first record came and the last was committed."

    def __init__(self, count: int):
        self.count, self.seen, self.first, self.end = count, 0, 0.0, 0.0

    def mark(self, n: int) -> None:
        self.first = self.first or time.time()
        self.seen += n

    @property
    def done(self) -> bool:
        return self.seen >= self.count


async def ours(broker: str, topic: str, home: str, clock: Clock) -> None:
    "The connector."
    import gc
    import logging

    import structlog

    from streamforge.workers.runtime.context import Context
    from streamforge.workers.runtime.worker import serve

    gc.set_threshold(50_000, 20, 50)  # as a worker's process does
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    env = {
        "QUEUE_ID": f"wf-{topic}",
        "TELEMETRY_PRODUCER_ID": "arango-connector__a",
        "TYPE": "api_candles_1m",
        "KAFKA_TOPIC": topic,
        "INDICATORS": "none",
        "STREAMFORGE_HOME": home,
    }
    env |= {
        "STREAMFORGE_BUS_URL": f"kafka://{broker}",
        "STREAMFORGE_STORE_URL": f"sqlite:///{home}/store.db",
        "GROUP_ID": f"g-{uuid.uuid4().hex[:8]}",
        "QUEUE_EVENTS_TOPIC": f"{topic}-events",
        "QUEUE_CONTROL_TOPIC": f"{topic}-control",
    }

    def begun(ctx: Context) -> None:
        count = ctx.count

        def counted(what: str, n: int) -> None:
            count(what, n)
            if what == "consumed":
                clock.first = clock.first or time.time()

        def progress(records: int = 0, message: str = "", **extra: object) -> None:  # called after each commit
            clock.seen += records
            if clock.done:
                clock.end = time.time()
                ctx.stop("stop")

        ctx.count, ctx.progress = counted, progress  # type: ignore[method-assign]

    assert await serve("arango-connector", env, begun=begun) == 0


async def aiokafka(broker: str, topic: str, home: str, clock: Clock) -> None:
    from aiokafka import AIOKafkaConsumer
    from orjson import loads

    db, row = database(f"{home}/store.db"), itemgetter(*FIELDS)
    async with AIOKafkaConsumer(
        topic,
        bootstrap_servers=broker,
        group_id=f"g-{uuid.uuid4().hex[:8]}",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    ) as consumer:
        while not clock.done:
            batches = await consumer.getmany(timeout_ms=200, max_records=BATCH)
            if rows := [row(loads(record.value)) for part in batches.values() for record in part]:
                clock.mark(len(rows))
                upsert(db, rows)
                await consumer.commit()
        clock.end = time.time()


async def faststream(broker: str, topic: str, home: str, clock: Clock) -> None:
    from faststream import AckPolicy, FastStream
    from faststream.kafka import KafkaBroker, KafkaMessage
    from pydantic import create_model

    candle = create_model(
        "Candle", **{field: (str if field in TEXT else int if field in WHOLE else float, ...) for field in FIELDS}
    )
    db, kafka = database(f"{home}/store.db"), KafkaBroker(broker, logger=None)
    app = FastStream(kafka, logger=None)

    async def sink(candles: list[candle], msg: KafkaMessage):  # type: ignore[valid-type]
        clock.mark(len(candles))
        upsert(db, [tuple(getattr(candle, name) for name in FIELDS) for candle in candles])
        await msg.ack()
        if clock.done:
            clock.end = time.time()
            app.exit()

    kafka.subscriber(
        topic,
        batch=True,
        group_id=f"g-{uuid.uuid4().hex[:8]}",
        auto_offset_reset="earliest",
        ack_policy=AckPolicy.MANUAL,
        max_records=BATCH,
    )(sink)
    await app.run()


def quix(broker: str, topic: str, home: str, clock: Clock) -> None:
    from quixstreams import Application
    from quixstreams.sinks import BatchingSink

    db, row = database(f"{home}/store.db"), itemgetter(*FIELDS)

    class Sqlite(BatchingSink):
        def write(self, batch):
            for chunk in batch.iter_chunks(BATCH):
                upsert(db, [row(record.value) for record in chunk])

    app = Application(
        broker_address=broker,
        consumer_group=f"g-{uuid.uuid4().hex[:8]}",
        auto_offset_reset="earliest",
        loglevel="ERROR",
        auto_create_topics=False,
        commit_every=BATCH,
        state_dir=home,
        on_message_processed=lambda *a: clock.mark(1),
    )
    app.dataframe(app.topic(topic, key_deserializer="str", value_deserializer="json")).sink(Sqlite())
    app.run(count=clock.count)
    clock.end = time.time()


def confluent(broker: str, topic: str, home: str, clock: Clock) -> None:
    from confluent_kafka import Consumer
    from orjson import loads

    db, row = database(f"{home}/store.db"), itemgetter(*FIELDS)
    consumer = Consumer(
        {
            "bootstrap.servers": broker,
            "group.id": f"g-{uuid.uuid4().hex[:8]}",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([topic])
    while not clock.done:
        if rows := [row(loads(record.value())) for record in consumer.consume(BATCH, 0.2) if not record.error()]:
            clock.mark(len(rows))
            upsert(db, rows)
            consumer.commit(asynchronous=False)
    clock.end = time.time()
    consumer.close()


VARIANTS = {"ours": ours, "faststream": faststream, "quix": quix, "confluent": confluent, "aiokafka": aiokafka}


def variant(name: str, broker: str, topic: str, count: int) -> None:
    "One sink, as a process: its times as the last line."
    clock = Clock(count)
    with tempfile.TemporaryDirectory() as home:
        running = VARIANTS[name](broker, topic, home, clock)
        if running is not None:
            asyncio.run(running)
        stored = sqlite3.connect(f"{home}/store.db").execute("SELECT count(*) FROM candles_1m").fetchone()[0]
    assert stored == count, f"expected {count} rows, found {stored}"
    sys.stdout.write("\n" + json.dumps({"first": clock.first, "end": clock.end}) + "\n")


async def fill(broker: str, topic: str, count: int) -> float:
    "Publish all through our bus; when it began."
    from streamforge.bus.base import Message, TopicSpec, open_bus

    messages = [Message(value, key) for key, value in values(count)]
    async with open_bus(f"kafka://{broker}") as bus:
        if topic not in await bus.topics():
            await bus.create_topic(topic, TopicSpec(partitions=8))
        began = time.time()
        for n in range(0, count, BATCH):
            await bus.publish(topic, messages[n : n + BATCH])
    return began


async def feed_aiokafka(broker: str, topic: str, records: list) -> None:
    from aiokafka import AIOKafkaProducer

    async with AIOKafkaProducer(bootstrap_servers=broker, linger_ms=5) as producer:
        for key, value in records:
            sent = await producer.send(topic, value, key=key.encode())
        await producer.flush()
        await sent


async def feed_faststream(broker: str, topic: str, records: list) -> None:
    from faststream.kafka import KafkaBroker

    async with KafkaBroker(broker, logger=None, linger_ms=5) as kafka:
        for key, value in records:
            await kafka.publish(value, topic, key=key.encode(), no_confirm=True)


async def feed_confluent(broker: str, topic: str, records: list) -> None:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": broker, "linger.ms": 5, "queue.buffering.max.messages": 1_000_000})
    for key, value in records:
        producer.produce(topic, value, key)
        producer.poll(0)
    producer.flush()


async def feed_quix(broker: str, topic: str, records: list) -> None:
    from quixstreams import Application

    with Application(broker_address=broker, loglevel="ERROR", auto_create_topics=False).get_producer() as producer:
        for key, value in records:
            producer.produce(topic, value, key)


FEEDS = {"faststream": feed_faststream, "quix": feed_quix, "confluent": feed_confluent, "aiokafka": feed_aiokafka}


def feed(name: str, broker: str, topic: str, count: int) -> None:
    "Publish all as this one's users would, as a process: when it began as the last line."
    if name == "ours":
        began = asyncio.run(fill(broker, topic, count))
    else:
        records = values(count)
        began = time.time()
        asyncio.run(FEEDS[name](broker, topic, records))
    sys.stdout.write("\n" + json.dumps({"first": began}) + "\n")


async def tidy(broker: str, names: list[str]) -> None:
    from streamforge.bus.base import open_bus

    async with open_bus(f"kafka://{broker}") as bus:
        for topic in set(await bus.topics()) & {
            f"{name}{ending}" for name in names for ending in ("", "-events", "-control", "-dlq")
        }:
            await bus.delete_topic(topic)


def start(name: str, broker: str, topic: str, count: int, peers: str, part: str = "--variant") -> subprocess.Popen:
    path = os.pathsep.join(
        folder for folder in (os.environ.get("PYTHONPATH", ""), peers if name in PEERS else "") if folder
    )
    return subprocess.Popen(
        [sys.executable, __file__, part, name, "--broker", broker, "--topic", topic, "--records", str(count)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )


def times(process: subprocess.Popen, name: str) -> dict:
    out, _ = process.communicate(timeout=300)
    lines = [line for line in out.splitlines() if line.startswith('{"first"')]
    if process.returncode or not lines:
        raise SystemExit(f"{name} ended with {process.returncode}: {out[-800:]}")
    return json.loads(lines[-1])


def say(number: int, name: str, how: str, rate: float) -> None:
    sys.stdout.write(f"round {number + 1}: {name:10} {how:15} {rate:10,.0f} records/s\n")
    sys.stdout.flush()


def measure(broker: str, names: list[str], count: int, rounds: int, peers: str) -> dict[str, dict[str, list[float]]]:
    "records/s of each variant: consumer alone, and beside a loader."
    rates: dict[str, dict[str, list[float]]] = {
        "alone": {name: [] for name in names},
        "beside": {name: [] for name in names},
    }
    shared, used = f"sink-{uuid.uuid4().hex[:8]}", []
    try:
        used.append(shared)
        asyncio.run(fill(broker, shared, count))
        begun, longest = time.monotonic(), 0.0
        for number in range(rounds):
            turn = time.monotonic()
            if turn - begun + longest > MOST:
                sys.stdout.write(f"after {number} rounds: another one would not end within {MOST} s\n")
                break
            for name in names if number % 2 == 0 else names[::-1]:
                marks = times(start(name, broker, shared, count, peers), name)
                rates["alone"][name].append(count / (marks["end"] - marks["first"]))
                say(number, name, "alone", rates["alone"][name][-1])
            for name in names if number % 2 == 0 else names[::-1]:
                used.append(f"sink-{uuid.uuid4().hex[:8]}")
                asyncio.run(fill(broker, used[-1], 0))
                sink = start(name, broker, used[-1], count, peers)
                time.sleep(6)  # joins its group: until then there is nothing to wait for
                began = times(start(name, broker, used[-1], count, peers, "--feed"), name)["first"]
                rates["beside"][name].append(count / (times(sink, name)["end"] - began))
                say(number, name, "beside a loader", rates["beside"][name][-1])
            longest = max(longest, time.monotonic() - turn)
    finally:
        asyncio.run(tidy(broker, used))
    return rates


def importable(module: str, peers: str) -> bool:
    path = os.pathsep.join(folder for folder in (os.environ.get("PYTHONPATH", ""), peers) if folder)
    return (
        subprocess.run(
            [sys.executable, "-c", f"import {module}"], env=os.environ | {"PYTHONPATH": path}, capture_output=True
        ).returncode
        == 0
    )


def broker_of() -> str:
    "host:port of a plain broker."
    urls = Path(__file__).parents[3] / ".servers" / "urls"
    servers = dict(line.split(" ", 1) for line in urls.read_text().splitlines()) if urls.exists() else {}
    url = os.environ.get("KAFKA_URL") or servers.get("kafka", "")
    if not url:
        raise SystemExit("expected KAFKA_URL or running servers, found neither: run `make servers`")
    return url.removeprefix("kafka://")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default=os.environ.get("PEERS", ""), help="folder with the peers' packages")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    parser.add_argument("--feed", help=argparse.SUPPRESS)
    parser.add_argument("--broker", default="")
    parser.add_argument("--topic", default="")
    asked = parser.parse_args()
    if asked.variant:
        variant(asked.variant, asked.broker, asked.topic, asked.records)
        sys.exit()
    if asked.feed:
        feed(asked.feed, asked.broker, asked.topic, asked.records)
        sys.exit()
    broker = asked.broker or broker_of()
    names = ["ours"] + [name for name, module in PEERS.items() if importable(module, asked.peers)]
    for name in PEERS.keys() - set(names):
        sys.stdout.write(f"left out: {name} cannot be imported (--peers FOLDER)\n")
    rates, lines = measure(broker, names, asked.records, asked.rounds, asked.peers), []
    for how, work in (("alone", "Kafka to SQLite, consumer alone"), ("beside", "Kafka to SQLite, loader beside it")):
        mid = {name: statistics.median(seconds) for name, seconds in rates[how].items()}
        lines += [
            {
                "work": f"{work}, {asked.records:,} candles",
                "unit": "records/s",
                "ours": round(mid["ours"]),
                "peer": round(mid[name]),
                "peer_name": name,
                "ratio": round(mid["ours"] / mid[name], 2),
            }
            for name in names[1:]
        ]
    for line in lines:
        sys.stdout.write(json.dumps(line) + "\n")
    if asked.json:
        asked.json.write_text(json.dumps(lines, indent=2))
