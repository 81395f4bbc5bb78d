"""The REST client against the simulator: over real sockets where the wire matters, over a flying clock where time
does."""

import asyncio
import time

import httpx
import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamforge.core.errors import BadInterval, ExchangeError, UnknownSymbol
from streamforge.core.samples import SAMPLES, SYMBOLS
from streamforge.core.times import TimeRange, to_ms
from streamforge.exchange.binance.limits import Limiter, VirtualClock
from streamforge.exchange.binance.requests import Retry
from streamforge.exchange.binance.rest import BinanceRest
from streamforge.exchange.files import PRICES, read_file
from streamforge.exchange.simulator.app import Simulator, serve_app
from streamforge.exchange.simulator.faults import Fault

HOUR = 3_600_000
WHOLE = TimeRange.parse("2021-04-05:2023-07-01")
SPRING = TimeRange.parse("2021-04-05:2021-08-01")  # three pages, one outage
QUICK = Retry(first=0.01)
ROWS = (
    "too_many",
    "banned",
    "server_error",
    "waf",
    "html",
    "truncated",
    "slow",
    "empty",
    "gap",
    "duplicates",
    "shifted",
    "reversed",
    "nan",
)


@pytest.fixture(scope="module")
def btc():
    return read_file(SAMPLES / "BTCUSDT.parquet")


async def load(rest, symbol="BTCUSDT", span=SPRING):
    klines = rest.klines(symbol, "1h", span)
    return [candle async for page in klines for candle in page], klines.gaps


def holes(symbol, span):
    "The independent script: (start, end, missing) of every hole of a file."
    present = set(pq.read_table(SAMPLES / f"{symbol}.parquet").column("open_time").to_pylist())
    missing, moment = [], span.start
    while moment < span.end:
        first = moment
        while moment < span.end and moment not in present:
            moment += HOUR
        if moment > first:
            missing.append((first, moment, (moment - first) // HOUR))
        moment += HOUR
    return missing


def hides_once(faults):
    "A hole that is seen twice is believed, so only one answer may hide rows that exist."
    return sum(fault.kind in ("empty", "gap", "shifted") for fault in faults) <= 1


def offline(markets, **options):
    "A simulator and a client for it, without a socket, on one flying clock."
    clock = VirtualClock(1_000_000.0)
    sim = Simulator(markets, timer=clock, **options)
    transport = httpx.ASGITransport(sim, raise_app_exceptions=False)
    return sim, BinanceRest("http://exchange", limiter=Limiter(clock=clock), transport=transport)


async def test_every_market_arrives_whole_and_its_holes_are_those_of_the_file():
    async with serve_app(Simulator.open()) as url, BinanceRest(url) as rest:
        results = await asyncio.gather(*(load(rest, symbol, WHOLE) for symbol in SYMBOLS))
    for symbol, (candles, gaps) in zip(SYMBOLS, results, strict=True):
        rows = [row for row in pq.read_table(SAMPLES / f"{symbol}.parquet").to_pylist() if row["open_time"] in WHOLE]
        assert [{k: getattr(candle, k) for k in rows[0]} for candle in candles] == rows
        assert [(gap.start, gap.end, gap.missing) for gap in gaps] == holes(symbol, WHOLE)
        assert sum(gap.missing for gap in gaps) == 12 and len(gaps) == 5


@pytest.mark.parametrize("kind", ROWS)
async def test_the_same_comes_out_under_each_fault(btc, kind):
    sim = Simulator({"BTCUSDT": btc})
    async with serve_app(sim) as url, BinanceRest(url, retry=QUICK, timeout=1) as rest:
        wanted = await load(rest)
        for after in range(5):
            sim.faults.add(
                Fault(kind=kind, after=after, seconds=1 if kind in ("too_many", "banned") and after == 2 else 0)
            )
            assert await load(rest) == wanted
        if kind == "slow":
            sim.faults.add(Fault(kind=kind, seconds=2))  # beyond the time-out
            assert await load(rest) == wanted
        assert sim.faults.left() == []


@pytest.mark.parametrize("kind", ["duplicates", "shifted", "reversed", "slow"])
async def test_an_exchange_that_is_always_like_that(btc, kind):
    "Repeated rows fill every page before its window ends; the rest is read on."
    _, rest = offline({"BTCUSDT": btc})
    wanted = await load(rest)
    sim, rest = offline({"BTCUSDT": btc})
    sim.faults.add(Fault(kind=kind, times=0))
    assert await load(rest) == wanted


async def test_an_exchange_that_repeats_itself_is_no_endless_loop(btc, monkeypatch):
    "It sends its first thousand rows whatever is asked."
    sim, rest = offline({"BTCUSDT": btc})
    monkeypatch.setattr("streamforge.exchange.simulator.rest.select_rows", lambda *asked: (600, 1_600))
    with pytest.raises(ExchangeError, match="repeats itself"):
        await load(rest, span=TimeRange(int(btc.open_time[600]), int(btc.open_time[2_600])))


@pytest.mark.parametrize(("kind", "status"), [("too_many", 429), ("banned", 418)])
async def test_no_request_is_sent_before_retry_after(btc, kind, status):
    sim = Simulator({"BTCUSDT": btc})
    sim.faults.add(Fault(kind=kind, after=6, seconds=2))
    async with serve_app(sim) as url, BinanceRest(url) as rest:
        results = await asyncio.gather(*(load(rest, span=WHOLE) for _ in range(3)))
    sent_away = next(when for when, *_, code in sim.log if code == status)
    early = [when - sent_away for when, *_ in sim.log if 0 < when - sent_away < 2]
    late = [when - sent_away for when, *_ in sim.log if when - sent_away >= 2]
    assert len(early) < rest.concurrency < len(late), (
        early,
        late,
    )  # each other connection may have had one request on its way
    assert results[0] == results[1] == results[2] and len(results[0][1]) == 5


async def test_a_ban_that_comes_while_connecting_is_obeyed(btc):
    class Late(Limiter):
        async def acquire(self, weight):
            await super().acquire(weight)
            if self.gate.closed_until < 0:
                self.observe(429, {"retry-after": "1"})

    sim, began = Simulator({"BTCUSDT": btc}), time.time()
    async with serve_app(sim) as url, BinanceRest(url, limiter=Late()) as rest:
        await rest.server_time()
    assert sim.log[0][0] - began >= 1


async def test_bans_in_virtual_time(btc):
    "Over the whole history, however often: not one request between an order to stay away and its end."
    sim, rest = offline({"BTCUSDT": btc})
    for after in range(0, 30, 5):
        sim.faults.add(
            Fault(kind="too_many", after=after, seconds=30), Fault(kind="banned", after=after + 2, seconds=200)
        )
    candles, gaps = await load(rest, span=WHOLE)
    assert len(candles) == len(btc.open_time[btc.open_time >= WHOLE.start]) and len(gaps) == 5
    orders = [(when, 30 if code == 429 else 200) for when, *_, code in sim.log if code != 200]
    assert len(orders) > 6 and not [
        (start, when) for start, wait in orders for when, *_ in sim.log if start < when < start + wait
    ]


async def test_a_small_budget_is_kept(btc):
    sim, rest = offline({"BTCUSDT": btc}, weight_limit=40)
    candles, _ = await load(rest, span=WHOLE)
    assert len(candles) > 19_000 and {code for *_, code in sim.log} == {200}


async def test_other_use_of_our_address_is_seen_in_the_header(btc):
    sim, rest = offline({"BTCUSDT": btc})
    await load(rest)
    sim.meter.used = 5_990
    before = len(sim.log)
    await load(rest, span=WHOLE)
    assert {code for *_, code in list(sim.log)[before:]} == {200}


async def test_bad_requests_by_name(btc):
    async with serve_app(Simulator({"BTCUSDT": btc})) as url, BinanceRest(url) as rest:
        for symbol in ("LUNAUSDT", "btcusdt", "BTC/USDT"):
            with pytest.raises(UnknownSymbol, match="-11") as caught:
                await load(rest, symbol)
            assert caught.value.exit_code == 64 and caught.value.field == "symbol"
        with pytest.raises(BadInterval, match="-1120"):
            async for _ in rest.klines("BTCUSDT", "5m", SPRING):
                pass
        with pytest.raises(BadInterval):
            rest.klines("BTCUSDT", "1M", SPRING)


async def test_an_unreachable_and_a_silent_exchange():
    async with BinanceRest("http://127.0.0.1:1", retry=Retry(attempts=3, first=0.01)) as rest:
        with pytest.raises(ExchangeError, match="ConnectError"):
            await rest.server_time()

    async def mute(reader, writer):
        await reader.read()
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with (
        server,
        BinanceRest(f"http://127.0.0.1:{port}", timeout=0.1, retry=Retry(attempts=2, first=0.01)) as rest,
    ):
        with pytest.raises(ExchangeError, match="ReadTimeout"):
            await rest.server_time()


async def test_loopback_ignores_the_proxy_of_the_environment(btc, monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with serve_app(Simulator({"BTCUSDT": btc})) as url, BinanceRest(url) as rest:
        assert await rest.server_time() > 0


async def test_who_leaves_early_leaves_nothing_behind(btc):
    sim = Simulator({"BTCUSDT": btc})
    sim.faults.add(Fault(kind="slow", after=3, times=0, seconds=9))
    async with serve_app(sim) as url, BinanceRest(url) as rest:
        before, pages = asyncio.all_tasks(), aiter(rest.klines("BTCUSDT", "1h", WHOLE))
        assert len(await anext(pages)) > 900
        began = time.monotonic()
        await pages.aclose()
        assert time.monotonic() - began < 8  # a page is under way for nine
        ours = {task for task in asyncio.all_tasks() - before if "_window" in repr(task)}
        assert not ours


async def test_a_live_market_is_followed(btc):
    sim = Simulator({"BTCUSDT": btc}, now=to_ms("2021-05-19T12:30"))
    async with (
        serve_app(sim) as url,
        BinanceRest(url) as rest,
        httpx.AsyncClient(base_url=url, trust_env=False) as control,
    ):
        day, seen = TimeRange.parse("2021-05-19:2021-05-20"), []
        for clock in ("2021-05-19T12:59:59.999", "2021-05-19T13:00", "2021-05-19T14:10", "2021-05-20T02:00"):
            assert (await control.post("/sim/clock", json={"now": clock})).status_code == 200
            start = seen[-1].open_time + 1 if seen else day.start
            candles, gaps = await load(rest, span=TimeRange(start, day.end)) if start < day.end else ([], [])
            seen += candles
            assert gaps == [] and len(seen) == {"12:59:59.999": 12, "13:00": 13, "14:10": 14}.get(clock[11:], 24)
    first = int(np.searchsorted(btc.open_time, day.start))
    assert [candle.close for candle in seen] == btc.close[first : first + 24].tolist()


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    st.sets(st.integers(0, 2_999), max_size=60),
    st.tuples(st.integers(0, 2_999), st.integers(0, 1_500)),
    st.lists(
        st.builds(Fault, kind=st.sampled_from(ROWS), after=st.integers(0, 8), times=st.just(1)), max_size=4
    ).filter(hides_once),
    st.tuples(st.integers(-500, 3_500), st.integers(1, 4_000)),
)
def test_any_holes_any_faults_any_range(btc, single, block, faults, asked):
    "What arrives is the file's rows in the range; what is reported is the rest of the range."
    keep = np.setdiff1d(np.arange(3_000), np.array([*single, *range(block[0], block[0] + block[1])], int))
    table = msgspec.structs.replace(
        btc, **{column: getattr(btc, column)[keep] for column in ("open_time", *PRICES, "volume")}
    )
    first = int(btc.open_time[0])
    span = TimeRange(first + asked[0] * HOUR, first + (asked[0] + asked[1]) * HOUR)

    async def run():
        sim, rest = offline({"BTCUSDT": table})
        sim.faults.add(*faults)
        return await load(rest, span=span)

    candles, gaps = asyncio.run(run())
    wanted = [open_time for open_time in table.open_time.tolist() if open_time in span]
    assert [candle.open_time for candle in candles] == wanted
    missing = [n for gap in gaps for n in range(gap.start, gap.end, HOUR)]
    assert sorted(missing + wanted) == list(range(span.start, span.end, HOUR))
    assert all(a.end < b.start for a, b in zip(gaps, gaps[1:], strict=False)) and all(
        gap.missing == (gap.end - gap.start) // HOUR for gap in gaps
    )
