"""One symbol at two exchanges, from the topic to the agent: nothing is merged anywhere."""

import asyncio
import shutil

import msgspec
import numpy as np
import pytest
from worker_lab import WorkerLab, sample_candles

from streamforge.artifacts.base import open_artifacts
from streamforge.cli.data.repair import Filter, verify_markets
from streamforge.core.names import market_key
from streamforge.features.enricher import CANDLE_COLUMNS, Enricher
from streamforge.features.indicators import INDICATORS
from streamforge.ledger.verify import stored_markets
from streamforge.messages.records import Candle, Decision, decode, encode
from streamforge.rl.markets import agent_config, agent_markets
from streamforge.rl.policy import Policy
from streamforge.rl.replay import replay_policy
from streamforge.runs.datasets import freeze, load_panel, read_panel
from streamforge.runs.models import publish
from streamforge.runs.parity import check_agent
from streamforge.store.base import open_store
from streamforge.store.schemas import market_where
from streamforge.visualizer.app import chart, markets

HOUR = 3_600_000
NAMES = ("BTCUSDT", "ETHUSDT", "kraken:BTCUSDT", "kraken:ETHUSDT")
CONNECTOR = {"TYPE": "api_candles_1h", "KAFKA_TOPIC": "both", "UPSTREAM": "loader-producer__a1b2c3"}
AGENT = {
    "SYMBOL": "BTCUSDT",
    "TYPE": "api_candles_1h",
    "KAFKA_TOPIC": "both",
    "MODEL_NAME": "ppo",
    "AGENT_ID": "one-agent",
    "COLLECTION_NAME": "candles_1h",
    "UPSTREAM": "arango-connector__a1b2c3",
}


def two_exchanges() -> dict[str, list[Candle]]:
    "Candles of two symbols at both: the second exchange trades ten per cent higher, and was closed for three hours."
    rows: dict[str, list[Candle]] = {name: [] for name in NAMES}
    for n, row in enumerate(sample_candles(time_range="2021-05-10:2021-05-20")):
        rows[row.symbol].append(row)
        if n // 2 not in (50, 51, 52):
            higher = {name: getattr(row, name) * 1.1 for name in ("open", "high", "low", "close")}
            other = msgspec.structs.replace(row, exchange="kraken", volume=row.volume / 7, **higher)
            rows[market_key("kraken", row.symbol)].append(other)
    return rows


def some_policy(panel) -> Policy:
    "A policy of random weights that trades now and then."
    config, rng = agent_config(panel), np.random.default_rng(3)
    weights = {}
    for n, (inputs, outputs) in enumerate(zip(config.sizes, config.sizes[1:], strict=False)):
        for name, shape in ((f"pi.{n}.weight", (outputs, inputs)), (f"pi.{n}.bias", (outputs,))):
            weights[name] = (rng.normal(size=shape) / 3).astype(np.float32)
    return Policy(config, weights)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "The candles of both exchanges in one topic, stored and enriched by one connector; returns (candles, home folder)."
    candles, lab = two_exchanges(), WorkerLab(tmp_path_factory.mktemp("home"))

    async def store_and_enrich() -> None:
        mixed = sorted((row for rows in candles.values() for row in rows), key=lambda row: (row.open_time, row.symbol))
        values = [(market_key(row.exchange, row.symbol), encode(row)) for row in mixed]
        await lab.fill(values[:700], topic="both", producer="loader-producer__first")
        first = CONNECTOR | {"UPSTREAM": "loader-producer__first"}
        assert await lab.run("arango-connector", **first) == 0
        await lab.fill(values[700:], topic="both")  # goes on from a checkpoint of four markets
        assert await lab.run("arango-connector", **CONNECTOR) == 0

    asyncio.run(store_and_enrich())
    lab.close()
    return candles, lab.home


@pytest.fixture
def stored(home, tmp_path):
    "A copy of that home for each test, which writes what it likes; yields (candles, lab)."
    candles, folder = home
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    lab = WorkerLab(tmp_path)
    yield candles, lab
    lab.close()


async def test_rows_states_and_records(stored):
    candles, lab = stored
    async with open_store(lab.places.store_url) as store:
        assert await store.count("candles_1h") == sum(map(len, candles.values()))
        for name, own in candles.items():
            rows = await store.read(
                "candles_1h", where=market_where(name, "1h"), columns=list(Candle.__struct_fields__)
            )
            assert [Candle(**row) for row in rows.to_pylist()] == own
            enriched = await store.read("candles_1h_enriched", where=market_where(name, "1h"))
            values = Enricher().history(*([getattr(row, column) for row in own] for column in CANDLE_COLUMNS))
            stacked = np.column_stack([enriched[column].to_numpy(zero_copy_only=False) for column in INDICATORS])
            np.testing.assert_array_equal(stacked.astype(float), values)
        kept = {one.id for one in await store.list("indicator-state")}
        assert kept == {f"candles_1h:{name}:1h" for name in NAMES}
        assert [market["candles"] for market in await markets(store)] == [240, 237, 240, 237]
        drawn = await chart(store, "candles_1h", "BTCUSDT", "1h", last=1, exchange="kraken")
        assert drawn["columns"]["close"] == [candles["kraken:BTCUSDT"][-1].close]
    published = await lab.records("both-enriched")
    assert {record.key for record in published} == set(NAMES)
    assert len(published) == sum(map(len, candles.values()))


async def test_the_ledger_judges_each_by_itself(stored):
    candles, lab = stored
    closed = candles["BTCUSDT"][50].open_time
    async with open_store(lab.places.store_url) as store:
        assert {market.market for market in await stored_markets(store)} == set(NAMES)
        told = {market.market: (findings, entry) for market, findings, entry in await verify_markets(store, Filter())}
        assert told.keys() == set(NAMES)
        for name, (findings, entry) in told.items():
            holes = [(closed, closed + 3 * HOUR)] if name.startswith("kraken") else []
            assert list(findings.gaps(entry)) == holes and findings.rows == len(candles[name])
        one = await verify_markets(store, Filter(exchange="kraken", symbols=("BTCUSDT",)))
        assert [market.market for market, *_ in one] == ["kraken:BTCUSDT"]
        assert "candles_1h:kraken:BTCUSDT:candles:1h" in {document.id for document in await store.list("ledger")}


async def test_datasets_and_graphs_tell_them_apart(stored):
    candles, lab = stored
    pair = ("BTCUSDT", "kraken:BTCUSDT")
    async with open_store(lab.places.store_url) as store, open_artifacts(lab.places.artifacts_url) as artifacts:
        panel = await read_panel(store, "candles_1h_enriched", pair, "1h")
        manifest = await freeze(artifacts, "both", panel, interval="1h")
        frozen, _ = await load_panel(artifacts, "both", manifest.version)
        assert frozen.symbols == pair and manifest.meta["symbols"] == list(pair)
        both = np.isfinite(frozen.close).all(axis=1)
        np.testing.assert_allclose(frozen.close[both, 1], 1.1 * frozen.close[both, 0])
        env = {"SYMBOL": "BTCUSDT,ETHUSDT", "TYPE": "gnn_graph", "INTERVAL": "1h", "COLLECTION_NAME": "candles_1h"}
        env |= {"GRAPH_COLLECTION_NAME": "edges", "WINDOW": "24", "STRIDE": "24", "THRESHOLD": "0"}
        for exchange in ("binance", "kraken"):
            span = f"{'2021-05-13' if exchange == 'kraken' else '2021-05-10'}:2021-05-20"
            assert await lab.run("graph-builder", **env, EXCHANGE=exchange, TIME_RANGE=span) == 0
        edges = (await store.read("edges")).to_pylist()
        ends = {(edge["source"], edge["target"]) for edge in edges}
        assert ends <= {(a, b) for a in NAMES for b in NAMES if (a < "a") == (b < "a")}
        assert {name for pair in ends for name in pair} == set(NAMES)


async def test_agents_decide_and_remember_each_by_itself(stored):
    candles, lab = stored
    async with open_store(lab.places.store_url) as store, open_artifacts(lab.places.artifacts_url) as artifacts:
        panels = {
            name: await read_panel(store, "candles_1h_enriched", (name,), "1h")
            for name in ("BTCUSDT", "kraken:BTCUSDT")
        }
        policy = some_policy(panels["BTCUSDT"])
        await publish(artifacts, None, "ppo", policy.files())
        for exchange in ("binance", "kraken"):
            env = AGENT | {"EXCHANGE": exchange, "GROUP_ID": f"agents-{exchange}"}
            env |= {"TELEMETRY_PRODUCER_ID": f"rl-agent__{exchange}"}
            assert await lab.run("rl-agent", **env) == 0
        decisions = [decode(Decision, record.value) for record in await lab.records("decisions")]
        assert {record.key for record in await lab.records("decisions")} == {"BTCUSDT", "kraken:BTCUSDT"}
        assert {record.key for record in await lab.records("agent-state")} == {
            "one-agent:BTCUSDT",
            "one-agent:kraken:BTCUSDT",
        }
        for name, panel in panels.items():
            (market,) = agent_markets(msgspec.structs.replace(policy.config, symbols=(name,)), panel)
            replay = replay_policy(policy, market)
            wanted = [
                (int(t), e) for t, d, e in zip(replay.open_time, replay.decided, replay.result.equity, strict=True) if d
            ]
            own = [one for one in decisions if market_key(one.exchange, one.symbol) == name]
            assert [(one.open_time, one.equity) for one in own] == wanted
            assert {one.price for one in own} <= {candle.close for candle in candles[name]}
        assert await store.count("decisions") == len(decisions)
        parity = await check_agent(
            store,
            artifacts,
            "one-agent",
            collection="candles_1h_enriched",
            interval="1h",
            symbols=("BTCUSDT",),
        )
        assert [(one.symbol, one.exact) for one in parity] == [("BTCUSDT", True)]
