"""Records to bytes and back beside pydantic: `python tests/bench/bus/records.py [--json FILE]`. Writes a list of
{work, unit, ours, peer, peer_name, ratio}; NaN is refused by ours in both directions, which is part of what is
measured."""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from pydantic import create_model

from streamforge.core.errors import BadRecord
from streamforge.core.samples import candles
from streamforge.messages.records import Candle, candles_of, decode, encode, encode_all


def best(work: Callable[[], object], size: int, rounds: int = 9) -> float:
    "Records/s of the quickest of several rounds."
    fastest = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        fastest = min(fastest, time.perf_counter() - began)
    return size / fastest


def refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except BadRecord:
        return True
    return False


def main() -> list[dict]:
    rows = candles_of({k: v.to_numpy() for k, v in candles("BTCUSDT").items()}, "BTCUSDT", "1h", 3_600_000)[:10_000]
    rows = [
        msgspec.structs.replace(
            row,
            quote_asset_volume=row.volume * row.close,
            number_of_trades=7,
            taker_buy_base_asset_volume=row.volume / 2,
            taker_buy_quote_asset_volume=row.volume * row.close / 2,
        )
        for row in rows
    ]
    optional = ("quote_asset_volume", "number_of_trades", "taker_buy_base_asset_volume", "taker_buy_quote_asset_volume")
    fields = {
        field.name: (field.type, None if field.name in optional else ...) for field in msgspec.structs.fields(Candle)
    }
    peer = create_model("PeerCandle", **fields)
    same, values = [peer(**msgspec.to_builtins(row)) for row in rows], [encode(row) for row in rows]
    assert encode_all(rows) == values and refused(
        lambda: encode_all([msgspec.structs.replace(rows[0], close=float("nan"))])
    )
    assert refused(lambda: encode(msgspec.structs.replace(rows[0], close=float("nan")))) and refused(
        lambda: decode(Candle, values[0].replace(b'"volume":', b'"volume":NaN,"was":'))
    )
    work = {
        "candles to bytes, 1,000 at a time as a loader writes them": (
            lambda: [encode_all(rows[n : n + 1_000]) for n in range(0, len(rows), 1_000)],
            lambda: [record.model_dump_json().encode() for record in same],
        ),
        "candle to bytes, one by one": (
            lambda: [encode(row) for row in rows],
            lambda: [record.model_dump_json().encode() for record in same],
        ),
        "bytes to candle": (
            lambda: [decode(Candle, value) for value in values],
            lambda: [peer.model_validate_json(value) for value in values],
        ),
    }
    rates = {name: (best(ours, len(rows)), best(theirs, len(rows))) for name, (ours, theirs) in work.items()}
    return [
        {
            "work": name,
            "unit": "records/s",
            "ours": round(a),
            "peer": round(b),
            "peer_name": "pydantic",
            "ratio": round(a / b, 2),
        }
        for name, (a, b) in rates.items()
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    lines = main()
    for line in lines:
        sys.stdout.write(json.dumps(line) + "\n")
    if asked.json:
        asked.json.write_text(json.dumps(lines, indent=2))
