"What every bus must do. Written against the port alone: it knows no adapter."

import asyncio
import hashlib
import signal
import subprocess
import sys
import time
from collections import defaultdict

import pytest

from streamforge.bus.base import Message, TopicSpec, open_bus
from streamforge.core.errors import BadName, BadRecord, BadSetting, BusError, Conflict, NotOwner, UnknownTopic
from streamforge.core.times import now_ms

DEADLINE = 60  # seconds; waiting ends much earlier when the bus does what it should


@pytest.fixture
async def bus(bus_url):
    async with open_bus(bus_url) as opened:
        yield opened


@pytest.fixture
async def topic(bus, fresh):
    "A topic of four partitions."
    await bus.create_topic(fresh, TopicSpec(partitions=4))
    yield fresh
    if fresh in await bus.topics():
        await bus.delete_topic(fresh)


@pytest.fixture
def short_session(bus_url) -> tuple[str, float]:
    "The bus with a short session time-out, and that time; brokers refuse less than six seconds."
    seconds = 1.0 if bus_url.startswith("embedded") else 6.0
    return f"{bus_url}{'&' if '?' in bus_url else '?'}session_timeout={seconds}", seconds


def numbered(count: int, keys: int = 20, start: int = 0) -> list[Message]:
    return [Message(b"%d" % i, key=f"MARKET{i % keys}") for i in range(start, start + count)]


def values(records) -> list[int]:
    return [int(record.value) for record in records]


async def drain(subscription, count: int) -> list:
    "Poll until `count` records came."
    records, deadline = [], time.monotonic() + DEADLINE
    while len(records) < count:
        assert time.monotonic() < deadline, f"{len(records)} of {count} records"
        records += (await subscription.poll(max_wait=0.2)).records
    return records


async def settle(*consumers, total: int) -> None:
    "Poll in turn until the consumers share all partitions evenly."
    deadline = time.monotonic() + DEADLINE
    while sorted(len(consumer.assignment()) for consumer in consumers) != sorted(
        (total + i) // len(consumers) for i in range(len(consumers))
    ):
        assert time.monotonic() < deadline, [consumer.assignment() for consumer in consumers]
        for consumer in consumers:
            batch = await consumer.poll(max_wait=0.05)
            await consumer.commit(batch.end_offsets)


async def everything(bus, topic: str, count: int) -> list:
    "All records of a topic, by a tail."
    view, records = bus.tail(topic, max_wait=0.2), []
    try:
        async with asyncio.timeout(DEADLINE):
            while len(records) < count:
                records += (await anext(view)).records
    finally:
        await view.aclose()
    return records


HEAD = (
    "import asyncio, sys\nfrom streamforge.bus.base import *\nfrom streamforge.core.logs import setup\n"
    "setup('test', stream=sys.stderr)"
)


def program(source: str, *args: str) -> subprocess.Popen:
    "Another process that runs `async def main(url, topic, ...)`."
    text = f"{HEAD}\n{source}\nasyncio.run(main(*sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", text, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


async def line(process: subprocess.Popen) -> str:
    async with asyncio.timeout(DEADLINE):
        return (await asyncio.to_thread(process.stdout.readline)).strip()


def end(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()


async def test_topics(bus, fresh):
    spec = TopicSpec(partitions=3, retention_ms=86_400_000)
    await bus.create_topic(fresh, spec)
    await bus.create_topic(fresh, spec)
    assert (await bus.topics())[fresh] == spec
    with pytest.raises(Conflict):
        await bus.create_topic(fresh, TopicSpec(partitions=4))
    with pytest.raises(BadName):
        await bus.create_topic("../etc")
    with pytest.raises(BadSetting):
        await bus.create_topic(f"{fresh}-none", TopicSpec(partitions=0))
    await bus.delete_topic(fresh)
    assert fresh not in await bus.topics()


async def test_unknown_topic(bus, fresh):
    for wrong in (
        bus.publish(fresh, [Message(b"")]),
        bus.delete_topic(fresh),
        bus.end_offsets(fresh),
        bus.begin_offsets(fresh),
        bus.committed("g", fresh),
    ):
        with pytest.raises(UnknownTopic):
            await wrong
    with pytest.raises(UnknownTopic):
        async with bus.subscribe([fresh], "g"):
            pass
    with pytest.raises(UnknownTopic):
        await anext(bus.tail(fresh))


async def test_deleted_topic_is_forgotten(bus, topic):
    await bus.publish(topic, numbered(100))
    async with bus.subscribe([topic], topic) as consumer:
        records = await drain(consumer, 100)
        await consumer.commit({(topic, record.partition): record.offset + 1 for record in records})
    await bus.delete_topic(topic)
    with pytest.raises(UnknownTopic):
        await bus.publish(topic, numbered(1))
    await bus.create_topic(topic, TopicSpec(partitions=4))
    assert set((await bus.end_offsets(topic)).values()) == {0} and await bus.committed(topic, topic) == {}
    await bus.publish(topic, numbered(10))
    async with bus.subscribe([topic], topic) as consumer:
        assert len(await drain(consumer, 10)) == 10


async def test_keys_choose_partitions_as_kafka_does(bus, topic):
    java = {"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536, "abc": 479470107}
    where = await bus.publish(topic, [Message(b"", key=key) for key in java])
    assert [partition for partition, _ in where] == [(value & 0x7FFFFFFF) % 4 for value in java.values()]


async def test_publish_returns_where(bus, topic):
    "To many partitions, in pieces, and all of it comes back in the order of each key."
    messages, where = numbered(20_000, keys=50), []
    for start in range(0, 20_000, 7_000):
        where += await bus.publish(topic, messages[start : start + 7_000])
    records = {(record.partition, record.offset): record for record in await everything(bus, topic, 20_000)}
    assert len(set(where)) == 20_000 == len(records) and {partition for partition, _ in where} == {0, 1, 2, 3}
    assert all(
        (records[place].value, records[place].key) == (m.value, m.key) for place, m in zip(where, messages, strict=True)
    )
    offsets = defaultdict(list)
    for partition, offset in where:
        offsets[partition].append(offset)
    assert all(offset == sorted(offset) for offset in offsets.values())
    assert await bus.end_offsets(topic) == {p: len(numbers) for p, numbers in offsets.items()}
    assert await bus.begin_offsets(topic) == dict.fromkeys(range(4), 0)


async def test_without_a_key_records_go_round(bus, topic):
    where = await bus.publish(topic, [Message(b"x") for _ in range(400)])
    assert {partition for partition, _ in where} == {0, 1, 2, 3}
    assert await bus.publish(topic, []) == []


async def test_what_a_record_carries(bus, topic):
    headers = (("sf.source", b"candles:0:1"), ("", b""), ("sf.source", b"\x00\xff"))
    sent = [
        Message(b"", key="BTCUSDT"),
        Message(bytes(range(256)), key="ключ-鍵", headers=headers, timestamp=1_620_000_000_000),
        Message(b"no key", timestamp=1),
    ]
    before = now_ms()
    where = await bus.publish(topic, sent)
    by_place = {(record.partition, record.offset): record for record in await everything(bus, topic, 3)}
    for message, place in zip(sent, where, strict=True):
        got = by_place[place]
        assert (got.value, got.key, got.headers) == (message.value, message.key, message.headers) and got.topic == topic
        assert got.timestamp == message.timestamp or (not message.timestamp and before <= got.timestamp <= now_ms())


async def test_big_values(bus, topic):
    big = hashlib.sha256(b"x").digest() * 28_125  # 0.9 MB
    await bus.publish(topic, [Message(big, key="a") for _ in range(12)])
    assert [record.value for record in await everything(bus, topic, 12)] == [big] * 12
    with pytest.raises(BadRecord):
        await bus.publish(topic, [Message(b"small", key="a"), Message(bytes(1_100_000), key="a")])
    assert sum((await bus.end_offsets(topic)).values()) == 12, "nothing half-done"
    for wrong in (Message("text"), Message(b"", key="\ud800"), Message(b"", headers=(("a", "text"),))):
        with pytest.raises(BadRecord):
            await bus.publish(topic, [Message(b"good"), wrong])
    assert sum((await bus.end_offsets(topic)).values()) == 12


async def test_new_group_reads_from_earliest_and_commits_only_on_request(bus, topic):
    await bus.publish(topic, numbered(200))
    for _ in range(2):
        async with bus.subscribe([topic], topic) as consumer:
            assert sorted(values(await drain(consumer, 200))) == list(range(200))
            assert not (await consumer.poll(max_wait=0.05)).records
    assert await bus.committed(topic, topic) == {}


async def test_a_commit_is_exact(bus, topic):
    where = await bus.publish(topic, numbered(10, keys=1))
    partition = where[0][0]
    for offset in (3, 7, 5, 10):
        async with bus.subscribe([topic], topic) as consumer:
            await drain(consumer, 10 - (await bus.committed(topic, topic)).get(partition, 0))
            await consumer.commit({(topic, partition): offset})
            assert await bus.committed(topic, topic) == {partition: offset}
        async with bus.subscribe([topic], topic) as consumer:
            assert [record.offset for record in await drain(consumer, 10 - offset)] == list(range(offset, 10))
            assert consumer.positions()[topic, partition] == 10
    assert await bus.committed(f"{topic}-other", topic) == {}


async def test_max_records_and_max_wait(bus, topic):
    await bus.publish(topic, numbered(1_000))
    async with bus.subscribe([topic], topic) as consumer:
        seen = []
        while len(seen) < 1_000:
            batch = await consumer.poll(max_records=7, max_wait=5)
            assert len(batch.records) <= 7
            seen += batch.records
        began = time.monotonic()
        assert not (await consumer.poll(max_wait=0.3)).records and time.monotonic() - began >= 0.29
        by_partition = defaultdict(list)
        for record in seen:
            by_partition[record.partition].append(record.offset)
        assert all(offsets == list(range(len(offsets))) for offsets in by_partition.values())
        await consumer.commit({})


async def test_seek(bus, topic):
    where = await bus.publish(topic, numbered(10, keys=1))
    pair = (topic, where[0][0])
    async with bus.subscribe([topic], topic) as consumer:
        await drain(consumer, 10)
        consumer.seek({pair: 4})
        assert consumer.positions()[pair] == 4 and [record.offset for record in await drain(consumer, 6)] == [
            4,
            5,
            6,
            7,
            8,
            9,
        ]
        with pytest.raises(NotOwner):
            consumer.seek({(topic, 99): 0})
    with pytest.raises(BusError):
        await consumer.poll()


async def test_several_topics_and_groups(bus, topic):
    other = f"{topic}-other"
    await bus.create_topic(other, TopicSpec(partitions=2))
    await bus.publish(topic, numbered(50))
    await bus.publish(other, numbered(50, start=50))
    async with bus.subscribe([topic, other], f"{topic}-a") as a, bus.subscribe([other], f"{topic}-b") as b:
        assert sorted(values(await drain(a, 100))) == list(range(100)) and len(a.assignment()) == 6
        assert sorted(values(await drain(b, 50))) == list(range(50, 100))
    await bus.delete_topic(other)


async def test_batches(bus, topic):
    await bus.publish(topic, numbered(30))
    async with bus.subscribe([topic], topic) as consumer, asyncio.timeout(DEADLINE):
        seen = []
        async for batch in consumer.batches(max_records=10, max_wait=0.1):
            seen += values(batch.records)
            await consumer.commit(batch.end_offsets)
            if len(seen) == 30:
                break
    assert sorted(seen) == list(range(30)) and await bus.committed(topic, topic) == {
        p: end for p, end in (await bus.end_offsets(topic)).items() if end
    }


async def test_consumers_share_partitions(bus, bus_url, topic):
    "Nothing is read twice while consumers come and go that commit what they read."
    await bus.publish(topic, numbered(2_000))
    async with bus.subscribe([topic], topic) as first, open_bus(bus_url) as other_bus:
        seen = await drain(first, 2_000)
        await first.commit({(topic, record.partition): record.offset + 1 for record in seen})
        assert len(first.assignment()) == 4
        async with other_bus.subscribe([topic], topic) as second:
            await settle(first, second, total=4)
            assert not first.assignment() & second.assignment()
            await bus.publish(topic, numbered(2_000, start=2_000))
            deadline = time.monotonic() + DEADLINE
            while len(seen) < 4_000 and time.monotonic() < deadline:
                for consumer in (first, second):
                    batch = await consumer.poll(max_wait=0.05)
                    await consumer.commit(batch.end_offsets)
                    seen += batch.records
            mine, theirs = first.assignment(), second.assignment()
            with pytest.raises(NotOwner):
                await first.commit({next(iter(mine)): 1, next(iter(theirs)): 1})
            assert await bus.committed(topic, topic) == await bus.end_offsets(topic), "a refused commit commits nothing"
        assert sorted(values(seen)) == list(range(4_000))
        await settle(first, total=4)
        await bus.publish(topic, numbered(100))
        assert len(await drain(first, 100)) == 100


async def test_more_consumers_than_partitions(bus, topic):
    consumers = [bus.subscribe([topic], topic) for _ in range(5)]
    for consumer in consumers:
        await consumer.__aenter__()
    try:
        await settle(*consumers, total=4)
    finally:
        for consumer in consumers:
            await consumer.__aexit__(None, None, None)


CONSUMER = """
async def main(url, topic, count):
    async with open_bus(url) as bus, bus.subscribe([topic], topic) as consumer:
        batch, seen = await consumer.poll(), 0
        while seen < int(count):
            seen += len(batch.records)
            last = batch if batch.records else last
            if seen < int(count):
                await consumer.commit(batch.end_offsets)
                batch = await consumer.poll()
        print(len(consumer.assignment()), flush=True)
        await asyncio.to_thread(sys.stdin.readline)  # the last batch is read and not committed
        try:
            await consumer.commit(last.end_offsets)
            print("committed", flush=True)
        except BaseException as error:
            print(type(error).__name__, flush=True)
        batch = await consumer.poll(max_wait=10)
        print("polled", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
"""


@pytest.mark.slow
async def test_takeover_from_a_killed_process(bus, short_session, topic):
    await bus.publish(topic, numbered(1_000))
    killed = program(CONSUMER, short_session[0], topic, "1000")
    try:
        assert await line(killed) == "4"
        done = await bus.committed(topic, topic)
        killed.kill()
        async with bus.subscribe([topic], topic) as heir:
            again = await drain(heir, 1_000 - sum(done.values()))
            await settle(heir, total=4)
            assert len(heir.assignment()) == 4 and all(
                record.offset >= done.get(record.partition, 0) for record in again
            )
    finally:
        end(killed)


@pytest.mark.slow
async def test_a_zombie_is_fenced(short_session, topic):
    "Stopped beyond its session, taken over, woken up: its commit is refused, and it comes back as a consumer."
    async with open_bus(short_session[0]) as bus:
        await bus.publish(topic, numbered(400))
        zombie = program(CONSUMER, short_session[0], topic, "400")
        try:
            assert await line(zombie) == "4"
            zombie.send_signal(signal.SIGSTOP)
            async with bus.subscribe([topic], topic) as heir:
                again = await drain(heir, 400 - sum((await bus.committed(topic, topic)).values()))
                await settle(heir, total=4)
                await bus.publish(topic, numbered(400, start=400))
                more = await drain(heir, 400)
                await heir.commit({(topic, record.partition): record.offset + 1 for record in again + more})
                ends = await bus.end_offsets(topic)
                assert await bus.committed(topic, topic) == ends
                zombie.send_signal(signal.SIGCONT)
                zombie.stdin.write("go on\n")
                zombie.stdin.flush()
                assert await line(zombie) == "NotOwner"
                assert await bus.committed(topic, topic) == ends
                deadline = time.monotonic() + DEADLINE
                while len(heir.assignment()) != 2:
                    assert time.monotonic() < deadline, "the zombie did not come back"
                    await heir.poll(max_wait=0.1)
        finally:
            end(zombie)


async def read(tail, count: int) -> list:
    "Records of a tail, until there are at least `count`; a busy machine may give empty batches before."
    records = []
    async with asyncio.timeout(DEADLINE):
        while len(records) < count:
            records += (await anext(tail)).records
    return records


async def test_tail_from_anywhere(bus, topic):
    where = await bus.publish(topic, numbered(100))
    assert sorted(values(await everything(bus, topic, 100))) == list(range(100))
    late = bus.tail(topic, "latest", max_wait=0.1)
    assert not (await anext(late)).records
    await bus.publish(topic, numbered(5, keys=1, start=100))
    assert values(await read(late, 5)) == [100, 101, 102, 103, 104]
    await late.aclose()
    partition, ends = where[0][0], await bus.end_offsets(topic)
    some = bus.tail(topic, ends | {partition: 2}, max_records=3, max_wait=0.1)
    first, second = await read(some, 3), await read(some, 3)
    assert [(record.partition, record.offset) for record in first + second] == [(partition, 2 + i) for i in range(6)]
    await some.aclose()
    partly = bus.tail(topic, {partition: 2}, max_wait=0.1)
    offsets = defaultdict(list)
    for record in await read(partly, sum(ends.values()) - 2):
        offsets[record.partition].append(record.offset)
    assert offsets == {p: list(range(2 * (p == partition), end)) for p, end in ends.items() if end}
    await partly.aclose()
    with pytest.raises(BadSetting):
        await anext(bus.tail(topic, "yesterday"))
    with pytest.raises(BadSetting):
        await anext(bus.tail(topic, {99: 0}))


async def test_every_tail_sees_everything(bus, bus_url, topic):
    async with open_bus(bus_url) as other:
        tails = [opened.tail(topic, "latest", max_wait=0.05) for opened in (bus, other, other)]
        for view in tails:
            await anext(view)
        seen = [[] for _ in tails]
        for start in range(0, 1_000, 100):
            await bus.publish(topic, numbered(100, start=start))
            for view, records in zip(tails, seen, strict=True):
                records += (await anext(view)).records
        for view, records in zip(tails, seen, strict=True):
            async with asyncio.timeout(DEADLINE):
                while len(records) < 1_000:
                    records += (await anext(view)).records
            await view.aclose()
            assert sorted(values(records)) == list(range(1_000))


async def test_a_sleeping_reader_is_woken_by_another_process(bus, bus_url, topic):
    source = """
async def main(url, topic):
    async with open_bus(url) as bus:
        sys.stdin.readline()
        await bus.publish(topic, [Message(b"1", key="a")])
        sys.stdin.readline()
"""
    other = program(source, bus_url, topic)
    try:
        async with bus.subscribe([topic], topic) as consumer:
            await consumer.poll(max_wait=0.05)
            other.stdin.write("go\n")
            other.stdin.flush()
            began = time.monotonic()
            assert values((await consumer.poll(max_wait=DEADLINE)).records) == [1]
            assert time.monotonic() - began < DEADLINE / 2
    finally:
        end(other)


async def test_retention_by_size(bus, fresh):
    await bus.create_topic(fresh, TopicSpec(retention_bytes=1_000_000))
    for _ in range(40):
        await bus.publish(fresh, [Message(bytes(1_000)) for _ in range(100)])
    deadline = time.monotonic() + DEADLINE
    while not (first := (await bus.begin_offsets(fresh))[0]):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    assert 4_000 - first >= 900 and await bus.end_offsets(fresh) == {0: 4_000}
    records = await everything(bus, fresh, 4_000 - first)
    assert [record.offset for record in records] == list(range(first, 4_000))
    async with bus.subscribe([fresh], fresh) as consumer:
        assert (await drain(consumer, 1))[0].offset >= first, "earliest is the first that is kept"
    await bus.delete_topic(fresh)


async def test_retention_by_time(bus, fresh):
    await bus.create_topic(fresh, TopicSpec(retention_ms=3_600_000))
    await bus.publish(fresh, [Message(b"old", timestamp=now_ms() - 7_200_000) for _ in range(10)])
    await bus.publish(fresh, [Message(b"new") for _ in range(10)])
    deadline = time.monotonic() + DEADLINE
    while (first := (await bus.begin_offsets(fresh))[0]) < 10:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    assert first == 10 and {record.value for record in await everything(bus, fresh, 10)} == {b"new"}
    await bus.delete_topic(fresh)


async def test_compaction_keeps_the_last_of_each_key(bus, fresh):
    await bus.create_topic(fresh, TopicSpec(compacted=True))
    for generation in range(20):
        await bus.publish(fresh, [Message(b"%d" % generation + bytes(5_000), key=f"agent{i}") for i in range(50)])
    last, tail, position = {}, bus.tail(fresh, max_wait=0.2), 0
    async with asyncio.timeout(DEADLINE):
        while position < 1_000:
            for record in (await anext(tail)).records:
                last[record.key], position = record.value[:2], record.offset + 1
    await tail.aclose()
    assert last == {f"agent{i}": b"19" for i in range(50)} and await bus.end_offsets(fresh) == {0: 1_000}
    await bus.delete_topic(fresh)


PRODUCER = """
import zlib
async def main(url, topic, name, count):
    async with open_bus(url) as bus:
        for start in range(0, int(count), 50):
            numbers = range(start, start + 50)
            texts = [b"%s %d " % (name.encode(), i) + bytes([i % 251]) * (i * 37 % 2000) for i in numbers]
            await bus.publish(
                topic,
                [Message(text + b"%08x" % zlib.crc32(text), key=f"{name}-{i % 3}") for i, text in enumerate(texts)],
            )
            print(start + 50, flush=True)
"""


@pytest.mark.slow
async def test_killed_producers_harm_no_other_record(bus, bus_url, fresh):
    "What was acknowledged is there once, in order and unharmed, whichever process was killed in the middle of writing."
    import zlib

    await bus.create_topic(fresh, TopicSpec(partitions=2))
    producers = {name: program(PRODUCER, bus_url, fresh, name, "6000") for name in ("a", "b", "k1", "k2")}
    acknowledged = {}
    try:
        for name, steps in (("k1", 7), ("k2", 23)):
            for _ in range(steps):
                acknowledged[name] = int(await line(producers[name]))
            producers[name].kill()
        for name, process in producers.items():
            rest, _ = await asyncio.to_thread(process.communicate)
            acknowledged[name] = (
                int(rest.split()[-1]) if rest.endswith("\n") and rest.split() else acknowledged.get(name, 0)
            )
    finally:
        for process in producers.values():
            end(process)
    assert acknowledged["a"] == acknowledged["b"] == 6_000
    await bus.publish(fresh, [Message(b"c 0 " + b"%08x" % zlib.crc32(b"c 0 "), key="c")])
    total = sum((await bus.end_offsets(fresh)).values())
    records = await everything(bus, fresh, total)
    numbers = defaultdict(list)
    for record in records:
        text, crc = record.value[:-8], record.value[-8:]
        assert b"%08x" % zlib.crc32(text) == crc
        name, number, _ = text.split(b" ", 2)
        numbers[name.decode(), record.key].append(int(number))
    for name, acked in acknowledged.items():
        mine = [number for (n, _), ids in numbers.items() if n == name for number in ids]
        assert set(range(acked)) <= set(mine) and len(mine) == len(set(mine))
    assert all(ids == sorted(ids) for ids in numbers.values())
    by_partition = defaultdict(list)
    for record in records:
        by_partition[record.partition].append(record.offset)
    assert all(sorted(value) == list(range(len(value))) for value in by_partition.values())
    await bus.delete_topic(fresh)
