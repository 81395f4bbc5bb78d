"""Which real servers there are: `make servers` writes their URLs to .servers/urls; CI names those that must not be missing."""

import os
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / ".servers" / "urls"


def url_of(name: str) -> str:
    "The URL of `kafka`, `kafka-secure`, `postgresql`, `minio` or `toxiproxy`; empty where it does not run."
    lines = FILE.read_text().splitlines() if FILE.exists() else []
    return dict(line.split(" ", 1) for line in lines).get(name, "")


def need(name: str) -> str:
    "The same, or skip the test; where STREAMFORGE_SERVERS names it, a missing one is a failure."
    if url := url_of(name):
        return url
    if name in os.environ.get("STREAMFORGE_SERVERS", "").split():
        pytest.fail(f"expected a {name} server here, found none in {FILE.name}: `make servers` starts it", pytrace=False)
    pytest.skip(f"no {name} server: `make servers` starts one")
