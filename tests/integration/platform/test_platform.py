"""The queue-manager over HTTP with real worker processes: requests, ends, stops, errors, and a manager that goes
away."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
import websockets

from streamforge.cli.services import open_lab
from streamforge.client.client import Client
from streamforge.core.errors import BadConfig, Conflict, NotFound
from streamforge.core.names import data_topic, enriched_collection
from streamforge.core.samples import candles
from streamforge.core.settings import read_places
from streamforge.exchange.simulator.app import Simulator, serve_app

SHORT = {"symbol": "BTCUSDT", "type": "api_candles_1h", "time_range": "2021-04-20:2021-04-22"}


@asynccontextmanager
async def lab_and_client(home, **options):
    async with serve_app(Simulator.open()) as exchange:
        env = {"BINANCE_API_URL": exchange, "TELEMETRY_INTERVAL": "0.1"}
        async with (
            open_lab(read_places({"STREAMFORGE_HOME": str(home)}), env=env, **options) as lab,
            Client(lab.url) as client,
        ):
            yield lab, client


async def test_the_short_request_loads_stores_and_enriches(tmp_path):
    async with lab_and_client(tmp_path) as (lab, client):
        async with websockets.connect(f"ws{lab.url.removeprefix('http')}/ws/events") as page:
            flow = await client.start(**SHORT)
            assert flow["status"] == "pending" and [target["target"] for target in flow["targets"]] == [
                "loader-producer",
                "arango-connector",
            ]
            done = await client.wait(flow["queue_id"], timeout=60)
            states = []
            while not states or states[-1]["status"] != "finished":
                message = json.loads(await asyncio.wait_for(page.recv(), 60))
                states += [message["workflow"]] if message["kind"] == "workflow" else []
        assert done["status"] == "finished" and {"pending", "running", "finished"} <= {
            state["status"] for state in states
        }
        assert not any("env" in target for state in states for target in state["targets"])
        expected = candles("BTCUSDT", SHORT["time_range"])
        stored = await lab.store.read("candles_1h")
        assert (
            stored["open_time"].to_pylist() == expected.open_time.tolist()
            and stored["close"].to_pylist() == expected.close.tolist()
        )
        assert await lab.store.count(enriched_collection("candles_1h")) == len(expected)
        assert [(gap["missing"]) for gap in done["targets"][0]["extra"]["gaps"]] == [2]
        start, *rest = [json.loads(record.value) for record in (await anext(lab.bus.tail("queue-control"))).records]
        assert (start["command"], start["queue_id"]) == ("start", flow["queue_id"]) and not rest
        assert sum((await lab.bus.end_offsets(data_topic(flow["queue_id"]))).values()) == len(expected)


async def test_a_target_starts_after_another_and_fails_with_it(tmp_path):
    async with lab_and_client(tmp_path) as (_, client):
        good = {
            "target": "dummy-service",
            "telemetry_id": "dummy-service__one",
            "parameters": {"DUMMY_STEPS": 2, "DUMMY_SECONDS": 0.1},
        }
        bad = {
            "target": "loader-producer",
            "telemetry_id": "loader__bad",
            "symbol": "NOSUCHCOIN",
            "type": "api_candles_1h",
            "time_range": SHORT["time_range"],
            "after": ["dummy-service__one"],
        }
        late = {"target": "dummy-service", "telemetry_id": "dummy-service__late", "after": ["loader__bad"]}
        flow = await client.start(queue_id="chain", targets=[good, bad, late])
        done = await client.wait(flow["queue_id"], timeout=60)
        assert done["status"] == "error" and "-1121" in done["message"]
        states = {target["telemetry_id"]: (target["status"], target["job"]) for target in done["targets"]}
        assert states == {
            "dummy-service__one": ("finished", "succeeded"),
            "loader__bad": ("error", "failed"),
            "dummy-service__late": ("error", ""),
        }
        with pytest.raises(Conflict):
            await client.start(queue_id="chain", targets=[good])


async def test_stop_ends_an_endless_worker_with_0(tmp_path):
    async with lab_and_client(tmp_path) as (lab, client):
        flow = await client.start(
            targets=[{"target": "arango-connector", "kafka_topic": "market-candles-1h", "type": "api_candles_1h"}]
        )
        await client.wait(
            flow["queue_id"], timeout=30, until=lambda state: state["targets"][0]["status"] in ("started", "loading")
        )
        await client.stop(flow["queue_id"])
        done = await client.wait(flow["queue_id"], timeout=30)
        assert (done["status"], done["targets"][0]["status"], done["targets"][0]["job"]) == (
            "stopped",
            "stopped",
            "succeeded",
        )
        assert [job.exit_code for job in await lab.jobs.list()] == [0]


async def test_a_refused_request_leaves_nothing(tmp_path):
    async with lab_and_client(tmp_path) as (lab, client):
        wrong = {
            "time_range": SHORT | {"time_range": "2021-04-22:2021-04-20"},
            "type": SHORT | {"type": "api_candles_7h"},
            "targets.0.parameters.batch_rows": SHORT
            | {"targets": [{"target": "arango-connector", "parameters": {"batch_rows": "many"}}]},
            "targets.1.target": SHORT | {"targets": [{"target": "loader-producer"}, {"target": "oracle"}]},
            "targets.0.parameters.LD_PRELOAD": SHORT
            | {"targets": [{"target": "dummy-service", "parameters": {"LD_PRELOAD": "x"}}]},
        }
        wrong |= {
            "exchange": SHORT | {"exchange": "nope"},
            "targets.0.exchange": SHORT | {"targets": [{"target": "loader-producer", "exchange": "mine"}]},
            "targets.0.parameters.SOURCE": SHORT
            | {"exchange": "kraken", "targets": [{"target": "loader-producer", "parameters": {"SOURCE": "archive"}}]},
        }
        topics = set(await lab.bus.topics())
        for field, body in wrong.items():
            with pytest.raises(BadConfig) as refused:
                await client.start(**body)
            assert refused.value.field == field
        with pytest.raises(NotFound):
            await client.get("wf-unknown")
        assert await client.list() == [] and await lab.jobs.list() == [] and set(await lab.bus.topics()) == topics
        with pytest.raises(websockets.InvalidStatus):
            async with websockets.connect(
                f"ws{lab.url.removeprefix('http')}/ws/events", origin="https://elsewhere.example"
            ):
                pass


@pytest.mark.slow
async def test_a_manager_that_comes_back_goes_on(tmp_path):
    """The first manager is gone while its workflow waits and runs; the second finishes it, and the rows are those
    of the file."""
    async with lab_and_client(tmp_path, slots=0.25) as (_, client):
        loaders = [{"target": "loader-producer", "symbol": name} for name in ("BTCUSDT", "ETHUSDT", "BNBUSDT")]
        body = {**SHORT, "symbol": "BTCUSDT,ETHUSDT,BNBUSDT", "targets": [*loaders, {"target": "arango-connector"}]}
        flow = await client.start(**body)
        await client.wait(
            flow["queue_id"], timeout=30, until=lambda state: any(t["status"] == "finished" for t in state["targets"])
        )
    async with lab_and_client(tmp_path) as (lab, client):
        done = await client.wait(flow["queue_id"], timeout=60)
        assert done["status"] == "finished", done["message"]
        for symbol in ("BTCUSDT", "ETHUSDT", "BNBUSDT"):
            rows = await lab.store.read("candles_1h", where={"symbol": symbol})
            assert rows["open_time"].to_pylist() == candles(symbol, SHORT["time_range"]).open_time.tolist()
        names = [job.name for job in await lab.jobs.list()]
        assert len(names) == len(set(names))
