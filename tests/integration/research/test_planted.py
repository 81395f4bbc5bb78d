"""The rules of the planted markets can be found again, and noise and the cost trap are never worth a trade."""

import numpy as np
import pytest

from streamforge.evaluation.planted.catalogue import PLANTED_MARKETS
from streamforge.evaluation.planted.rule import NEVER, best_rule, log_costs, oracle_backtest
from streamforge.trading.costs import Costs


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED_MARKETS)
def test_the_best_rule_is_found_again(name):
    kind = PLANTED_MARKETS[name]
    planted = kind.make(20, 10_000, seed=5)
    again = best_rule(planted.expected, kind.costs)
    assert (again.rule == NEVER) == (kind.rule == NEVER)
    # a record of a fifth has a standard error of its own: the drift of a long regime, the number of hints
    np.testing.assert_allclose(again.net, kind.net, rtol=0.08)
    realised = np.log(oracle_backtest(planted, kind.rule, kind.costs).equity[-1])
    error = max(realised.std(ddof=1) / np.sqrt(20), 1e-12)
    assert abs(realised.mean() - 10 * kind.net) < 4 * error + 0.08 * 10 * kind.net


@pytest.mark.slow
def test_a_trade_in_the_cost_trap_costs_more_than_it_brings():
    kind = PLANTED_MARKETS["cost_trap"]
    expected = kind.make(20, 10_000, seed=6).expected
    assert best_rule(expected, Costs(0, 0)).net > 0.2
    dearest = 1.0
    for share in (1.0, 0.5, 0.25):  # of the default costs: where does it begin to pay?
        costs = Costs(10 * share, 2 * share)
        if best_rule(expected, costs).rule == NEVER:
            dearest = min(dearest, sum(log_costs(costs)))
    assert 0.001 < dearest < sum(log_costs(Costs()))
