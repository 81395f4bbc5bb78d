"""Memory of one connector over millions of records: `python tests/bench/workers/soak.py [--records N] [--bus URL]
[--json FILE] [--plot FILE]`.

Candles of 24 markets are published a little ahead of a real worker process that stores them (INDICATORS as given,
`none` by default); its resident memory is looked at every second. Warm-up is the first fifth. Writes the curve and
{records, seconds, rate, rss_warm_mib, rss_end_mib, slope_mib_per_million}.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
import uuid
from pathlib import Path

import msgspec

from streamforge.bus.base import Message, TopicSpec, open_bus
from streamforge.messages.control import Event, encode_control
from streamforge.messages.records import Candle

MARKETS, BATCH, AHEAD = 24, 5_000, 200_000


def messages(start: int, count: int) -> list[Message]:
    "The next candles, one per market and minute."
    encode, values = msgspec.json.Encoder().encode, []
    for n in range(start, start + count):
        opened, price, symbol = 1_500_000_000_000 + n // MARKETS * 60_000, 100 + n % 997 * 0.01, f"M{n % MARKETS}USDT"
        candle = Candle(
            symbol=symbol,
            interval="1m",
            open_time=opened,
            open=price,
            high=price + 1,
            low=price - 1,
            close=price + 0.5,
            volume=1 + n % 89 * 0.25,
            close_time=opened + 59_999,
            quote_asset_volume=price * 3,
            number_of_trades=n % 1523,
        )
        values.append(Message(encode(candle), symbol))
    return values


def rss(pid: int) -> float:
    "Resident memory of a process, MiB."
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


async def soak(records: int, bus_url: str, home: str, indicators: str) -> list[tuple[float, int, float]]:
    "(seconds, records committed, MiB), every second."
    name = f"soak-{uuid.uuid4().hex[:8]}"
    env = {
        "QUEUE_ID": name,
        "TELEMETRY_PRODUCER_ID": "arango-connector__a",
        "TYPE": "api_candles_1m",
        "STREAMFORGE_HOME": home,
        "STREAMFORGE_BUS_URL": bus_url,
        "INDICATORS": indicators,
    }
    env |= {
        "UPSTREAM": "loader-producer__a",
        "STREAMFORGE_STORE_URL": f"sqlite:///{home}/store.db",
        "GROUP_ID": name,
        "QUEUE_EVENTS_TOPIC": f"{name}-events",
        "QUEUE_CONTROL_TOPIC": f"{name}-control",
    }
    curve: list[tuple[float, int, float]] = []
    async with open_bus(bus_url) as bus:
        await bus.create_topic(f"{name}-data", TopicSpec(partitions=8, retention_bytes=64 << 20))
        await bus.create_topic(f"{name}-events")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "streamforge.cli.main",
            "worker",
            "arango-connector",
            env=os.environ | env,
            stdout=asyncio.subprocess.DEVNULL,
        )
        began, sent, looked = time.monotonic(), 0, 0.0
        while process.returncode is None:
            done = sum((await bus.committed(name, f"{name}-data")).values())
            if time.monotonic() - looked >= 1.0 and process.returncode is None:
                looked = time.monotonic()
                curve.append((looked - began, done, rss(process.pid)))
            if sent < records and sent - done < AHEAD:
                await bus.publish(f"{name}-data", messages(sent, min(BATCH, records - sent)))
                sent += min(BATCH, records - sent)
                if sent >= records:
                    finished = Event(
                        queue_id=name,
                        producer="loader-producer__a",
                        status="finished",
                        instance="1",
                        seq=0,
                        timestamp=0.0,
                        finished=True,
                        end_offsets={f"{name}-data": await bus.end_offsets(f"{name}-data")},
                    )
                    await bus.publish(f"{name}-events", [Message(encode_control(finished), name)])
            else:
                await asyncio.sleep(0.05)
            if done >= records:
                break
        assert await process.wait() == 0
        for topic in [topic for topic in await bus.topics() if topic.startswith(name)]:
            await bus.delete_topic(topic)
    return curve


def summary(curve: list[tuple[float, int, float]], records: int) -> dict:
    "Summarise the curve after its first fifth."
    import numpy as np

    warm = [(done, mib) for _, done, mib in curve if done >= records / 5]
    slope = (
        float(np.polyfit([count / 1e6 for count, _ in warm], [mib for _, mib in warm], 1)[0])
        if len(warm) > 2
        else float("nan")
    )
    return {
        "records": records,
        "seconds": round(curve[-1][0], 1),
        "rate": round(curve[-1][1] / curve[-1][0]),
        "rss_warm_mib": round(warm[0][1], 1),
        "rss_end_mib": round(warm[-1][1], 1),
        "slope_mib_per_million": round(slope, 2),
    }


def picture(curve: list[tuple[float, int, float]], path: Path) -> None:
    "The curve, as a page or a picture (a picture takes kaleido and a Chromium)."
    import plotly.graph_objects as go

    figure = go.Figure(go.Scatter(x=[done / 1e6 for _, done, _ in curve], y=[mib for _, _, mib in curve], mode="lines"))
    figure.update_layout(
        title="One connector",
        xaxis_title="million records",
        yaxis_title="resident memory, MiB",
        yaxis_rangemode="tozero",
        width=900,
        height=420,
        template="plotly_white",
    )
    figure.write_html(path) if path.suffix == ".html" else figure.write_image(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--bus", default="")
    parser.add_argument("--indicators", default="none")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="a picture (.png, .svg) or page (.html) of the curve")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        curve = asyncio.run(soak(asked.records, asked.bus or f"embedded://{home}/bus", home, asked.indicators))
    report = summary(curve, asked.records)
    sys.stdout.write(json.dumps(report) + "\n")
    if asked.json:
        asked.json.write_text(json.dumps(report | {"curve": curve}))
    if asked.plot:
        picture(curve, asked.plot)
