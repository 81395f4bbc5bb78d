"""Every wrong address, password, right, file and record: a named error with what to do, its exit code, an event
where the bus can be reached, and nothing lost once the cause is mended."""

import asyncio
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from worker_lab import WorkerLab, real_places, sample_candles, until

sys.path.insert(0, str(Path(__file__).parents[2]))
from servers import need  # noqa: E402

from streamforge.bus.base import Message, TopicSpec, open_bus  # noqa: E402
from streamforge.bus.kafka.admin import Broker  # noqa: E402
from streamforge.bus.kafka.config import read_access  # noqa: E402
from streamforge.cli.services import open_lab  # noqa: E402
from streamforge.client.client import Client  # noqa: E402
from streamforge.core.errors import BadRecord  # noqa: E402
from streamforge.core.settings import read_places  # noqa: E402
from streamforge.core.times import TimeRange  # noqa: E402
from streamforge.core.urls import parse_url  # noqa: E402
from streamforge.exchange.binance.archive import Archive  # noqa: E402
from streamforge.exchange.binance.requests import Retry  # noqa: E402
from streamforge.exchange.simulator.app import Simulator, serve_app  # noqa: E402
from streamforge.exchange.simulator.faults import Fault  # noqa: E402
from streamforge.messages.records import encode  # noqa: E402
from streamforge.store.base import open_store  # noqa: E402
from streamforge.store.schemas import CANDLES  # noqa: E402
from streamforge.store.sql.postgresql import Postgresql  # noqa: E402
from streamforge.workers.runtime.topics import ensure_topic  # noqa: E402
from streamforge.workers.runtime.worker import Worker, serve  # noqa: E402

SECRET = f"hidden-{secrets.token_hex(6)}"  # a wrong password; nothing that anybody can see may hold it
CONNECT = {"TYPE": "api_candles_1h", "UPSTREAM": "loader-producer__a1b2c3"}
FINAL = (64, 65, 78)


class Case(NamedTuple):
    "A wrong setting, and what the error must contain."

    name: str
    env: dict[str, str]
    error: str
    code: int
    words: tuple[str, ...]


def read(path: str | Path) -> str:
    return Path(path).read_text()


class Ended(NamedTuple):
    code: int
    lines: list[dict]
    text: str


async def spawn(path: Path, *arguments: str, env: Mapping[str, str], timeout: float = 120) -> tuple[int, str]:
    "A `streamforge` command: its exit code and all it printed."
    with path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "streamforge.cli.main", *arguments, env=os.environ | env, stdout=log, stderr=log
        )
    try:
        return await asyncio.wait_for(process.wait(), timeout), read(path)
    finally:
        if process.returncode is None:
            process.kill()


async def work(lab: WorkerLab, target: str, name: str, **env: str) -> Ended:
    "A worker of this name: what it logged and how it ended."
    code, text = await spawn(
        lab.home / f"{name}.log", "worker", target, env=lab.env | {"TELEMETRY_PRODUCER_ID": f"{name}__a1b2c3"} | env
    )
    assert text.strip(), f"{name} logged nothing"
    return Ended(code, [json.loads(line) for line in text.splitlines()], text)


async def two_at_a_time(*jobs):
    "Results in order."
    turn = asyncio.Semaphore(2)

    async def one(job):
        async with turn:
            return await job

    return await asyncio.gather(*(one(job) for job in jobs))


def explains_itself(case: Case, ended: Ended) -> None:
    "One error line: named, expected, found, what to do; few other lines; no secret."
    errors = [line for line in ended.lines if line["level"] == "error"]
    assert ended.code == case.code and [line.get("error.type") for line in errors] == [case.error], (case.name, ended)
    assert "expected" in errors[0]["error"] and "found" in errors[0]["error"] and ";" in errors[0]["error"], errors
    assert all(word in errors[0]["error"] for word in case.words), (case.name, errors[0]["error"])
    assert len(ended.lines) <= 3 and "Traceback" not in ended.text and SECRET not in ended.text, (case.name, ended.text)


async def refusals(lab: WorkerLab, target: str, cases: list[Case], on_bus: bool) -> None:
    "Each case's worker logs why it ended, and publishes it on `queue-events` if the bus is there."
    results = await two_at_a_time(*(work(lab, target, case.name, **case.env) for case in cases))
    for case, one in zip(cases, results, strict=True):
        explains_itself(case, one)
    events = {event.producer.partition("__")[0]: event for event in await lab.events("error")} if on_bus else {}
    assert set(events) == ({case.name for case in cases} if on_bus else set())
    for case in cases if on_bus else ():
        event = events[case.name]
        assert (event.extra["error_type"], event.extra["exit_code"], event.finished) == (
            case.error,
            case.code,
            case.code in FINAL,
        )
        assert all(word in event.message for word in case.words) and SECRET not in str(event)


def at(url: str, **changes: str | None) -> str:
    "The same server with another user, path or options; None takes an option away."
    address = parse_url(
        url.replace("kafka://", "any://"), dict.fromkeys(("ca", "security", "timeout", "sslmode", "tls", "region"), "")
    )
    user, path, host = (
        changes.pop("user", address.user),
        changes.pop("path", address.path),
        changes.pop("host", address.hosts[0]),
    )
    options = {k: v for k, v in (address.options | changes).items() if v is not None}
    query = "&".join(f"{k}={v}" for k, v in options.items())
    return (
        f"{url.partition('://')[0]}://{user + '@' if user else ''}{host}{'/' + path if path else ''}"
        f"{'?' + query if query else ''}"
    )


def secret_file(folder: Path, content: str = SECRET, name: str = "wrong") -> str:
    (folder / name).write_text(content)
    return str(folder / name)


def other_authority(folder: Path) -> None:
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=somebody else"]
    subprocess.run(
        [*make, "-keyout", folder / "key.pem", "-out", folder / "ca.pem"], check=True, capture_output=True, timeout=30
    )


def candles_to_load(days: str = "2021-05-01:2021-05-06"):
    return [(candle.symbol, encode(candle)) for candle in sample_candles(("BTCUSDT",), days)]


async def exactly(lab: WorkerLab, sent) -> None:
    "All that was sent is stored and enriched once, and nothing is on the dead-letter topic."
    contents = await lab.contents()
    assert (
        len(contents["candles_1h"]) == len(contents["candles_1h_enriched"]) == len(contents["stream"]) == len(sent)
        and not contents["dead"]
    )


async def untouched(lab: WorkerLab, topic: str = "") -> None:
    "No offset is committed, and nothing came of the records."
    topic = topic or lab.data
    async with lab.bus() as bus:
        assert (
            not await bus.committed(f"arango-connector-group-{lab.queue}", topic)
            and f"{topic}-enriched" not in await bus.topics()
        )


# -- the bus


@pytest.mark.slow
async def test_a_bus_that_refuses_and_what_is_left_once_it_accepts(tmp_path):
    """Wrong passwords, users, authorities and languages; then the password's file is mended, and the same
    environment loads everything."""
    secure, plain = need("kafka-secure"), need("kafka")
    wrong, binary = secret_file(tmp_path), tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe" + SECRET.encode())
    other_authority(tmp_path)
    bus, inline = at(secure, password_file=wrong), at(secure, password_file=None).replace("app@", f"app:{SECRET}@")
    cases = [
        Case("password", {"STREAMFORGE_BUS_URL": bus}, "Refused", 78, ("user 'app'", "password", "KAFKA_PASSWORD")),
        Case("inline", {"STREAMFORGE_BUS_URL": inline}, "Refused", 78, ("user 'app'", "password")),
        Case(
            "user",
            {"STREAMFORGE_BUS_URL": at(secure, user="nobody", password_file=wrong)},
            "Refused",
            78,
            ("user 'nobody'", "KAFKA_USER"),
        ),
        Case(
            "stranger",
            {"STREAMFORGE_BUS_URL": _as(secure, "stranger")},
            "Refused",
            78,
            ("right CREATE", "queue-events", "add the ACL"),
        ),
        Case(
            "ca",
            {"STREAMFORGE_BUS_URL": at(secure, ca=str(tmp_path / "ca.pem"))},
            "Refused",
            78,
            ("certificate", "CA_PATH"),
        ),
        Case(
            "noca",
            {"STREAMFORGE_BUS_URL": at(secure, ca="/nowhere/ca.pem")},
            "BadSetting",
            64,
            ("/nowhere/ca.pem", "CA_PATH"),
        ),
        Case(
            "plaintext",
            {"STREAMFORGE_BUS_URL": at(secure, user="", password_file=None, ca=None)},
            "Refused",
            78,
            ("speaks TLS", "security="),
        ),
        Case(
            "tls",
            {"STREAMFORGE_BUS_URL": at(plain, user="app", password_file=wrong)},
            "Refused",
            78,
            ("without", "security="),
        ),
        Case(
            "nofile",
            {"STREAMFORGE_BUS_URL": at(secure, password_file="/nowhere/secret")},
            "BadSetting",
            64,
            ("/nowhere/secret", "mount"),
        ),
        Case(
            "folder",
            {"STREAMFORGE_BUS_URL": at(secure, password_file=str(tmp_path))},
            "BadSetting",
            64,
            (str(tmp_path), "mount"),
        ),
        Case(
            "binary",
            {"STREAMFORGE_BUS_URL": at(secure, password_file=str(binary))},
            "BadSetting",
            64,
            ("UTF-8", "mount"),
        ),
        Case(
            "scheme",
            {"STREAMFORGE_BUS_URL": f"kafkaa://app:{SECRET}@h:9092"},
            "BadUrl",
            64,
            ("kafka://", "app:***@h", "STREAMFORGE_BUS_URL"),
        ),
        Case(
            "option",
            {"STREAMFORGE_BUS_URL": f"kafka://app@h:9092?pasword={SECRET}"},
            "BadUrl",
            64,
            ("password_file", "found 'pasword' in kafka://app@h:9092;"),
        ),
        Case("away", {"STREAMFORGE_BUS_URL": "kafka://127.0.0.1:1"}, "BusError", 75, ("127.0.0.1:1", "host and port")),
    ]
    lab = WorkerLab(tmp_path, {"STREAMFORGE_BUS_URL": secure})
    try:
        sent = candles_to_load()
        await lab.fill(sent)
        await refusals(lab, "arango-connector", [case._replace(env=CONNECT | case.env) for case in cases], on_bus=False)
        await untouched(lab)
        secret_file(tmp_path, parse_url(secure, {"ca": ""}).password({}, "KAFKA_PASSWORD"))
        assert (await work(lab, "arango-connector", "mended", **CONNECT, STREAMFORGE_BUS_URL=bus)).code == 0
        await exactly(lab, sent)
    finally:
        await lab.forget()


def _as(secure: str, user: str) -> str:
    "Another user of the same broker."
    file = Path(parse_url(secure, {"ca": ""}).options["password_file"])
    return at(secure, user=user, password_file=str(file.with_name(user)))


TOPIC, GROUP, LITERAL, PREFIXED, ALLOW = 2, 3, 3, 4, 3
READ, WRITE, CREATE, DESCRIBE = 3, 4, 5, 8


async def grant(secure: str, user: str, name: str, pattern: int, *operations: int, group: bool = False) -> None:
    "Rights on a topic, or group, of one's own, given by the super user."
    from aiokafka.protocol.admin import CreateAclsRequest

    broker = Broker(read_access(_as(secure, "admin")))
    await broker.start()
    try:
        for operation in operations:
            answer = await broker.send(
                CreateAclsRequest(GROUP if group else TOPIC, name, pattern, f"User:{user}", "*", operation, ALLOW)
            )
            assert [answer_row[0] for answer_row in answer.creation_responses] == [0]
    finally:
        await broker.close()


@pytest.mark.slow
async def test_a_missing_topic_and_one_that_may_not_be_read(tmp_path):
    "The worker may publish but not read: it reports that on the bus. With the right it does the same work whole."
    secure = need("kafka-secure")
    lab = WorkerLab(tmp_path, {"STREAMFORGE_BUS_URL": secure})
    reader, missing = _as(secure, "reader"), f"{lab.queue}-nobody-made-it"
    try:
        sent = candles_to_load()
        await lab.fill(sent)
        for topic in (lab.events_topic, lab.control):
            await grant(secure, "reader", topic, LITERAL, READ, WRITE, DESCRIBE)
        cases = [
            Case("unmade", {"KAFKA_TOPIC": missing}, "Refused", 78, ("right CREATE", missing, "add the ACL")),
            Case("denied", {"KAFKA_TOPIC": lab.data}, "Refused", 78, (lab.data, "user 'reader'", "add the ACL")),
        ]
        await refusals(
            lab,
            "arango-connector",
            [case._replace(env=CONNECT | {"STREAMFORGE_BUS_URL": reader} | case.env) for case in cases],
            on_bus=True,
        )
        await untouched(lab)
        async with lab.bus() as bus:
            assert missing not in await bus.topics()
        await grant(secure, "reader", lab.data, PREFIXED, READ, WRITE, CREATE, DESCRIBE)
        await grant(secure, "reader", f"arango-connector-group-{lab.queue}", LITERAL, READ, group=True)
        done = await work(lab, "arango-connector", "mended", **CONNECT, STREAMFORGE_BUS_URL=reader)
        assert done.code == 0, done.text
        await exactly(lab, sent)
    finally:
        await lab.forget()


# -- the store


def administer(url: str, *statements: str) -> None:
    connection = Postgresql(url).connect()
    try:
        for one in statements:
            connection.query(one)
    finally:
        connection.close()


@pytest.mark.slow
async def test_a_database_that_refuses_and_what_is_left_once_it_accepts(tmp_path):
    "Each refusal is reported on the bus; then the grants are given, and the same role and group do the whole work."
    kafka, postgresql = need("kafka"), need("postgresql")
    with real_places(tmp_path, kafka, postgresql) as places:
        lab, owner, role = WorkerLab(tmp_path, places), places["STREAMFORGE_STORE_URL"], f"r{secrets.token_hex(5)}"
        wrong, own = secret_file(tmp_path), secret_file(tmp_path, secrets.token_hex(8), "own")
        limited = at(owner, user=role, password_file=own)
        cases = [
            Case(
                "password",
                {"STREAMFORGE_STORE_URL": at(owner, password_file=wrong)},
                "Refused",
                78,
                ("password", "POSTGRES_PASSWORD_FILE"),
            ),
            Case(
                "role",
                {"STREAMFORGE_STORE_URL": at(owner, user="nobody", password_file=wrong)},
                "Refused",
                78,
                ("nobody", "correct user"),
            ),
            Case(
                "database",
                {"STREAMFORGE_STORE_URL": at(owner, path="nobody_made_this")},
                "BadUrl",
                64,
                ("nobody_made_this", "create the database"),
            ),
            Case("grants", {"STREAMFORGE_STORE_URL": limited}, "Refused", 78, ("permission denied", "grant")),
            Case("tls", {"STREAMFORGE_STORE_URL": at(owner, sslmode="require")}, "BadUrl", 64, ("SSL", "sslmode")),
            Case(
                "nofile",
                {"STREAMFORGE_STORE_URL": at(owner, password_file="/nowhere/secret")},
                "BadSetting",
                64,
                ("/nowhere/secret", "mount"),
            ),
            Case(
                "scheme",
                {"STREAMFORGE_STORE_URL": f"postgres://sf:{SECRET}@h/db"},
                "BadUrl",
                64,
                ("postgresql://", "sf:***@h", "STREAMFORGE_STORE_URL"),
            ),
            Case(
                "option",
                {"STREAMFORGE_STORE_URL": f"postgresql://sf@h/db?passwd={SECRET}"},
                "BadUrl",
                64,
                ("password_file", "found 'passwd' in postgresql://sf@h/db;"),
            ),
            Case(
                "away",
                {"STREAMFORGE_STORE_URL": at(owner, host="127.0.0.1:1")},
                "StoreError",
                75,
                ("127.0.0.1:1", "server is up"),
            ),
        ]
        full = Case(
            "full", {"STREAMFORGE_STORE_URL": limited}, "StoreError", 75, ("too many connections", "max_connections")
        )
        administer(owner, f"CREATE ROLE {role} LOGIN PASSWORD '{read(own)}'")
        try:
            sent = candles_to_load()
            await lab.fill(sent)
            await refusals(
                lab, "arango-connector", [case._replace(env=CONNECT | case.env) for case in cases], on_bus=True
            )
            await untouched(lab)
            administer(owner, f"GRANT CREATE ON SCHEMA public TO {role}", f"ALTER ROLE {role} CONNECTION LIMIT 0")
            explains_itself(full, await work(lab, "arango-connector", "full", **CONNECT | full.env))
            assert [
                (event.finished, event.extra["error_type"])
                for event in await lab.events("error")
                if event.producer.startswith("full")
            ] == [(False, "StoreError")]
            administer(owner, f"ALTER ROLE {role} CONNECTION LIMIT 10")
            assert (await work(lab, "arango-connector", "mended", **CONNECT | full.env)).code == 0
            await exactly(lab, sent)
        finally:
            await lab.forget()
            administer(postgresql, f"DROP ROLE {role}")


# -- artifacts


class Keeper(Worker):
    "Puts an artifact."

    uses = ("artifacts",)

    async def run(self, ctx):
        await ctx.artifacts.put("models", "refused", {"weights": b"1"})


@pytest.mark.slow
async def test_a_bucket_that_refuses_and_what_is_left_once_it_accepts(tmp_path, capsys):
    """Each refusal is reported on the bus, nothing is in the bucket; a real trainer reports the same
    as a worker of three lines."""
    kafka, minio = need("kafka"), need("minio")
    minio = at(minio, path=f"{parse_url(minio, {}).path.partition('/')[0]}/t{secrets.token_hex(5)}")
    wrong, lab = secret_file(tmp_path), WorkerLab(tmp_path, {"STREAMFORGE_BUS_URL": kafka})
    absent = at(minio, path=f"absent-{secrets.token_hex(4)}")
    cases = [
        Case(
            "bucket",
            {"STREAMFORGE_ARTIFACTS_URL": absent},
            "BadUrl",
            64,
            ("absent-", "make it", "STREAMFORGE_ARTIFACTS_URL"),
        ),
        Case(
            "secret",
            {"STREAMFORGE_ARTIFACTS_URL": at(minio, password_file=wrong)},
            "Refused",
            78,
            ("SignatureDoesNotMatch", "MINIO_SECRET_KEY"),
        ),
        Case(
            "key",
            {"STREAMFORGE_ARTIFACTS_URL": at(minio, user="nobody")},
            "Refused",
            78,
            ("InvalidAccessKeyId", "MINIO_ACCESS_KEY"),
        ),
        Case(
            "nokey", {"STREAMFORGE_ARTIFACTS_URL": at(minio, user="")}, "BadSetting", 64, ("MINIO_ACCESS_KEY", "set it")
        ),
        Case("tls", {"STREAMFORGE_ARTIFACTS_URL": at(minio, tls="1")}, "BadUrl", 64, ("https", "tls=0")),
        Case(
            "option",
            {"STREAMFORGE_ARTIFACTS_URL": f"{minio}&secret_key={SECRET}"},
            "BadUrl",
            64,
            ("password_file", "found 'secret_key'"),
        ),
        Case(
            "scheme", {"STREAMFORGE_ARTIFACTS_URL": f"s4://a:{SECRET}@h/bucket"}, "BadUrl", 64, ("minio://", "a:***@h")
        ),
        Case(
            "away",
            {"STREAMFORGE_ARTIFACTS_URL": at(minio, host="127.0.0.1:1")},
            "StoreError",
            75,
            ("127.0.0.1:1", "server runs"),
        ),
    ]
    try:
        for case in cases:
            env = lab.env | {"TELEMETRY_PRODUCER_ID": f"{case.name}__a1b2c3"} | case.env
            assert await serve("dummy-service", env, worker=Keeper()) == case.code, case.name
        events = {event.producer.partition("__")[0]: event for event in await lab.events("error")}
        for case in cases:
            event = events[case.name]
            assert (event.extra["error_type"], event.extra["exit_code"], event.finished) == (
                case.error,
                case.code,
                case.code in FINAL,
            )
            assert (
                "expected" in event.message
                and all(word in event.message for word in case.words)
                and SECRET not in str(event)
            ), event.message
        explains_itself(
            cases[0], await work(lab, "gnn-trainer", "trainer", SYMBOL="BTCUSDT", TYPE="gnn_train", **cases[0].env)
        )
        secret_file(tmp_path, parse_url(minio, {}).password({}, "MINIO_SECRET_KEY"))
        env = lab.env | {"TELEMETRY_PRODUCER_ID": "mended__a1b2c3"} | cases[1].env
        assert await serve("dummy-service", env, worker=Keeper()) == 0
        printed = capsys.readouterr()
        assert SECRET not in printed.out + printed.err and "Traceback" not in printed.out + printed.err
        from streamforge.artifacts.base import open_artifacts

        async with open_artifacts(minio) as artifacts:
            assert len(await artifacts.versions("models", "refused")) == 1
    finally:
        _empty(minio)
        await lab.forget()


def _empty(minio: str) -> None:
    from streamforge.artifacts.address import BucketAddress
    from streamforge.artifacts.bucket import Bucket

    bucket = Bucket(BucketAddress.parse(minio))
    for name, _ in bucket.listed("models"):
        bucket.remove(name)


# -- records and files


class Publisher(Worker):
    "Publishes batches; the second holds a record that is too large."

    async def run(self, ctx):
        topic = ctx.settings.kafka_topic
        await ctx.bus.create_topic(topic)
        await ctx.publish(topic, [Message(b"1", "a"), Message(b"2", "b")])
        await ctx.publish(topic, [Message(b"3", "a"), Message(b"x" * 1_100_000, "b"), Message(b"4", "a")])


async def test_a_record_of_more_than_a_megabyte(tmp_path):
    """Refused before anything of its batch is sent, by whatever broker; where a topic takes less than others, the
    broker's own refusal has a name."""
    from aiokafka.admin import AIOKafkaAdminClient
    from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

    lab = WorkerLab(tmp_path, {"STREAMFORGE_BUS_URL": need("kafka")})
    try:
        env = lab.env | {"TELEMETRY_PRODUCER_ID": "large__a1b2c3", "KAFKA_TOPIC": lab.data}
        assert await serve("dummy-service", env, worker=Publisher()) == 65
        (event,) = await lab.events("error")
        assert (
            event.finished
            and event.extra["error_type"] == "BadRecord"
            and "1,100,001" in event.message
            and "split it" in event.message
        )
        assert [record.value for record in await lab.records(lab.data)] == [b"1", b"2"]
        admin = AIOKafkaAdminClient(bootstrap_servers=read_access(need("kafka")).address.hosts[0])
        await admin.start()
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, lab.data, {"max.message.bytes": "2000"})])
        await admin.close()
        async with lab.bus() as bus:
            with pytest.raises(BadRecord, match="max.message.bytes"):
                await bus.publish(lab.data, [Message(os.urandom(5_000), "a")])
            await bus.publish(lab.data, [Message(b"5", "a")])
        assert [record.value for record in await lab.records(lab.data)] == [b"1", b"2", b"5"]
    finally:
        await lab.forget()


@pytest.mark.slow
async def test_nonsense_as_large_as_a_record_may_be_stops_no_worker(tmp_path):
    """A dead letter carries more headers than the record had: the largest nonsense there can be must still find its
    place, or the connector would die of it at each start."""
    lab = WorkerLab(tmp_path, {"STREAMFORGE_BUS_URL": need("kafka")})
    try:
        sent = candles_to_load()
        nonsense = [("BTCUSDT", b"{" * (1_000_000 - len("BTCUSDT")))]
        await lab.fill(sent[:50] + nonsense + sent[50:])
        done = await work(lab, "arango-connector", "large", **CONNECT)
        assert done.code == 0, done.text[:3000]
        contents = await lab.contents()
        assert len(contents["candles_1h"]) == len(sent) and [len(value) for value in contents["dead"].values()] == [
            500_000
        ]
        (dead_letter,) = await lab.records(f"{lab.data}-dlq")
        assert dict(dead_letter.headers)["sf.dlq.cut"] == str(len(nonsense[0][1])).encode()
    finally:
        await lab.forget()


class Archived(Worker):
    "Candles of a month from the exchange's archive, published."

    async def run(self, ctx):
        from streamforge.exchange.binance.archive_files import candle_records

        async with Archive(
            Path(ctx.settings.places.home, "archive"),
            ctx.settings.options.get("BINANCE_ARCHIVE_URL", ""),
            retry=Retry(first=0.02),
        ) as archive:
            await ctx.bus.create_topic(ctx.settings.kafka_topic)
            async for table in archive.klines("BTCUSDT", "1h", TimeRange.parse("2021-06-01:2021-07-01")):
                await ctx.publish(
                    ctx.settings.kafka_topic,
                    [Message(encode(candle), candle.symbol) for candle in candle_records(table)],
                )
            ctx.result(bad=[bad.reason for bad in archive.bad])


async def test_a_damaged_zip_and_a_wrong_checksum(tmp_path):
    "Nothing of a file that is not what its checksum says is published or kept; a whole one gives everything."
    lab, exchange = WorkerLab(tmp_path, {"STREAMFORGE_BUS_URL": need("kafka")}), Simulator.open()
    try:
        async with serve_app(exchange) as url:
            for kind in ("flipped", "checksum"):
                exchange.faults.add(Fault(kind=kind, times=0))
                env = lab.env | {
                    "TELEMETRY_PRODUCER_ID": f"{kind}__a1b2c3",
                    "KAFKA_TOPIC": lab.data,
                    "BINANCE_ARCHIVE_URL": url,
                }
                assert await serve("dummy-service", env, worker=Archived()) == 0
                (event,) = [event for event in await lab.events("finished") if event.producer.startswith(kind)]
                assert len(event.extra["bad"]) == 1 + 30  # the month, and each day that stands in for it
                assert all("sha256" in reason for reason in event.extra["bad"])
                assert await lab.length(lab.data) == 0 and not list(tmp_path.glob("archive/*"))
                exchange.faults.clear()
            assert (
                await serve("dummy-service", env | {"TELEMETRY_PRODUCER_ID": "mended__a1b2c3"}, worker=Archived()) == 0
            )
        times = [json.loads(record.value)["open_time"] for record in await lab.records(lab.data)]
        assert times == sorted(set(times)) and len(times) >= 700
    finally:
        await lab.forget()


# -- the manager and the command line


@pytest.mark.slow
async def test_the_manager_speaks_for_a_worker_that_cannot(tmp_path):
    """A worker that the broker does not let in cannot say so; the manager does, on the bus, in /queues and on the
    page, and none of them shows the password."""
    wrong = at(need("kafka-secure"), password_file=None).replace("app@", f"app:{SECRET}@")
    async with (
        open_lab(read_places({"STREAMFORGE_HOME": str(tmp_path)}), env={"STREAMFORGE_BUS_URL": wrong}) as lab,
        Client(lab.url) as client,
    ):
        flow = await client.start(targets=[{"target": "dummy-service", "telemetry_id": "dummy-service__one"}])
        done = await client.wait(flow["queue_id"], timeout=30)
        assert done["status"] == "error" and done["targets"][0]["job"] == "failed" and "78" in done["message"], done
        assert "Refused" in done["message"] and "user 'app'" in done["message"], done["message"]
        workers = WorkerLab(tmp_path)
        events = await until(lambda: workers.events("error"))
        assert [(event.queue_id, event.instance, event.finished) for event in events] == [
            (flow["queue_id"], "queue-manager", True)
        ]
        async with httpx.AsyncClient(base_url=lab.url) as web:
            seen = [
                (await web.get(path)).text for path in ("/", "/queues/list", f"/queues/{flow['queue_id']}", "/metrics")
            ]
        seen += [path.read_bytes().decode("utf-8", "replace") for path in tmp_path.rglob("*.log")] + [str(events)]
        assert len(seen) > 6 and not any(SECRET in text for text in seen)


@pytest.mark.slow
async def test_the_command_line_reports_errors_in_one_line(tmp_path):
    "No traceback, no lines of other people's libraries, no wait."
    secure, plain, store, minio = (need(name) for name in ("kafka-secure", "kafka", "postgresql", "minio"))
    wrong, home = secret_file(tmp_path), ("--home", str(tmp_path))
    refused, absent = at(secure, password_file=wrong), at(minio, path="nobody-made-this")
    cases = [
        (("up", *home, "--port", "0", "--bus", refused), "Refused", 78),
        (("up", *home, "--port", "0", "--bus", "kafka://127.0.0.1:1"), "BusError", 75),
        (("up", *home, "--port", "0", "--store", at(store, password_file=wrong)), "Refused", 78),
        (("up", *home, "--port", "0", "--artifacts", absent), "BadUrl", 64),
        (("topics", *home, "--bus", refused), "Refused", 78),
        (("tail", "nobody-made-this", *home, "--bus", plain), "UnknownTopic", 64),
        (("tail", "nobody-made-this", *home, "--bus", _as(secure, "stranger")), "Refused", 78),
        (("data", "status", *home, "--store", at(store, path="nobody_made_this")), "BadUrl", 64),
        (("dlq", "list", "nobody-made-this", *home, "--bus", refused), "Refused", 78),
        (("debug", "ping", "nobody", *home, "--bus", refused), "Refused", 78),
        (("demo", *home, "--bus", refused), "Refused", 78),
    ]
    results = await two_at_a_time(
        *(spawn(tmp_path / f"{n}.txt", *case[0], env={"QUEUE_ID": ""}) for n, case in enumerate(cases))
    )
    for (arguments, error, code), (rc, text) in zip(cases, results, strict=True):
        assert rc == code and text.startswith(f"streamforge: {error}: expected") and len(text.splitlines()) == 1, (
            arguments,
            rc,
            text,
        )
        assert SECRET not in text and "found" in text


# -- races at the start


@pytest.mark.slow
async def test_ten_at_once_make_the_same_topics_and_collections(tmp_path):
    "Workers of one workflow start together, and each makes what it needs unless it is there."
    kafka, postgresql, name = need("kafka"), need("postgresql"), f"wf-{secrets.token_hex(4)}"

    async def one(store_url: str) -> tuple[int, int]:
        async with open_bus(kafka) as bus, open_store(store_url) as store:
            for topic in (name, f"{name}-enriched"):
                await ensure_topic(bus, topic, TopicSpec(partitions=3))
            await store.ensure("candles_1h", CANDLES)
            return (await bus.topics())[name].partitions, await store.count("candles_1h")

    try:
        with real_places(tmp_path, kafka, postgresql) as places:
            assert await asyncio.gather(*(one(places["STREAMFORGE_STORE_URL"]) for _ in range(10))) == [(3, 0)] * 10
    finally:
        async with open_bus(kafka) as bus:
            for topic in (name, f"{name}-enriched"):
                await bus.delete_topic(topic)
