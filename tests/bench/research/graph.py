"""Speed of the graph package, beside pandas and a PyTorch Geometric loop, in one run: `python
tests/bench/research/graph.py [--json FILE] [--rounds N]`.

One thread on all sides. Rounds alternate between the two sides and medians are taken; the ratio is ours / theirs,
above 1 where we are faster. Both sides do the same work on the same eight real markets: the same windows, the same
weights, the same optimiser. PyTorch Geometric's loop is the usual one, a `Data` object per snapshot; its collated
`DataLoader` batches are measured too, since our own training uses PyTorch Geometric's layer and differs from that
only in how batches are cut.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

warnings.filterwarnings("ignore", category=FutureWarning)
import torch  # noqa: E402
from torch.nn.functional import binary_cross_entropy_with_logits  # noqa: E402
from torch_geometric.data import Data  # noqa: E402
from torch_geometric.loader import DataLoader  # noqa: E402

from streamforge.core.samples import SYMBOLS, candles  # noqa: E402
from streamforge.features.frame import FEATURES, Scaler, panel_of  # noqa: E402
from streamforge.graph.card import GnnConfig, ModelCard  # noqa: E402
from streamforge.graph.model import GATv2Classifier  # noqa: E402
from streamforge.graph.predict import Predictor  # noqa: E402
from streamforge.graph.relations import correlations, log_returns  # noqa: E402
from streamforge.graph.snapshots import build  # noqa: E402
from streamforge.graph.train import probabilities, stretch  # noqa: E402

CONFIG = GnnConfig()
ROWS = 1024  # snapshots per round


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def beside(
    name: str,
    unit: str,
    amount: int,
    ours: Callable[[], object],
    peer: Callable[[], object],
    peer_name: str,
    rounds: int,
) -> dict:
    "Both sides in turn, after one round to warm up; amounts per second."
    ours(), peer()
    pairs = [(timed(ours), timed(peer)) for _ in range(rounds)]
    mine, theirs = (amount / statistics.median(side) for side in zip(*pairs, strict=True))
    return {
        "work": name,
        "unit": unit,
        "ours": round(mine, 1),
        "peer": round(theirs, 1),
        "peer_name": peer_name,
        "ratio": round(mine / theirs, 2),
    }


def step(
    model: GATv2Classifier,
    optimiser: torch.optim.Optimizer,
    x: torch.Tensor,
    edge_index: torch.Tensor,
    weight: torch.Tensor,
    label: torch.Tensor,
):
    optimiser.zero_grad()
    labelled = label >= 0
    binary_cross_entropy_with_logits(model(x, edge_index, weight)[labelled], label[labelled]).backward()
    optimiser.step()


def training(data, graphs: list[Data], rounds: int) -> list[dict]:
    "One epoch: batches cut by indexing, beside a snapshot at a time and beside PyTorch Geometric's DataLoader."
    model = GATv2Classifier(len(FEATURES), CONFIG.hidden, CONFIG.heads, CONFIG.layers)
    optimiser = torch.optim.Adam(model.parameters(), 1e-4)
    few = graphs[:128]

    def ours():
        for start in range(0, ROWS, CONFIG.batch):
            step(model, optimiser, *data.batch(np.arange(start, start + CONFIG.batch)))

    def alone():
        for graph in few:
            step(model, optimiser, graph.x, graph.edge_index, graph.edge_attr, graph.y)

    def collated():
        for batch in DataLoader(graphs, batch_size=CONFIG.batch):
            step(model, optimiser, batch.x, batch.edge_index, batch.edge_attr, batch.y)

    one, many = (
        beside("training epoch", "snapshots/s", ROWS, ours, *seconds, rounds)
        for seconds in ((alone, "PyG, a snapshot per step"), (collated, "PyG DataLoader, same batches"))
    )
    one["peer"] = round(one["peer"] * len(few) / ROWS, 1)
    one["ratio"] = round(one["ours"] / one["peer"], 2)
    return [one, many]


def inference(panel, data, graphs: list[Data], card: ModelCard, model: GATv2Classifier, rounds: int) -> list[dict]:
    "From features and closes to probabilities; PyTorch Geometric is given its graphs ready made."
    predictor = Predictor(card, {k: v.numpy() for k, v in model.state_dict().items()})
    part = panel.rows(0, CONFIG.window + ROWS)
    returns = log_returns(part.close)
    model.eval()

    def live():
        for t in range(CONFIG.window, CONFIG.window + 256):
            predictor.predict_row(part.features[t], returns[t - CONFIG.window + 1 : t + 1])

    def by_geometric():
        with torch.no_grad():
            for graph in graphs[:256]:
                torch.sigmoid(model(graph.x, graph.edge_index, graph.edge_attr))

    np.testing.assert_allclose(predictor.history(part)[CONFIG.window :], probabilities(model, data), atol=1e-6)
    return [
        beside("inference, row by row, graph included", "rows/s", 256, live, by_geometric, "PyG, graph given", rounds),
        beside(
            "inference, history, graph included",
            "rows/s",
            ROWS,
            lambda: predictor.history(part),
            lambda: probabilities(model, data),
            "PyG in batches of 512, graph given",
            rounds,
        ),
    ]


def relations(panel, rounds: int) -> list[dict]:
    "Correlation matrices of 168 rows by 8 markets."
    returns = log_returns(panel.close)[1 : CONFIG.window + ROWS]
    table = pd.DataFrame(returns)

    def ours():
        return [correlations(returns[t : t + CONFIG.window]) for t in range(ROWS)]

    def by_pandas():
        return [table.iloc[t : t + CONFIG.window].corr(min_periods=CONFIG.window // 2) for t in range(ROWS)]

    def by_numpy():
        return [np.corrcoef(returns[t : t + CONFIG.window], rowvar=False) for t in range(ROWS)]

    def rolling():
        return table.rolling(CONFIG.window).corr()

    np.testing.assert_allclose(ours(), by_pandas(), atol=1e-12)
    peers = (
        (by_pandas, "pandas DataFrame.corr"),
        (rolling, "pandas rolling.corr"),
        (by_numpy, "numpy.corrcoef (cannot miss rows)"),
    )
    return [beside("correlation of a window", "windows/s", ROWS, ours, *peer, rounds) for peer in peers]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--json", type=Path)
    options.add_argument("--rounds", type=int, default=5)
    asked = options.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(7)
    panel = panel_of({symbol: candles(symbol, "2021-05-01:2021-08-01") for symbol in SYMBOLS})
    scaler = Scaler.fit(panel.features)
    rows = np.arange(CONFIG.window, CONFIG.window + ROWS)
    data = stretch(panel, build(panel, CONFIG.window, 1, CONFIG.k, CONFIG.threshold), scaler, rows, CONFIG.horizon)
    singles = [data.batch(np.array([i])) for i in range(ROWS)]
    graphs = [Data(x=x, edge_index=edge_index, edge_attr=weight, y=label) for x, edge_index, weight, label in singles]
    card = ModelCard(
        config=CONFIG,
        symbols=SYMBOLS,
        features=FEATURES,
        mean=tuple(scaler.mean.tolist()),
        std=tuple(scaler.std.tolist()),
    )
    model = GATv2Classifier(len(FEATURES), CONFIG.hidden, CONFIG.heads, CONFIG.layers)
    lines = [
        *relations(panel, asked.rounds),
        *inference(panel, data, graphs, card, model, asked.rounds),
        *training(data, graphs, asked.rounds),
    ]
    for line in lines:
        print(json.dumps(line))
    if asked.json:
        asked.json.write_text(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()
