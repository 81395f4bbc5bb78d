"Folders of partitions in each other's place: refused by name when they are opened, renamed back by a repair."

import shutil

import pytest

from streamforge.bus.base import Message, TopicSpec, open_bus
from streamforge.bus.embedded.check import check_bus, repair_bus
from streamforge.core.errors import BusError


async def contents(home, topic):
    async with open_bus(f"embedded://{home}") as bus, bus.subscribe([topic], "fresh") as consumer:
        batch = await consumer.poll(max_wait=0)
        return sorted((record.partition, record.offset, record.value) for record in batch.records)


@pytest.fixture
async def home(tmp_path):
    async with open_bus(f"embedded://{tmp_path}/bus") as bus:
        for topic in ("candles", "predictions"):
            await bus.create_topic(topic, TopicSpec(partitions=3))
            await bus.publish(topic, [Message(b"%d" % n, key=f"MARKET{n}") for n in range(30)])
    return tmp_path / "bus"


def exchange(home, one, other):
    (home / "topics" / one).rename(home / "between")
    (home / "topics" / other).rename(home / "topics" / one)
    (home / "between").rename(home / "topics" / other)


@pytest.mark.parametrize("other", ["candles/2", "predictions/1"])
async def test_exchanged_folders_are_refused_and_renamed_back(home, other):
    before = {topic: await contents(home, topic) for topic in ("candles", "predictions")}
    exchange(home, "candles/0", other)
    async with open_bus(f"embedded://{home}") as bus:
        with pytest.raises(BusError, match="expected partition 0 of 'candles'.*folders were exchanged.*repair"):
            await bus.publish("candles", [Message(b"new")])
        with pytest.raises(BusError, match="folders were exchanged"):
            async with bus.subscribe(["candles"], "readers") as consumer:
                await consumer.poll(max_wait=0)
    named = {finding.path for finding in (await check_bus(home)).findings if "were exchanged" in finding.what}
    assert named == {"topics/candles/0", f"topics/{other}"}
    await repair_bus(home)
    assert not (await check_bus(home)).damaged
    shutil.rmtree(home / "groups/fresh")
    assert {topic: await contents(home, topic) for topic in before} == before


async def test_a_copy_in_the_place_of_a_partition_is_set_aside(home):
    shutil.rmtree(home / "topics/candles/1")
    shutil.copytree(home / "topics/candles/0", home / "topics/candles/1")
    (ours,) = [one for one in (await check_bus(home)).findings if one.damaged]
    assert (ours.path, "partition 0 of 'candles'" in ours.what) == ("topics/candles/1", True)
    before = [row for row in await contents(home, "predictions")]
    await repair_bus(home)
    assert (home / "topics/candles/1.aside").is_dir()
    assert {partition for partition, _, _ in await contents(home, "candles")} == {0, 2}
    shutil.rmtree(home / "groups/fresh")
    assert await contents(home, "predictions") == before


async def test_a_renamed_topic_and_one_without_notes_open_as_they_are(home):
    (home / "topics/predictions").rename(home / "topics/old-predictions")
    for note in (home / "topics/candles").glob("*/partition.json"):
        note.unlink()
    assert len(await contents(home, "old-predictions")) == len(await contents(home, "candles")) == 30
    assert len([*(home / "topics/candles").glob("*/partition.json")]) == 3
    await repair_bus(home)
    exchange(home, "old-predictions/0", "old-predictions/2")
    with pytest.raises(BusError, match="partition 2 of 'old-predictions'"):
        await contents(home, "old-predictions")
