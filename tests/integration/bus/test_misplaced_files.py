"""Files of a bus that are of the wrong kind, of another topic, or gone: a check names each, a repair mends it."""

import shutil
from contextlib import aclosing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from streamforge.bus.base import Message, TopicSpec, open_bus
from streamforge.bus.embedded.check import check_bus, repair_bus
from streamforge.bus.embedded.files import TopicInfo, decode_checked, encode_checked, read_topic_info
from streamforge.core.errors import BusError

ROWS = {(partition, offset) for partition in range(2) for offset in range(40)}
CANDLES = "topics/candles"


async def fill(home: Path) -> None:
    "Two topics; a group has committed offset 30 of both partitions of `candles`."
    async with open_bus(f"embedded://{home}?segment_bytes=400") as bus:
        await bus.create_topic("candles", TopicSpec(partitions=2))
        await bus.create_topic("events")
        for n in range(40):
            await bus.publish("candles", [Message(b"%d" % n, key=key) for key in ("MARKET6", "MARKET0")])
            await bus.publish("events", [Message(b"%d" % n)])
        async with bus.subscribe(["candles"], "readers") as consumer:
            await consumer.commit({("candles", 0): 30, ("candles", 1): 30})


async def read(home: Path, topic: str = "candles") -> set[tuple[int, int]]:
    "The (partition, offset) of every record of a topic."
    async with open_bus(f"embedded://{home}") as bus:
        ends, position, seen = await bus.end_offsets(topic), await bus.begin_offsets(topic), set()
        async with aclosing(bus.tail(topic, max_wait=0.02)) as batches:
            while any(position[partition] < end for partition, end in ends.items()):
                batch = await anext(batches)
                seen |= {(record.partition, record.offset) for record in batch.records}
                position |= {partition: offset for (_, partition), offset in batch.end_offsets.items()}
        return seen


async def use(home: Path) -> None:
    "Write, read and commit as a worker does."
    async with (
        open_bus(f"embedded://{home}?segment_bytes=400") as bus,
        bus.subscribe(["candles"], "readers") as consumer,
    ):
        await bus.publish("candles", [Message(b"new", key=key) for key in ("MARKET6", "MARKET0")])
        await consumer.commit((await consumer.poll()).end_offsets)


def named(report, path: str) -> list[str]:
    return [finding.what for finding in report.findings if finding.path == path and finding.damaged]


FILES = [
    f"{CANDLES}/topic.json",
    f"{CANDLES}/topic.copy.json",
    f"{CANDLES}/topic.new",
    f"{CANDLES}/1.next",
    f"{CANDLES}/1/lock",
    f"{CANDLES}/1/00000000000000000000.index",
    f"{CANDLES}/1/00000000000000000000.new",
    "groups/readers/lock",
    "groups/readers/state.json",
    "groups/readers/state.new",
    "groups/readers/offsets/offsets.json",
    "groups/readers/offsets/offsets.new",
]


@pytest.mark.parametrize("file", FILES)
async def test_a_folder_in_the_place_of_a_file(tmp_path, file):
    await fill(tmp_path)
    (tmp_path / file).unlink(missing_ok=True)
    (tmp_path / file).mkdir()
    (tmp_path / file / "inside").write_text("kept")
    try:
        await use(tmp_path)
    except BusError as error:
        assert Path(file).stem in str(error), "it names the file"
    if (tmp_path / file).is_dir():  # a worker may have set it aside
        assert named(await check_bus(tmp_path), file) == ["a folder is in the place of this file"]
    await repair_bus(tmp_path)
    assert [path.read_text() for path in tmp_path.rglob("*.aside/inside")] == ["kept"]
    report = await check_bus(tmp_path)
    assert not report.damaged, report.findings
    assert await read(tmp_path) >= ROWS
    await use(tmp_path)


@pytest.mark.parametrize("folder", [f"{CANDLES}/1", "groups", "drafts", "groups/readers/offsets"])
async def test_a_file_in_the_place_of_a_folder(tmp_path, folder):
    await fill(tmp_path)
    shutil.rmtree(tmp_path / folder)
    (tmp_path / folder).write_text("kept")
    assert "a file is in the place of this folder" in named(await check_bus(tmp_path), folder)
    await repair_bus(tmp_path)
    assert [path.read_text() for path in tmp_path.rglob("*.aside")] == ["kept"]
    report = await check_bus(tmp_path)
    assert not report.damaged, report.findings
    left = {(0, n) for n in range(40)} if folder == f"{CANDLES}/1" else ROWS
    assert await read(tmp_path) == left
    await use(tmp_path)


def without_checksum(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes().partition(b"\ncrc32")[0]
    assert old in data
    path.write_bytes(data.replace(old, new))


def exchange(home: Path, *files: str) -> None:
    for file in files:
        one, other = home / CANDLES / file, home / "topics/events" / file
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second), other.write_bytes(first)


def unnamed(home: Path, *, checksum: bool) -> None:
    "Write all files of topics as earlier versions did."
    for path in home.glob("topics/*/topic*.json"):
        content = decode_checked(path.read_bytes(), dict)
        content.pop("name")
        data = encode_checked(content)
        path.write_bytes(data if checksum else data.partition(b"\ncrc32")[0])
        if not checksum and path.name == "topic.copy.json":
            path.unlink()


WAYS = {
    "exchanged": lambda home: exchange(home, "topic.json"),
    "both exchanged": lambda home: exchange(home, "topic.json", "topic.copy.json"),
    "fewer": lambda home: without_checksum(home / CANDLES / "topic.json", b'"partitions":2', b'"partitions":1'),
    "more": lambda home: without_checksum(home / CANDLES / "topic.json", b'"partitions":2', b'"partitions":200'),
    "negative": lambda home: without_checksum(home / CANDLES / "topic.json", b'"partitions":2', b'"partitions":-2'),
}


@pytest.mark.parametrize("how", WAYS)
async def test_the_file_of_another_topic_and_an_edited_one_do_not_count(tmp_path, how):
    await fill(tmp_path)
    before = read_topic_info(tmp_path, "candles")
    WAYS[how](tmp_path)
    assert read_topic_info(tmp_path, "candles") == before
    assert read_topic_info(tmp_path, "events").spec == TopicSpec()
    assert named(await check_bus(tmp_path), f"{CANDLES}/topic.json")
    for _ in range(2):
        assert await read(tmp_path) == ROWS
        async with open_bus(f"embedded://{tmp_path}") as bus:
            assert await bus.committed("readers", "candles") == {0: 30, 1: 30}
        await repair_bus(tmp_path)
        assert not (await check_bus(tmp_path)).damaged
    assert read_topic_info(tmp_path, "candles") == before


@pytest.mark.parametrize("checksum", [True, False])
async def test_topic_files_of_earlier_versions_count(tmp_path, checksum):
    "They have no name, and those before have no checksum and no copy."
    await fill(tmp_path)
    before = read_topic_info(tmp_path, "candles")
    unnamed(tmp_path, checksum=checksum)
    assert read_topic_info(tmp_path, "candles") == TopicInfo(before.id, before.spec)
    assert not (await check_bus(tmp_path)).damaged
    shutil.copytree(tmp_path / CANDLES / "1", tmp_path / CANDLES / "2")  # a copy beside it makes no partition
    assert read_topic_info(tmp_path, "candles") == TopicInfo(before.id, before.spec)
    if checksum:
        shutil.rmtree(tmp_path / CANDLES / "2")
        without_checksum(tmp_path / CANDLES / "topic.json", b'"partitions":2', b'"partitions":1')
        assert read_topic_info(tmp_path, "candles").spec == before.spec, "the copy counts"


async def test_a_topic_deleted_by_hand_is_named_by_the_groups(tmp_path):
    await fill(tmp_path)
    (tmp_path / CANDLES).rename(tmp_path / "kept")
    offsets = "groups/readers/offsets/offsets.json"
    assert "there is no such topic" in named(await check_bus(tmp_path), offsets)[0]
    await repair_bus(tmp_path)
    assert not (await check_bus(tmp_path)).damaged
    assert b"candles" in (tmp_path / f"{offsets}.aside").read_bytes()


async def test_a_topic_deleted_by_the_bus_leaves_no_offsets(tmp_path):
    "A consumer that commits late does not bring them back."
    await fill(tmp_path)
    async with open_bus(f"embedded://{tmp_path}") as bus, bus.subscribe(["candles", "events"], "readers") as consumer:
        ends = (await consumer.poll()).end_offsets
        await bus.delete_topic("candles")
        await consumer.commit(ends | {("candles", 0): 1})
    report = await check_bus(tmp_path)
    assert not report.damaged, report.findings


async def test_the_folder_of_all_groups_is_missed(tmp_path):
    await fill(tmp_path)
    shutil.rmtree(tmp_path / "groups")
    assert named(await check_bus(tmp_path), "groups") == ["it is missing; every group reads from the start"]
    with capture_logs() as lines:
        await read(tmp_path)
    assert [line["event"] for line in lines] == ["folder of the groups is missing, they read from the start"]
    assert not (await check_bus(tmp_path)).damaged


async def test_copied_topics(tmp_path):
    "A name that no topic can have is stray; the file of a copy has the name of the original."
    await fill(tmp_path)
    for name in ("candles copy", "candles.bak"):
        shutil.copytree(tmp_path / CANDLES, tmp_path / "topics" / name)
    report = await check_bus(tmp_path)
    assert ("topics/candles copy", "stray file") in {(finding.path, finding.what) for finding in report.findings}
    assert "it is the file of topic 'candles'" in named(report, "topics/candles.bak/topic.json")[0]
    async with open_bus(f"embedded://{tmp_path}") as bus:
        assert [*await bus.topics()] == ["candles", "candles.bak", "events"]
    await repair_bus(tmp_path)
    assert not (await check_bus(tmp_path)).damaged
    assert read_topic_info(tmp_path, "candles.bak").id != read_topic_info(tmp_path, "candles").id
    assert await read(tmp_path, "candles.bak") == ROWS


async def test_a_copy_of_an_earlier_versions_topic_is_said(tmp_path):
    await fill(tmp_path)
    unnamed(tmp_path, checksum=True)
    shutil.copytree(tmp_path / CANDLES, tmp_path / "topics/candles.bak")
    findings = {finding.path: finding.what for finding in (await check_bus(tmp_path)).findings}
    assert findings["topics/candles.bak"] == "it has the id of topic 'candles': one is a copy of the other"


async def test_other_users_may_not_change_the_folder_of_a_bus(tmp_path):
    home = tmp_path / "bus"
    await fill(home)
    for mode in (0o777, 0o720, 0o702):
        home.chmod(mode)
        assert named(await check_bus(home), ".") == ["other users may rename or replace its folders"]
        await repair_bus(home)
        assert home.stat().st_mode & 0o777 == mode & 0o755
        assert not (await check_bus(home)).damaged
    home.chmod(0o1777)  # as /tmp
    assert not (await check_bus(home)).damaged
