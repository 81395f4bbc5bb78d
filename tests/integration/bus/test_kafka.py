"""What only a real broker can show: refusals, a rotated password, rebalances in the middle of a batch, slow
callers, restarts."""

import asyncio
import gc
import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import aclosing
from pathlib import Path

import pytest
from aiokafka import errors as kafka_errors

sys.path.insert(0, str(Path(__file__).parents[2]))
from servers import free_port, need  # noqa: E402

from streamforge.bus.base import Message, TopicSpec, open_bus  # noqa: E402
from streamforge.bus.kafka import bus as kafka  # noqa: E402
from streamforge.bus.kafka import producer as kafka_producer  # noqa: E402
from streamforge.bus.kafka.config import read_access  # noqa: E402
from streamforge.core.errors import BadRecord, BusError, NotOwner, Refused, UnknownTopic  # noqa: E402

SCRIPT = Path(__file__).parents[3] / "deploy" / "dev" / "servers" / "kafka.sh"
CACHE = Path(os.environ.get("STREAMFORGE_SERVERS_CACHE", Path.home() / ".cache/streamforge/servers"))
DEADLINE = 60


@pytest.fixture
def fresh() -> str:
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
async def bus():
    async with open_bus(need("kafka")) as opened:
        yield opened


@pytest.fixture
async def topic(bus, fresh):
    await bus.create_topic(fresh, TopicSpec(partitions=4))
    yield fresh
    if fresh in await bus.topics():
        await bus.delete_topic(fresh)


def numbered(count: int, start: int = 0) -> list[Message]:
    return [Message(b"%d" % i, key=f"MARKET{i % 20}") for i in range(start, start + count)]


def with_options(url: str, **options: object) -> str:
    return url + ("&" if "?" in url else "?") + "&".join(f"{name}={value}" for name, value in options.items())


async def drain(consumer, count: int) -> list:
    records, end = [], time.monotonic() + DEADLINE
    while len(records) < count:
        assert time.monotonic() < end, f"{len(records)} of {count} records"
        records += (await consumer.poll(max_wait=0.2)).records
    return records


def ends_of(records) -> dict:
    return {(record.topic, record.partition): record.offset + 1 for record in records}


# -- refusals


def secured(user: str, **changes: str) -> str:
    "The secured broker's URL as another user sees it."
    access = read_access(need("kafka-secure"), {})
    password = changes.pop("password_file", str(Path(access.address.options["password_file"]).with_name(user)))
    options = {"password_file": password, "ca": access.ca} | changes
    return with_options(f"kafka://{user}@{access.address.hosts[0]}", **options)


async def test_each_refusal_names_its_reason(tmp_path):
    wrong = tmp_path / "password"
    wrong.write_text("wrong")
    place = read_access(need("kafka-secure"), {}).address.hosts[0]
    ca = read_access(need("kafka-secure"), {}).ca
    cases = {
        secured("app", password_file=str(wrong)): "password",
        secured("nobody", password_file=str(wrong)): "password",
        f"kafka://{place}": "TLS",
        secured("app", security="sasl_plaintext"): "TLS",
        with_options(f"kafka://app@{place}", password_file=wrong): "unknown CA",
        with_options(f"kafka://{place}", security="ssl", ca=ca): "without a user",
        with_options(
            f"kafka://app@{read_access(need('kafka'), {}).address.hosts[0]}", password_file=wrong, ca=ca
        ): "speaks without",
        with_options(
            f"kafka://app@{read_access(need('kafka'), {}).address.hosts[0]}",
            password_file=wrong,
            security="sasl_plaintext",
        ): "check users",
    }
    for url, reason in cases.items():
        with pytest.raises(Refused, match=reason) as caught:
            async with open_bus(url):
                pass
        assert caught.value.exit_code == 78 and "wrong" not in str(caught.value).replace("wrong checksum", "")


async def test_missing_rights_are_named(fresh):
    async with open_bus(secured("app")) as app:
        await app.create_topic(f"readable-{fresh}")
        await app.create_topic(fresh)
        await app.publish(f"readable-{fresh}", numbered(3))
        try:
            async with open_bus(secured("reader")) as reader:
                async with reader.subscribe([f"readable-{fresh}"], f"readable-{fresh}") as consumer:
                    records = await drain(consumer, 3)
                    await consumer.commit(ends_of(records))
                for call, reason in (
                    (reader.publish(f"readable-{fresh}", numbered(1)), "WRITE|IDEMPOTENT_WRITE"),
                    (reader.publish(fresh, numbered(1)), f"topic '{fresh}'"),
                    (reader.create_topic(f"{fresh}-new"), "CREATE"),
                    (reader.delete_topic(f"readable-{fresh}"), f"DELETE on topic 'readable-{fresh}'"),
                    (reader.end_offsets("never-made"), "never-made"),
                    (reader.committed("theirs", f"readable-{fresh}"), "group 'theirs'"),
                    (anext(reader.tail(fresh)), fresh),
                    (reader.subscribe([f"readable-{fresh}"], "theirs").__aenter__(), "group 'theirs'"),
                    (reader.subscribe([fresh], f"readable-{fresh}").__aenter__(), fresh),
                ):
                    with pytest.raises(Refused, match=reason):
                        await call
            async with open_bus(secured("stranger")) as stranger:
                with pytest.raises(Refused):
                    await stranger.publish(fresh, numbered(1))
                assert await stranger.topics() == {}
        finally:
            await app.delete_topic(f"readable-{fresh}")
            await app.delete_topic(fresh)


def kafka_sh(home: Path, port: int, *args: str, secure: bool = False) -> subprocess.CompletedProcess:
    env = os.environ | {
        "KAFKA_HOME": str(home),
        "KAFKA_LIBS": str(CACHE / "kafka"),
        "KAFKA_PORT": str(port),
        "KAFKA_SECURE": "01"[secure],
        "KAFKA_HEAP": "256m",
    }
    return subprocess.run(
        ["bash", str(SCRIPT), *args], env=env, capture_output=True, text=True, timeout=120, check=True
    )


@pytest.mark.slow
async def test_a_rotated_password_interrupts_no_client(fresh, tmp_path):
    """The broker learns the new password, then the file changes; a client that reconnects in between waits, and no
    client is refused."""
    access = read_access(need("kafka-secure"), {})
    home, port = Path(access.ca).parents[2], int(access.address.hosts[0].rpartition(":")[2])
    file = tmp_path / "password"

    async def rotate(password: str) -> None:
        change = (
            "kafka.admin.ConfigCommand",
            "--alter",
            "--entity-type",
            "users",
            "--entity-name",
            fresh,
            "--add-config",
            f"SCRAM-SHA-512=[password={password}]",
        )
        await asyncio.to_thread(kafka_sh, home, port, "tool", *change, secure=True)

    file.write_text("first-" + fresh)
    await rotate("first-" + fresh)
    grant = (
        "tool",
        "AclCommand",
        "--add",
        "--allow-principal",
        f"User:{fresh}",
        "--operation",
        "All",
        "--topic",
        fresh,
        "--group",
        fresh,
    )
    await asyncio.to_thread(kafka_sh, home, port, *grant, secure=True)
    async with (
        open_bus(secured("app")) as app,
        open_bus(with_options(secured(fresh, password_file=str(file)), timeout=4)) as bus,
    ):
        await app.create_topic(fresh)
        async with bus.subscribe([fresh], fresh) as consumer:
            await bus.publish(fresh, numbered(10))
            await consumer.commit(ends_of(await drain(consumer, 10)))
            await rotate("second-" + fresh)
            for client in (
                bus._opened.broker.client,
                (await bus._opened.publisher.producers.current()).client,
                consumer._group.consumer._client,
            ):
                for conn in list(client._conns.values()):
                    conn.close()
            with pytest.raises(BusError):
                await bus.end_offsets(fresh)
            file.write_text("second-" + fresh)
            await bus.publish(fresh, numbered(10, start=10))
            await consumer.commit(ends_of(await drain(consumer, 10)))
            assert await bus.committed(fresh, fresh) == {0: 20}
        await app.delete_topic(fresh)


# -- rebalances and slow callers


async def test_a_rebalance_waits_for_the_batch_in_hand(bus, topic):
    "The newcomer gets partitions after the commit of the old owner, and reads nothing twice."
    await bus.publish(topic, numbered(400))
    async with bus.subscribe([topic], topic) as first:
        batch = await drain(first, 400)
        second = bus.subscribe([topic], topic)
        entering = asyncio.ensure_future(second.__aenter__())
        while first._ownership.state != "revoking":
            assert not (await first.poll(max_wait=0.05)).records
        await first.commit(ends_of(batch))
        await entering
        while len(first.assignment()) != 2:
            assert not (await first.poll(max_wait=0.05)).records
        assert not (await second.poll(max_wait=0.5)).records and len(second.assignment()) == 2
        await second.__aexit__(None, None, None)


async def test_a_batch_that_takes_too_long_goes_to_another_consumer(topic):
    async with open_bus(with_options(need("kafka"), handover=0.5)) as bus:
        await bus.publish(topic, numbered(400))
        async with bus.subscribe([topic], topic) as first:
            batch = await drain(first, 400)
            async with bus.subscribe([topic], topic) as second:
                with pytest.raises(NotOwner):
                    await first.commit(ends_of(batch))
                assert await bus.committed(topic, topic) == {}
                theirs, mine, end = [], [], time.monotonic() + DEADLINE
                while len(theirs) + len(mine) < 400 and time.monotonic() < end:
                    mine += (await first.poll(max_wait=0.05)).records
                    theirs += (await second.poll(max_wait=0.05)).records
                assert {(record.topic, record.partition) for record in mine} == first.assignment() and {
                    (record.topic, record.partition) for record in theirs
                } == second.assignment()
                await first.commit(ends_of(mine))
                await second.commit(ends_of(theirs))
                assert await bus.committed(topic, topic) == await bus.end_offsets(topic)


@pytest.mark.slow
async def test_a_caller_that_works_for_long_is_not_thrown_out(topic):
    "Twice its session without a poll, and the commit still counts."
    async with open_bus(with_options(need("kafka"), session_timeout=6)) as bus:
        await bus.publish(topic, numbered(400))
        async with bus.subscribe([topic], topic) as consumer:
            batch = await drain(consumer, 400)
            generation = consumer._group.listener.generation
            await asyncio.sleep(13)  # the work
            await consumer.commit(ends_of(batch))
            assert consumer._group.listener.generation == generation and await bus.committed(
                topic, topic
            ) == await bus.end_offsets(topic)


async def test_lag_without_a_question(bus, topic):
    await bus.publish(topic, numbered(100))
    async with bus.subscribe([topic], topic) as consumer:
        await drain(consumer, 100)
        assert {p: end for (_, p), end in consumer.ends().items()} == await bus.end_offsets(topic)


# -- publishing


async def test_a_broken_producer_is_replaced(bus, topic):
    """After a number out of turn the broker refuses everything of a producer; what was to be published is published
    by another."""
    await bus.publish(topic, numbered(100))
    producer = await bus._opened.publisher.producers.current()
    for partition in list(producer._txn_manager._sequence_numbers):
        producer._txn_manager._sequence_numbers[partition] += 7
    where = await bus.publish(topic, numbered(200, start=100))
    assert await bus._opened.publisher.producers.current() is not producer and len(set(where)) == 200
    assert sum((await bus.end_offsets(topic)).values()) == 300
    await bus.publish(topic, numbered(5))


async def test_a_dead_producer_is_replaced(bus, topic):
    await bus.publish(topic, numbered(5))
    producer = await bus._opened.publisher.producers.current()
    producer._message_accumulator.fail_all(kafka_errors.OutOfOrderSequenceNumber())
    assert len(await bus.publish(topic, numbered(50))) == 50


async def test_sizes(bus, topic):
    assert len(await bus.publish(topic, [Message(bytes(900_000), key="a"), Message(bytes(999_999), key="b")])) == 2
    with pytest.raises(BadRecord):
        await bus.publish(topic, [Message(bytes(1_100_000), key="a")])


async def test_many_publishers_at_once_keep_their_order(bus, topic):
    async def publish(name: str) -> None:
        for i in range(50):
            await bus.publish(topic, [Message(b"%d" % i, key=name)])

    await asyncio.gather(*(publish(f"agent{i}") for i in range(20)))
    async with bus.subscribe([topic], topic) as consumer:
        records = await drain(consumer, 1_000)
    for i in range(20):
        assert [int(record.value) for record in records if record.key == f"agent{i}"] == list(range(50))


async def test_a_topic_deleted_by_another_client(bus, topic):
    "A publisher and a tail that know it already hear of it."
    await bus.publish(topic, numbered(10))
    view = bus.tail(topic, max_wait=0.2)
    assert (await anext(view)).records
    async with open_bus(need("kafka")) as other:
        await other.delete_topic(topic)
    with pytest.raises(UnknownTopic):
        await bus.publish(topic, numbered(1))
    with pytest.raises(UnknownTopic):
        async with asyncio.timeout(DEADLINE):
            async for _ in view:
                pass


async def test_a_consumer_that_does_not_know_its_topic_yet_asks_the_broker(bus, topic, monkeypatch):
    """As after a machine slept between making a topic and reading it: much time has passed, and the consumer has
    heard of nothing yet."""

    async def slept(*args):
        await asyncio.sleep(0)

    monkeypatch.setattr(kafka, "GONE_SECONDS", 0.0)
    monkeypatch.setattr(kafka, "wait_for_data", slept)
    await bus.publish(topic, numbered(10))
    for _ in range(5):
        records = []
        async with asyncio.timeout(DEADLINE), aclosing(bus.tail(topic)) as view:
            while len(records) < 10:
                records += (await anext(view)).records
        assert sorted(int(record.value) for record in records) == list(range(10))


# -- a broker that goes and comes back


@pytest.fixture
def own_broker(tmp_path):
    need("kafka")
    port = free_port()
    kafka_sh(tmp_path, port, "start")
    yield tmp_path, port
    process = Path("/proc") / (tmp_path / f"plain-{port}" / "pid").read_text().strip() / "cmdline"
    kafka_sh(tmp_path, port, "stop")
    assert not process.exists() or b"kafka.Kafka" not in process.read_bytes()


@pytest.mark.slow
async def test_a_broker_that_is_killed_and_comes_back(own_broker, fresh, monkeypatch):
    """Publishing waits it out, polls are empty meanwhile, closing is quick, and the first commit comes within 15 s
    of its return."""
    home, port = own_broker
    monkeypatch.setattr(
        kafka_producer, "PUBLISH_SECONDS", 180.0
    )  # on a busy machine a broker may need longer than 30 s to start
    async with open_bus(f"kafka://127.0.0.1:{port}?timeout=5") as bus:
        await bus.create_topic(fresh, TopicSpec(partitions=4))
        await bus.publish(fresh, numbered(200))
        async with bus.subscribe([fresh], fresh) as consumer, bus.subscribe([fresh], f"{fresh}-closing") as closing:
            await consumer.commit(ends_of(await drain(consumer, 200)))
            pid = int((home / f"plain-{port}" / "pid").read_text())
            os.kill(pid, 9)
            publishing = asyncio.ensure_future(bus.publish(fresh, numbered(100, start=200)))
            assert not (await consumer.poll(max_wait=1)).records
            with pytest.raises(BusError):
                await consumer.commit({(fresh, 0): 1})
            with pytest.raises(BusError):
                await bus.end_offsets(fresh)
            await asyncio.wait_for(closing.__aexit__(None, None, None), DEADLINE)
            await asyncio.to_thread(kafka_sh, home, port, "start")
            back = time.monotonic()
            assert len(await publishing) == 100
            records = []
            while True:
                records += (await consumer.poll(max_wait=0.2)).records
                assert time.monotonic() - back < DEADLINE, f"{len(records)} records, no commit"
                if len({record.value for record in records}) == 100:
                    try:
                        await consumer.commit(ends_of(records))
                        break
                    except BusError:
                        continue
            assert sorted({int(record.value) for record in records}) == list(range(200, 300))
            assert await bus.committed(fresh, fresh) == await bus.end_offsets(fresh)
            os.kill(int((home / f"plain-{port}" / "pid").read_text()), 9)
        began = time.monotonic()
    assert time.monotonic() - began < DEADLINE, "closing does not wait for a broker that is away"


@pytest.mark.slow
async def test_a_broker_that_hangs_and_goes_on(own_broker, fresh, monkeypatch):
    """A publish that was not acknowledged in time is an error, its producer is dropped without noise, and the next
    one goes through a new one."""
    home, port = own_broker
    pid, noise = int((home / f"plain-{port}" / "pid").read_text()), list[str]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(str(context)))
    async with open_bus(f"kafka://127.0.0.1:{port}?timeout=5") as bus:
        await bus.create_topic(fresh, TopicSpec(partitions=4))
        await bus.publish(fresh, numbered(20))  # a new topic's leader may take longer than what is allowed below
        monkeypatch.setattr(kafka_producer, "PUBLISH_SECONDS", 2.0)
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(BusError, match="acknowledge records"):
                await bus.publish(fresh, numbered(100, start=20))
        finally:
            os.kill(pid, signal.SIGCONT)
        monkeypatch.undo()
        assert len(await bus.publish(fresh, numbered(100, start=20))) == 100
        async with bus.subscribe([fresh], fresh) as consumer:
            records = await drain(consumer, 120)  # what was given up may be there as well
            while {int(record.value) for record in records} != set(range(120)):
                records += await drain(consumer, 1)
            await consumer.commit(ends_of(records))
    gc.collect()
    assert not noise, noise
