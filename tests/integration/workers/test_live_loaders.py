"""Live loaders as processes, against a market over real sockets that mistreats them: nothing lost, doubled or out
of order."""

import asyncio

import httpx
import pytest
from live_lab import (
    HOUR,
    MARKETS,
    NOON,
    QUICK,
    check_books,
    market,
    mishaps,
    read,
    read_books,
    span,
    text_of,
    true_candles,
    true_trades,
)
from worker_lab import until

from streamforge.bus.base import TopicSpec
from streamforge.exchange.simulator.faults import Fault
from streamforge.ledger.entries import LedgerKey, read_entry
from streamforge.ledger.ranges import Ranges
from streamforge.messages.control import Event
from streamforge.messages.records import BookSnapshot, Candle, DepthUpdate, Trade
from streamforge.store.base import open_store

HOURLY = QUICK | {"TYPE": "ws_candles_1h"}
TRADES = QUICK | {"TYPE": "ws_trades"}


async def last_event(lab) -> Event:
    return (await lab.events("finished", "error", "interrupted"))[-1]


@pytest.mark.parametrize("mishap", mishaps(""))
async def test_candles_and_trades_of_a_range_are_whole_and_in_order(new_lab, mishap):
    faults, rules, more = ((*mishaps("@kline")[mishap][0], *mishaps("@aggTrade")[mishap][0]), *mishaps("")[mishap][1:])
    candles, trades, wanted = new_lab("candles"), new_lab("trades"), span(5, 20)
    async with market(*faults, connections=2, **rules) as (sim, rest, places):
        env = {"TIME_RANGE": text_of(wanted)} | more | places
        codes = await asyncio.gather(
            candles.run("loader-ws-candles", **HOURLY | env), trades.run("loader-ws-trades", **TRADES | env)
        )
        sim.faults.clear()
        for symbol in MARKETS:
            assert await read(candles, Candle, symbol=symbol) == await true_candles(rest, symbol, wanted)
            assert await read(trades, Trade, symbol=symbol) == await true_trades(rest, symbol, wanted)
    last = await last_event(candles)
    assert (
        codes == [0, 0]
        and last.status == "finished"
        and last.end_offsets[candles.data] == {0: len(MARKETS) * 25}
        and last.extra["missing"] == 0
    )
    cut = mishap not in ("nothing", "skipped, doubled, damaged")
    assert not cut or (last.extra["reconnects"] and (await last_event(trades)).extra["reconnects"])
    assert last.extra["dropped"] == 0
    async with open_store(candles.places.store_url) as store:
        entry = await read_entry(store, LedgerKey("candles_1h", "BTCUSDT", "candles", "1h"))
    assert entry.loaded == entry.asked == Ranges.of((wanted.start, wanted.end)) and not entry.missing


@pytest.mark.parametrize("mishap", ["cut in a frame", "skipped, doubled, damaged"])
async def test_a_reader_of_the_topic_has_the_exchange_s_book(lab, mishap):
    async with market(*mishaps("@depth")[mishap][0], Fault(kind="stale", seconds=30.0), speed=20.0) as (
        sim,
        rest,
        places,
    ):
        code = await lab.run(
            "loader-ws-orderbook",
            **QUICK | places | {"TYPE": "ws_depth", "SNAPSHOT_SECONDS": "5", "TIME_RANGE": text_of(span(1, 1 / 60))},
        )
        sim.faults.clear()
        records, last = await read_books(lab), await last_event(lab)
        for symbol in MARKETS:
            whole, waited = await check_books(sim, rest, records, symbol)
            assert whole > 3 and whole + waited <= 12, (whole, waited)
            ids = [record.u for record in records if isinstance(record, DepthUpdate) and record.s == symbol]
            assert ids == sorted(set(ids)) and len(ids) > 200
    assert (
        code == 0 and last.extra["resyncs"] >= 1 and last.extra["missing"] > 0 and last.extra["gaps"][0]["missing"] > 0
    )
    assert [event.extra["gap"] for event in await lab.events("loading") if "gap" in event.extra]


async def test_snapshots_alone(lab):
    async with market(speed=30.0) as (sim, rest, places):
        env = {
            "TYPE": "orderbook_snapshot",
            "SNAPSHOT_SECONDS": "5",
            "DEPTH_LEVELS": "7",
            "TIME_RANGE": text_of(span(0, 1 / 60)),
        }
        assert await lab.run("loader-producer", **QUICK | places | env) == 0
        records = await read_books(lab)
        assert (
            all(isinstance(record, BookSnapshot) and len(record.bids) == len(record.asks) == 7 for record in records)
            and len(records) > 16
        )
        assert [await check_books(sim, rest, records, market, 7) for market in MARKETS] and (
            await last_event(lab)
        ).extra["resyncs"] == 0


async def test_a_killed_loader_goes_on_from_its_own_last_record_on_a_shared_topic(lab):
    wanted = span(5, 50)
    async with market() as (sim, rest, places), lab.bus() as bus:
        await bus.create_topic("market-candles", TopicSpec(partitions=3))
        env = HOURLY | places | {"TIME_RANGE": text_of(wanted), "KAFKA_TOPIC": "market-candles"}
        killed = await lab.run("loader-ws-candles", **env, FAILPOINT="after-publish:6")
        again = await lab.run("loader-ws-candles", **env)
        for symbol in MARKETS:
            assert await read(lab, Candle, "market-candles", symbol) == await true_candles(rest, symbol, wanted)
        assert (killed, again) == (-9, 0) and sum(
            (await last_event(lab)).end_offsets["market-candles"].values()
        ) == len(MARKETS) * 55


async def test_what_the_exchange_does_not_have_is_reported_and_noted(new_lab):
    hole, wanted, candles, trades = (
        range(NOON + 3 * HOUR, NOON + 5 * HOUR, HOUR),
        span(0, 20),
        new_lab("candles"),
        new_lab("trades"),
    )
    async with market(connections=2) as (sim, rest, places):
        before = await true_trades(rest, "BTCUSDT", span(1, 0))
        sim.faults.add(
            *(
                Fault(kind="gap", path=path, symbol="BTCUSDT", start=hole.start, end=hole.stop + 1, times=0)
                for path in ("", "@kline")
            )
        )
        sim.faults.add(
            Fault(kind="gap", path="@aggTrade", symbol="BTCUSDT", after=20, times=4),
            Fault(kind="gap", path="/api/v3/aggTrades", symbol="BTCUSDT", start=NOON, end=NOON + 20 * HOUR, times=0),
        )
        env = {"TIME_RANGE": text_of(wanted), "SYMBOL": "BTCUSDT"} | places
        codes = await asyncio.gather(
            candles.run("loader-producer", **HOURLY | env), trades.run("loader-producer", **TRADES | env)
        )
        sim.faults.clear()
        whole = await true_candles(rest, "BTCUSDT", wanted)
        assert await read(candles, Candle) == [candle for candle in whole if candle.open_time not in hole]
        ids = [trade.trade_id for trade in await read(trades, Trade)]
    (gap,) = [event.extra["gap"] for event in await candles.events("loading") if "gap" in event.extra]
    assert codes == [0, 0] and gap == {
        "symbol": "BTCUSDT",
        "start": hole.start,
        "end": hole.stop,
        "missing": 2,
        "unit": "candles",
    }
    lost = {n for gap in (await last_event(trades)).extra["gaps"] for n in range(gap["start"], gap["end"])}
    assert (
        lost
        and ids == sorted(set(ids))
        and not lost & set(ids)
        and lost | set(ids) == set(range(before[-1].trade_id + 1, ids[-1] + 1))
    )
    async with open_store(candles.places.store_url) as store:
        assert (await read_entry(store, LedgerKey("candles_1h", "BTCUSDT", "candles", "1h"))).missing == Ranges.of(
            (hole.start, hole.stop)
        )
    async with open_store(trades.places.store_url) as store:
        assert (await read_entry(store, LedgerKey("trades", "BTCUSDT", "trade_ids"))).missing.size == len(lost)


async def test_without_a_range_it_goes_on_until_it_is_stopped(lab):
    async with market(Fault(kind="truncated", path="@kline", after=30)) as (sim, rest, places):
        worker = await lab.start("loader-ws-candles", **HOURLY | places)

        async def far() -> bool:
            return await lab.length(lab.data) >= 20 and await lab.length(f"{lab.data}-open") > 1

        await until(far)
        port = (await lab.events("started"))[0].extra["metrics_port"]
        async with httpx.AsyncClient(trust_env=False) as client:
            text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
        assert (
            'streamforge_ws_reconnects_total{exchange="binance",symbol="BTCUSDT"} 1.0' in text
            and 'streamforge_publish_latency_seconds_count{type="ws_candles_1h"}' in text
        )
        await lab.command("stop")
        assert await asyncio.wait_for(worker.wait(), 60) == 0
        rows, last = await read(lab, Candle, symbol="BTCUSDT"), await last_event(lab)
        assert (
            rows == await true_candles(rest, "BTCUSDT", span(0, len(rows)))
            and last.status == "interrupted"
            and last.finished
        )
        assert sum(last.end_offsets[lab.data].values()) == await lab.length(lab.data)
    forming = await read(lab, Candle, f"{lab.data}-open")
    assert {candle.symbol for candle in forming} == set(MARKETS) and not {candle.open_time for candle in forming} - {
        NOON + n * HOUR for n in range(1_000)
    }


async def test_an_unknown_symbol_ends_it_before_a_stream_is_opened(lab):
    async with market() as (sim, rest, places):
        code = await lab.run("loader-ws-trades", **TRADES | places | {"SYMBOL": "BTCUSDT,LUNAUSDT"})
        last = await last_event(lab)
        assert (
            code == 64 and last.extra["error_type"] == "UnknownSymbol" and last.finished and sim.streams.connected == 0
        )
