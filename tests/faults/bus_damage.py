"""Ways to damage one file of the embedded bus: logs, indexes, offsets, topics, groups."""

import json
import os
import random
from dataclasses import dataclass, field
from pathlib import Path

from damage import Harm, Subject, way

from streamforge.bus.base import Message, TopicSpec, open_bus
from streamforge.bus.embedded.files import encode_checked, pack_next

GROUP, COMMITTED = "readers", 40
TOPICS = {"candles": ("MARKET6", "MARKET0"), "queue-events": ("MARKET6",)}  # name -> a key of each partition


@dataclass
class Frame:
    "Where the records of one call of `publish` lie."

    file: str
    start: int
    stop: int
    keys: list[tuple]  # topic, partition, offset


@dataclass
class Made:
    "What the bus holds."

    frames: list[Frame] = field(default_factory=list)
    rows: dict[str, dict[tuple, str]] = field(default_factory=dict)

    def held(self, file: str, start: int = 0, stop: int = 1 << 60) -> set[tuple]:
        "The records whose frames overlap these bytes."
        return {
            key
            for frame in self.frames
            if frame.file == file
            if frame.start < stop and start < frame.stop
            for key in frame.keys
        }

    def inside(self, file: str) -> Frame:
        "A frame in the middle of a log."
        frames = [frame for frame in self.frames if frame.file == file]
        return frames[(len(frames) - 1) // 2]

    def files(self, topic: str = "candles", partition: int = 1) -> list[str]:
        "The logs of a partition, in order."
        prefix = f"topics/{topic}/{partition}/"
        return sorted({frame.file for frame in self.frames if frame.file.startswith(prefix)})


async def make(home: Path) -> Made:
    "Two topics in small segments, about 120 records in each partition; a group has read a part."
    made, rng = Made(), random.Random(3)
    async with open_bus(f"embedded://{home}?segment_bytes=3000") as bus:
        for topic, keys in TOPICS.items():
            await bus.create_topic(topic, TopicSpec(partitions=len(keys)))
            made.rows[topic] = {}
            for n in range(60):
                for partition, key in enumerate(keys):
                    folder = home / "topics" / topic / str(partition)
                    before = {path: path.stat().st_size for path in folder.glob("*.log")}
                    values = [f"{topic} {n} {i} {'x' * rng.randrange(60)}" for i in range(2)]
                    places = await bus.publish(topic, [Message(value.encode(), key=key) for value in values])
                    path = max(folder.glob("*.log"))
                    names = [(topic, partition, offset) for _, offset in places]
                    frame = Frame(str(path.relative_to(home)), before.get(path, 0), path.stat().st_size, names)
                    made.frames.append(frame)
                    made.rows[topic] |= dict(zip(names, values, strict=True))
            async with bus.subscribe([topic], GROUP) as consumer:
                await consumer.poll()
                await consumer.commit({(topic, partition): COMMITTED for partition in range(len(keys))})
    return made


def expected(made: Made) -> dict[str, dict[tuple, str]]:
    "All records, and the one that the visitor writes into each partition at the offset that was next."
    return {
        topic: rows | {(topic, n, 120): "new" for n in range(len(TOPICS[topic]))} for topic, rows in made.rows.items()
    }


BUS = Subject("bus", make, expected, Path(__file__).with_name("bus_visitor.py"))


def flip(path: Path, position: int, bit: int = 3) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def segment(which: str, made: Made) -> str:
    files = made.files()
    return {"first": files[0], "middle": files[len(files) // 2], "last": files[-1]}[which]


def size_of(made: Made, file: str) -> int:
    return max(frame.stop for frame in made.frames if frame.file == file)


def within(made: Made) -> str:
    "A name of a segment that lies within the offsets of the middle one."
    _, _, offset = made.inside(segment("middle", made)).keys[0]
    return f"topics/candles/1/{offset:020d}.log"


def log_ways(which: str) -> None:
    "The ways to damage a first, middle or last segment."

    for part, place in (("payload", 50), ("length", 9)):

        @way(BUS, f"a bit of a {part}, {which} segment")
        def bit(home: Path, made: Made, place: int = place) -> Harm:
            file = segment(which, made)
            frame = made.inside(file)
            flip(home / file, frame.start + place)
            return Harm(file, set(frame.keys))

    @way(BUS, f"the first byte, {which} segment")
    def first_byte(home: Path, made: Made) -> Harm:
        flip(home / segment(which, made), 0)
        return Harm(segment(which, made), made.held(segment(which, made), 0, 1))

    @way(BUS, f"the last byte, {which} segment")
    def last_byte(home: Path, made: Made) -> Harm:
        file = segment(which, made)
        size = (home / file).stat().st_size
        flip(home / file, size - 1)
        return Harm(file, made.held(file, size - 1))

    @way(BUS, f"cut in half, {which} segment")
    def half(home: Path, made: Made) -> Harm:
        file = segment(which, made)
        middle = (home / file).stat().st_size // 2
        os.truncate(home / file, middle)
        return Harm(file, made.held(file, middle))

    @way(BUS, f"cut between two frames, {which} segment")
    def between(home: Path, made: Made) -> Harm:
        file = segment(which, made)
        at = made.inside(file).stop
        os.truncate(home / file, at)
        return Harm(file, made.held(file, at))

    @way(BUS, f"emptied, {which} segment")
    def emptied(home: Path, made: Made) -> Harm:
        os.truncate(home / segment(which, made), 0)
        return Harm(segment(which, made), made.held(segment(which, made)))

    @way(BUS, f"deleted, {which} segment")
    def deleted(home: Path, made: Made) -> Harm:
        file = segment(which, made)
        (home / file).unlink()
        return Harm("topics/candles/1", made.held(file))

    @way(BUS, f"200 bytes of zeros, {which} segment")
    def zeros(home: Path, made: Made) -> Harm:
        file = segment(which, made)
        data = bytearray((home / file).read_bytes())
        data[300:500] = bytes(200)
        (home / file).write_bytes(data)
        return Harm(file, made.held(file, 300, 500))

    @way(BUS, f"garbage put between two frames, {which} segment")
    def inserted(home: Path, made: Made) -> Harm:
        file = segment(which, made)
        at = made.inside(file).stop
        data = (home / file).read_bytes()
        (home / file).write_bytes(data[:at] + random.Random(5).randbytes(150) + data[at:])
        return Harm(file)

    @way(BUS, f"an old frame again in the middle, {which} segment")
    def again(home: Path, made: Made) -> Harm:
        file = segment(which, made)
        frame = made.inside(file)
        data = (home / file).read_bytes()
        (home / file).write_bytes(data[: frame.stop] + data[: frame.stop] + data[frame.stop :])
        return Harm(file)


for which in ("first", "middle", "last"):
    log_ways(which)


@way(BUS, "old frames again at the end of the log")
def again_at_end(home: Path, made: Made) -> Harm:
    file = segment("last", made)
    (home / file).write_bytes((home / file).read_bytes() * 2)
    return Harm(file)


@way(BUS, "the only topic of one partition emptied: queue-events")
def events(home: Path, made: Made) -> Harm:
    file = made.files("queue-events", 0)[-1]
    os.truncate(home / file, 0)
    return Harm(file, made.held(file))


@way(BUS, "two closed segments exchanged")
def exchanged(home: Path, made: Made) -> Harm:
    one, other = (home / file for file in made.files()[:2])
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second), other.write_bytes(first)
    return Harm(made.files()[0], after_repair=True)


@way(BUS, "garbage at the end of the log")
def garbage(home: Path, made: Made) -> Harm:
    with (home / segment("last", made)).open("ab") as file:
        file.write(b"?" * 77)
    return Harm(segment("last", made))


@way(BUS, "half a record at the end of the log, of a killed process")
def torn(home: Path, made: Made) -> Harm:
    path = home / segment("last", made)
    path.write_bytes(path.read_bytes() + path.read_bytes()[:60])
    return Harm(segment("last", made))


@way(BUS, "a partition's folder deleted")
def partition_folder(home: Path, made: Made) -> Harm:
    for path in (home / "topics/candles/1").iterdir():
        path.unlink()
    (home / "topics/candles/1").rmdir()
    return Harm("topics/candles/1", {key for file in made.files() for key in made.held(file)})


@way(BUS, "the folders of two partitions exchanged")
def exchanged_folders(home: Path, made: Made) -> Harm:
    folder = home / "topics/candles"
    (folder / "0").rename(folder / "2")
    (folder / "1").rename(folder / "0")
    (folder / "2").rename(folder / "1")
    return Harm("topics/candles/0", stops="candles", after_repair=True)


def small_file(name: str, file: str, *, quiet: bool = False, deleted_quiet: bool = False) -> None:
    "The ways to damage a small file, none of which loses a record."

    @way(BUS, f"{name}: a bit")
    def bit(home: Path, made: Made) -> Harm:
        flip(home / file, (home / file).stat().st_size // 2, 1)
        return Harm(file, quiet=quiet)

    @way(BUS, f"{name}: cut in half")
    def cut(home: Path, made: Made) -> Harm:
        os.truncate(home / file, (home / file).stat().st_size // 2)
        return Harm(file, quiet=quiet)

    @way(BUS, f"{name}: emptied")
    def empty(home: Path, made: Made) -> Harm:
        os.truncate(home / file, 0)
        return Harm(file, quiet=quiet)

    @way(BUS, f"{name}: deleted")
    def delete(home: Path, made: Made) -> Harm:
        (home / file).unlink()
        return Harm(file, quiet=quiet or deleted_quiet)


small_file("topic", "topics/candles/topic.json")
small_file("copy of the topic", "topics/candles/topic.copy.json", quiet=True)
small_file("next offset", "topics/candles/1.next", deleted_quiet=True)  # as an earlier version leaves it
small_file("committed offsets", "groups/readers/offsets/offsets.json")
small_file("state of the group", "groups/readers/state.json", deleted_quiet=True)


@way(BUS, "an index of damaged entries")
def index(home: Path, made: Made) -> Harm:
    file = segment("middle", made).replace(".log", ".index")
    (home / file).write_bytes(random.Random(9).randbytes(72))
    return Harm(file)


@way(BUS, "a half index entry")
def half_index(home: Path, made: Made) -> Harm:
    file = segment("last", made).replace(".log", ".index")
    (home / file).write_bytes(b"\1" * 11)
    return Harm(file, quiet=True)


@way(BUS, "stray file beside the topics")
def stray_topic(home: Path, made: Made) -> Harm:
    (home / "topics/.DS_Store").write_bytes(b"\0")
    return Harm("topics/.DS_Store")


@way(BUS, "stray log")
def stray_log(home: Path, made: Made) -> Harm:
    (home / "topics/candles/0/x.log").touch()
    return Harm("topics/candles/0/x.log")


@way(BUS, "stray folder beside the topics")
def stray_folder(home: Path, made: Made) -> Harm:
    (home / "topics/old").mkdir()
    return Harm("topics/old")


@way(BUS, "stray file beside the groups")
def stray_group(home: Path, made: Made) -> Harm:
    (home / "groups/.DS_Store").touch()
    return Harm("groups/.DS_Store", quiet=True)


@way(BUS, "a folder with the name of a segment")
def folder_as_log(home: Path, made: Made) -> Harm:
    (home / "topics/candles/0/00000000000000000007.log").mkdir()
    return Harm("topics/candles/0/00000000000000000007.log")


@way(BUS, "an empty segment whose name lies within another")
def stray_empty(home: Path, made: Made) -> Harm:
    file = within(made)
    (home / file).touch()
    return Harm(file, quiet=True)


@way(BUS, "a copy of a segment whose name lies within another")
def stray_copy(home: Path, made: Made) -> Harm:
    file = within(made)
    (home / file).write_bytes((home / made.files()[0]).read_bytes())
    return Harm(file, quiet=True)


def stray_within(name: str, place: str, *, copied: bool = False) -> None:
    "A file with the name of a segment within the one where a group begins, or within the one that grows."

    @way(BUS, name)
    def stray(home: Path, made: Made) -> Harm:
        last = [frame for frame in made.frames if frame.file == segment("last", made)]
        offset = COMMITTED if place == "joined" else last[len(last) // 2].keys[0][2]
        file = f"topics/candles/1/{offset:020d}.log"
        assert not (home / file).exists() and len(last) > 1
        whole = max(path for path in made.files() if int(Path(path).stem) <= offset)
        (home / file).write_bytes((home / whole).read_bytes() if copied else b"")
        return Harm(file)


stray_within("an empty segment where a group begins", "joined")
stray_within("a copy of a segment where a group begins", "joined", copied=True)
stray_within("an empty segment within the one that grows", "growing")
stray_within("a copy of the segment that grows within itself", "growing", copied=True)


def stray_beyond(name: str, offset: int, *, copied: bool = False) -> None:
    "A file with the name of a segment that lies beyond the end: nothing is lost, and no offset is passed over."

    @way(BUS, name)
    def stray(home: Path, made: Made) -> Harm:
        file = f"topics/candles/1/{offset:020d}.log"
        (home / file).write_bytes((home / made.files()[0]).read_bytes() if copied else b"")
        return Harm(file)


stray_beyond("an empty segment far beyond the end", 9_999)
stray_beyond("a copy of a segment far beyond the end", 9_999, copied=True)
stray_beyond("a segment of an impossible offset", 10**20 - 1)


@way(BUS, "a next offset that is impossible")
def huge_next(home: Path, made: Made) -> Harm:
    (home / "topics/candles/1.next").write_bytes(pack_next((1 << 64) - 1))
    return Harm("topics/candles/1.next")


@way(BUS, "committed offsets that are impossible")
def impossible_offsets(home: Path, made: Made) -> Harm:
    file = "groups/readers/offsets/offsets.json"
    content = json.loads((home / file).read_bytes().split(b"\ncrc32")[0])
    content["offsets"]["candles"][1] = {"0": -5, "1": -(10**20)}
    (home / file).write_bytes(encode_checked(content))
    return Harm(file)


def edited_offsets(name: str, *, sealed: bool, versioned: bool) -> None:
    "Committed offsets that were changed by hand."

    @way(BUS, f"committed offsets edited, {name}")
    def edit(home: Path, made: Made) -> Harm:
        file = "groups/readers/offsets/offsets.json"
        body, mark, crc = (home / file).read_bytes().partition(b"\ncrc32")
        content = json.loads(body)
        content["offsets"]["candles"][1]["1"] += 50 if versioned else 0
        edited = json.dumps(content if versioned else content["offsets"], indent=1).encode()
        (home / file).write_bytes(edited + (mark + crc if sealed else b""))
        return Harm(file)


edited_offsets("the checksum left", sealed=True, versioned=True)
edited_offsets("the checksum taken away", sealed=False, versioned=True)
edited_offsets("as an earlier version wrote them", sealed=False, versioned=False)


@way(BUS, "state of the group edited, without its checksum")
def edited_state(home: Path, made: Made) -> Harm:
    file = "groups/readers/state.json"
    (home / file).write_bytes(
        (home / file).read_bytes().partition(b"\ncrc32")[0].replace(b'"generation":', b'"generation":9')
    )
    return Harm(file)


@way(BUS, "files open to other users")
def permissions(home: Path, made: Made) -> Harm:
    (home / "topics").chmod(0o755)
    return Harm("topics", quiet=True)


@way(BUS, "a log of another partition in the place of ours")
def foreign(home: Path, made: Made) -> Harm:
    file, other = segment("last", made), made.files("candles", 0)[0]
    (home / file).write_bytes((home / other).read_bytes())
    return Harm(file, made.held(file))


@way(BUS, "a log that may not be read")
def log_rights(home: Path, made: Made) -> Harm:
    (home / segment("middle", made)).chmod(0)
    return Harm(segment("middle", made), stops="candles", after_repair=True)


@way(BUS, "a partition's folder that may not be read")
def folder_rights(home: Path, made: Made) -> Harm:
    (home / "topics/candles/1").chmod(0)
    return Harm("topics/candles/1", stops="candles", after_repair=True)


@way(BUS, "a next offset that may not be read")
def next_rights(home: Path, made: Made) -> Harm:
    (home / "topics/candles/1.next").chmod(0)
    return Harm("topics/candles/1.next", stops="candles", after_repair=True)


@way(BUS, "an index that may not be read")
def index_rights(home: Path, made: Made) -> Harm:
    file = segment("middle", made).replace(".log", ".index")
    (home / file).write_bytes(b"")
    (home / file).chmod(0)
    return Harm(file)
