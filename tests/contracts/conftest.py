"""One suite per port, run over every adapter: the embedded ones always, a server's where its URL is given.

pytest tests/contracts/test_store.py --store postgresql://lab@localhost/lab
"""

import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from servers import need  # noqa: E402
from standins.arango import standin  # noqa: E402

# started by `make servers`, but for the stand-in, which runs in a thread of the tests
SERVERS = {
    "bus": ["kafka", "kafka-secure"],
    "store": ["arangodb-standin", "postgresql"],
    "artifacts": ["minio"],
    "jobs": [],
}
PORTS = {
    "bus": "kafka://localhost:9092",
    "store": "postgresql://lab@localhost/lab",
    "artifacts": "minio://localhost:9000/lab",
    "jobs": "process://?slots=2",
}


def pytest_addoption(parser):
    for port, example in PORTS.items():
        parser.addoption(
            f"--{port}", default="", help=f"run the contract of this port against a server too, such as {example}"
        )


def pytest_generate_tests(metafunc):
    """A test that takes `bus_url`, `store_url`, ... runs on the embedded adapter, on the servers of `make servers`,
    and on the one whose URL was given."""
    for port in PORTS:
        if f"{port}_url" in metafunc.fixturenames:
            given = metafunc.config.getoption(f"--{port}", default="")
            places = ["embedded", *SERVERS[port], *([given] if given else [])]
            metafunc.parametrize(f"{port}_url", places, indirect=True, scope="function")


@pytest.fixture
def fresh() -> str:
    "A prefix for names: a server keeps what earlier runs left."
    return f"t{secrets.token_hex(4)}"


def _server(name: str) -> str:
    "A server's URL: one of ours by name, or as it was given."
    return name if "://" in name else need(name)


@pytest.fixture
def bus_url(request, tmp_path) -> str:
    return f"embedded://{tmp_path}/bus" if request.param == "embedded" else _server(request.param)


@pytest.fixture(scope="session")
def arango() -> Iterator[str]:
    "What stands in for an ArangoDB server, which cannot be had everywhere."
    with standin() as running:
        yield running.url()


@pytest.fixture
def store_url(request, tmp_path) -> str:
    if request.param == "arangodb-standin":
        return request.getfixturevalue("arango")
    return f"sqlite:///{tmp_path}/store.db" if request.param == "embedded" else _server(request.param)


@pytest.fixture
def artifacts_url(request, tmp_path, fresh) -> Iterator[str]:
    "A folder, or a prefix of its own in a bucket, which is empty again afterwards."
    if request.param == "embedded":
        yield f"file://{tmp_path}/artifacts"
        return
    from streamforge.artifacts.address import BucketAddress  # these need the client of MinIO
    from streamforge.artifacts.bucket import Bucket

    server, mark, query = _server(request.param).partition("?")
    yield (url := f"{server.rstrip('/')}/{fresh}{mark}{query}")
    address = BucketAddress.parse(url)
    client = Bucket(address).client
    for left in client.list_objects(address.name, prefix=address.prefix, recursive=True):
        client.remove_object(address.name, left.object_name)


@pytest.fixture
def jobs_url(request, tmp_path) -> str:
    return (
        f"process://?slots=2&delay=0.05&logs={tmp_path}/logs" if request.param == "embedded" else _server(request.param)
    )
