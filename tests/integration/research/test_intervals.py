"""Coverage of intervals and PBO on small seeded samples, with wide bounds; `tests/bench/evaluation` has the full studies."""

import math

import numpy as np
import pytest
from scipy.signal import lfilter

from streamforge.evaluation.intervals import auc_interval, sharpe_interval
from streamforge.evaluation.selection import backtest_overfitting

MARKETS, HORIZON, DAY = 8, 4, math.exp(-1 / 24)


def noise(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    "Labels that overlap and scores with a memory of a day, of markets that move together; neither knows the other."
    shocks, more = (rng.standard_normal((rows + 200, 1)) + rng.standard_normal((rows + 200, MARKETS)) for _ in range(2))
    path = shocks.cumsum(axis=0)
    label = path[HORIZON : rows + HORIZON] > path[:rows]
    return label.astype(float), lfilter([1], [1, -DAY], more, axis=0)[200:]


@pytest.mark.slow
def test_auc_interval_covers_one_half_on_noise():
    panels = [noise(np.random.default_rng([5, seed]), 400) for seed in range(60)]
    found = [auc_interval(*panel, horizon=HORIZON, draws=399) for panel in panels]
    held = sum(interval.low <= 0.5 <= interval.high for interval in found)
    assert held >= 51, held  # 57 are expected
    formula = 1.96 * math.sqrt(1 / (3 * 400 * MARKETS))
    assert np.mean([interval.high - interval.low for interval in found]) > 2 * 2 * formula


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.0, 0.1])
def test_sharpe_interval_covers_the_true_ratio(ratio):
    rng = np.random.default_rng(11)
    samples = 0.01 * (rng.standard_t(5, (80, 400)) / math.sqrt(5 / 3) + ratio)
    found = [sharpe_interval(np.clip(sample, -0.5, 0.5), draws=399) for sample in samples]
    held = sum(interval.low <= ratio <= interval.high for interval in found)
    assert held >= 68, held  # 76 are expected


@pytest.mark.slow
def test_overfitting_of_noise_is_one_half_and_of_a_good_strategy_is_small():
    rng = np.random.default_rng(13)
    tables = 0.01 * rng.standard_normal((40, 1_000, 50))
    assert abs(np.mean([backtest_overfitting(table).probability for table in tables]) - 0.5) < 0.15
    good = 0.01 * rng.standard_normal((20, 2_000, 20))
    good[:, :, 3] += 0.01 * 3 / math.sqrt(365)
    assert sum(backtest_overfitting(table).probability < 0.05 for table in good) >= 17
