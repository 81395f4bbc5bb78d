"""PPO learns where there is something to learn, earns nothing where there is not, and trades live as it was
backtested."""

import numpy as np
import pytest

from streamforge.rl.agent import Agent
from streamforge.rl.env import EnvConfig, TradingEnv
from streamforge.rl.markets import market_for
from streamforge.rl.observation import MarketHistory
from streamforge.rl.policy import Policy, PolicyConfig
from streamforge.rl.replay import replay_policy
from streamforge.rl.train import PpoConfig, train_ppo
from streamforge.trading.account import EQUITY
from streamforge.trading.baselines import random_agents
from streamforge.trading.costs import Costs
from streamforge.trading.engine import HOLD, backtest

FEATURES, WINDOW = 6, 4
HOUR = 3_600_000


def market(seed: int, right: float, n: int = 3_000) -> MarketHistory:
    "A random walk; the first feature has the next return's sign with probability `right`, the others are noise."
    rng = np.random.default_rng(seed)
    returns = rng.normal(0, 0.01, n + 1)
    hint = np.sign(returns[1:]) * np.where(rng.random(n) < right, 1, -1)
    close = 100 * np.exp(np.cumsum(returns[:-1]))
    features = np.column_stack([hint, rng.normal(size=(n, FEATURES - 1))])
    return MarketHistory(f"S{seed}", np.arange(n) * HOUR, np.concatenate([[100.0], close[:-1]]), close, features)


def trained(right: float, config: PpoConfig, seed: int = 0, costs: Costs = Costs()) -> tuple[Policy, dict[str, float]]:
    described = PolicyConfig(
        features=tuple(f"f{n}" for n in range(FEATURES)),
        mean=(0.0,) * FEATURES,
        std=(1.0,) * FEATURES,
        window=WINDOW,
        hidden=(32, 32),
        fee_bps=costs.fee_bps,
        slippage_bps=costs.slippage_bps,
    )
    result = train_ppo([market(100 + n, right) for n in range(4)], described, config, seed=seed)
    return Policy.load(result.files), result.metrics


@pytest.fixture(scope="module")
def skilled() -> Policy:
    return trained(0.8, PpoConfig(steps=100_000))[0]


@pytest.mark.slow
def test_ppo_learns_a_planted_market(skilled):
    for seed in (900, 901, 902):
        fresh = market(seed, 0.8)
        own = replay_policy(skilled, fresh).result
        baseline = random_agents(fresh.open, fresh.close, turnover=own.turnover, exposure=own.exposure)
        assert np.log(own.equity[-1]) > np.log(baseline.equity[-1]).max() + 1, (
            "not clearly better than a hundred random agents"
        )


@pytest.mark.slow
def test_ppo_earns_nothing_on_a_random_walk():
    policy, metrics = trained(0.5, PpoConfig(steps=100_000))
    results = [replay_policy(policy, market(seed, 0.5)).result for seed in range(900, 912)]
    logs = np.array([np.log(result.equity[-1]) for result in results])
    drift = np.array(
        [np.log(fresh.close[-1] / fresh.open[0]) for fresh in (market(seed, 0.5) for seed in range(900, 912))]
    )
    skill = (
        logs - np.mean([result.exposure for result in results]) * drift
    )  # what holding the same share all the time would not explain
    error = 0.01 * np.sqrt(3_000) / 2 / np.sqrt(12)  # of the mean, for agents that are in half of the time
    assert skill.mean() < 2 * error, "something reads the future: there is nothing to earn here"
    assert metrics["mean_reward"] < 0.05


@pytest.mark.slow
def test_validation_keeps_an_agent_from_trading_noise():
    described = PolicyConfig(features=tuple("abcdef"), mean=(0.0,) * 6, std=(1.0,) * 6, window=WINDOW, hidden=(32, 32))
    config = PpoConfig(steps=30_000, batch_size=512, n_epochs=8)
    last, chosen = (
        Policy.load(train_ppo([market(100, 0.5)], described, config, validation=v).files)
        for v in ((), [market(200, 0.5)])
    )
    turnover = [
        np.mean([replay_policy(policy, market(seed, 0.5)).result.turnover for seed in range(900, 906)])
        for policy in (last, chosen)
    ]
    assert turnover[1] <= turnover[0]


@pytest.mark.slow
def test_environment_backtest_and_live_agent_are_one(skilled):
    fresh = market(950, 0.8)
    replayed = replay_policy(skilled, fresh)
    np.testing.assert_allclose(
        backtest(fresh.open, fresh.close, replayed.actions).equity, replayed.result.equity, rtol=1e-9
    )

    agent, equity = Agent(skilled), []
    for t in range(len(fresh)):
        if t % 97 == 50:  # stopped and started again
            agent = Agent.restore(skilled, agent.state())
        agent.on_candle(int(fresh.open_time[t]), fresh.open[t], fresh.close[t], fresh.features[t])
        equity.append(agent.account[EQUITY])
    np.testing.assert_array_equal(equity, replayed.result.equity)

    env = TradingEnv([fresh], EnvConfig(window=WINDOW))
    start = int(env.pool.starts[0])
    obs, _ = env.reset(options={"start": start, "length": len(fresh)})
    actions, curve, over = [], [1.0], False
    while not over:
        actions.append(skilled.act(obs))
        obs, _, _, over, info = env.step(actions[-1])
        curve.append(info["equity"])
    np.testing.assert_allclose(curve, replay_policy(skilled, fresh, start=start).result.equity, rtol=1e-9)
    np.testing.assert_allclose(
        curve, backtest(fresh.open[start:], fresh.close[start:], np.array([*actions, HOLD])).equity, rtol=1e-9
    )


@pytest.mark.slow
def test_a_trained_agent_does_not_know_the_future(skilled):
    fresh, t = market(960, 0.8), 1_500
    replayed = replay_policy(skilled, fresh)
    later = np.arange(len(fresh)) > t
    wrecked = market_for(
        skilled,
        "X",
        fresh.open_time,
        np.where(later, fresh.open * 3, fresh.open),
        np.where(later, fresh.close / 3, fresh.close),
        np.where(later[:, None], -fresh.features, fresh.features),
    )
    other = replay_policy(skilled, wrecked)
    np.testing.assert_array_equal(other.actions[: t + 1], replayed.actions[: t + 1])
    np.testing.assert_array_equal(other.result.equity[: t + 1], replayed.result.equity[: t + 1])
    assert (other.result.equity[t + 1 :] != replayed.result.equity[t + 1 :]).any()
