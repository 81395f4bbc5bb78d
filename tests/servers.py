"""Which real servers there are: `make servers` writes their URLs to .servers/urls; CI names those that must not be
missing."""

import os
import random
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / ".servers" / "urls"


def url_of(name: str) -> str:
    "The URL of `kafka`, `kafka-secure`, `postgresql`, `minio` or `toxiproxy`; empty where it does not run."
    lines = FILE.read_text().splitlines() if FILE.exists() else []
    return dict(line.split(" ", 1) for line in lines).get(name, "")


def free_port() -> int:
    """A port for a server of a test's own, and the next one is free, too (Kafka's controller takes it). Below the
    ports that the system gives to clients: one of those could take a server's while it is away, even a client that
    asks for it."""
    while True:
        port = random.randrange(24_000, 32_000)
        try:
            with ExitStack() as stack:
                for number in (port, port + 1):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", number))
            return port
        except OSError:
            continue


def need(name: str) -> str:
    "The same, or skip the test; where STREAMFORGE_SERVERS names it, a missing one is a failure."
    if url := url_of(name):
        return url
    if name in os.environ.get("STREAMFORGE_SERVERS", "").split():
        pytest.fail(
            f"expected a {name} server here, found none in {FILE.name}: `make servers` starts it", pytrace=False
        )
    pytest.skip(f"no {name} server: `make servers` starts one")
