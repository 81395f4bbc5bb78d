"""Late candles, trades and order books through a connector that is killed: what is left is what an undisturbed one
leaves."""

import signal
import time

import msgspec
import pytest
from worker_lab import sample_candles, until

from streamforge.messages.records import BookSnapshot, DepthUpdate, Trade, encode
from streamforge.store.base import open_store

CONNECT = {"UPSTREAM": "loader-producer__a1b2c3", "BATCH_ROWS": "100"}
START = 1_620_604_800_000


def late_stream():
    rows = sample_candles(("BTCUSDT",), "2021-05-10:2021-05-24")
    wrong = msgspec.structs.replace(rows[120], close=rows[120].low)
    order = [
        *rows[:50],
        *rows[51:120],
        wrong,
        *rows[121:180],
        rows[50],
        *rows[180:220],
        rows[120],
        rows[7],
        *rows[220:],
    ]
    return [(candle.symbol, encode(candle)) for candle in order], [(candle.symbol, encode(candle)) for candle in rows]


def trade_stream():
    return [
        (
            "BTCUSDT",
            encode(
                Trade(
                    symbol="BTCUSDT",
                    trade_id=n,
                    price=50_000.0 + n % 40,
                    quantity=(1 + n % 7) / 8,
                    timestamp=START + n * 700,
                    is_buyer_maker=n % 3 == 0,
                )
            ),
        )
        for n in range(600)
    ] + [("BTCUSDT", b"{}")]


def book_stream():
    books = [
        BookSnapshot(
            symbol="BTCUSDT",
            timestamp=START + n * 1_000,
            bids=[(50_000.0 - n, 1.0)],
            asks=[(50_001.0 + n, 2.0)],
            last_update_id=n,
        )
        for n in range(150)
    ]
    changes = [DepthUpdate(E=START + n, s="BTCUSDT", U=n, u=n, b=[("50000.1", "1")], a=[]) for n in range(150)]
    return [("BTCUSDT", encode(record)) for pair in zip(books, changes, strict=True) for record in pair]


async def rows_of(lab) -> dict[str, list]:
    "All rows of all collections, without the count of revisions."
    async with open_store(lab.places.store_url) as store:
        return {
            name: [{k: v for k, v in row.items() if k != "revision"} for row in (await store.read(name)).to_pylist()]
            for name in sorted(await store.collections())
        }


@pytest.mark.slow
@pytest.mark.parametrize(
    "point", ["after-write:2", "after-revised-publish", "after-revised-write", "after-amend", "after-checkpoint:3"]
)
async def test_late_candles_and_a_kill(new_lab, point):
    late, in_time = late_stream()
    calm, rough = new_lab("calm"), new_lab("rough")
    await calm.fill(in_time)
    assert await calm.run("arango-connector", TYPE="api_candles_1h", **CONNECT) == 0
    await rough.fill(late)
    assert await rough.run("arango-connector", TYPE="api_candles_1h", FAILPOINT=point, **CONNECT) == -signal.SIGKILL
    assert await rough.run("arango-connector", TYPE="api_candles_1h", **CONNECT) == 0
    assert await rows_of(rough) == await rows_of(calm)
    await rough.contents()  # and the live stream has one record of each candle


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "stream", "env"), [("ws_trades", trade_stream, {"AGGREGATE": "1m"}), ("ws_depth", book_stream, {})]
)
async def test_trades_and_books_and_kills(new_lab, kind, stream, env):
    calm, rough = new_lab("calm"), new_lab("rough")
    for lab in (calm, rough):
        await lab.fill(stream())
    assert await calm.run("arango-connector", TYPE=kind, **env, **CONNECT) == 0
    for point in ("before-write:2", "after-write", "after-dead-letter", "after-commit"):
        assert await rough.run("arango-connector", TYPE=kind, FAILPOINT=point, **env, **CONNECT) == -signal.SIGKILL
    assert await rough.run("arango-connector", TYPE=kind, **env, **CONNECT) == 0
    rows = await rows_of(calm)
    assert await rows_of(rough) == rows and all(rows.values())


@pytest.mark.slow
async def test_a_repair_by_another_workflow_reaches_a_live_connector(new_lab):
    rows = [(candle.symbol, encode(candle)) for candle in sample_candles(("BTCUSDT",), "2021-05-10:2021-05-20")]
    calm, rough = new_lab("calm"), new_lab("rough")
    await calm.fill(rows)
    assert await calm.run("arango-connector", TYPE="api_candles_1h", **CONNECT) == 0
    await rough.fill([*rows[:50], *rows[51:150]])
    await rough.start("arango-connector", TYPE="api_candles_1h", REVISE_SECONDS="1")

    async def live(size: int) -> bool:
        return await rough.length(f"{rough.data}-enriched") >= size

    await until(lambda: live(149))
    await rough.fill([rows[50]], topic="repair")
    other = {
        "KAFKA_TOPIC": "repair",
        "GROUP_ID": "repair",
        "TELEMETRY_PRODUCER_ID": "arango-connector__d4e5f6",
        "REVISE_SECONDS": "1",
    }
    assert await rough.run("arango-connector", TYPE="api_candles_1h", **other, **CONNECT) == 0
    repaired = time.monotonic()

    async def looked() -> bool:
        return time.monotonic() > repaired + 2.5

    await until(looked)
    await rough.fill(rows[150:])
    await until(lambda: live(len(rows) - 1))
    assert await rows_of(rough) == await rows_of(calm)
    async with open_store(rough.places.store_url) as store:
        revised = (await store.read("candles_1h_enriched"))["revision"].to_pylist()
    assert set(revised[51:150]) == {1} and set(revised[150:]) == {None}
    wanted, enriched = (await calm.contents())["stream"], (await rough.contents())["stream"]
    later = sorted(enriched)[-90:]
    assert all(enriched[key] == wanted[key] for key in later)
