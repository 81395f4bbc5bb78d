"""What the embedded defaults write can be read by this user alone, whatever the umask and the release before allowed."""

import os
from pathlib import Path

import pytest

from streamforge.artifacts.base import open_artifacts
from streamforge.bus.base import Message, TopicSpec, open_bus
from streamforge.store.base import open_store
from streamforge.store.schemas import CANDLES


@pytest.fixture(autouse=True)
def generous_umask():
    before = os.umask(0)
    yield
    os.umask(before)


async def work(home: Path) -> None:
    "Use bus, store and artifacts, and look at the files while they are open."
    async with (
        open_bus(f"embedded://{home}/bus") as bus,
        open_store(f"sqlite:///{home}/store.db") as store,
        open_artifacts(f"file://{home}/artifacts") as artifacts,
    ):
        await bus.create_topic("candles", TopicSpec(partitions=2))
        await bus.publish("candles", [Message(b"{}", key="BTCUSDT")])
        await store.ensure("candles_1h", CANDLES)
        await store.upsert("candles_1h", [{"symbol": "BTCUSDT", "interval": "1h", "open_time": 0, "close": 1.0}])
        await store.put("workflow", "w", {})
        await artifacts.put("models", "gnn", {"layers/weights.bin": b"123"})
        assert (home / "store.db-wal").exists()
        assert not open_to_others(home)


def open_to_others(home: Path) -> dict[str, str]:
    "Files and folders on which other users have rights, with their modes."
    modes = {path: path.stat().st_mode & 0o777 for path in (home, *home.rglob("*"))}
    return {str(path.relative_to(home)): f"{mode:o}" for path, mode in modes.items() if mode & 0o077}


async def test_new_files_are_of_this_user_alone(tmp_path):
    await work(tmp_path / "deep" / "lab")
    assert (tmp_path / "deep").stat().st_mode & 0o777 == 0o700


async def test_files_of_an_earlier_release_are_narrowed(tmp_path):
    home = tmp_path / "lab"
    await work(home)
    for path in home.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    async with (
        open_bus(f"embedded://{home}/bus"),
        open_store(f"sqlite:///{home}/store.db") as store,
        open_artifacts(f"file://{home}/artifacts") as artifacts,
    ):
        assert await store.count("candles_1h") == 1
        assert len(await artifacts.versions("models", "gnn")) == 1
    left = open_to_others(home)
    assert all(path.is_dir() for path in map(home.joinpath, left)), left  # no file can be read
    assert set(left) <= {"bus", "artifacts", "artifacts/models", "artifacts/models/gnn", "artifacts/.incoming"}


async def test_a_folder_that_is_not_ours_keeps_its_mode(tmp_path):
    (tmp_path / "shared").mkdir(mode=0o777)
    (tmp_path / "shared" / "of-others.txt").touch(0o644)
    async with open_store(f"sqlite:///{tmp_path}/shared/store.db"), open_artifacts(f"file://{tmp_path}/shared"):
        pass
    assert (tmp_path / "shared").stat().st_mode & 0o777 == 0o777
    assert (tmp_path / "shared" / "of-others.txt").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "shared" / "store.db").stat().st_mode & 0o777 == 0o600
