"""The graph model from end to end: it finds what is planted, nothing in noise, never looks ahead, and serves what
it measured."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from streamforge.core.errors import BadData, DamagedArtifact
from streamforge.core.samples import SYMBOLS, candles
from streamforge.features.frame import Panel, panel_of
from streamforge.graph.card import GnnConfig, pack_model, unpack_model
from streamforge.graph.predict import Predictor
from streamforge.graph.relations import log_returns
from streamforge.graph.snapshots import build, edge_rows, labels, samples, split

torch = pytest.importorskip("torch", reason="the graph model is trained with the ml extra")
from streamforge.graph.train import GnnResult, probability_scores, train_gnn  # noqa: E402

PAIRS = 4
TINY = GnnConfig(window=48, stride=8, hidden=4, heads=2, epochs=2)


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
    times = 1_609_459_200_000 + 3_600_000 * np.arange(len(close))  # from 2021-01-01
    high, low = np.maximum(open, close), np.minimum(open, close)
    return dict(open_time=times, open=open, high=high, low=low, close=close, volume=np.ones(len(close)))


def planted(seed: int, rows: int = 2500) -> Panel:
    """Four pairs: TAIL follows LEAD's last move; a part of each hour's move is common to the pair, so that the
    graph can find it."""
    rng, markets = np.random.default_rng(seed), {}
    for pair in range(PAIRS):
        common, own = rng.normal(0, 0.01, (2, rows))
        lead = 0.5 * common + own
        markets |= {f"LEAD{pair}": market(lead), f"TAIL{pair}": market(0.5 * common + np.append(0, lead[:-1]))}
    return panel_of(markets)


def noise(seed: int, rows: int = 2500, markets: int = 8) -> Panel:
    "Markets that move together and whose next move cannot be predicted."
    rng = np.random.default_rng(seed)
    common = rng.normal(0, 0.01, rows)
    return panel_of({f"NOISE{n}": market(0.7 * common + rng.normal(0, 0.01, rows)) for n in range(markets)})


def trained(panel: Panel, config: GnnConfig, seed: int = 1) -> GnnResult:
    return train_gnn(panel, config, **msgspec.structs.asdict(split(len(panel))), seed=seed)


@pytest.fixture(scope="module")
def real() -> Panel:
    return panel_of({symbol: candles(symbol) for symbol in SYMBOLS})


@pytest.fixture(scope="module")
def result(real: Panel) -> GnnResult:
    return trained(real.rows(0, 3000), TINY)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_planted_signal_is_found_through_the_edges_only(seed: int):
    ask = dict(window=72, horizon=1, stride=1, epochs=10, learning_rate=0.01)
    with_edges = trained(planted(seed), GnnConfig(k=1, threshold=0, **ask), seed)
    without_edges = trained(planted(seed), GnnConfig(k=1, threshold=1, **ask), seed)
    assert with_edges.metrics["auc"] > with_edges.metrics["auc_baseline"] + 0.05
    assert with_edges.metrics["auc"] > without_edges.metrics["auc"] + 0.05
    followers = [with_edges.by_symbol[f"TAIL{pair}"] for pair in range(PAIRS)]
    assert (
        min(followers) > 0.55
        and np.mean(followers) > 0.65
        and max(abs(with_edges.by_symbol[f"LEAD{pair}"] - 0.5) for pair in range(PAIRS)) < 0.1
    )


@pytest.mark.slow
def test_nothing_is_found_in_noise():
    areas = [trained(noise(seed), GnnConfig(window=72, horizon=1, epochs=8), seed).metrics["auc"] for seed in range(4)]
    # 3,992 test labels whose markets share a common part: one AUC has a standard error near 0.015
    assert abs(np.mean(areas) - 0.5) < 0.025 and max(abs(area - 0.5) for area in areas) < 0.06, areas


@pytest.mark.slow
def test_labels_of_noise_on_real_features_find_nothing(real: Panel):
    """Real features, real graphs, invented prices from the labels' point of view: a leak from label to feature
    would show here."""
    part, rng = real.rows(0, 4000), np.random.default_rng(5)
    invented = replace(part, close=100 * np.exp(rng.normal(0, 0.01, part.close.shape).cumsum(0)))
    assert abs(trained(invented, GnnConfig(horizon=1, epochs=8)).metrics["auc"] - 0.5) < 0.03


def test_prediction_does_not_know_the_future(real: Panel, result: GnnResult):
    predictor, part, rng = Predictor.load(result.files), real.rows(0, 3000), np.random.default_rng(3)
    whole = predictor.history(part)
    for t in (60, 1000, 2400, 2998):
        order = rng.permutation(np.arange(t + 1, 3000))
        columns = {
            name: getattr(part, name).copy()
            for name in ("open", "high", "low", "close", "volume", "indicators", "features")
        }
        for name, column in columns.items():
            column[t + 1 :] = column[order] * (1 if name in ("features", "indicators") else rng.uniform(0.5, 2))
        np.testing.assert_array_equal(predictor.history(replace(part, **columns))[: t + 1], whole[: t + 1])
        np.testing.assert_array_equal(predictor.history(part.rows(0, t + 1)), whole[: t + 1])


def test_live_is_history_to_the_bit(real: Panel, result: GnnResult):
    predictor, holed = Predictor.load(result.files), replace(real.rows(0, 3000), close=real.close[:3000].copy())
    holed.close[500:560, 3] = np.nan
    whole, predicted = predictor.history(holed), np.full((3000, 8), np.nan)
    for t in range(predictor.window, 3000):
        returns = log_returns(holed.close[t - predictor.window : t + 1])[1:]
        predicted[t] = predictor.predict_row(holed.features[t].astype(np.float64), np.asfortranarray(returns))
    np.testing.assert_array_equal(predicted, whole)
    assert np.isfinite(whole[predictor.window :]).all()


@pytest.mark.slow
def test_history_of_all_hours_is_the_same_in_pieces(real: Panel, result: GnnResult):
    predictor = Predictor.load(result.files)
    whole, window = predictor.history(real), predictor.window
    pieces = [
        predictor.history(real.rows(max(0, a - window), min(a + 700, len(real))))[min(a, window) :]
        for a in range(0, len(real), 700)
    ]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_what_is_served_is_what_was_measured(real: Panel, result: GnnResult):
    part, test = real.rows(0, 3000), split(3000).test
    rows = samples(test, TINY.window, TINY.horizon)
    label, predicted = labels(part, TINY.horizon)[rows], Predictor.load(result.files).history(part)[rows]
    labelled = label >= 0
    served = probability_scores(label[labelled], predicted[labelled])
    assert result.metrics["samples"] == labelled.sum()
    for name, value in served.items():
        assert abs(value - result.metrics[name]) < 1e-4, name


def test_a_market_that_is_listed_late_does_not_disturb_the_others(real: Panel, result: GnnResult):
    late = real.rows(0, 1500)
    close, features = late.close.copy(), late.features.copy()
    close[:1000, 6], features[:1033, 6] = np.nan, np.nan
    predicted = Predictor.load(result.files).history(replace(late, close=close, features=features))
    assert np.isnan(predicted[:1033, 6]).all() and np.isfinite(predicted[1033:, 6]).all()
    others = np.delete(np.arange(8), 6)
    assert np.isfinite(predicted[TINY.window :][:, others]).all()
    alone = Predictor.load(result.files).history(
        replace(late, symbols=late.symbols[:6] + late.symbols[7:], close=close[:, others], features=features[:, others])
    )
    np.testing.assert_allclose(
        predicted[:1000, others], alone[:1000], atol=1e-12
    )  # a market that is not there is as good as none
    half = trained(replace(late, close=close, features=features), TINY)
    assert np.isfinite(half.metrics["auc"]) and half.metrics["samples_train"] < 8 * len(
        samples(split(1500).train, 48, 4, 8)
    )


def test_edges_of_all_hours_have_a_unique_key(real: Panel):
    columns = edge_rows(build(real, window=168, stride=24, k=3), real.symbols, "relations_1h")
    keys = set(zip(columns["source"], columns["target"], columns["open_time"].tolist(), strict=True))
    assert len(keys) == len(columns["weight"]) and np.isfinite(columns["weight"]).all()
    assert set(columns["source"]) <= set(real.symbols) and (np.diff(columns["open_time"]) >= 0).all()


def test_damaged_files_are_named(result: GnnResult):
    for name in result.files:
        for cut in (0, 1, 7, 9, len(result.files[name]) // 2, len(result.files[name]) - 1):
            with pytest.raises(DamagedArtifact):
                Predictor.load(result.files | {name: result.files[name][:cut]})
        with pytest.raises(DamagedArtifact):
            Predictor.load({k: v for k, v in result.files.items() if k != name})
    card, weights = unpack_model(result.files)
    assert pack_model(card, weights) == result.files
    for bad in (np.nan, np.inf):
        with pytest.raises(BadData, match="expected finite weights of shape .1,. for head.bias"):
            pack_model(card, weights | {"head.bias": np.array([bad])})


SERVE = """
import sys, numpy as np
from pathlib import Path
from streamforge.graph.predict import Predictor
predictor = Predictor.load({path.name: path.read_bytes() for path in Path(sys.argv[1]).iterdir()})
returns = np.random.default_rng(0).normal(size=(predictor.window, 8))
predicted = predictor.predict_row(np.zeros((8, len(predictor.card.features))), returns)
assert np.isfinite(predicted).all()
assert not {"torch", "sklearn", "pandas"} & set(sys.modules), "serving must not load them"
"""

TRAIN = """
import hashlib, json
from streamforge.core.samples import candles
from streamforge.features.frame import panel_of
from streamforge.graph.card import GnnConfig
from streamforge.graph.train import train_gnn

def digests():
    markets = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
    panel = panel_of({name: candles(name, "2021-05-01:2021-06-15") for name in markets})
    config = GnnConfig(window=48, stride=8, hidden=2, heads=2, epochs=2)
    result = train_gnn(panel, config, train=slice(0, 700), val=slice(700, 1000), seed=5)
    return json.dumps([{k: hashlib.sha256(v).hexdigest() for k, v in result.files.items()}, result.metrics])
"""

FRESH = (
    TRAIN
    + """
import torch, warnings
torch.set_num_threads(1)
print(digests())
warnings.warn("`torch.jit.script` is used by me", FutureWarning)
"""
)


@pytest.fixture(scope="module")
def fresh() -> subprocess.CompletedProcess:
    "A process that imports, trains, and warns of something itself; its start costs more than the training."
    env = os.environ | {"PYTHONHASHSEED": "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"}
    return subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, timeout=240, env=env)


def test_serving_needs_no_torch(result: GnnResult, tmp_path):
    for name, content in result.files.items():
        (tmp_path / name).write_bytes(content)
    subprocess.run([sys.executable, "-c", SERVE, str(tmp_path)], check=True, timeout=120)


@pytest.mark.slow
def test_two_processes_train_the_same_bytes(fresh):
    "One that is new, and this one, which has another seed of hashes and has trained before."
    assert fresh.returncode == 0, fresh.stderr
    namespace: dict = {}
    exec(TRAIN, namespace)
    first, second = json.loads(fresh.stdout), json.loads(namespace["digests"]())
    assert first == second
    assert len(first[0]["weights.safetensors"]) == hashlib.sha256().digest_size * 2


@pytest.mark.slow
def test_training_shows_no_warning(fresh):
    "In a fresh process nothing is written to stderr; a warning of the user's own code, even one like it, is."
    assert fresh.returncode == 0, fresh.stderr
    line = FRESH.splitlines().index('warnings.warn("`torch.jit.script` is used by me", FutureWarning)') + 1
    assert fresh.stderr == f"<string>:{line}: FutureWarning: `torch.jit.script` is used by me\n"
