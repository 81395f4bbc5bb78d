"""Coverage of the 95 % intervals of `evaluation.intervals`: `python tests/bench/evaluation/coverage.py [--json FILE]
[--panels N] [--rows N ...]`.

Each panel is drawn anew with a known true value, on noise and on an effect; counted is how often the interval holds the
true value. The true values of an effect are those of one very long panel. The peer is the formula for independent rows
(AUC: Mann and Whitney's under the null; Sharpe ratio: Mertens'; a total return: the log returns' standard error).
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
from scipy.signal import lfilter

from streamforge.evaluation.intervals import (
    auc_difference_interval,
    auc_interval,
    difference_interval,
    return_interval,
    sharpe_interval,
)

HORIZON = 4


def markets(rng: np.random.Generator, rows: int, markets: int = 8) -> np.ndarray:
    "Shocks of markets that move together, correlation 0.6."
    return rng.standard_normal((rows, 1)) * 0.6**0.5 + rng.standard_normal((rows, markets)) * 0.4**0.5


def scored(rng: np.random.Generator, rows: int, effects: tuple[float, ...]) -> tuple[np.ndarray, list[np.ndarray]]:
    "Labels four rows ahead, and scores with a memory of a day, each of which knows a share of the future."
    path = markets(rng, rows + HORIZON).cumsum(axis=0)
    ahead, memory = (path[HORIZON:] - path[:-HORIZON]) / math.sqrt(HORIZON), math.exp(-1 / 24)
    scores = [
        lfilter([math.sqrt(1 - memory**2)], [1, -memory], markets(rng, rows + 200), axis=0)[200:] + effect * ahead
        for effect in effects
    ]
    return (ahead > 0).astype(float), scores


def traded(rng: np.random.Generator, rows: int, skill: float) -> tuple[np.ndarray, np.ndarray]:
    "Returns of an agent that is in the market half of the time, for a day on average, and of holding; fat tails, clusters."
    calm = np.exp(0.5 * lfilter([math.sqrt(1 - 0.98**2)], [1, -0.98], rng.standard_normal(rows + 500))[500:] - 0.125)
    hold = np.clip(0.006 * calm * rng.standard_t(5, rows) / math.sqrt(5 / 3), -0.5, 0.5)
    inside = lfilter([1], [1, -math.exp(-1 / 24)], rng.standard_normal(rows + 200))[200:] > 0
    return inside * hold + skill * 0.006 * inside, hold


def truths() -> dict[str, float]:
    "Values that the intervals should hold, from a panel of two million rows."
    label, scores = scored(np.random.default_rng(99), 250_000, (0.0, 0.2))
    wide = [auc_interval(label, score, block=100, draws=99).value for score in scores]
    found = {
        "auc, noise": 0.5,
        "auc, effect": wide[1],
        "auc difference, noise": 0.0,
        "auc difference, effect": wide[1] - 0.5,
    }
    for name, skill in {"noise": 0.0, "effect": 0.05}.items():
        agent, hold = traded(np.random.default_rng(99), 4_000_000, skill)
        agent_log, hold_log = (float(np.log1p(r).mean()) for r in (agent, hold))
        bias = float(hold.mean())  # of the long panel: the true mean of holding is zero
        found[f"log, {name}"], found[f"hold log, {name}"] = agent_log - bias / 2, hold_log - bias
        found[f"sharpe, {name}"] = skill * 0.006 * 0.5 / float(agent.std())
        found[f"sharpe difference, {name}"] = found[f"sharpe, {name}"]
    return found


def within(interval, true: float) -> bool:
    return interval.low <= true <= interval.high


def naive_auc(label: np.ndarray, score: np.ndarray, value: float, true: float) -> bool:
    "Whether the formula for independent rows holds the true AUC."
    up, down = label.sum(), label.size - label.sum()
    return abs(value - true) <= 1.96 * math.sqrt((label.size + 1) / (12 * up * down))


def study(rows: int, panels: int, truth: dict[str, float]) -> list[dict]:
    "Count how many of the intervals hold the true value."
    held: dict[str, int] = {}
    peers: dict[str, int] = {}
    values: dict[str, list[float]] = {}

    def note(name: str, interval, true: float, peer: bool | None = None) -> None:
        held[name] = held.get(name, 0) + within(interval, true)
        values.setdefault(name, []).append(interval.value)
        if peer is not None:
            peers[name] = peers.get(name, 0) + peer

    for panel in range(panels):
        rng = np.random.default_rng([rows, panel])
        label, (blind, informed) = scored(rng, rows, (0.0, 0.2))
        options = {"horizon": HORIZON, "seed": panel}
        for name, score in {"noise": blind, "effect": informed}.items():
            found, true = auc_interval(label, score, **options), truth[f"auc, {name}"]
            note(f"auc, {name}", found, true, naive_auc(label, score, found.value, true))
        _, (other,) = scored(rng, rows, (0.0,))
        note("auc difference, noise", auc_difference_interval(label, blind, other, **options), 0.0)
        note(
            "auc difference, effect",
            auc_difference_interval(label, informed, other, **options),
            truth["auc difference, effect"],
        )
        for name, skill in {"noise": 0.0, "effect": 0.05}.items():
            agent, hold = traded(rng, rows, skill)
            mean, hold_mean = truth[f"log, {name}"], truth[f"hold log, {name}"]
            total, hold_total = math.expm1(rows * mean), math.expm1(rows * hold_mean)
            logs = np.log1p(agent)
            peer = abs(logs.mean() - mean) <= 1.96 * logs.std(ddof=1) / math.sqrt(rows)
            note(f"return, {name}", return_interval(agent, seed=panel), total, peer)
            sharpe, true = sharpe_interval(agent, seed=panel), truth[f"sharpe, {name}"]
            z = (agent - agent.mean()) / agent.std()
            error = math.sqrt(
                (1 - (z**3).mean() * sharpe.value + ((z**4).mean() - 1) / 4 * sharpe.value**2) / (rows - 1)
            )
            note(f"sharpe, {name}", sharpe, true, abs(sharpe.value - true) <= 1.96 * error)
            note(f"return difference, {name}", difference_interval(agent, hold, seed=panel), total - hold_total)
            apart = difference_interval(agent, hold, measure="sharpe", seed=panel)
            note(f"sharpe difference, {name}", apart, truth[f"sharpe difference, {name}"])
    return [
        {
            "work": f"coverage of {name}, {rows} rows, {panels} panels",
            "unit": "of 100",
            "ours": round(100 * count / panels, 1),
            "peer": round(100 * peers[name] / panels, 1) if name in peers else None,
            "peer_name": "formula for independent rows",
            "spread": round(float(np.std(values[name])), 5),
        }
        for name, count in held.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--panels", type=int, default=200)
    parser.add_argument("--rows", type=int, nargs="+", default=[400, 2_400])
    arguments = parser.parse_args()
    truth = truths()
    lines = [json.dumps(line) for rows in arguments.rows for line in study(rows, arguments.panels, truth)]
    print("\n".join(lines))
    if arguments.json:
        arguments.json.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
