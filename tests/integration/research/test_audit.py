"""Audits on planted markets of several seeds: each leak is found, no clean twin is flagged, and neither are ours."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from streamforge.evaluation.planted.noise import garch, random_walk
from streamforge.features.audit import audit_columns
from streamforge.features.frame import Scaler
from streamforge.runs.audits import audit_features, audit_labels, audit_pipeline, audit_planted, small_pipeline

KINDS = ("scaler", "label", "centred_window", "backfill", "graph", "resampled_stamp", "selection")


@pytest.mark.parametrize(("make", "seed"), [(random_walk, 1), (random_walk, 2), (garch, 3), (garch, 4)])
def test_each_planted_leak_is_found_and_no_clean_twin_flagged(make, seed):
    found = audit_planted(make(4, 640, seed).panel())
    assert tuple(own.kind for own in found) == KINDS
    for own in found:
        assert own.leaks, f"{own.kind} was missed"
        assert own.clean == [], f"the clean twin of {own.kind} was flagged"
        first = own.leaks[0]
        assert first.name and first.rows >= 1 and first.size > 0
    rows = {own.kind: own.leaks[0].row for own in found}
    assert rows["centred_window"] == 12 and rows["backfill"] == 0 and rows["label"] == 0 and rows["selection"] == 499


def table_of(planted, market=0) -> pd.DataFrame:
    "One market's candles as a table."
    panel = planted.panel()
    names = ("open", "high", "low", "close", "volume")
    return pd.DataFrame({"open_time": panel.open_time} | {name: getattr(panel, name)[:, market] for name in names})


@pytest.mark.parametrize("seed", [1, 2])
def test_the_laboratorys_own_features_and_labels_are_clean(seed):
    table = table_of(random_walk(2, 260, seed))
    assert audit_features(table).leaks == []
    assert audit_labels(table, horizon=4).leaks == []


def test_a_label_that_looks_one_candle_further_than_stated():
    table = table_of(garch(2, 200, 5))

    def label(own):
        return own.close.shift(-7) - own.close

    assert audit_labels(table, label, horizon=7).leaks == []
    (leak,) = audit_labels(table, label, horizon=6).leaks
    assert leak.row == 0 and leak.rows == 193  # every row that has a label


def test_a_leak_of_one_row_among_many_columns():
    table = table_of(random_walk(2, 200, 6))

    def wide(own):
        columns = pd.DataFrame({f"mean_{n}": own.close.rolling(n).mean() for n in range(2, 12)})
        if len(own) > 91:
            columns.iloc[90, 4] = own.close.iloc[91]
        return columns

    (leak,) = audit_features(table, wide).leaks
    assert (leak.name, leak.row, leak.rows) == ("mean_6", 90, 1)


def test_a_global_scaler_on_a_panel_with_warm_up_rows():
    "It has no value while all rows it has seen are NaN, which is no reason to stop."
    features = random_walk(3, 160, 7).panel().features
    ready = int(np.isfinite(features).all((1, 2)).argmax())
    assert ready > 10
    leaks = audit_columns(lambda rows: Scaler.fit(rows).apply(rows), features)
    assert len(leaks) == features.shape[1] * features.shape[2]
    assert min(leak.first.row for leak in leaks) <= ready
    fitted = Scaler.fit(features[:100])
    assert audit_columns(fitted.apply, features) == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_pipeline_whose_scaler_saw_the_test_is_found():
    panel = random_walk(3, 560, 8).panel()

    def leaking(own):
        "The laboratory's pipeline with its own probabilities put beside their mean over the test."
        said = small_pipeline(own)
        return said[..., 0] - np.nanmean(said[..., 0])

    assert audit_pipeline(panel, rows=4, blocks=2).leaks == []
    found = audit_pipeline(panel, leaking, rows=4, blocks=2)
    assert [leak.name for leak in found.leaks] == list(panel.symbols)
    assert all(500 <= leak.row < 560 for leak in found.leaks)


def test_the_command_ends_with_65_where_something_leaks(tmp_path):
    own = tmp_path / "signals.py"
    own.write_text(
        "def late(table):\n    return table.close.shift(-1)\n\n\ndef fair(table):\n    return table.close.shift(1)\n"
    )

    def ask(*words):
        command = [str(Path(sys.executable).with_name("streamforge")), "audit", "features", *words, "--rows", "80"]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)

    late, fair = ask("signals:late"), ask("signals.py:fair")
    assert late.returncode == 65 and "1 column reads the future" in late.stdout
    assert fair.returncode == 0 and "nothing reads the future" in fair.stdout
    missing = ask("signals:none")
    assert missing.returncode not in (0, 65) and "BadSetting" in missing.stderr and "Traceback" not in missing.stderr
