"""The live agent as a process: it decides each candle once, whatever kills it, and its account is the backtest's."""

import msgspec
import numpy as np
import pytest
from worker_lab import sample_candles, until

from streamforge.artifacts.base import open_artifacts
from streamforge.core.names import enriched_collection
from streamforge.core.samples import candles
from streamforge.features.enricher import Enricher
from streamforge.features.frame import panel_of
from streamforge.features.indicators import INDICATORS
from streamforge.messages.records import Decision, decode
from streamforge.rl.markets import agent_config, agent_markets
from streamforge.rl.policy import Policy
from streamforge.rl.replay import replay_policy
from streamforge.runs.models import publish
from streamforge.store.base import open_store
from streamforge.store.schemas import enriched_schema
from streamforge.workers.connector.enrichment import enrich

MARKETS, SPAN, CUT = ("BTCUSDT", "ETHUSDT"), "2021-05-01:2021-06-01", 500
ENV = {
    "SYMBOL": ",".join(MARKETS),
    "TYPE": "api_candles_1h",
    "KAFKA_TOPIC": "live",
    "COLLECTION_NAME": "candles_1h",
    "MODEL_NAME": "ppo",
    "AGENT_ID": "ppo-test",
}


def some_policy(panel):
    "A policy of random weights that trades now and then."
    config = agent_config(panel.rows(0, CUT))
    rng = np.random.default_rng(3)
    shapes = [
        (name, shape)
        for n, (i, outputs) in enumerate(zip(config.sizes, config.sizes[1:], strict=False))
        for name, shape in ((f"pi.{n}.weight", (outputs, i)), (f"pi.{n}.bias", (outputs,)))
    ]
    return Policy(config, {name: (rng.normal(size=shape) / 3).astype(np.float32) for name, shape in shapes})


@pytest.fixture
async def live(lab):
    "History in the store, the rest on the topic, a published policy; yields (panel, policy, lab)."
    panel = panel_of({market: candles(market, SPAN) for market in MARKETS})
    policy, cut = some_policy(panel), int(panel.open_time[CUT])
    records = {market: enrich(Enricher(), sample_candles((market,), SPAN)) for market in MARKETS}
    async with open_artifacts(lab.places.artifacts_url) as artifacts, open_store(lab.places.store_url) as store:
        await publish(artifacts, None, "ppo", policy.files())
        await store.ensure(enriched_collection("candles_1h"), enriched_schema(INDICATORS))
        for rows in records.values():
            await store.upsert(enriched_collection("candles_1h"), [row for row in rows if row.open_time < cut])
    later = sorted(
        (row for rows in records.values() for row in rows if row.open_time >= cut),
        key=lambda row: (row.open_time, row.symbol),
    )
    await lab.fill([(row.symbol, msgspec.json.encode(row)) for row in later], topic="live-enriched")
    return panel, policy, lab


def expected(panel, policy):
    "What the backtest decides on the same candles: (symbol, open_time) -> (action, equity)."
    decisions = {}
    for market in agent_markets(policy.config, panel):
        replay = replay_policy(policy, market, start=CUT)
        decisions |= {
            (market.symbol, int(t)): (("sell", "hold", "buy")[a], e)
            for t, a, d, e in zip(replay.open_time, replay.actions, replay.decided, replay.result.equity, strict=True)
            if d
        }
    return decisions


async def decided(lab, wanted):
    async def enough():
        decisions = [decode(Decision, record.value) for record in await lab.records("decisions")]
        return decisions if len({(candle.symbol, candle.open_time) for candle in decisions}) >= wanted else None

    return await until(enough, timeout=60)


async def finish(lab, panel, policy):
    "Wait for all decisions, stop the agent, and compare topic, store and backtest."
    want = expected(panel, policy)
    decisions = await decided(lab, len(want))
    await lab.command("stop")
    assert [await process.wait() for process in lab.started][-1] == 0
    assert len(decisions) == len(want), "a candle was decided twice"
    assert {(candle.symbol, candle.open_time): (candle.action, candle.equity) for candle in decisions} == want
    async with open_store(lab.places.store_url) as store:
        rows = [msgspec.convert(row, Decision) for row in (await store.read("decisions")).to_pylist()]
    assert sorted(rows, key=str) == sorted(decisions, key=str)


async def test_the_live_account_is_the_backtest(live):
    panel, policy, lab = live
    await lab.start("rl-agent", **ENV)
    await finish(lab, panel, policy)


@pytest.mark.slow
@pytest.mark.parametrize("failpoint", ["after-state", "after-state:3", "after-decisions", "after-decisions:2"])
async def test_killed_it_goes_on_where_it_was(live, failpoint):
    panel, policy, lab = live
    assert await lab.run("rl-agent", **ENV, FAILPOINT=failpoint) == -9
    await lab.start("rl-agent", **ENV)
    await finish(lab, panel, policy)


async def test_a_damaged_model_is_refused(live):
    _, _, lab = live
    async with open_artifacts(lab.places.artifacts_url) as artifacts:
        manifest = (await artifacts.versions("models", "ppo"))[-1]
    weights = next((lab.home / "artifacts").rglob("weights.safetensors"))
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-8] + b"\x00" * 8)
    assert await lab.run("rl-agent", **ENV, MODEL_VERSION=manifest.version) == 65
    event = (await lab.events())[-1]
    assert (
        event.status == "error" and event.extra["error_type"] == "DamagedArtifact" and not await lab.length("decisions")
    )
