"""A frozen dataset is read without the library: by pandas in a process that cannot import it, by polars, by DuckDB."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from streamforge.artifacts.base import open_artifacts
from streamforge.core.samples import candles
from streamforge.features.frame import FEATURES, panel_of
from streamforge.features.indicators import INDICATORS
from streamforge.runs.datasets import freeze

SYMBOLS = ("BTCUSDT", "ETHUSDT")

STRANGER = """
import sys
sys.modules["streamforge"] = None
import pandas as pd
for name, columns in (("candles", sys.argv[2]), ("features", sys.argv[3])):
    table = pd.read_parquet(f"{sys.argv[1]}/{name}.parquet")
    assert list(table.columns) == ["symbol", "open_time", *columns.split()], list(table.columns)
    assert str(table["open_time"].dtype) == "datetime64[ms, UTC]"
    table[columns.split()].to_numpy().tofile(f"{sys.argv[1]}/../{name}.raw")
"""
PRICES = ("open", "high", "low", "close", "volume")


@pytest.fixture
async def frozen(tmp_path):
    "A panel, and the folder of its files."
    panel = panel_of({symbol: candles(symbol, "2022-01-01:2022-01-08") for symbol in SYMBOLS})
    panel.close[3, 1] = np.nan
    async with open_artifacts(f"file://{tmp_path}/artifacts") as artifacts:
        manifest = await freeze(artifacts, "week", panel, interval="1h")
    return panel, Path(manifest.uri.removeprefix("file://")) / "files"


def expected(panel) -> tuple[np.ndarray, np.ndarray]:
    "What the tables must hold: rows by time and market."
    prices = np.stack([getattr(panel, name) for name in PRICES], -1)
    table = np.concatenate([prices, panel.indicators], -1)
    return table.reshape(-1, table.shape[-1]), panel.features.reshape(-1, len(FEATURES))


def test_pandas_reads_it_without_the_library(frozen):
    panel, folder = frozen
    command = [sys.executable, "-c", STRANGER, str(folder), " ".join((*PRICES, *INDICATORS)), " ".join(FEATURES)]
    subprocess.run(command, check=True)
    for name, array in zip(("candles", "features"), expected(panel), strict=True):
        assert (folder.parent / f"{name}.raw").read_bytes() == array.tobytes()


def test_files_are_as_open_as_their_folders(frozen):
    folders = {path.stat().st_mode & 0o077 for path in (frozen[1], frozen[1].parent)}
    assert {path.stat().st_mode & 0o077 for path in frozen[1].iterdir()} == folders


def test_polars_reads_it(frozen):
    polars = pytest.importorskip("polars", reason="polars is not installed")
    panel, folder = frozen
    for name, columns, array in zip(
        ("candles", "features"), ((*PRICES, *INDICATORS), FEATURES), expected(panel), strict=True
    ):
        table = polars.read_parquet(folder / f"{name}.parquet")
        assert np.ascontiguousarray(table.select(columns).to_numpy()).tobytes() == array.tobytes()
        assert str(table["open_time"].dtype) == "Datetime(time_unit='ms', time_zone='UTC')"
        assert table["symbol"].to_list() == list(SYMBOLS) * len(panel)


def test_duckdb_reads_it(frozen):
    duckdb = pytest.importorskip("duckdb", reason="DuckDB is not installed")
    panel, folder = frozen
    for name, columns, array in zip(
        ("candles", "features"), ((*PRICES, *INDICATORS), FEATURES), expected(panel), strict=True
    ):
        relation = duckdb.sql(f"SELECT * FROM '{folder}/{name}.parquet'").fetchnumpy()
        read = np.stack([np.ma.filled(relation[column], np.nan) for column in columns], -1)
        np.testing.assert_array_equal(read, array)
        assert relation["symbol"].tolist() == list(SYMBOLS) * len(panel)
