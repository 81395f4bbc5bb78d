"""Random damage of a bus against a model, under open readers and writers too; and the files of an earlier version."""

import os
import random
import tarfile
from contextlib import aclosing
from pathlib import Path

import pytest

from streamforge.bus.base import Message, TopicSpec, open_bus
from streamforge.bus.embedded.check import check_bus, repair_bus

HERE = Path(__file__).parent


async def everything(bus, topic: str) -> dict[tuple[int, int], bytes]:
    "All records of a topic by (partition, offset)."
    ends, position, rows = await bus.end_offsets(topic), await bus.begin_offsets(topic), {}
    async with aclosing(bus.tail(topic, max_wait=0.02)) as batches:
        while any(position[partition] < end for partition, end in ends.items()):
            batch = await anext(batches)
            for record in batch.records:
                assert (record.partition, record.offset) not in rows, "twice"
                rows[record.partition, record.offset] = record.value
            position |= {partition: offset for (_, partition), offset in batch.end_offsets.items()}
    return rows


class Model:
    "What lies where: the frame of each record, by file, and its value."

    def __init__(self, folder: Path):
        self.folder, self.frames, self.values = folder, [], {}

    async def write(self, bus, count: int, rng: random.Random) -> None:
        for _ in range(count):
            before = {path: path.stat().st_size for path in self.folder.glob("*.log")}
            values = [b"%d %s" % (rng.randrange(10**9), rng.randbytes(rng.randrange(40))) for _ in range(2)]
            places = await bus.publish("t", [Message(value) for value in values])
            path = max(self.folder.glob("*.log"))
            size, start = path.stat().st_size, before.get(path, 0)
            assert not set(places) & self.values.keys(), "an offset was used twice"
            self.values |= dict(zip(places, values, strict=True))
            self.frames.append((path, start, size, places))

    def damage(self, rng: random.Random) -> set[tuple[int, int]]:
        "Damage one log; returns what its bytes held. Places of frames behind the damage in that file are forgotten."
        path = rng.choice(sorted({frame[0] for frame in self.frames}))
        data, kind = bytearray(path.read_bytes()), rng.choice(["flip", "zeros", "cut", "empty", "delete"])
        at = rng.randrange(len(data))
        start, stop = at, {"flip": at + 1, "zeros": at + rng.randrange(1, 300)}.get(kind, len(data))
        if kind == "flip":
            data[at] ^= 1 << rng.randrange(8)
            path.write_bytes(data)
        elif kind == "zeros":
            stop = min(stop, len(data))
            data[at:stop] = bytes(stop - at)
            path.write_bytes(data)
        elif kind == "cut":
            os.truncate(path, at)
        else:
            start = 0
            os.truncate(path, 0) if kind == "empty" else path.unlink()
        hit = [frame for frame in self.frames if frame[0] == path and frame[1] < stop and start < frame[2]]
        self.frames = [frame for frame in self.frames if frame not in hit]
        return {place for frame in hit for place in frame[3]}


@pytest.mark.parametrize("seed", [*range(12), 193])
async def test_random_damage_takes_only_what_its_bytes_held(tmp_path, seed):
    "Damage, read, write, repair, in turns; a reader and a writer stay open all the time."
    rng, url = random.Random(seed), f"embedded://{tmp_path}/bus?segment_bytes=2500"
    model = Model(tmp_path / "bus/topics/t/0")
    async with open_bus(url) as bus, open_bus(url) as writer:
        await bus.create_topic("t", TopicSpec())
        await model.write(bus, 60, rng)
        for turn in range(4):
            end = (await bus.end_offsets("t"))[0]
            for place in model.damage(rng):
                del model.values[place]
            if turn % 2:
                await model.write(writer, 1, rng)
            async with open_bus(url) as other:
                assert await everything(other, "t") == model.values
            assert (await bus.end_offsets("t"))[0] >= end
            await model.write(rng.choice([bus, writer]), rng.randrange(1, 20), rng)
            assert await everything(bus, "t") == model.values
        await repair_bus(tmp_path / "bus")
        assert not (await check_bus(tmp_path / "bus")).damaged
        assert await everything(bus, "t") == model.values
        await model.write(writer, 3, rng)
        assert await everything(bus, "t") == model.values


async def test_a_group_reads_on_after_its_log_was_cut_while_it_waited(tmp_path):
    async with open_bus(f"embedded://{tmp_path}/bus") as bus:
        await bus.create_topic("t")
        await bus.publish("t", [Message(b"%d" % n) for n in range(200)])
        async with bus.subscribe(["t"], "g") as consumer:
            await consumer.commit((await consumer.poll()).end_offsets)
            for size in (4_000, 0):
                os.truncate(max((tmp_path / "bus/topics/t/0").glob("*.log")), size)
                places = await bus.publish("t", [Message(b"next")])
                assert [(record.partition, record.offset) for record in (await consumer.poll()).records] == places
        assert places == [(0, 201)]


async def test_a_bus_of_an_earlier_version_opens_as_it_is(tmp_path):
    """`earlier_bus.tar.gz` was written by the version before checksums of JSON, `.next` and `topic.copy.json`: 40
    records in each of two partitions, of which a group had committed 7 and 9, and a compacted topic."""
    with tarfile.open(HERE / "earlier_bus.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    async with open_bus(f"embedded://{tmp_path}?segment_bytes=100000") as bus:
        assert await bus.committed("readers", "candles") == {0: 7, 1: 9}
        assert [int(value.split()[0]) for value in (await everything(bus, "candles")).values()] == [*range(40)] * 2
        async with bus.subscribe(["candles"], "readers") as consumer:
            records = [*(await consumer.poll()).records, *(await consumer.poll(max_wait=0)).records]
            assert len(records) == 33 + 31
            await consumer.commit({("candles", 0): 40, ("candles", 1): 40})
        assert await bus.publish("candles", [Message(b"40", key="MARKET6")]) == [(0, 40)]
        assert (await everything(bus, "states"))[0, 39] == b"39"
    assert not [path for path in tmp_path.glob("topics/**/*") if path.stat().st_mode & 0o077]
    report = await check_bus(tmp_path)
    assert not report.damaged, report.findings
