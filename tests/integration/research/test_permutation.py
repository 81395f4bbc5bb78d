"""The permutation test on agents that have no skill: the closes of the study are those of whole panels, and small
p-values come as often as they should."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from streamforge.evaluation.permutation import NULL_KINDS, Permuter, null_distribution
from streamforge.evaluation.planted.base import candle_returns
from streamforge.evaluation.planted.unskilled import UNSKILLED, _account, _arranged
from streamforge.features.frame import panel_of
from streamforge.trading.costs import Costs
from streamforge.trading.engine import BUY, SELL, backtest

_PATH = Path(__file__).parents[2] / "studies" / "null_size.py"
_SPEC = importlib.util.spec_from_file_location("null_size", _PATH)
study = sys.modules["null_size"] = importlib.util.module_from_spec(_SPEC)  # numba looks its functions up by module
_SPEC.loader.exec_module(study)

PAST, TEST, WINDOW, COSTS = 120, 200, 30, Costs()


def flat_panel(returns):
    "A panel of bars without gap or shadows."
    close = np.exp(np.cumsum(returns, axis=0))
    open = np.vstack([np.ones((1, close.shape[1])), close[:-1]])
    times = np.arange(len(close)) * 3_600_000 + 1_600_000_000_000
    tables = {}
    for n in range(close.shape[1]):
        prices = {"open": open[:, n], "high": np.maximum(open, close)[:, n], "low": np.minimum(open, close)[:, n]}
        tables[f"M{n}"] = {"open_time": times, **prices, "close": close[:, n], "volume": np.ones(len(close))}
    return panel_of(tables)


def above_mean(panel, start):
    "Hold each market while its close is above the mean of its last closes."
    close = panel.close
    mean = np.lib.stride_tricks.sliding_window_view(close, WINDOW, axis=0).mean(-1)[start - WINDOW + 1 :]
    return backtest(panel.open[start:], close[start:], np.where(close[start:] > mean, BUY, SELL), Costs())


@pytest.mark.parametrize("kind", NULL_KINDS)
def test_closes_of_the_study_are_those_of_whole_panels(kind):
    returns = candle_returns(study.MARKET_KINDS["random walk"](8, PAST + TEST, 1))
    panel = flat_panel(returns)
    permuter = Permuter(panel, PAST, kind=kind, seed=5)
    null = null_distribution(above_mean, panel, PAST, Costs(), draws=5, seed=5, kind=kind)
    for draw in range(5):
        light = _arranged(returns, PAST, *permuter.order(draw))
        np.testing.assert_allclose(np.exp(np.cumsum(light, axis=0)), permuter.draw(draw).close, rtol=1e-10)
        coins = np.zeros((TEST, 8), bool)
        sides = (1 - COSTS.fee) / (1 + COSTS.slippage), (1 - COSTS.slippage) * (1 - COSTS.fee)
        kind = UNSKILLED.index("above a past mean")
        growth, mean, square, traded, timed = _account(np.exp(light), PAST, kind, WINDOW, 0.0, coins, *sides)
        assert traded and timed
        np.testing.assert_allclose(
            (growth, mean, square), (null.growth[draw], null.mean[draw], null.square[draw]), rtol=1e-8, atol=1e-12
        )


@pytest.mark.slow
@pytest.mark.parametrize("market", ("random walk", "GARCH"))
@pytest.mark.parametrize("kind", ("coin each", "above a past mean", "below a past mean"))
def test_p_values_of_agents_without_skill(market, kind):
    values = [study.p_values(market, kind, "bars", 19, seed) for seed in range(100)]
    found = [pair for pair in values if pair is not None]
    assert len(found) > 80
    for number in ("end_value", "sharpe"):
        count = sum(getattr(pair, number) <= 0.05 for pair in found)
        assert count <= 15, f"{count} of {len(found)} at 5 %"  # more come once in 10,000
        above_half = sum(getattr(pair, number) > 0.5 for pair in found)
        assert 30 <= above_half <= 70 * len(found) / 100 + 5


@pytest.mark.slow
def test_p_values_of_the_exact_filter():
    values = [study.p_values("regimes", study.FILTER, "bars", 19, seed) for seed in range(20)]
    assert sum(pair.end_value <= 0.05 for pair in values) >= 12
