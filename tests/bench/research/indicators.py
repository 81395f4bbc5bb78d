"""How fast indicators are, beside TA-Lib and `ta`, in one run: `python tests/bench/research/indicators.py [--json
FILE] [--candles N]`.

Ours are `Enricher.history` and `Enricher.update`, checks included. Rounds alternate between the two sides and
medians are taken; the ratio is ours / theirs, above 1 where we are faster. What a library does not have (VWAP, log
return, realised volatility in TA-Lib; log return and realised volatility in `ta`) is computed with numpy beside it,
on its account.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import ta
import talib

from streamforge.features.enricher import Enricher
from streamforge.features.indicators import INDICATORS

WINDOW = 200  # candles that a library without state recomputes for the next value


def market(n: int) -> pd.DataFrame:
    "A random walk of hourly candles."
    rng = np.random.default_rng(11)
    close = np.exp(rng.normal(0, 0.004, n).cumsum() + 10)
    open = np.concatenate([close[:1], close[:-1]])
    high, low = (
        np.maximum(open, close) * (1 + rng.random(n) * 0.003),
        np.minimum(open, close) * (1 - rng.random(n) * 0.003),
    )
    columns = {"open": open, "high": high, "low": low, "close": close, "volume": rng.exponential(100, n)}
    return pd.DataFrame({"open_time": 1_500_000_000_000 + np.arange(n) * 60_000, **columns})


def moving_sum(x: np.ndarray, n: int) -> np.ndarray:
    total = np.cumsum(x)
    total[n:] -= total[:-n].copy()
    return total


def with_numpy(high: np.ndarray, low: np.ndarray, close: np.ndarray, volume: np.ndarray, vwap: bool) -> list:
    returns = np.diff(np.log(close), prepend=np.nan)
    lacking = [returns, np.sqrt(moving_sum(np.nan_to_num(returns) ** 2, 24))]
    return lacking + [moving_sum((high + low + close) / 3 * volume, 24) / moving_sum(volume, 24)] if vwap else lacking


def by_talib(
    open_time: np.ndarray, open: np.ndarray, high: np.ndarray, low: np.ndarray, close: np.ndarray, volume: np.ndarray
) -> list:
    "The fifteen columns with TA-Lib."
    averages = [talib.SMA(close, 20), talib.EMA(close, 12), talib.EMA(close, 26)]
    others = [
        talib.RSI(close),
        *talib.MACD(close),
        *talib.BBANDS(close, 20, 2.0, 2.0),
        talib.ATR(high, low, close),
        talib.OBV(close, volume),
    ]
    return averages + others + with_numpy(high, low, close, volume, vwap=True)


def by_ta(table: pd.DataFrame) -> list:
    "The fifteen columns with `ta`."
    high, low, close, volume = table.high, table.low, table.close, table.volume
    macd, bands = ta.trend.MACD(close), ta.volatility.BollingerBands(close)
    return [
        ta.trend.sma_indicator(close, 20),
        ta.trend.ema_indicator(close, 12),
        ta.trend.ema_indicator(close, 26),
        ta.momentum.rsi(close),
        macd.macd(),
        macd.macd_signal(),
        macd.macd_diff(),
        bands.bollinger_hband(),
        bands.bollinger_mavg(),
        bands.bollinger_lband(),
        ta.volatility.average_true_range(high, low, close, 14),
        ta.volume.volume_weighted_average_price(high, low, close, volume, 24),
        ta.volume.on_balance_volume(close, volume),
        *with_numpy(*(column.to_numpy() for column in (high, low, close, volume)), vwap=False),
    ]


def beside(
    work: str, candles: int, ours: Callable, peer: Callable, peer_name: str, peer_candles: int = 0, rounds: int = 5
) -> dict:
    "Median speeds of both sides over alternating rounds."
    seconds: tuple[list[float], list[float]] = ([], [])
    ours(), peer()
    for _ in range(rounds):
        for side, run in enumerate((ours, peer)):
            start = time.perf_counter()
            run()
            seconds[side].append(time.perf_counter() - start)
    speed, theirs = candles / statistics.median(seconds[0]), (peer_candles or candles) / statistics.median(seconds[1])
    return {
        "work": work,
        "unit": "candles/s",
        "ours": round(speed),
        "peer": round(theirs),
        "peer_name": peer_name,
        "ratio": round(speed / theirs, 3),
    }


def histories(table: pd.DataFrame) -> list[dict]:
    "All columns, then indicator by indicator."
    columns = tuple(table[name].to_numpy(copy=True) for name in ("open_time", "open", "high", "low", "close", "volume"))
    _, _, high, low, close, volume = columns
    n = len(close)
    everything = "history, 15 indicators"
    results = [beside(everything, n, lambda: Enricher().history(*columns), lambda: by_talib(*columns), "TA-Lib")]
    results.append(beside(everything, n, lambda: Enricher().history(*columns), lambda: by_ta(table), "ta", rounds=1))
    single: dict[tuple[str, ...], Callable] = {
        ("sma_20",): lambda: talib.SMA(close, 20),
        ("ema_12",): lambda: talib.EMA(close, 12),
        ("rsi_14",): lambda: talib.RSI(close),
        ("macd", "macd_signal", "macd_hist"): lambda: talib.MACD(close),
        ("bb_upper", "bb_middle", "bb_lower"): lambda: talib.BBANDS(close, 20, 2.0, 2.0),
        ("atr_14",): lambda: talib.ATR(high, low, close),
        ("obv",): lambda: talib.OBV(close, volume),
    }
    for names, peer in single.items():
        results.append(
            beside(f"history, {names[0]}", n, lambda names=names: Enricher(names).history(*columns), peer, "TA-Lib")
        )
    return results


def updates(table: pd.DataFrame) -> list[dict]:
    "The next candle, as a connector meets it: ours advances a state, theirs recompute a window of the last candles."
    rows = list(table.head(5_000).itertuples(index=False, name=None))
    columns = tuple(table[name].to_numpy(copy=True) for name in ("open_time", "open", "high", "low", "close", "volume"))

    def ours() -> None:
        enricher = Enricher()
        for row in rows:
            enricher.update(*row)

    def window(last: int) -> list:
        return [series[-1] for series in by_talib(*(column[last - WINDOW : last] for column in columns))]

    def talib_window() -> None:
        for last in range(WINDOW, WINDOW + 1_000):
            window(last)

    def ta_window() -> None:
        for last in range(WINDOW, WINDOW + 20):
            by_ta(table.iloc[last - WINDOW : last])

    work = "next candle, 15 indicators"
    results = [beside(work, len(rows), ours, talib_window, f"TA-Lib, window of {WINDOW}", 1_000)]
    return [*results, beside(work, len(rows), ours, ta_window, f"ta, window of {WINDOW}", 20, rounds=2)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the list here")
    parser.add_argument("--candles", type=int, default=1_000_000)
    options = parser.parse_args()
    assert len(INDICATORS) == 15
    table = market(options.candles)
    results = histories(table) + updates(table)
    for result in results:
        print(json.dumps(result))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
