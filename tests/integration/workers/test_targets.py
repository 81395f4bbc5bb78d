"""The table of targets: the manager and a worker started by hand refuse the same with the same words, and every
parameter in it is read."""

import ast
import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

import streamforge
from streamforge.bus.base import open_bus
from streamforge.core.errors import BadConfig
from streamforge.core.settings import read_places
from streamforge.exchange.binance.adapter import binance_addresses, configured_url
from streamforge.manager.plan import plan_workflow
from streamforge.messages.control import decode_event
from streamforge.workers import targets
from streamforge.workers.targets import TARGETS

WORKERS = Path(streamforge.__file__).parent / "workers"
REFUSED = {  # parameter -> target, value
    "BATCH_ROWS": ("arango-connector", "many"),
    "BATCH_SECONDS": ("arango-connector", "-1"),
    "INDICATORS": ("arango-connector", "rsi_14,smaa_3"),
    "PRICE_STEP": ("arango-connector", "BTCUSDT=-1"),
    "AGGREGATE": ("arango-connector", "7m"),
    "SOURCE": ("loader-producer", "tape"),
    "WS_LIFETIME_SECONDS": ("loader-producer", "0"),
    "COLLECTION_INPUTS": ("graph-builder", "candles_1h"),
    "GROUP_ID": ("dummy-service", "a/b c"),
    "AGGREGATE_COLLECTION": ("arango-connector", "x/y z"),
    "AGGREGATE_TOPIC": ("arango-connector", "x y/"),
    "GRAPH_COLLECTION_NAME": ("graph-builder", "a b;"),
    "EPOCHS": ("gnn-trainer", "2.5"),
    "MODEL_NAME": ("gnn-trainer", "../../x"),
    "DATASET_NAME": ("gnn-trainer", "../x"),
    "DATASET_VERSION": ("gnn-trainer", "zz"),
    "STEPS": ("ppo-trainer", "0"),
    "LEARNING_RATE": ("ppo-trainer", "0"),
    "GNN_MODEL": ("ppo-trainer", "a/b"),
    "GNN_VERSION": ("ppo-trainer", "newest"),
    "MODEL_VERSION": ("rl-agent", "../zz"),
    "AGENT_ID": ("rl-agent", "a b/"),
    "BARRIER_SECONDS": ("rl-agent", "nan"),
    "SEED": ("dummy-service", "lucky"),
    "FAIL_WITH": ("dummy-service", "print"),
    "METRICS_PORT": ("dummy-service", "65536"),
    "RETRY_SECONDS": ("dummy-service", "a while"),
}


# a list is checked as a whole, and then each of its items
CASES = [(name, *case) for name, case in REFUSED.items()] + [("COLLECTION_INPUTS", "graph-builder", '["x y"]')]


@pytest.mark.parametrize(("name", "target", "value"), CASES)
async def test_manager_and_worker_refuse_with_the_same_words(tmp_path, name, target, value):
    body = {"symbol": "BTCUSDT", "type": "api_candles_1h", "time_range": "2024-06-01:2024-06-02"}
    with pytest.raises(BadConfig) as by_manager:
        plan_workflow(body | {"targets": [{"target": target, "parameters": {name: value}}]})
    assert by_manager.value.field == f"targets.0.parameters.{name}"
    assert by_manager.value.http_status == 422
    env = {"QUEUE_ID": "wf-1", "TELEMETRY_PRODUCER_ID": "w__a1b2c3", "STREAMFORGE_HOME": str(tmp_path), name: value}
    command = [sys.executable, "-c", "from streamforge.cli.main import main; main()", "worker", target]
    ended = await asyncio.to_thread(
        subprocess.run, command, env=os.environ | env, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 64, ended.stdout + ended.stderr
    async with open_bus(read_places(env).bus_url) as bus:
        event = decode_event((await anext(bus.tail("queue-events"))).records[-1].value)
    assert (event.status, event.message, event.extra["field"]) == ("error", str(by_manager.value), name)


def attributes_of(path: Path) -> set[str]:
    "The names of all attributes that a module reads."
    return {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}


def test_every_parameter_is_read():
    read = set().union(*(attributes_of(path) for path in WORKERS.rglob("*.py") if path.name != "targets.py"))
    elsewhere = {
        "SEED",
        "TELEMETRY_INTERVAL",
        "GROUP_ID",
        "DEBUG",
        "FOLD_PARAMETERS",
    }  # core.settings, logs, runs.folds
    elsewhere |= {"BINANCE_WS_URL"}  # exchange.binance.adapter, see below
    unread = {name for target in TARGETS.values() for name in target.rows() if name.lower() not in read}
    assert unread <= elsewhere, unread


def test_addresses_of_the_exchange_are_read():
    given = {"BINANCE_API_URL": "http://a:1", "BINANCE_WS_URL": "ws://b:2", "BINANCE_ARCHIVE_URL": "http://c:3"}
    assert given.keys() <= set().union(*(target.rows().keys() for target in TARGETS.values()))
    found = binance_addresses(configured_url("binance", given))
    assert found == {"api": "http://a:1", "ws": "ws://b:2", "archive": "http://c:3"}


def test_nothing_is_read_past_the_table():
    for path in WORKERS.rglob("*.py"):
        if path.name != "targets.py":
            assert not attributes_of(path) & {"option", "number", "environ", "getenv"}, path


def test_every_class_of_the_table_exists():
    for target in TARGETS.values():
        module, _, name = target.worker.partition(":")
        assert (WORKERS.parent.parent / Path(*module.split("."))).with_suffix(".py").exists(), module
        assert f"class {name}" in (WORKERS.parent.parent / Path(*module.split("."))).with_suffix(".py").read_text()
    for data in targets.MARKET_DATA.values():
        module, _, name = data.source.partition(":")
        assert f"class {name}" in (WORKERS.parent.parent / Path(*module.split("."))).with_suffix(".py").read_text()
