"""From the socket to the bus, live: `python tests/bench/exchange/live.py [--json FILE] [--events N] [--bus URL]`.

A process beside this one plays the exchange: it sends prepared events as fast as they are taken, or 200 a second
for the latency. Ours is the loader, whole: it checks, orders, publishes, and keeps its ledger. The peer is a bare
`websockets` client that publishes record by record what it gets. Latencies are from the moment of sending until the
bus has acknowledged; a ratio above 1 means that ours is better.
"""

import argparse
import asyncio
import gc
import json
import logging
import multiprocessing
import secrets
import statistics
import tempfile
import time
from pathlib import Path

import msgspec
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve as serve_socket

from streamforge.bus.base import Message, TopicSpec, open_bus
from streamforge.core.logs import setup
from streamforge.core.times import iso
from streamforge.workers.runtime.worker import serve

START, MINUTE = 1_722_470_400_000, 60_000


def event(kind: str, n: int) -> tuple[str, bytes]:
    "The stream and the n-th event of it."
    t, price = START + n * MINUTE, b"64000.%02d" % (n % 100)
    if kind == "ws_candles_1m":
        numbers = (
            b'"o":"%s","c":"%s","h":"%s","l":"%s","v":"1.5","n":7,"x":true,"q":"9.5","V":"0.7","Q":"4.5","B":"0"'
            % (price, price, price, price)
        )
        return (
            "btcusdt@kline_1m",
            b'{"e":"kline","E":%d,"s":"BTCUSDT","k":{"t":%d,"T":%d,"s":"BTCUSDT","i":"1m","f":1,"L":7,%s}}'
            % (t, t, t + MINUTE - 1, numbers),
        )
    if kind == "ws_trades":
        return (
            "btcusdt@aggTrade",
            b'{"e":"aggTrade","E":%d,"s":"BTCUSDT","a":%d,"p":"%s","q":"0.00100","f":%d,"l":%d,"T":%d,'
            b'"m":true,"M":true}' % (START + n, n, price, n, n, START + n),
        )
    levels = b",".join(b'["%d.%02d","%d.5"]' % (63_900 - k, n % 7, 1 + (n + k) % 9) for k in range(10))
    above = b",".join(b'["%d.%02d","%d.5"]' % (64_100 + k, n % 7, 1 + (n + k) % 9) for k in range(10))
    return "btcusdt@depth@100ms", b'{"e":"depthUpdate","E":%d,"s":"BTCUSDT","U":%d,"u":%d,"b":[%s],"a":[%s]}' % (
        START + n * 100,
        n + 1,
        n + 1,
        levels,
        above,
    )


def answer(path: str) -> str:
    "What the bench's exchange answers by REST."
    if "depth" in path:
        return json.dumps(
            {
                "lastUpdateId": 0,
                "bids": [[f"{63_899 - k}.50", "1.0"] for k in range(600)],
                "asks": [[f"{64_100 + k}.50", "1.0"] for k in range(600)],
            }
        )
    if "aggTrades" in path:
        return "[]"
    return json.dumps({"serverTime": START, "rateLimits": [], "symbols": [{"symbol": "BTCUSDT", "status": "TRADING"}]})


def play(kind: str, count: int, pace: float, pipe) -> None:
    "A process of its own: sends its port, then when each event was sent."
    frames = [
        b'{"stream":"%s","data":%s}' % (name.encode(), data) for name, data in (event(kind, n) for n in range(count))
    ]
    logging.disable(logging.CRITICAL)

    async def handler(socket) -> None:
        sent, began = [], time.perf_counter()
        for n, frame in enumerate(frames):
            if pace:
                await asyncio.sleep(max(began + n / pace - time.perf_counter(), 0))
            sent.append(time.time())
            await socket.send(frame, text=True)
        pipe.send(sent)
        await socket.wait_closed()

    async def run() -> None:
        def rest(connection, request):
            return connection.respond(200, answer(request.path)) if request.path.startswith("/api/") else None

        async with serve_socket(handler, "127.0.0.1", 0, process_request=rest, compression=None) as server:
            pipe.send(server.sockets[0].getsockname()[1])
            await asyncio.Event().wait()

    asyncio.run(run())


class Acknowledged:
    "When the bus acknowledged each record of a topic."

    def __init__(self, topic: str):
        self.topic, self.times = topic, list[float]()

    def watch(self, bus):
        publish = bus.publish

        async def watched(topic: str, messages):
            places = await publish(topic, messages)
            if topic == self.topic:
                self.times += [time.time()] * len(messages)
            return places

        bus.publish = watched
        return bus


async def ours(kind: str, port: int, topic: str, count: int, bus_url: str, home: str, seen: Acknowledged) -> None:
    import streamforge.workers.runtime.worker as base

    end = START + (count * MINUTE if kind == "ws_candles_1m" else (count - 1) * (1 if kind == "ws_trades" else 100))
    env = {
        "STREAMFORGE_HOME": home,
        "STREAMFORGE_BUS_URL": bus_url,
        "QUEUE_ID": topic,
        "TELEMETRY_PRODUCER_ID": "loader__1",
        "SYMBOL": "BTCUSDT",
        "TYPE": kind,
        "KAFKA_TOPIC": topic,
    }
    env |= {
        "TIME_RANGE": f"{iso(START)}:{iso(end)}",
        "BINANCE_API_URL": f"http://127.0.0.1:{port}",
        "BINANCE_WS_URL": f"ws://127.0.0.1:{port}",
        "LIVE_BUFFER": "1000000",
        "OPEN": "0",
    }
    opened, base.open_bus = base.open_bus, lambda url: seen.watch(opened(url))
    try:
        assert await serve("loader-producer", env) == 0
    finally:
        base.open_bus = opened


async def peer(kind: str, port: int, topic: str, count: int, bus_url: str, seen: Acknowledged) -> None:
    async with (
        open_bus(bus_url) as bus,
        connect(f"ws://127.0.0.1:{port}/stream?streams={event(kind, 0)[0]}", compression=None, proxy=None) as socket,
    ):
        bus = seen.watch(bus)
        await bus.create_topic(topic, TopicSpec())
        for _ in range(count - 1):
            data = msgspec.json.decode(await socket.recv(decode=False))["data"]
            await bus.publish(topic, [Message(msgspec.json.encode(data), data["s"])])


async def one(side: str, kind: str, count: int, pace: float, bus_url: str) -> tuple[float, list[float]]:
    "Events per second, and seconds of each from its sending to its acknowledgement."
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=play, args=(kind, count, pace, there), daemon=True)
    process.start()
    topic = f"bench-{secrets.token_hex(3)}"
    seen = Acknowledged(topic)
    try:
        port = await asyncio.to_thread(here.recv)
        with tempfile.TemporaryDirectory() as home:
            url = bus_url or f"embedded://{home}/bus"
            await (
                ours(kind, port, topic, count, url, home, seen)
                if side == "ours"
                else peer(kind, port, topic, count, url, seen)
            )
        sent = here.recv()
    finally:
        process.kill()
    return len(seen.times) / (seen.times[-1] - sent[0]), [b - a for a, b in zip(sent, seen.times, strict=False)]


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the list here")
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--bus", default="", help="a bus instead of an embedded one in a folder")
    options, results = parser.parse_args(), []
    logging.disable(logging.INFO)
    gc.set_threshold(50_000, 20, 50)  # as `run_worker` does in a worker's process
    setup("bench", level="WARNING")
    name = "bare websockets client, record by record"
    for kind in ("ws_candles_1m", "ws_trades", "ws_depth"):
        count = options.events
        rates: dict[str, list[float]] = {"ours": [], "peer": []}
        for side in ("ours", "peer") * 3:
            rates[side].append((await one(side, kind, count if side == "ours" else count // 4, 0, options.bus))[0])
        a, b = (statistics.median(rates[name]) for name in ("ours", "peer"))
        results.append(
            {
                "work": f"{kind}: socket to bus",
                "unit": "events/s",
                "ours": round(a),
                "peer": round(b),
                "peer_name": name,
                "ratio": round(a / b, 2),
            }
        )
        print(results[-1], flush=True)
    late = {side: (await one(side, "ws_trades", 2_000, 200, options.bus))[1][200:] for side in ("ours", "peer")}
    for share in (0.5, 0.99):
        a, b = (1_000 * percentile(late[name], share) for name in ("ours", "peer"))
        results.append(
            {
                "work": f"ws_trades: socket to bus at 200/s, p{share * 100:g}",
                "unit": "ms",
                "ours": round(a, 2),
                "peer": round(b, 2),
                "peer_name": name,
                "ratio": round(b / a, 2),
            }
        )
        print(results[-1], flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
