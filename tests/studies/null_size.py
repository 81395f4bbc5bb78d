"""Size and power of the permutation test, on agents without skill and on the exact filter of a market with regimes.

python tests/studies/null_size.py [--agents 1000] [--panels 200] [--draws 99] [--workers 2] [--json FILE]

Each agent has a panel of its own: 8 markets with correlation 0.6, a past of 1,000 hours and a test of 2,000. A
decision at a close is filled at the next open, which is that close (no gaps), costs included. Only closes are
needed, so a draw is a permutation of returns; `tests/integration/research/test_permutation.py` compares it with
`evaluation.permutation` on whole panels. A p-value of at most 5 % should come in 5 % of cases; each count is given
with the 99 % interval of the binomial distribution in which it should lie.
"""

import argparse
import json
import math
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numba import njit

MARKETS, PAST, TEST, CORRELATION, SIGMA = 8, 1_000, 2_000, 0.6, 0.006
FEE, SLIPPAGE = 0.001, 0.0002
COIN_FOR_ALL, COIN_EACH, ABOVE_MEAN, BELOW_MEAN, HOLD_LOSERS, FILTER = range(6)
AGENTS = ("coin for all", "coin each", "above a past mean", "below a past mean", "hold losers")
DRIFT, LIFE = 0.001, 48.0  # of the regimes: per hour, and their mean length in hours


def random_walk(rng: np.random.Generator, rows: int) -> np.ndarray:
    "Normal log returns (rows, MARKETS) with correlation 0.6."
    common, own = rng.normal(size=(rows, 1)), rng.normal(size=(rows, MARKETS))
    return SIGMA * (np.sqrt(CORRELATION) * common + np.sqrt(1 - CORRELATION) * own)


def garch(rng: np.random.Generator, rows: int) -> np.ndarray:
    "The same with a common GARCH(1, 1) of alpha 0.1 and beta 0.88."
    walk = random_walk(rng, rows + 500) / SIGMA
    squares, deviation, variance = (walk**2).mean(axis=1).tolist(), [], 1.0
    for square in squares:  # the mean square of a row is the variance times that of its shocks
        deviation.append(math.sqrt(variance))
        variance = 0.02 + (0.1 * square + 0.88) * variance
    return SIGMA * (np.array(deviation)[:, None] * walk)[500:]


def regimes(rng: np.random.Generator, rows: int) -> np.ndarray:
    "A random walk whose drift is plus or minus 10 bp an hour for all markets."
    state = (np.cumsum(rng.random(rows) < 1 / LIFE) + (rng.random() < 0.5)) % 2
    return random_walk(rng, rows) + np.where(state == 1, DRIFT, -DRIFT)[:, None]


MARKET_KINDS = {"random walk": random_walk, "GARCH": garch, "regimes": regimes}


@njit(cache=True)
def account(
    gross: np.ndarray,  # (T, N) close to the close before
    start: int,  # first row of the test
    kind: int,
    window: int,  # rows of the past mean
    target: float,  # gain at which a holder of losers sells
    coins: np.ndarray,  # (R, N) bool, what coins decide
    spread: float,  # standard deviation of the mean of the markets, for the filter
) -> tuple[float, float, float, bool, bool]:  # log end value, mean, squares; traded; timed
    "The portfolio of an agent: one account per market, decided at the close, filled at the next open."
    total, markets = gross.shape
    buying, selling = (1 - FEE) / (1 + SLIPPAGE), (1 - SLIPPAGE) * (1 - FEE)
    price, sums = np.ones((total, markets)), np.zeros(markets)
    equity, held, entry, decided = (
        np.ones(markets),
        np.zeros(markets, np.bool_),
        np.ones(markets),
        np.zeros(markets, np.int8),
    )
    traded, timed, up, before = False, False, 0.5, 1.0
    mean = square = 0.0
    for t in range(total):
        for n in range(markets):
            price[t, n] = gross[t, n] if t == 0 else price[t - 1, n] * gross[t, n]
            sums[n] += price[t, n]
            if t >= window:
                sums[n] -= price[t - window, n]
        if kind == FILTER:
            signal = 0.0
            for n in range(markets):
                signal += np.log(gross[t, n]) / markets
            up = up * (1 - 1 / LIFE) + (1 - up) / LIFE
            odds = up / (1 - up) * np.exp(2 * DRIFT * signal / spread**2)
            up = min(max(odds / (1 + odds), 1e-12), 1 - 1e-12)
        if t < start:
            continue
        value = 0.0
        for n in range(markets):
            if t > start:
                want = decided[n] == 1
                if want and not held[n]:
                    equity[n] *= buying
                    entry[n], held[n], traded = price[t - 1, n], True, True
                    timed = timed or t > start + 1
                elif not want and held[n]:
                    equity[n] *= selling
                    held[n], timed = False, True
            if held[n]:
                equity[n] *= gross[t, n]
            value += equity[n] * (selling if held[n] and t == total - 1 else 1.0) / markets
            if kind in (COIN_FOR_ALL, COIN_EACH):
                decided[n] = 1 if coins[t - start, n] else 0
            elif kind in (ABOVE_MEAN, BELOW_MEAN):
                above = price[t, n] * window > sums[n]
                decided[n] = 1 if above == (kind == ABOVE_MEAN) else 0
            elif kind == HOLD_LOSERS:
                decided[n] = 1 if not held[n] or price[t, n] < entry[n] * (1 + target) else 0
            else:
                decided[n] = 1 if up > 0.5 else 0
        if t > start:
            change, k = value / before - 1, t - start
            apart = change - mean
            mean += apart / k
            square += apart * (change - mean)
        before = value
    return np.log(before), mean, square, traded, timed


def toss(rng: np.random.Generator, each: bool) -> np.ndarray:
    "Persistent coins (TEST, MARKETS): states that last 5 to 200 hours on average."
    life = np.exp(rng.uniform(np.log(5), np.log(200)))
    flips = rng.random((TEST, MARKETS if each else 1)) < 1 / life
    first = rng.random((1, flips.shape[1])) < 0.5
    return np.ascontiguousarray(np.broadcast_to((np.cumsum(flips, axis=0) + first) % 2 == 1, (TEST, MARKETS)))


def permuted(returns: np.ndarray, start: int, order: np.ndarray, flipped: np.ndarray) -> np.ndarray:
    "Log returns (T, N) with those of the test in an order, some of them mirrored about the mean of the test."
    test = returns[start:][order]
    mean = returns[start:].mean(axis=0)
    return np.vstack([returns[:start], np.where(flipped[:, None], 2 * mean - test, test) if flipped.any() else test])


def p_values(market: str, kind: int, null: str, draws: int, seed: int) -> tuple[float, float] | None:
    "p-values of end value and Sharpe ratio of one agent on one panel; None without timing."
    rng = np.random.default_rng([seed, kind, list(MARKET_KINDS).index(market), null == "wild"])
    returns = MARKET_KINDS[market](rng, PAST + TEST)
    window = int(np.exp(rng.uniform(np.log(10), np.log(1_000))))
    target, coins = float(rng.uniform(0.003, 0.05)), toss(rng, kind == COIN_EACH)
    spread = SIGMA * np.sqrt(CORRELATION + (1 - CORRELATION) / MARKETS)
    own = account(np.exp(returns), PAST, kind, window, target, coins, spread)
    if not (own[3] and own[4]):
        return None
    better, stay, none = [0, 0], np.arange(TEST), np.zeros(TEST, bool)
    for _ in range(draws):
        order, flipped = (stay, rng.random(TEST) < 0.5) if null == "wild" else (rng.permutation(TEST), none)
        drawn = account(np.exp(permuted(returns, PAST, order, flipped)), PAST, kind, window, target, coins, spread)
        better[0] += drawn[0] >= own[0] - 1e-9
        better[1] += sharpe(drawn) >= sharpe(own) - 1e-9
    return (1 + better[0]) / (1 + draws), (1 + better[1]) / (1 + draws)


def sharpe(record: tuple[float, float, float, bool, bool]) -> float:
    "Sharpe ratio by row of an account; 0 where nothing moved."
    spread = np.sqrt(record[2] / (TEST - 2))
    return record[1] / spread if spread > 1e-12 else 0.0


def interval(n: int, p: float) -> tuple[int, int]:
    "The counts of n that a binomial of p stays within in 99 % of cases."
    k = np.arange(n + 1)
    log = np.array([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in k.tolist()])
    total = np.cumsum(np.exp(log + k * np.log(p) + (n - k) * np.log1p(-p)))
    return int(np.searchsorted(total, 0.005)), int(np.searchsorted(total, 0.995))


def _several(job: tuple[str, int, str, int, int, int]) -> list[tuple[float, float] | None]:
    "Agents `first` to `last` of one kind."
    market, kind, null, draws, first, last = job
    return [p_values(market, kind, null, draws, seed) for seed in range(first, last)]


def study(pool: ProcessPoolExecutor, market: str, kind: int, null: str, draws: int, agents: int) -> dict:
    "Counts of small p-values among many agents of one kind, each on a panel of its own."
    jobs = [(market, kind, null, draws, first, min(first + 25, agents)) for first in range(0, agents, 25)]
    values = [pair for part in pool.map(_several, jobs) for pair in part if pair is not None]
    row = {
        "market": market,
        "agent": (*AGENTS, "exact filter")[kind],
        "null": null,
        "draws": draws,
        "tested": len(values),
    }
    row["no_timing"] = agents - len(values)
    for number, name in enumerate(("end_value", "sharpe")):
        for level in (0.05, 0.01):
            count = int(sum(pair[number] <= level + 1e-12 for pair in values))
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
            plan = [(market, kind, given.agents) for market in ("random walk", "GARCH") for kind in range(5)]
            for market, kind, n in [("regimes", FILTER, given.panels), *plan]:
                if n:
                    rows.append(study(pool, market, kind, null, given.draws, n))
                    print(json.dumps(rows[-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
