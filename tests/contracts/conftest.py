"""One suite per port, run over every adapter: the embedded ones always, a server's where its URL is given.

    pytest tests/contracts/test_store.py --store postgresql://lab@localhost/lab
"""

import secrets

import pytest

PORTS = {
    "bus": "kafka://localhost:9092",
    "store": "postgresql://lab@localhost/lab",
    "artifacts": "minio://localhost:9000/lab",
    "jobs": "kubernetes://lab",
}


def pytest_addoption(parser):
    for port, example in PORTS.items():
        parser.addoption(f"--{port}", default="", help=f"run the contract of this port against a server too, such as {example}")


def pytest_generate_tests(metafunc):
    "A test that takes `bus_url`, `store_url`, ... runs on the embedded adapter, and on the server whose URL was given."
    for port in PORTS:
        if f"{port}_url" in metafunc.fixturenames:
            given = metafunc.config.getoption(f"--{port}", default="")
            metafunc.parametrize(f"{port}_url", ["embedded", *([given] if given else [])], indirect=True, scope="function")


@pytest.fixture
def fresh() -> str:
    "A prefix for names: a server keeps what earlier runs left."
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
def bus_url(request, tmp_path) -> str:
    return f"embedded://{tmp_path}/bus" if request.param == "embedded" else request.param


@pytest.fixture
def store_url(request, tmp_path) -> str:
    return f"sqlite:///{tmp_path}/store.db" if request.param == "embedded" else request.param


@pytest.fixture
def artifacts_url(request, tmp_path) -> str:
    return f"file://{tmp_path}/artifacts" if request.param == "embedded" else request.param


@pytest.fixture
def jobs_url(request, tmp_path) -> str:
    return f"process://?slots=2&delay=0.05&logs={tmp_path}/logs" if request.param == "embedded" else request.param
