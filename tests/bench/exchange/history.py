"""A year of one-minute candles of eight markets through the loader, at 100 ms latency: `python
tests/bench/exchange/history.py [--json FILE] [--days N]`.

The real worker (`loader-producer`: plan, pages by REST, embedded bus, ledger) asks a simulated exchange in another
process, which delays each answer by 100 ms and obeys its limit of 6,000 weight a minute. No client may be faster
than that limit, so it is the peer: the candles' pages weigh 2 each, the loader uses its share (nine tenths) of the limit
in any 60 seconds, and what does not fit into the first span has to wait for the next. The ratio is the least time
that the limit allows, through the time that the load took: 1 is a load that the limit alone slows down.
"""

import argparse
import asyncio
import json
import math
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from streamforge.core.times import TimeRange, iso
from streamforge.exchange.binance.limits import BINANCE, Limiter
from streamforge.exchange.binance.pages import PAGE_ROWS
from streamforge.exchange.files import CandleTable
from streamforge.exchange.simulator.app import Simulator, serve_app
from streamforge.exchange.simulator.faults import Fault
from streamforge.workers.runtime.worker import run_worker as work

SYMBOLS = [f"MARKET{k}" for k in range(8)]
FIRST, MINUTE = 1_609_459_200_000, 60_000  # 2021-01-01
LATENCY = 0.1  # seconds


def table(count: int) -> CandleTable:
    "A random walk without holes."
    random = np.random.default_rng(1)
    close = np.round(30_000 + np.cumsum(random.normal(0, 5, count)), 2)
    opens = np.concatenate([close[:1], close[:-1]])
    high, low = np.maximum(opens, close) + 1.25, np.minimum(opens, close) - 1.25
    volume, trades = np.round(random.uniform(1, 900, count), 5), random.integers(1, 5_000, count).astype(float)
    names = ("quote_asset_volume", "taker_buy_base_asset_volume", "taker_buy_quote_asset_volume")
    extra = {"number_of_trades": trades} | dict(
        zip(names, (np.round(volume * number, 5) for number in (30_000, 0.5, 15_000)), strict=True)
    )
    moments = FIRST + MINUTE * np.arange(count, dtype=np.int64)
    return CandleTable(
        symbol=SYMBOLS[0],
        interval="1m",
        open_time=moments,
        open=opens,
        high=high,
        low=low,
        close=close,
        volume=volume,
        extra=extra,
    )


def exchange(pipe, count: int) -> None:
    "Serve the walks until asked to stop; then report what it cost and how many were refused."

    async def run():
        walk = table(count)
        simulator = Simulator({symbol: replace(walk, symbol=symbol) for symbol in SYMBOLS})
        rendered, *others = simulator.markets.values()
        rendered.rows(
            0, count
        )  # now, and once for all: this process has the loader's cores to itself until the load begins
        for market in others:
            market._block, market._ends = rendered._block, rendered._ends
        simulator.faults.add(Fault(kind="slow", seconds=LATENCY, times=0))
        async with serve_app(simulator) as url:
            pipe.send(url)
            await asyncio.to_thread(pipe.recv)
        statuses = [status for _, path, _, status in simulator.log]
        pipe.send(
            {
                "requests": len(statuses),
                "refused": sum(status != 200 for status in statuses),
                "cpu_s": time.process_time(),
            }
        )

    asyncio.run(run())


def bound(count: int) -> float:
    "Seconds that the limit makes the last page of candles wait, and its answer."
    weight, limit = len(SYMBOLS) * 2 * math.ceil(count / PAGE_ROWS), BINANCE[0]
    return (math.ceil(weight / int(limit.amount * Limiter().share)) - 1) * limit.seconds + LATENCY


def load(url: str, home: str, days: int) -> int:
    "The worker from its environment to its exit code, as the process that it is."
    span = TimeRange(FIRST, FIRST + days * 24 * 60 * MINUTE)
    env = {
        "STREAMFORGE_HOME": home,
        "QUEUE_ID": "wf-history",
        "TELEMETRY_PRODUCER_ID": "loader__bench",
        "SYMBOL": ",".join(SYMBOLS),
        "TYPE": "api_candles_1m",
    }
    return work(
        "loader-producer", env | {"TIME_RANGE": f"{iso(span.start)[:10]}:{iso(span.end)[:10]}", "BINANCE_API_URL": url}
    )


def main(days: int) -> list[dict]:
    count = days * 24 * 60
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=exchange, args=(there, count), daemon=True)
    process.start()
    there.close()  # so that its end is noticed
    url = here.recv()
    with tempfile.TemporaryDirectory() as home:
        began, cpu = time.perf_counter(), time.process_time()
        code = load(url, home, days)
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
    here.send("stop")
    served = here.recv()
    process.join(10)
    if code:
        raise SystemExit(f"expected a loader that ends with 0, found {code}")
    sys.stderr.write(f"{took:.1f} s, bound {bound(count):.1f} s; cpu of the loader {cpu:.1f} s; exchange: {served}\n")
    work_name = (
        f"history load: {len(SYMBOLS)} markets x {days} days of 1m candles, 100 ms latency, "
        f"{len(SYMBOLS) * count / took:,.0f} candles/s"
    )
    return [
        {
            "work": work_name,
            "unit": "s",
            "ours": round(took, 2),
            "peer": round(bound(count), 2),
            "peer_name": "the weight limit alone",
            "ratio": round(bound(count) / took, 3),
        }
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--days", type=int, default=365)
    asked = parser.parse_args()
    results = main(asked.days)
    sys.stdout.write(json.dumps(results) + "\n")
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=2))
