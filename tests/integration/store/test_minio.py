"""Artifacts in a bucket while things go wrong: the connection is cut, slowed or dead, keys are wrong, bytes are
damaged, writers race and die."""

import asyncio
import contextlib
import io
import json
import os
import secrets
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from minio import Minio, MinioAdmin
from minio.credentials import StaticProvider
from minio.versioningconfig import VersioningConfig

sys.path.insert(0, str(Path(__file__).parents[2]))
from servers import need  # noqa: E402

from streamforge.artifacts.minio import MinioArtifacts  # noqa: E402
from streamforge.bus.base import open_bus  # noqa: E402
from streamforge.core.errors import BadUrl, DamagedArtifact, NotFound, Refused, StoreError  # noqa: E402
from streamforge.core.urls import Address, parse_url  # noqa: E402
from streamforge.messages.control import decode_event  # noqa: E402
from streamforge.workers.runtime.worker import Worker, serve  # noqa: E402

FILES = {"weights.safetensors": bytes(range(256)) * 4_000, "config.json": b"{}"}  # the larger one has about 1 MB

DEADLINE = 60  # seconds; far beyond what anything here needs, far below what it would take without an end


class Lab:
    "A bucket of our own, and a way around the adapter."

    def __init__(self, address: Address):
        self.address, self.bucket = address, f"sf-{secrets.token_hex(6)}"
        self.secret = address.password({}, "MINIO_SECRET_KEY")
        self.client = Minio(address.hosts[0], address.user, self.secret, secure=False, region="us-east-1")
        self.client.make_bucket(self.bucket)

    def url(self, host: str = "", user: str = "", **options: object) -> str:
        "Its URL, optionally through another host or as another user."
        given = {"password_file": self.address.options["password_file"]} | options
        query = "&".join(f"{key}={value}" for key, value in given.items())
        return f"minio://{user or self.address.user}@{host or self.address.hosts[0]}/{self.bucket}?{query}"

    def objects(self) -> list[str]:
        return [obj.object_name or "" for obj in self.client.list_objects(self.bucket, recursive=True)]

    def write(self, key: str, content: bytes) -> None:
        self.client.put_object(self.bucket, key, io.BytesIO(content), len(content))

    def close(self) -> None:
        for key in self.objects():
            self.client.remove_object(self.bucket, key)
        self.client.remove_bucket(self.bucket)


class Proxy:
    "A proxy to MinIO that injects faults."

    def __init__(self, api: str, upstream: str):
        self.http, self.name = httpx.Client(base_url=api, trust_env=False, timeout=30), f"sf-{secrets.token_hex(6)}"
        answer = self.http.post(
            "/proxies", json={"name": self.name, "listen": "127.0.0.1:0", "upstream": upstream, "enabled": True}
        )
        self.host = answer.raise_for_status().json()["listen"]

    @contextlib.contextmanager
    def toxic(self, kind: str, stream: str, **attributes: int):
        "Inject a fault into the connection for a while."
        answer = self.http.post(
            f"/proxies/{self.name}/toxics",
            json={"name": kind, "type": kind, "stream": stream, "attributes": attributes},
        )
        answer.raise_for_status()
        try:
            yield
        finally:
            self.http.delete(f"/proxies/{self.name}/toxics/{kind}").raise_for_status()

    @contextlib.contextmanager
    def down(self):
        "Refuse connections for a while."
        self.http.post(f"/proxies/{self.name}", json={"enabled": False}).raise_for_status()
        try:
            yield
        finally:
            self.http.post(f"/proxies/{self.name}", json={"enabled": True}).raise_for_status()

    def close(self) -> None:
        self.http.delete(f"/proxies/{self.name}")
        self.http.close()


@pytest.fixture
def lab():
    bucket_lab = Lab(parse_url(need("minio"), {}))
    yield bucket_lab
    bucket_lab.close()


@pytest.fixture
def proxy(lab):
    toxiproxy = Proxy(need("toxiproxy"), lab.address.hosts[0])
    yield toxiproxy
    toxiproxy.close()


@contextlib.asynccontextmanager
async def relay(upstream: str, *, tls: ssl.SSLContext | None = None, cut_first_after: int = 0):
    "A line in this process: with TLS, or cut once in the middle of an answer."
    cut = [cut_first_after] if cut_first_after else []

    async def copy(reader, writer, answers):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            sent = 0
            while chunk := await reader.read(65_536):
                sent += len(chunk)
                if answers and cut and sent > cut[0]:
                    cut.clear()
                    break
                writer.write(chunk)
                await writer.drain()
        writer.close()

    async def serve_one(reader, writer):
        inner_reader, inner_writer = await asyncio.open_connection(*upstream.split(":"))
        await asyncio.gather(copy(reader, inner_writer, False), copy(inner_reader, writer, True))

    server = await asyncio.start_server(serve_one, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_an_upload_cut_in_its_middle_leaves_nothing_that_anybody_sees(lab, proxy):
    async with MinioArtifacts(lab.url(proxy.host, timeout=1)) as artifacts:
        with proxy.toxic("limit_data", "upstream", bytes=300_000):  # each connection ends after so many bytes
            with pytest.raises(StoreError) as caught:
                await artifacts.put("models", "gatv2", {"first.json": b"{}", **FILES})
            assert lab.secret not in str(caught.value)
        assert lab.objects() and not [path for path in lab.objects() if path.endswith("manifest.json")]
        assert await artifacts.versions("models", "gatv2") == [] and await artifacts.names("models") == []
        assert await artifacts.sweep("models") == 0  # too young to be sure
        kept = await artifacts.put("models", "kept", FILES)
        assert await artifacts.sweep("models", older_than=-60) == 1 and {
            path.split("/")[1] for path in lab.objects()
        } == {"kept"}
        put = await artifacts.put("models", "gatv2", FILES)  # the line is whole again: the same store works on
        assert await artifacts.get(put, "weights.safetensors") == FILES[
            "weights.safetensors"
        ] and await artifacts.versions("models", "kept") == [kept]


async def test_a_large_upload_cut_in_its_middle(lab, proxy):
    async with MinioArtifacts(lab.url(proxy.host, timeout=1)) as artifacts:
        with proxy.toxic("limit_data", "upstream", bytes=5_000_000), pytest.raises(StoreError):
            await artifacts.put("datasets", "big", {"candles.arrow": bytes(30_000_000)})
        assert (
            lab.objects() == [] and await artifacts.names("datasets") == []
        )  # not even parts: the upload was given up


@pytest.mark.slow
async def test_a_server_that_is_away_is_an_error_in_time_and_no_reason_to_start_anew(lab, proxy):
    async with MinioArtifacts(lab.url(proxy.host, timeout=0.3)) as artifacts:
        put = await artifacts.put("models", "gatv2", FILES)
        for fault in (
            proxy.down(),
            proxy.toxic("timeout", "downstream", timeout=0),
            proxy.toxic("reset_peer", "downstream", timeout=0),
        ):
            with fault:
                for ask in (
                    lambda: artifacts.get(put, "config.json"),
                    lambda: artifacts.names("models"),
                    lambda: artifacts.put("models", "gatv2", {"a": b"1"}),
                ):
                    with pytest.raises(StoreError):
                        await asyncio.wait_for(ask(), DEADLINE)  # three tries of 0.9 s each, and pauses between
            assert await artifacts.get(put, "config.json") == b"{}"
    with proxy.down(), pytest.raises(StoreError):
        async with MinioArtifacts(lab.url(proxy.host, timeout=1)):
            pass


@pytest.mark.slow
async def test_a_line_that_drips_is_given_up(lab, proxy):
    async with MinioArtifacts(lab.url(proxy.host, timeout=1)) as artifacts:
        put = await artifacts.put("models", "gatv2", {"weights": bytes(200_000)})
        with proxy.toxic("bandwidth", "downstream", rate=5), pytest.raises(StoreError, match="64 KiB/s"):
            await artifacts.get(put, "weights")
        with proxy.toxic("latency", "downstream", latency=200):  # slow to answer is not dead
            assert await artifacts.get(put, "weights") == bytes(200_000)


async def test_a_download_that_is_cut_once_is_begun_again(lab):
    async with MinioArtifacts(lab.url()) as artifacts:
        put = await artifacts.put("models", "gatv2", FILES)
    async with relay(lab.address.hosts[0], cut_first_after=500_000) as host, MinioArtifacts(lab.url(host)) as artifacts:
        assert await artifacts.get(put, "weights.safetensors") == FILES["weights.safetensors"]


async def test_a_cancelled_upload_comes_to_nothing(lab, proxy):
    artifacts = MinioArtifacts(lab.url(proxy.host, timeout=1))
    async with artifacts:
        with proxy.toxic("bandwidth", "upstream", rate=2_000):
            putting = asyncio.create_task(
                artifacts.put("models", "gatv2", {f"part-{k}": bytes(500_000) for k in range(6)})
            )
            deadline = time.monotonic() + DEADLINE
            while not lab.objects():
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
            putting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await putting
    await asyncio.to_thread(artifacts._threads.shutdown)
    assert 0 < len(lab.objects()) < 6 and not [path for path in lab.objects() if path.endswith("manifest.json")]


async def test_of_many_writers_one_creates_the_manifest_and_all_have_the_artifact(lab):
    async with contextlib.AsyncExitStack() as stack:
        writers = [await stack.enter_async_context(MinioArtifacts(lab.url())) for _ in range(8)]
        lab.client.set_bucket_versioning(lab.bucket, VersioningConfig("Enabled"))
        puts = await asyncio.gather(*(writer.put("models", "gatv2", {"config.json": b"{}"}) for writer in writers))
        written = list(lab.client.list_objects(lab.bucket, recursive=True, include_version=True))
        assert (
            len([written_object for written_object in written if written_object.object_name.endswith("manifest.json")])
            == 1
        )  # although files were written by each
        assert puts == puts[:1] * 8 and await writers[0].versions("models", "gatv2") == puts[:1]
        for one in written:
            lab.client.remove_object(lab.bucket, one.object_name, version_id=one.version_id)


async def test_damage_is_noticed_and_publishing_again_repairs_it(lab):
    weights = FILES["weights.safetensors"]
    async with MinioArtifacts(lab.url()) as artifacts:
        put = await artifacts.put("models", "gatv2", FILES, {"auc": 0.52})
        below = f"models/gatv2/{put.version}"
        manifest = lab.client.get_object(lab.bucket, f"{below}/manifest.json").read()
        for key, content in (
            ("files/weights.safetensors", bytes([weights[0] ^ 1]) + weights[1:]),
            ("files/weights.safetensors", weights[:-1]),
            ("files/weights.safetensors", weights + b"."),
            ("files/weights.safetensors", None),
            ("manifest.json", manifest.replace(b"0.52", b"0.99")),
            ("manifest.json", manifest[:-20]),
            ("manifest.json", b""),
        ):
            lab.client.remove_object(lab.bucket, f"{below}/{key}") if content is None else lab.write(
                f"{below}/{key}", content
            )
            with pytest.raises(DamagedArtifact):
                await artifacts.get(await artifacts.manifest("models", "gatv2", put.version), "weights.safetensors")
            assert await artifacts.versions("models", "gatv2") == ([] if key == "manifest.json" else [put])
            assert await artifacts.put("models", "gatv2", FILES, {"auc": 0.52}) == put
            assert (
                await artifacts.get(await artifacts.manifest("models", "gatv2", put.version), "weights.safetensors")
                == weights
            )
        lab.client.remove_object(lab.bucket, f"{below}/manifest.json")  # this is how a version is withdrawn
        with pytest.raises(NotFound):
            await artifacts.manifest("models", "gatv2", put.version)


async def test_prefixes_are_apart(lab):
    async with MinioArtifacts(lab.url()) as whole, MinioArtifacts(lab.url().replace("?", "/team-a?")) as part:
        put = await part.put("models", "gatv2", FILES)
        assert (
            await part.versions("models", "gatv2") == [put]
            and await part.names("models") == ["gatv2"]
            and await whole.names("models") == []
        )
        assert "/team-a/models/gatv2/" in put.uri and "@" not in put.uri and "password" not in put.uri


async def test_refusals_have_names(lab, tmp_path):
    absent = lab.url().replace(lab.bucket, f"{lab.bucket}-absent")
    (tmp_path / "wrong").write_text("not-the-password")
    for url, error, word in (
        (absent, BadUrl, "mc mb"),
        (lab.url(password_file=tmp_path / "wrong"), Refused, "SignatureDoesNotMatch"),
        (lab.url(user="nobody"), Refused, "InvalidAccessKeyId"),
        (lab.url(tls=1), BadUrl, "tls=0"),
        (lab.url(ca="/nowhere/ca.pem"), BadUrl, "ca="),
    ):
        with pytest.raises(error, match=word) as caught:
            async with MinioArtifacts(url):
                pass
        assert lab.secret not in str(caught.value) and "expected" in str(caught.value)
    assert not lab.client.bucket_exists(f"{lab.bucket}-absent")  # and it was not made in passing


async def test_a_rotated_key_is_used_from_the_next_request_on(lab, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text(lab.secret)
    async with MinioArtifacts(lab.url(password_file=secret)) as artifacts:
        put = await artifacts.put("models", "gatv2", FILES)
        secret.write_text("rotated-elsewhere")
        with pytest.raises(Refused):
            await artifacts.get(put, "config.json")
        secret.write_text(lab.secret + "\n")
        assert await artifacts.get(put, "config.json") == b"{}"


async def test_who_may_only_read_reads(lab, tmp_path):
    admin = MinioAdmin(
        endpoint=lab.address.hosts[0], credentials=StaticProvider(lab.address.user, lab.secret), secure=False
    )
    name = secret = f"sf-{secrets.token_hex(6)}"
    (tmp_path / "secret").write_text(secret)
    allowed = {
        "Effect": "Allow",
        "Action": ["s3:GetObject", "s3:ListBucket"],
        "Resource": [f"arn:aws:s3:::{lab.bucket}", f"arn:aws:s3:::{lab.bucket}/*"],
    }
    policy = {"Version": "2012-10-17", "Statement": [allowed]}
    admin.user_add(name, secret)
    try:
        with pytest.raises(Refused, match="AccessDenied"):
            async with MinioArtifacts(lab.url(user=name, password_file=tmp_path / "secret")):
                pass
        admin.policy_add(name, policy=policy)
        admin.policy_set(name, user=name)
        async with (
            MinioArtifacts(lab.url()) as owner,
            MinioArtifacts(lab.url(user=name, password_file=tmp_path / "secret")) as reader,
        ):
            put = await owner.put("models", "gatv2", FILES)
            assert await reader.versions("models", "gatv2") == [put] and await reader.get(put, "config.json") == b"{}"
            with pytest.raises(Refused):
                await reader.put("models", "gatv2", {"config.json": b"[]"})
            assert await owner.versions("models", "gatv2") == [put]
    finally:
        admin.user_remove(name)
        with contextlib.suppress(Exception):
            admin.policy_remove(name)


@pytest.fixture
def authority(tmp_path) -> Path:
    "A folder with a certificate for 127.0.0.1 that is its own authority (`ca`), and its `key`."
    finished = subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=lab",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            "key",
            "-out",
            "ca",
        ],
        cwd=tmp_path,
        capture_output=True,
    )
    assert finished.returncode == 0, finished.stderr
    return tmp_path


async def test_tls_with_an_authority_of_our_own(lab, authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "ca", authority / "key")
    async with relay(lab.address.hosts[0], tls=context) as host:
        async with MinioArtifacts(lab.url(host, tls=1, ca=authority / "ca")) as artifacts:
            put = await artifacts.put("models", "gatv2", FILES | {"large": bytes(20_000_000)})
            assert await artifacts.get(put, "large") == bytes(20_000_000) and await artifacts.versions(
                "models", "gatv2"
            ) == [put]
        with pytest.raises(Refused, match="authority"):
            async with MinioArtifacts(lab.url(host, tls=1)):
                pass


class Keeper(Worker):
    uses = ("artifacts",)

    async def run(self, ctx):
        await ctx.artifacts.put("models", "gatv2", {"config.json": b"{}"})


async def test_a_worker_reports_what_is_wrong_with_its_bucket(lab, tmp_path):
    (tmp_path / "wrong").write_text("not-the-password")
    ends = {}
    for name, url in (
        ("well", lab.url()),
        ("absent", lab.url().replace(lab.bucket, f"{lab.bucket}-absent")),
        ("refused", lab.url(password_file=tmp_path / "wrong")),
        ("away", lab.url("127.0.0.1:9", timeout=1)),
    ):
        env = {
            "STREAMFORGE_HOME": str(tmp_path / name),
            "QUEUE_ID": "wf-1",
            "TELEMETRY_PRODUCER_ID": "keeper__a1b2c3",
            "STREAMFORGE_ARTIFACTS_URL": url,
        }
        code = await serve("keeper", env, worker=Keeper())
        async with open_bus(f"embedded://{tmp_path}/{name}/bus") as bus:
            last = decode_event((await anext(bus.tail("queue-events"))).records[-1].value)
        ends[name] = (code, last.status, last.extra.get("error_type"), last.finished)
    assert ends == {
        "well": (0, "finished", None, True),
        "absent": (64, "error", "BadUrl", True),
        "refused": (78, "error", "Refused", True),
        "away": (75, "error", "StoreError", False),
    }


class Stuck(Worker):
    uses = ("artifacts",)

    async def run(self, ctx):
        ctx.progress(1)
        while True:
            await ctx.artifacts.put("models", "stuck", {"weights": bytes(3_000_000)})
            await asyncio.sleep(0.05)


STUCK = (
    "import os, sys; sys.path.insert(0, sys.argv[1]); from streamforge.workers.targets import TARGETS, "
    "Parameters, Target; from streamforge.workers.runtime.worker import run_worker; TARGETS['stuck'] = "
    "Target(worker='test_minio:Stuck', help='', parameters=(Parameters,)); sys.exit(run_worker('stuck', "
    "os.environ))"
)


@pytest.mark.slow
async def test_a_worker_that_hangs_in_an_upload_still_ends_in_time(lab, proxy, tmp_path):
    places = {
        "STREAMFORGE_HOME": str(tmp_path),
        "QUEUE_ID": "wf-1",
        "TELEMETRY_PRODUCER_ID": "stuck__a1b2c3",
        "STREAMFORGE_ARTIFACTS_URL": lab.url(proxy.host, timeout=100),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STUCK, str(Path(__file__).parent), env=os.environ | places, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + DEADLINE
    while not lab.objects():
        assert time.monotonic() < deadline and process.returncode is None
        await asyncio.sleep(0.05)
    with proxy.toxic("timeout", "downstream", timeout=0):  # the server hears, and never answers: 300 s a try
        await asyncio.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), DEADLINE) == 75


PEAK = """
import asyncio, json, os, resource, sys, time
from streamforge.artifacts.minio import MinioArtifacts
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
async def main(url, size):
    content = os.urandom(size)
    async with MinioArtifacts(url) as artifacts:
        await artifacts.put("models", "warm", {"up": b"."})
        seen = {"before": peak()}
        began = time.monotonic()
        put = await artifacts.put("datasets", "big", {"candles.arrow": content})
        seen |= {"up": size / (time.monotonic() - began) / 1e6, "after put": peak()}
        del content
        began = time.monotonic()
        content = await artifacts.get(put, "candles.arrow")
        seen |= {"down": size / (time.monotonic() - began) / 1e6, "after get": peak()}
    print(json.dumps(seen))
asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def test_a_big_file_is_held_once(lab):
    size = 100_000_000
    run = await asyncio.create_subprocess_exec(sys.executable, "-c", PEAK, lab.url(), str(size), stdout=subprocess.PIPE)
    seen = json.loads((await asyncio.wait_for(run.communicate(), 120))[0])
    assert seen["after put"] - seen["before"] < size * 0.9, seen  # parts on their way, not another copy
    assert seen["after get"] - seen["before"] < size * 1.3, (
        seen
    )  # what was sent is gone by then, its pages perhaps not yet
