"""`up --simulate`: manager, workers and exchange without a network, and the bodies that the manual shows."""

import asyncio
import os
import re
import sys
from contextlib import asynccontextmanager

import httpx
import pytest

from streamforge.store.base import open_store

DAY = {"symbol": "BTCUSDT", "type": "api_candles_5m", "time_range": "2024-06-01:2024-06-02"}
TARGETS = {
    "command": "start",
    "queue_id": "loader-btcusdt-api_candles_5m-2024_06_01-abc123",
    **DAY,
    "timestamp": 1722346211.177,
    "targets": [
        {
            "target": "loader-producer",
            "image": "registry.example/streamforge/loader-producer:v0.1.0",
            "telemetry_id": "loader-producer__abc123",
            "kafka_topic": "loader-btcusdt-api-candles-5m-2024-06-01-abc123",
            "time_range": "2024-06-01:2024-06-02",
            "interval": "5m",
        },
        {
            "target": "arango-connector",
            "image": "registry.example/streamforge/arango-connector:v0.1.0",
            "telemetry_id": "arango-connector__abc123",
            "kafka_topic": "loader-btcusdt-api-candles-5m-2024-06-01-abc123",
            "collection_name": "btc_candles_5m_2024_06_01",
        },
    ],
}


@asynccontextmanager
async def command(*words):
    "A command that runs until the context ends; its standard output."
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "streamforge.cli.main",
        *words,
        env={name: value for name, value in os.environ.items() if not name.startswith(("BINANCE_", "EXCHANGE"))},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process.stdout
    finally:
        process.terminate()
        await asyncio.wait_for(process.communicate(), 60)


async def line_with(stream, pattern, seconds=90):
    "Wait for a line of output, and return its match."
    async with asyncio.timeout(seconds):
        while line := (await stream.readline()).decode():
            if match := re.search(pattern, line):
                return match
    raise AssertionError(f"the command ended without a line with {pattern}")


async def finished(http, queue, seconds=150):
    "Wait for the end of a workflow, and return it."
    async with asyncio.timeout(seconds):
        while (state := (await http.get(f"/queues/{queue}")).json())["status"] in ("pending", "running"):  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    return state


@pytest.mark.parametrize("kind", ["synthetic"])
async def test_the_manuals_bodies_run_without_a_network(tmp_path, kind):
    async with command("up", "--simulate", kind, "--port", "0", "--home", str(tmp_path), "--slots", "2") as out:
        exchange = (await line_with(out, r"SYNTHETIC.*(http://\S+)"))[1]
        url = (await line_with(out, r"StreamForge is up: (http://\S+)"))[1]
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as http:
            queues = []
            for body in (DAY, TARGETS):
                answer = await http.post("/queues/start", json=body)
                assert answer.status_code == 202, answer.text
                queues.append(answer.json()["queue_id"])
            for queue in queues:
                state = await finished(http, queue)
                assert state["status"] == "finished", state
            refused = await http.post("/queues/start", json=DAY | {"exchange": "binance"})
            state = await finished(http, refused.json()["queue_id"])
            assert state["status"] == "error" and "synthetic" in str(state), state
        async with open_store(f"sqlite:///{tmp_path}/store.db") as store:
            for collection in ("candles_5m", "btc_candles_5m_2024_06_01"):
                rows = await store.read(collection)
                assert set(rows["exchange"].to_pylist()) == {"synthetic"} and len(rows) == 288
        async with httpx.AsyncClient(base_url=exchange, trust_env=False) as http:
            assert (await http.get("/sim/state")).json()["exchange"] == "synthetic"


async def test_the_server_prints_what_workers_need(tmp_path):
    async with command("simulate-exchange", "--synthetic", "--port", "0") as out:
        match = await line_with(out, r"SYNTHETIC.*seed 0.* at (http://\S+)\.")
        lines = [(await asyncio.wait_for(out.readline(), 30)).decode() for _ in range(5)]
        names = [line.partition("=")[0] for line in lines]
        assert names == [
            f"export {name}"
            for name in (
                "BINANCE_API_URL",
                "BINANCE_WS_URL",
                "BINANCE_ARCHIVE_URL",
                "EXCHANGE",
                "STREAMFORGE_EXCHANGES",
            )  # fmt: skip
        ]
        assert match[1] in lines[0]
