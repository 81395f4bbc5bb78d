"What every artifact store must do. Written against the port alone."

import asyncio
import hashlib
import math
import random
import subprocess
import sys

import msgspec
import pytest

from streamforge.artifacts.base import open_artifacts, version_of
from streamforge.core.errors import BadData, BadName, DamagedArtifact, NotFound

FILES = {
    "weights.safetensors": bytes(range(256)) * 40,
    "config.json": b'{"hidden": 32}',
    "folds/0/metrics.json": b"{}",
    "empty": b"",
}


@pytest.fixture
async def artifacts(artifacts_url):
    async with open_artifacts(artifacts_url) as opened:
        yield opened


async def test_what_is_put_is_what_one_gets(artifacts, fresh):
    meta = {"auc": 0.52, "symbols": ["BTCUSDT"], "deep": {"ö": None}}
    put = await artifacts.put("models", fresh, FILES, meta)
    read = await artifacts.manifest("models", fresh, put.version)
    assert read == put and read.uri and read.meta == meta and (read.kind, read.name) == ("models", fresh)
    assert read.version == version_of("models", fresh, FILES, meta).version
    assert read.files == {path: (len(content), hashlib.sha256(content).hexdigest()) for path, content in FILES.items()}
    for path, content in FILES.items():
        assert await artifacts.get(read, path) == content


async def test_the_same_content_is_the_same_artifact(artifacts, fresh):
    first = await artifacts.put("models", fresh, FILES, {"a": 1, "b": 2})
    again = await artifacts.put("models", fresh, dict(reversed(FILES.items())), {"b": 2, "a": 1})
    other = await artifacts.put("models", fresh, FILES | {"empty": b"."}, {"a": 1, "b": 2})
    third = await artifacts.put("models", fresh, FILES, {"a": 1, "b": 3})
    assert again == first and len({first.version, other.version, third.version}) == 3
    assert await artifacts.versions("models", fresh) == [first, other, third]  # oldest first
    assert await artifacts.get(other, "empty") == b"." and await artifacts.get(first, "empty") == b""


async def test_derived_files_are_kept_beside_and_are_not_part_of_the_version(artifacts, fresh):
    bare = await artifacts.put("datasets", fresh, FILES, {"rows": 2})
    put = await artifacts.put("datasets", fresh, FILES, {"rows": 2}, derived={"rows.csv": b"1,2\n", "a/b": b"of 1"})
    assert put.version == bare.version and put.files == bare.files and list(put.derived) == ["a/b", "rows.csv"]
    assert put == await artifacts.manifest("datasets", fresh, put.version)
    assert await artifacts.get(put, "rows.csv") == b"1,2\n" and await artifacts.get(put, "config.json")
    again = await artifacts.put("datasets", fresh, FILES, {"rows": 2})  # by someone who derives nothing
    assert again == put and await artifacts.get(again, "a/b") == b"of 1"
    other = await artifacts.put("datasets", fresh, FILES, {"rows": 2}, derived={"rows.csv": b"1;2\n", "a/b": b"of 2"})
    assert other.version == put.version and await artifacts.versions("datasets", fresh) == [other]
    assert await artifacts.get(other, "a/b") in (b"of 1", b"of 2") and await artifacts.get(other, "rows.csv")
    wrong = msgspec.structs.replace(other, derived={"a/b": (4, hashlib.sha256(b"of 3").hexdigest())})
    with pytest.raises(DamagedArtifact):
        await artifacts.get(wrong, "a/b")
    with pytest.raises(BadName):
        await artifacts.put("datasets", fresh, FILES, {}, derived={"config.json": b"{}"})
    with pytest.raises(BadName):
        await artifacts.put("datasets", fresh, FILES, {}, derived={"../x": b"{}"})


async def test_names_and_kinds_are_apart(artifacts, fresh):
    model = await artifacts.put("models", fresh, {"a": b"1"})
    await artifacts.put("models", f"{fresh}-two", {"a": b"1"})
    data = await artifacts.put("datasets", fresh, {"a": b"1"})
    assert model.version != data.version
    assert [name for name in await artifacts.names("models") if name.startswith(fresh)] == [fresh, f"{fresh}-two"]
    assert await artifacts.versions("datasets", fresh) == [data] and fresh not in await artifacts.names("reports")


async def test_an_artifact_may_consist_of_its_meta(artifacts, fresh):
    put = await artifacts.put("reports", fresh, {}, {"sharpe": 0.1})
    assert await artifacts.manifest("reports", fresh, put.version) == put and put.files == {}


async def test_what_is_not_there(artifacts, fresh):
    put = await artifacts.put("models", fresh, FILES)
    for version in ("0" * 64, "", "latest", "../../x", put.version[:12], put.version.upper() + "x"):
        with pytest.raises(NotFound):
            await artifacts.manifest("models", fresh, version)
    with pytest.raises(NotFound):
        await artifacts.get(put, "weights.bin")
    with pytest.raises(NotFound):
        await artifacts.get(msgspec.structs.replace(put, name=f"{fresh}-other"), "config.json")
    assert await artifacts.versions("models", f"{fresh}-other") == [] and await artifacts.names(f"{fresh}-kind") == []


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "", ".", "a//b", "a\\b", "a\nb", "a/", "./a"])
async def test_no_path_leads_outside(artifacts, fresh, path):
    with pytest.raises(BadName):
        await artifacts.put("models", fresh, {"fine": b"", path: b"gotcha"})
    assert await artifacts.versions("models", fresh) == []
    put = await artifacts.put("models", fresh, {"fine": b""})
    forged = msgspec.structs.replace(put, files={path: (6, hashlib.sha256(b"gotcha").hexdigest())})
    with pytest.raises(BadName):
        await artifacts.get(forged, path)


async def test_names_are_checked(artifacts, fresh):
    for kind, name in (
        ("../x", fresh),
        ("models", "../x"),
        ("", fresh),
        ("models", ""),
        ("models", "a/b"),
        (".incoming", fresh),
    ):
        with pytest.raises(BadName):
            await artifacts.put(kind, name, FILES)
    with pytest.raises(BadName):
        await artifacts.put("models", fresh, {"a": b"", "a/b": b""})
    for meta in ({"auc": math.nan}, {"auc": math.inf}, {"x": object()}):
        with pytest.raises(BadData):
            await artifacts.put("models", fresh, FILES, meta)
    assert await artifacts.versions("models", fresh) == []


async def test_a_manifest_that_promises_something_else_is_noticed(artifacts, fresh):
    put = await artifacts.put("models", fresh, {"a": b"one"})
    for promise in ((3, hashlib.sha256(b"two").hexdigest()), (4, put.files["a"][1])):
        with pytest.raises(DamagedArtifact):
            await artifacts.get(msgspec.structs.replace(put, files={"a": promise}), "a")


async def test_writers_of_the_same_content_at_once(artifacts, artifacts_url, fresh):
    async with open_artifacts(artifacts_url) as other:
        puts = await asyncio.gather(*((artifacts, other)[k % 2].put("models", fresh, FILES) for k in range(8)))
    assert len({artifact.version for artifact in puts}) == 1 and await artifacts.versions("models", fresh) == puts[:1]
    for path, content in FILES.items():
        assert await artifacts.get(puts[0], path) == content


async def test_large_files(artifacts, fresh):
    content = random.Random(7).randbytes(8_000_000)
    put = await artifacts.put("datasets", fresh, {"candles.arrow": content})
    assert await artifacts.get(put, "candles.arrow") == content


PUTTER = """
import asyncio, sys
from streamforge.artifacts.base import open_artifacts
async def main(url, name):
    async with open_artifacts(url) as artifacts:
        for k in range(1000):
            parts = {f"part-{j}": bytes([k % 256]) * 300_000 for j in range(4)}
            await artifacts.put("models", name, parts, {"number": k})
            print(k, flush=True)
asyncio.run(main(*sys.argv[1:]))
"""


def putter(url: str, name: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", PUTTER, url, name], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("seed", range(3))
async def test_a_killed_put_leaves_nothing_that_anybody_sees(artifacts, artifacts_url, fresh, seed):
    process = putter(artifacts_url, fresh)
    try:
        assert process.stdout.readline() == "0\n"
        await asyncio.sleep(random.Random(seed).uniform(0, 0.1))
    finally:
        process.kill()
        printed = process.communicate()[0].split()
    versions = await artifacts.versions("models", fresh)
    assert [version.meta["number"] for version in versions][: len(printed) + 1] == list(range(len(printed) + 1))
    for version in versions:
        assert len(version.files) == 4
        for path in version.files:
            assert await artifacts.get(version, path) == bytes([version.meta["number"] % 256]) * 300_000
