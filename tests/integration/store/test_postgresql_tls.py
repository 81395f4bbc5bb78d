"""PostgreSQL behind TLS: a server of our own that takes nothing else, with a certificate of its own authority."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from servers import free_port, need  # noqa: E402

from streamforge.core.errors import Refused  # noqa: E402
from streamforge.store.base import open_store  # noqa: E402
from streamforge.store.schemas import EDGES  # noqa: E402
from streamforge.store.sql.postgresql import Postgresql  # noqa: E402

EDGE = {"graph": "g", "source": "BTCUSDT", "target": "ETHUSDT", "open_time": 1, "weight": 0.5}
ROOT = os.geteuid() == 0  # PostgreSQL does not run as root


def run(*words: object, **options: object) -> None:
    "A program that must succeed, as the user who may run PostgreSQL."
    prefix = ["runuser", "-u", "postgres", "--"] if ROOT else []
    done = subprocess.run([*prefix, *map(str, words)], capture_output=True, text=True, cwd="/", timeout=60, **options)
    assert done.returncode == 0, f"{words}: {done.stdout[-500:]} {done.stderr[-500:]}"


def authority(folder: Path, name: str) -> Path:
    "A certificate that others are signed with."
    path = folder / f"{name}.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-sha256",
            "-days",
            "2",
            "-subj",
            f"/CN={name}",
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-keyout",
            path.with_suffix(".key"),
            "-out",
            path,
        ],
        check=True,
        capture_output=True,
    )
    return path


def certificate(folder: Path, ca: Path) -> None:
    "The server's, good for 127.0.0.1 and for no name."
    (folder / "ext").write_text("subjectAltName=IP:127.0.0.1\n")
    subprocess.run(
        [
            "openssl",
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-sha256",
            "-subj",
            "/CN=database",
            "-keyout",
            folder / "server.key",
            "-out",
            folder / "server.csr",
        ],
        check=True,
        capture_output=True,
    )
    subprocess.run(
        [
            "openssl",
            "x509",
            "-req",
            "-sha256",
            "-days",
            "2",
            "-in",
            folder / "server.csr",
            "-CA",
            ca,
            "-CAkey",
            ca.with_suffix(".key"),
            "-CAcreateserial",
            "-extfile",
            folder / "ext",
            "-out",
            folder / "server.crt",
        ],
        check=True,
        capture_output=True,
    )
    (folder / "server.key").chmod(0o600)


@pytest.fixture(scope="module")
def secured():
    "(URL without options, the right authority, another one)."
    need("postgresql")
    folders = [
        Path(folder).parent
        for folder in (shutil.which("initdb"), *sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")))
        if folder
    ]
    if not folders or not shutil.which("openssl"):
        pytest.skip("initdb or openssl is not installed: no server of our own can be made")
    folder, port = Path(tempfile.mkdtemp(prefix="sf-tls-")), free_port()
    try:
        ca, other = authority(folder, "ours"), authority(folder, "another")
        certificate(folder, ca)
        (folder / "password").write_text("a secret\n")
        if ROOT:
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, "postgres")
        run(
            folders[-1] / "initdb",
            "-D",
            folder / "data",
            "-U",
            "sf",
            f"--pwfile={folder}/password",
            "-A",
            "scram-sha-256",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        )
        (folder / "data" / "pg_hba.conf").write_text(
            "hostssl all all 127.0.0.1/32 scram-sha-256\nhostssl all all ::1/128 scram-sha-256\n"
        )
        options = (
            f"-p {port} -c listen_addresses=localhost -c unix_socket_directories={folder} -c ssl=on -c "
            f"ssl_cert_file={folder}/server.crt -c ssl_key_file={folder}/server.key -c fsync=off"
        )
        run(folders[-1] / "pg_ctl", "-D", folder / "data", "-w", "-l", folder / "log", "-o", options, "start")
        try:
            yield f"postgresql://sf@127.0.0.1:{port}/postgres?password_file={folder}/password", ca, other
        finally:
            run(folders[-1] / "pg_ctl", "-D", folder / "data", "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def written(url: str) -> bool:
    "Can rows be written and read there?"
    async with open_store(url) as store:
        await store.ensure("edges", EDGES)
        await store.upsert("edges", [EDGE])
        return (await store.read("edges")).to_pylist() == [EDGE]


async def test_an_authority_in_the_url_means_that_all_is_verified(secured):
    url, ca, _ = secured
    assert await written(f"{url}&ca={ca}")
    connection = Postgresql(f"{url}&ca={ca}").connect()
    assert connection.query("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")["ssl"].to_pylist() == [True]
    connection.close()


async def test_another_authority_is_refused(secured):
    url, _, other = secured
    with pytest.raises(Refused, match="certificate") as caught:
        await written(f"{url}&ca={other}")
    assert "a secret" not in str(caught.value)


async def test_a_certificate_for_another_name_is_refused_unless_names_do_not_matter(secured):
    url, ca, _ = secured
    named = url.replace("@127.0.0.1", "@localhost")
    with pytest.raises(Refused, match="localhost"):
        await written(f"{named}&ca={ca}")
    assert await written(f"{named}&ca={ca}&sslmode=verify-ca")


async def test_a_server_that_requires_tls_refuses_a_client_without(secured):
    with pytest.raises(Refused, match="pg_hba.conf|encryption"):
        await written(f"{secured[0]}&sslmode=disable")
