"""Size and power of the permutation test, on agents without skill and on the exact filter of a market with regimes.

python tests/studies/null_size.py [--agents 1000] [--panels 200] [--draws 99] [--workers 2] [--json FILE]

Each agent has a planted panel of its own (`evaluation.planted`): 8 markets with correlation 0.6, a past of 1,000 hours
and a test of 2,000. `evaluation.planted.unskilled` judges it, costs included; only closes are needed, so a draw is a
permutation of returns, and `tests/integration/research/test_permutation.py` compares it with `evaluation.permutation`
on whole panels. A p-value of at most 5 % should come in 5 % of cases; each count is given with the 99 % interval of the
binomial distribution in which it should lie.
"""

import argparse
import json
import math
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from streamforge.evaluation.planted.base import Planted, Prices, Recipe, candle_returns, normals, planted_of
from streamforge.evaluation.planted.noise import garch, random_walk
from streamforge.evaluation.planted.rule import Rule
from streamforge.evaluation.planted.unskilled import UNSKILLED, PanelTest, oracle_test, unskilled_test

MARKETS, PAST, TEST, CORRELATION, SIGMA = 8, 1_000, 2_000, 0.6, 0.006
FILTER = "exact filter"
DRIFT, LIFE = 0.001, 48.0  # of the regimes: per hour, and their mean length in hours


def common_filter(prices: Prices) -> np.ndarray:
    "Filter the drift that all markets share from the mean of their returns: the expected next log return (T, N)."
    signal = candle_returns(prices).mean(axis=1)
    variance = SIGMA**2 * (CORRELATION + (1 - CORRELATION) / MARKETS)
    up, expected = 0.5, np.empty(len(signal))
    for t, mean in enumerate(signal.tolist()):
        odds = up / (1 - up) * math.exp(2 * DRIFT * mean / variance)
        up = min(max(odds / (1 + odds), 1e-12), 1 - 1e-12)
        up = up * (1 - 1 / LIFE) + (1 - up) / LIFE
        expected[t] = DRIFT * (2 * up - 1)
    return np.repeat(expected[:, None], MARKETS, axis=1)


def common_regimes(markets: int, candles: int, seed: int) -> Planted:
    "Random walks whose drift is plus or minus 10 bp an hour for all markets together."
    own = {"drift": DRIFT, "life": LIFE, "correlation": CORRELATION}
    recipe = Recipe(
        name="common_regimes", markets=markets, candles=candles, seed=seed, volatility=SIGMA, parameters=own
    )
    rng = np.random.default_rng([seed, 7])
    state = (np.cumsum(rng.random(candles) < 1 / LIFE) + (rng.random() < 0.5)) % 2
    drift = np.where(state == 1, DRIFT, -DRIFT)[:, None]
    return planted_of(recipe, SIGMA * normals(recipe, CORRELATION) + drift, common_filter, {})


MARKET_KINDS = {
    "random walk": partial(random_walk, volatility=SIGMA, correlation=CORRELATION),
    "GARCH": partial(garch, volatility=SIGMA, correlation=CORRELATION),
    "regimes": common_regimes,
}


def p_values(market: str, agent: str, null: str, draws: int, seed: int) -> PanelTest | None:
    "p-values of end value and Sharpe ratio of one agent on one panel; None without timing."
    number = list(MARKET_KINDS).index(market) * 10 + (*UNSKILLED, FILTER).index(agent)
    own = number * 1_000_000 + seed
    planted = MARKET_KINDS[market](MARKETS, PAST + TEST, own)
    options = {"draws": draws, "seed": own, "null": null}
    if agent == FILTER:
        return oracle_test(planted, Rule(0.0, 0.0), PAST, **options)
    return unskilled_test(planted, agent, PAST, **options)


def interval(n: int, p: float) -> tuple[int, int]:
    "The counts of n that a binomial of p stays within in 99 % of cases."
    k = np.arange(n + 1)
    log = np.array([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in k.tolist()])
    total = np.cumsum(np.exp(log + k * np.log(p) + (n - k) * np.log1p(-p)))
    return int(np.searchsorted(total, 0.005)), int(np.searchsorted(total, 0.995))


def _several(job: tuple[str, str, str, int, int, int]) -> list[PanelTest | None]:
    "Agents `first` to `last` of one kind."
    market, agent, null, draws, first, last = job
    return [p_values(market, agent, null, draws, seed) for seed in range(first, last)]


def study(pool: ProcessPoolExecutor, market: str, agent: str, null: str, draws: int, agents: int) -> dict:
    "Counts of small p-values among many agents of one kind, each on a panel of its own."
    jobs = [(market, agent, null, draws, first, min(first + 25, agents)) for first in range(0, agents, 25)]
    values = [test for part in pool.map(_several, jobs) for test in part if test is not None]
    row = {
        "market": market,
        "agent": agent,
        "null": null,
        "draws": draws,
        "tested": len(values),
    }
    row["no_timing"] = agents - len(values)
    for name in ("end_value", "sharpe"):
        for level in (0.05, 0.01):
            count = int(sum(getattr(test, name) <= level + 1e-12 for test in values))
            row[f"{name}_{level}"] = {"count": count, "within": interval(len(values), level)}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=1_000, help="of each kind; 0: none")
    parser.add_argument("--panels", type=int, default=200, help="with regimes, for the filter; 0: none")
    parser.add_argument("--draws", type=int, default=99)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--nulls", default="bars,wild")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = []
    with ProcessPoolExecutor(given.workers) as pool:
        for null in given.nulls.split(","):
            plan = [(market, agent, given.agents) for market in ("random walk", "GARCH") for agent in UNSKILLED]
            for market, agent, n in [("regimes", FILTER, given.panels), *plan]:
                if n:
                    rows.append(study(pool, market, agent, null, given.draws, n))
                    print(json.dumps(rows[-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
