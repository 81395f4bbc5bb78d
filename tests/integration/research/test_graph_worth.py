"""What a graph is worth is a difference to the same net without edges: markets where a net is ahead of a linear model
and the graph has no part in it."""

import numpy as np
import pytest

from streamforge.features.frame import Panel, panel_of
from streamforge.graph.card import GnnConfig

torch = pytest.importorskip("torch", reason="the graph model is trained with the ml extra")
from streamforge.graph.train import GnnResult, auc  # noqa: E402
from streamforge.graph.worth import graph_worth  # noqa: E402

ROWS, MARKETS = 4000, 8
PARTS = {"train": slice(0, 2000), "val": slice(2001, 2600), "test": slice(2601, ROWS)}
# a threshold of zero: independent markets have edges too, of the correlations that a window has by chance
CONFIG = GnnConfig(window=24, horizon=1, threshold=0, hidden=4, heads=2, epochs=10, batch=64, learning_rate=0.01)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def market(returns: np.ndarray) -> dict[str, np.ndarray]:
    "Candles of these hourly log returns."
    close = 100 * np.exp(np.cumsum(returns))
    open = np.append(100.0, close[:-1])
    times = 1_609_459_200_000 + 3_600_000 * np.arange(len(close))
    high, low = np.maximum(open, close), np.minimum(open, close)
    return dict(open_time=times, open=open, high=high, low=low, close=close, volume=np.ones(len(close)))


def even(seed: int, lift: float = 0.35) -> Panel:
    "Independent markets: the next return is likelier to rise after a move above the median size, up or down."
    rng = np.random.default_rng(seed)
    size = np.abs(rng.normal(0, 0.01, (ROWS, MARKETS)))
    returns, middle = np.zeros((ROWS, MARKETS)), np.median(size)
    for t in range(1, ROWS):
        up = 0.5 + lift * np.where(np.abs(returns[t - 1]) > middle, 0.5, -0.5)
        returns[t] = np.where(rng.random(MARKETS) < up, size[t], -size[t])
    return panel_of({f"EVEN{n}": market(returns[:, n]) for n in range(MARKETS)})


def interval(result: GnnResult, other: str, block: int = 24, draws: int = 400) -> tuple[float, float, float]:
    "AUC of the net minus that of a reference, with its 95 % interval over blocks of rows, all markets of a row together."
    rng, length = np.random.default_rng(0), len(result.label)

    def difference(rows: np.ndarray) -> float:
        label, known = result.label[rows], np.isfinite(result.label[rows])
        ours, theirs = (auc(label[known], result.scores[name][rows][known]) for name in ("net", other))
        return ours - theirs

    starts = np.arange(length - block + 1)
    drawn = [
        difference((rng.choice(starts, -(-length // block))[:, None] + np.arange(block)).ravel()[:length])
        for _ in range(draws)
    ]
    return difference(np.arange(length)), *np.percentile(drawn, (2.5, 97.5))


@pytest.mark.slow
def test_what_is_not_linear_is_not_the_graphs():
    result = graph_worth(even(1), CONFIG, **PARTS, seed=7, references=("no_edges",))
    worth, low, high = interval(result, "no_edges")
    # edges without a meaning add nothing; they may cost a little, since the net has to learn to ignore them
    assert low <= 0 and abs(worth) < 0.03, (worth, low, high)
    ahead, low, _ = interval(result, "baseline")
    assert ahead > 0.03 and low > 0, (ahead, low)
