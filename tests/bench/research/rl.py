"""Environment steps, PPO steps and backtest candles per second, each beside what one would write without us.

python tests/bench/research/rl.py [--json FILE]   about two minutes, one core
"""

import argparse
import json
import os
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium as gym
import numpy as np
import pandas as pd
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from streamforge.core.samples import SYMBOLS, candles
from streamforge.rl.env import EnvConfig, TradingEnv
from streamforge.rl.observation import OBSERVATION_CLIP, MarketHistory, standardise
from streamforge.rl.policy import PolicyConfig
from streamforge.rl.train import PpoConfig, make_ppo
from streamforge.rl.vector import BatchedTradingEnv
from streamforge.trading.engine import BUY, HOLD, SELL, backtest

WINDOW, EPISODE, FEE, SLIPPAGE = 16, 256, 0.001, 0.0002


def example(symbol: str) -> MarketHistory:
    "A market with twelve plain features."
    table = candles(symbol, "2021-06-01:2022-06-01")
    returns = np.log(table.close).diff()
    raw = np.column_stack(
        [returns.rolling(n).mean() for n in (1, 2, 4, 8, 24, 72)]
        + [returns.rolling(n).std() for n in (4, 8, 24, 48, 72, 96)]
    )
    return MarketHistory(
        symbol, table.open_time, table.open, table.close, standardise(raw, np.nanmean(raw, 0), np.nanstd(raw, 0))
    )


class PlainEnv(gym.Env):
    """The same game written plainly, as one writes it the first time: numpy slices and Python floats, one market,
    no compiler."""

    def __init__(self, market: MarketHistory, seed: int = 0):
        first = int(np.isfinite(market.features).all(1).argmax()) + WINDOW
        self.open, self.close, self.features, self.first = (
            market.open.tolist(),
            market.close.tolist(),
            np.clip(market.features, -OBSERVATION_CLIP, OBSERVATION_CLIP),
            first,
        )
        width = WINDOW * market.features.shape[1] + 3
        self.observation_space, self.action_space = (
            gym.spaces.Box(-OBSERVATION_CLIP, OBSERVATION_CLIP, (width,), np.float32),
            gym.spaces.Discrete(3),
        )
        self.random = np.random.default_rng(seed)

    def observation(self) -> np.ndarray:
        obs = np.empty(self.observation_space.shape, np.float32)
        obs[:-3] = self.features[self.t - WINDOW + 1 : self.t + 1].ravel()
        obs[-3] = self.units > 0
        obs[-2] = np.log(self.equity / self.entry) if self.units else 0.0
        obs[-1] = np.log(self.equity)
        return obs

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = int(options["start"]) if options else int(self.random.integers(self.first, len(self.close) - EPISODE))
        self.end, self.cash, self.units, self.equity, self.entry = self.t + EPISODE, 1.0, 0.0, 1.0, 0.0
        return self.observation(), {}

    def step(self, action):
        self.t += 1
        price, before = self.open[self.t], self.equity
        if action == BUY and not self.units:
            self.units, self.entry, self.cash = self.cash / (price * (1 + SLIPPAGE)) * (1 - FEE), self.cash, 0.0
        elif action == SELL and self.units:
            self.cash, self.units = self.units * price * (1 - SLIPPAGE) * (1 - FEE), 0.0
        self.equity = self.cash + self.units * self.close[self.t]
        return self.observation(), float(np.log(self.equity / before)), False, self.t >= self.end, {}


def rate(work: Callable[[], object], amount: int, repeat: int = 5) -> float:
    "The best of a few, in units per second: the others measure the neighbours."
    best = 0.0
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        best = max(best, amount / (time.perf_counter() - start))
    return best


def same_game(market: MarketHistory) -> None:
    "The peer plays the same game, or the comparison means nothing."
    ours, plain, rng = TradingEnv([market]), PlainEnv(market), np.random.default_rng(0)
    start = int(ours.pool.starts[100])
    np.testing.assert_allclose(
        ours.reset(options={"start": start})[0], plain.reset(options={"start": start})[0], atol=1e-6
    )
    for action in rng.integers(0, 3, EPISODE):
        a, b = ours.step(int(action)), plain.step(int(action))
        np.testing.assert_allclose(a[0], b[0], atol=1e-6)
        assert abs(a[1] - b[1]) < 1e-12 and a[3] == b[3]


def environment_steps(markets: list[MarketHistory], n_envs: int, steps: int) -> dict:
    actions = np.random.default_rng(0).integers(0, 3, (steps, n_envs))

    def play(env) -> Callable[[], object]:
        env.reset()
        env.step(actions[0])
        return lambda: [env.step(a) for a in actions]

    ours = rate(play(BatchedTradingEnv(markets, EnvConfig(WINDOW, EPISODE), n_envs)), steps * n_envs)
    plain = DummyVecEnv([lambda n=n: PlainEnv(markets[n % len(markets)], n) for n in range(n_envs)])
    plain.reset()
    few = max(1, steps // 50)
    peer = rate(lambda: [plain.step(a) for a in actions[:few]], few * n_envs, 4)
    return {
        "work": f"environment steps, {n_envs} episodes",
        "unit": "steps/s",
        "ours": ours,
        "peer": peer,
        "peer_name": "plain Python gymnasium environment in SB3's DummyVecEnv",
    }


def ppo_steps(markets: list[MarketHistory]) -> dict:
    n = markets[0].features.shape[1]
    described = PolicyConfig(features=tuple(f"f{k}" for k in range(n)), mean=(0.0,) * n, std=(1.0,) * n, window=WINDOW)
    config = PpoConfig(n_epochs=4)
    torch.set_num_threads(1)
    ours = make_ppo(markets, described, config)
    plain = DummyVecEnv([lambda k=k: PlainEnv(markets[k], k) for k in range(len(markets))])
    layers = {"net_arch": {"pi": [64, 64], "vf": [64, 64]}}
    peer = PPO(
        "MlpPolicy", plain, policy_kwargs=layers, device="cpu", seed=0
    )  # its defaults: 2048 steps, batches of 64, 10 epochs
    equal = PPO(
        "MlpPolicy", plain, n_steps=512, batch_size=1_024, n_epochs=4, policy_kwargs=layers, device="cpu", seed=0
    )
    rollout = config.n_envs * config.n_steps
    rates = [
        rate(lambda agent=agent, n=n: agent.learn(n, reset_num_timesteps=False), n, k)
        for agent, n, k in ((ours, 4 * rollout, 4), (equal, 4_096, 3), (peer, 16_384, 1))
    ]
    named = "PPO, the same batches and epochs, in DummyVecEnv of 8", "PPO as SB3 starts it, in DummyVecEnv of 8"
    return [
        {"work": "PPO training", "unit": "steps/s", "ours": rates[0], "peer": peer_rate, "peer_name": name}
        for name, peer_rate in zip(named, rates[1:], strict=True)
    ]


def backtest_candles(market: MarketHistory) -> dict:
    repeat = 20
    opens, closes = (np.tile(prices, repeat) for prices in (market.open, market.close))
    actions = np.random.default_rng(0).choice([SELL, HOLD, BUY], len(opens), p=[0.05, 0.9, 0.05])
    table = pd.DataFrame({"open": opens, "close": closes, "action": actions})

    def loop(rows: pd.DataFrame) -> list[float]:
        cash, units, order, curve = 1.0, 0.0, HOLD, []
        for _, row in rows.iterrows():
            if order == BUY and not units:
                cash, units = 0.0, cash / (row.open * (1 + SLIPPAGE)) * (1 - FEE)
            elif order == SELL and units:
                cash, units = units * row.open * (1 - SLIPPAGE) * (1 - FEE), 0.0
            curve.append(cash + units * row.close)
            order = row.action
        return curve

    few = 5_000
    np.testing.assert_allclose(backtest(opens[:few], closes[:few], actions[:few]).equity, loop(table[:few]), rtol=1e-12)
    ours, peer = rate(lambda: backtest(opens, closes, actions), len(opens)), rate(lambda: loop(table[:few]), few)
    return {
        "work": f"backtest of {len(opens)} candles",
        "unit": "candles/s",
        "ours": ours,
        "peer": peer,
        "peer_name": "loop over pandas rows",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="write the list of results here")
    where = parser.parse_args().json
    markets = [example(symbol) for symbol in SYMBOLS]
    same_game(markets[0])
    rows = [
        environment_steps(markets, 64, 2_000),
        environment_steps(markets, 256, 1_000),
        backtest_candles(markets[0]),
        *ppo_steps(markets),
    ]
    for row in rows:
        row["ratio"] = row["ours"] / row["peer"]
        print(json.dumps(row))
    if where:
        from pathlib import Path

        Path(where).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
