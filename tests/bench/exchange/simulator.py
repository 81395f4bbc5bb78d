"""What the simulated exchange serves per second from another process: `python tests/bench/exchange/simulator.py
[--json FILE]`.

There is no peer to run beside it: the figures say whether the simulator, and not the client under test, is the
bottleneck.
"""

import argparse
import asyncio
import json
import multiprocessing
import time
from pathlib import Path

import httpx
from websockets.asyncio.client import connect

from streamforge.core.samples import SYMBOLS
from streamforge.core.times import to_ms
from streamforge.exchange.simulator.app import Simulator, serve_app
from streamforge.exchange.simulator.trades import CandleTrades, TradePages

START, HOUR = to_ms("2021-06-01"), 3_600_000


def server(pipe):
    "Serve the sample until asked to stop."

    async def run():
        async with serve_app(Simulator.open(now=START)) as url:
            pipe.send(url)
            await asyncio.to_thread(pipe.recv)

    asyncio.run(run())


async def stream(url, names, hours, last):
    "Events per second that one client reads; `last` market times end it."
    async with httpx.AsyncClient(base_url=url, trust_env=False) as control:
        await control.post("/sim/clock", json={"now": START})
        async with connect(
            f"ws{url[4:]}/stream?streams={names}", compression=None, proxy=None, max_queue=None
        ) as socket:
            await control.post("/sim/clock", json={"now": START + hours * HOUR})
            count, began = 0, time.perf_counter()
            while count < last:
                await socket.recv(decode=False)
                count += 1
            return count / (time.perf_counter() - began)


def rendered():
    "Trades per second that are made and rendered, and that are rendered again."
    pages = TradePages(CandleTrades(Simulator.open().markets["BTCUSDT"].table))
    rates = []
    for _ in range(2):
        began = time.perf_counter()
        rates.append(len(pages.rows(0, 120_000)) / (time.perf_counter() - began))
    return rates


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    target = parser.parse_args().json
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=server, args=(there,), daemon=True)
    process.start()
    url = here.recv()
    trades = "/".join(f"{symbol.lower()}@aggTrade" for symbol in SYMBOLS)
    asyncio.run(stream(url, trades, 100, 9_600))  # the first round renders
    figures = {
        "trades made and rendered": rendered()[0],
        "trades rendered again": rendered()[1],
        "aggTrade events of 8 markets to one client": asyncio.run(stream(url, trades, 700, 67_200)),
        "depth@100ms events to one client": asyncio.run(stream(url, "btcusdt@depth@100ms", 1, 36_000)),
    }
    here.send("stop")
    process.join(10)
    rows = [
        {"work": work, "unit": "1/s", "ours": rate, "peer": None, "peer_name": "", "ratio": None}
        for work, rate in figures.items()
    ]
    print(json.dumps(rows))
    if target:
        target.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
