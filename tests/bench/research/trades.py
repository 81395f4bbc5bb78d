"""How fast trades become candles and volume by price, beside pandas, in one run: `python
tests/bench/research/trades.py [--json FILE] [--trades N]`.

The peer is `resample` on an index of times for candles and `groupby` for volume by price, as a person would write
them. Pandas adds floats; ours are exact and come with checks. Rounds alternate and medians are taken; speeds are
trades per second, and the ratio is ours / theirs, above 1 where we are faster.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from streamforge.features.trades import TradeCandles, candles_of_trades
from streamforge.features.volume_by_price import VolumeByPrice, volume_by_price

MINUTE, BATCH = 60_000, 500  # ms; trades in one update of a live market


def market(n: int) -> pd.DataFrame:
    "Trades of a random walk, about three hundred a minute, prices by cents, quantities by 0.00001."
    rng = np.random.default_rng(5)
    price = np.round(60_000 + rng.normal(0, 0.5, n).cumsum(), 2)
    table = {
        "trade_id": np.arange(n),
        "price": price,
        "quantity": rng.integers(1, 10**7, n) / 1e5,
        "timestamp": 1_722_470_400_000 + rng.exponential(200, n).cumsum().astype(np.int64),
    }
    return pd.DataFrame(table | {"is_buyer_maker": rng.random(n) < 0.5})


def by_resample(indexed: pd.DataFrame) -> tuple:
    "The columns of a candle with pandas."
    bars = indexed.resample("1min")
    sums = bars[["quantity", "amount", "taken", "taken_amount"]].sum()
    return bars.price.ohlc().ffill(), sums, bars.price.count()


def prepared(trades: pd.DataFrame) -> pd.DataFrame:
    amount, taken = trades.price * trades.quantity, trades.quantity.where(~trades.is_buyer_maker, 0.0)
    return trades.assign(amount=amount, taken=taken, taken_amount=trades.price * taken).set_index(
        trades.timestamp.astype("datetime64[ms]")
    )


def by_groupby(trades: pd.DataFrame) -> pd.DataFrame:
    "Bought and sold volume by minute and step of 0.5 with pandas."
    bought = trades.quantity.where(~trades.is_buyer_maker, 0.0)
    cells = pd.DataFrame(
        {
            "open_time": trades.timestamp // MINUTE,
            "step": np.floor(trades.price / 0.5),
            "bought": bought,
            "sold": trades.quantity - bought,
            "trades": 1,
        }
    )
    return cells.groupby(["open_time", "step"]).sum()


def beside(work: str, n: int, ours: Callable, peer: Callable, peer_name: str, rounds: int = 5) -> dict:
    "Median speeds of both sides over alternating rounds."
    seconds: tuple[list[float], list[float]] = ([], [])
    ours(), peer()
    for _ in range(rounds):
        for side, call in enumerate((ours, peer)):
            begin = time.perf_counter()
            call()
            seconds[side].append(time.perf_counter() - begin)
    fast, slow = (n / statistics.median(times) for times in seconds)
    return {
        "work": work,
        "unit": "trades/s",
        "ours": round(fast),
        "peer": round(slow),
        "peer_name": peer_name,
        "ratio": round(fast / slow, 2),
    }


def live(state: TradeCandles | VolumeByPrice, batches: list[dict[str, np.ndarray]]) -> None:
    for batch in batches:
        state.update(**batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the list here")
    parser.add_argument("--trades", type=int, default=1_000_000)
    options = parser.parse_args()
    trades = market(options.trades)
    columns = {name: trades[name].to_numpy() for name in trades}
    batches = [
        {name: values[at : at + BATCH] for name, values in columns.items()} for at in range(0, len(trades), BATCH)
    ]
    results = [
        beside(
            "trades to 1m candles",
            len(trades),
            lambda: candles_of_trades(**columns, interval_ms=MINUTE),
            lambda: by_resample(prepared(trades)),
            "pandas resample",
        ),
        beside(
            f"the same live, {BATCH} trades an update",
            len(trades),
            lambda: live(TradeCandles(MINUTE), batches),
            lambda: by_resample(prepared(trades)),
            "pandas resample, all at once",
        ),
        beside(
            "volume by price, 1m and 0.5",
            len(trades),
            lambda: volume_by_price(**columns, interval_ms=MINUTE, step="0.5"),
            lambda: by_groupby(trades),
            "pandas groupby",
        ),
        beside(
            f"the same live, {BATCH} trades an update",
            len(trades),
            lambda: live(VolumeByPrice(MINUTE, "0.5"), batches),
            lambda: by_groupby(trades),
            "pandas groupby, all at once",
        ),
    ]
    for line in results:
        print(json.dumps(line))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
