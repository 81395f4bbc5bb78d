"""Candles per second from a simulated exchange in another process: `python tests/bench/exchange/exchange.py [--json
FILE]`.

The peer is what everybody writes first: httpx, one page after the other, `json.loads` and floats, without limits,
checks or holes.
"""

import argparse
import asyncio
import json
import multiprocessing
import statistics
import time
from pathlib import Path

import httpx

from streamforge.core.samples import SYMBOLS
from streamforge.core.times import TimeRange
from streamforge.exchange.binance.rest import BinanceRest
from streamforge.exchange.simulator.app import Simulator, serve_app

SPAN = TimeRange.parse("2021-06-01:2022-10-14")  # 12,000 hours
ROUNDS = 5


def server(pipe):
    "Serve the sample until asked to stop."

    async def run():
        async with serve_app(Simulator.open()) as url:
            pipe.send(url)
            await asyncio.to_thread(pipe.recv)

    asyncio.run(run())


async def ours(url):
    async with BinanceRest(url) as rest:

        async def market(symbol):
            return sum([len(page) async for page in rest.klines(symbol, "1h", SPAN)])

        return sum(await asyncio.gather(*(market(symbol) for symbol in SYMBOLS)))


async def peer(url):
    count = 0
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        for symbol in SYMBOLS:
            start = SPAN.start
            while True:
                query = {"symbol": symbol, "interval": "1h", "startTime": start, "endTime": SPAN.end - 1, "limit": 1000}
                rows = json.loads((await client.get("/api/v3/klines", params=query)).content)
                candles = [[row[0], *map(float, row[1:6])] for row in rows]
                count += len(candles)
                if len(candles) < 1000:
                    break
                start = candles[-1][0] + 1
    return count


def rate(load, url):
    began = time.perf_counter()
    return asyncio.run(load(url)) / (time.perf_counter() - began)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    target = parser.parse_args().json
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=server, args=(there,), daemon=True)
    process.start()
    url = here.recv()
    rate(ours, url)  # the first round renders
    rates = [(rate(ours, url), rate(peer, url)) for _ in range(ROUNDS)]
    here.send("stop")
    process.join(10)
    mine, theirs = (statistics.median(seconds) for seconds in zip(*rates, strict=True))
    rows = [
        {
            "work": "load 8 markets x 12,000 hours over REST",
            "unit": "candles/s",
            "ours": mine,
            "peer": theirs,
            "peer_name": "httpx, page after page",
            "ratio": mine / theirs,
        }
    ]
    print(json.dumps(rows))
    if target:
        target.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
