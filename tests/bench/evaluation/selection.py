"""Probability of backtest overfitting on noise and with one good strategy, and the p-values of SPA on noise:
`python tests/bench/evaluation/selection.py [--json FILE] [--panels N]`.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np

from streamforge.evaluation.selection import backtest_overfitting, superior


def noise(panels: int) -> dict:
    "Mean over panels of 1,000 rows and 50 configurations, 10 parts; expected is one half."
    found = [
        backtest_overfitting(np.random.default_rng([1, panel]).standard_normal((1_000, 50)) * 0.01).probability
        for panel in range(panels)
    ]
    return {
        "work": f"PBO of noise, mean of {panels} panels",
        "unit": "probability",
        "ours": round(float(np.mean(found)), 4),
        "peer": 0.5,
        "peer_name": "expected",
        "spread": round(float(np.std(found)), 4),
    }


def one_good(panels: int) -> dict:
    "Share of panels of 2,000 days and 20 strategies, one with a yearly ratio of 3, whose PBO is under 0.05."
    under = 0
    for panel in range(panels):
        table = np.random.default_rng([2, panel]).standard_normal((2_000, 20)) * 0.01
        table[:, 7] += 3 / math.sqrt(365) * 0.01
        under += backtest_overfitting(table).probability < 0.05
    return {
        "work": f"PBO under 0.05 with one good strategy, {panels} panels",
        "unit": "of 100",
        "ours": round(100 * under / panels, 1),
        "peer": 95.0,
        "peer_name": "wanted at least",
    }


def rejected(panels: int) -> dict:
    "Share of noise panels (400 rows, 10 configurations) that SPA rejects at 5 %."
    low = sum(
        superior(
            np.random.default_rng([3, panel]).standard_normal((400, 10)), np.zeros(400), draws=199, block=4
        ).p_value
        < 0.05
        for panel in range(panels)
    )
    return {
        "work": f"SPA rejects noise at 5 %, {panels} panels",
        "unit": "of 100",
        "ours": round(100 * low / panels, 1),
        "peer": 5.0,
        "peer_name": "expected",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--panels", type=int, default=200)
    arguments = parser.parse_args()
    panels = arguments.panels
    lines = [json.dumps(line) for line in (noise(panels), one_good(max(panels // 2, 1)), rejected(panels))]
    print("\n".join(lines))
    if arguments.json:
        arguments.json.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
