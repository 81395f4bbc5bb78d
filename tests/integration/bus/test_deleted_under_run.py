"Topics and groups that are deleted, or restored from an older copy, while processes have them open."

import asyncio
import shutil
import time

import pytest
from structlog.testing import capture_logs

from streamforge.bus.base import Message, TopicSpec, open_bus
from streamforge.bus.embedded.check import check_bus, repair_bus
from streamforge.core.errors import UnknownTopic

DEADLINE = 20


def numbered(first, count):
    return [Message(b"%d" % n, key=f"MARKET{n % 7}") for n in range(first, first + count)]


async def read(consumer, count, *, commit=True):
    values, deadline = [], time.monotonic() + DEADLINE
    while len(values) < count:
        assert time.monotonic() < deadline, f"{len(values)} of {count} records"
        batch = await consumer.poll(max_wait=0.1)
        values += [int(record.value) for record in batch.records]
        if commit and batch.end_offsets:
            await consumer.commit(batch.end_offsets)
    return sorted(values)


def told(lines, event):
    return [line for line in lines if line["event"].startswith(event)]


@pytest.fixture
def home(tmp_path):
    return tmp_path / "bus"


@pytest.mark.parametrize("partitions", [1, 3])
async def test_a_topic_deleted_by_hand_is_made_again_and_read_on(home, partitions):
    with capture_logs() as lines:
        async with open_bus(f"embedded://{home}") as bus, open_bus(f"embedded://{home}") as other:
            await bus.create_topic("queue-events", TopicSpec(partitions=partitions))
            await bus.publish("queue-events", numbered(0, 20))
            async with other.subscribe(["queue-events"], "readers") as consumer:
                assert await read(consumer, 20) == [*range(20)]
                ends = await bus.end_offsets("queue-events")
                shutil.rmtree(home / "topics/queue-events")
                for _ in range(3):
                    assert not (await consumer.poll(max_wait=0.05)).records
                places = await bus.publish("queue-events", numbered(20, 20))
                assert all(offset >= ends[partition] for partition, offset in places)
                assert await read(consumer, 20) == [*range(20, 40)]
            async with other.subscribe(["queue-events"], "readers") as consumer:
                assert not (await consumer.poll(max_wait=0.1)).records, "what was committed counts"
    (missed,) = told(lines, "topic was deleted, reading goes on")
    assert (missed["topic"], missed["group"]) == ("queue-events", "readers")
    assert len(told(lines, "topic's folder was deleted, it is made again")) == 1
    report = await check_bus(home)
    assert report.lost == 20 and all("are missing" in finding.what for finding in report.findings), report.findings
    await repair_bus(home)
    assert not (await check_bus(home)).damaged


async def test_a_topic_deleted_by_a_call_stays_deleted_until_it_is_made(home):
    async with open_bus(f"embedded://{home}") as bus, open_bus(f"embedded://{home}") as other:
        await bus.create_topic("candles", TopicSpec(partitions=2))
        await bus.publish("candles", numbered(0, 20))
        async with other.subscribe(["candles"], "readers") as consumer:
            await read(consumer, 20)
            await other.delete_topic("candles")
            with pytest.raises(UnknownTopic):
                await bus.publish("candles", numbered(20, 1))
            assert not (await consumer.poll(max_wait=0.05)).records
            await other.create_topic("candles", TopicSpec(partitions=2))
            await bus.publish("candles", numbered(20, 20))
            assert await read(consumer, 20) == [*range(20, 40)], "those of the new topic, from its first record on"
        assert sum((await bus.committed("readers", "candles")).values()) == 20


async def test_a_topic_made_again_between_two_looks_is_another_one(home):
    async with open_bus(f"embedded://{home}") as bus:
        await bus.create_topic("candles")
        await bus.publish("candles", numbered(0, 20))
        tail = bus.tail("candles", max_wait=0.05)
        async with bus.subscribe(["candles"], "readers") as consumer:
            await read(consumer, 20)
            await anext(tail)
            await bus.delete_topic("candles")
            await bus.create_topic("candles")
            await bus.publish("candles", numbered(100, 30))
            assert await read(consumer, 30) == [*range(100, 130)]
        with pytest.raises(UnknownTopic, match="made again|deleted"):
            await anext(tail)


@pytest.mark.parametrize("running", [False, True])
async def test_a_topic_restored_from_an_older_copy(home, running):
    topic = home / "topics/candles"

    async def restore():
        shutil.rmtree(topic)
        shutil.copytree(home.parent / "backup", topic)

    with capture_logs() as lines:
        async with open_bus(f"embedded://{home}") as bus:
            await bus.create_topic("candles")
            await bus.publish("candles", numbered(0, 30))
            shutil.copytree(topic, home.parent / "backup")
            await bus.publish("candles", numbered(30, 30))
            async with bus.subscribe(["candles"], "readers") as consumer:
                await read(consumer, 60)
                if running:
                    await restore()
                    ((_, offset),) = await bus.publish("candles", numbered(60, 1))
                    assert offset >= 60
                    assert 60 in await read(consumer, 1)
        if not running:
            await restore()
            async with open_bus(f"embedded://{home}") as bus, open_bus(f"embedded://{home}") as other:
                async with bus.subscribe(["candles"], "readers") as consumer:
                    assert await read(consumer, 30, commit=False) == [*range(30)], (
                        "by the rule for offsets beyond the end"
                    )
                    ((_, offset),) = await other.publish("candles", numbered(60, 1))
                    assert offset == 60
                    assert await read(consumer, 1) == [60]
    assert len(told(lines, "topic ends before what was reached")) == 1
    assert running or len(told(lines, "offset lies beyond the end")) == 1
    await repair_bus(home)
    assert not (await check_bus(home)).damaged


async def test_a_group_deleted_under_its_consumers(home):
    with capture_logs() as lines:
        async with open_bus(f"embedded://{home}?session_timeout=0.6") as bus:
            await bus.create_topic("candles", TopicSpec(partitions=4))
            await bus.publish("candles", numbered(0, 20))
            async with bus.subscribe(["candles"], "readers") as consumer:
                await read(consumer, 20)
                for n in range(3):
                    shutil.rmtree(home / "groups/readers")
                    await consumer.poll(max_wait=0.3 * n)
                    await bus.publish("candles", numbered(20 + n, 1))
                    assert 20 + n in await read(consumer, 1)
                async with bus.subscribe(["candles"], "readers") as second:
                    deadline = time.monotonic() + DEADLINE
                    while len(second.assignment()) != 2:
                        assert time.monotonic() < deadline
                        await consumer.poll(max_wait=0.05)
                        await second.poll(max_wait=0.05)
    assert len(told(lines, "group's folder was deleted, it is made again")) == 3


async def test_deleting_and_making_again_never_ends_in_a_raw_error(home):
    "A consumer and a publisher go on while topics and groups vanish again and again, by hand and by calls."
    async with open_bus(f"embedded://{home}?session_timeout=0.6&segment_bytes=2000") as bus:
        await bus.create_topic("candles", TopicSpec(partitions=2))
        ended, seen = asyncio.Event(), []

        async def consume():
            async with bus.subscribe(["candles"], "readers") as consumer:
                while not ended.is_set():
                    batch = await consumer.poll(max_wait=0.02)
                    seen.extend(batch.records)
                    await consumer.commit(batch.end_offsets)

        task = asyncio.create_task(consume())
        async with open_bus(f"embedded://{home}?segment_bytes=2000") as other:
            for n in range(60):
                await other.publish("candles", numbered(n * 10, 10))
                await asyncio.sleep(0)
                if n % 3 == 0:
                    shutil.rmtree(home / "topics/candles")
                elif n % 3 == 1:
                    shutil.rmtree(home / "groups/readers", ignore_errors=True)
                else:
                    await other.delete_topic("candles")
                    await other.create_topic("candles", TopicSpec(partitions=2))
            last = await other.publish("candles", numbered(10_000, 10))
            deadline = time.monotonic() + DEADLINE
            while {(record.partition, record.offset) for record in seen if int(record.value) >= 10_000} != set(last):
                assert time.monotonic() < deadline and not task.done(), task
                await asyncio.sleep(0.05)
        ended.set()
        await task
