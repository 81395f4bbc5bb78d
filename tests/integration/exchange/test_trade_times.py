"""Ids of a time range against a brute-force exchange: quiet markets, an hour's look ahead, holes in the ids, faults."""

import random
from collections.abc import Callable

import httpx
import pytest

from streamforge.core.times import TimeRange
from streamforge.exchange.binance.limits import Limiter, VirtualClock
from streamforge.exchange.binance.rest import BinanceRest
from streamforge.exchange.binance.trades import agg_trades, trade_ids

HOUR = 3_600_000
LISTED = 1_614_470_400_000  # 2021-02-28


def trades_of(chance: random.Random, count: int, longest: int, hole: float) -> list[dict]:
    "Trades of one market: pauses up to `longest` ms, several in one ms, and holes in the ids."
    rows, moment, trade_id = [], LISTED, chance.choice((0, 1, 5_000))
    for _ in range(count):
        moment += chance.choice((0, 0, 1, chance.randrange(longest)))
        rows.append({"a": trade_id, "p": "1.0", "q": "2.0", "f": 1, "l": 1, "T": moment, "m": False, "M": True})
        trade_id += 1 if chance.random() > hole else chance.randrange(2, 3_000)
    return rows


def exchange_of(
    rows: list[dict],
    ahead: int | None,  # ms that it looks ahead of startTime
    spoil: Callable[[list[dict]], list[dict]] = lambda page: page,
) -> tuple[BinanceRest, list[dict]]:  # a client of it, and the queries that it gets
    asked: list[dict] = []

    def answer(request: httpx.Request) -> httpx.Response:
        query = dict(request.url.params)
        if request.url.path.endswith("exchangeInfo"):
            market = {"symbol": query["symbol"], "status": "TRADING"}
            return httpx.Response(200, json={"serverTime": LISTED, "rateLimits": [], "symbols": [market]})
        asked.append(query)
        limit = int(query["limit"])
        if "fromId" in query:
            page = [row for row in rows if row["a"] >= int(query["fromId"])][:limit]
        elif "startTime" in query:
            start = int(query["startTime"])
            end = start + ahead if ahead else 2**62
            page = [row for row in rows if start <= row["T"] < end][:limit]
        else:
            page = rows[-limit:]
        return httpx.Response(200, json=spoil(page))

    rest = BinanceRest("http://exchange", limiter=Limiter(clock=VirtualClock()), transport=httpx.MockTransport(answer))
    return rest, asked


@pytest.mark.parametrize("ahead", [HOUR, 24 * HOUR, None], ids=["an hour ahead", "a day ahead", "no bound"])
async def test_ids_of_any_range_are_those_of_a_brute_force_search(ahead):
    "Edges on, beside and between trades, before the listing and after the last trade."
    for seed in range(60):
        chance = random.Random(seed)
        count = chance.choice((0, 1, 2, 30, 2_500))
        rows = trades_of(chance, count, chance.choice((5, HOUR, 30 * HOUR)), chance.choice((0, 0, 0.1)))
        rest, asked = exchange_of(rows, ahead)
        moments = [LISTED - 90 * HOUR, LISTED, *(row["T"] for row in rows[::400] + rows[-1:]), LISTED + 10**11]
        for _ in range(8):
            start, end = sorted(chance.choice(moments) + chance.choice((-1, 0, 1, 7 * HOUR)) for _ in range(2))
            span = TimeRange(start, end + 1)
            asked.clear()
            ids = await trade_ids(rest, "AUSDT", span)
            wanted = [row["a"] for row in rows if row["T"] in span]
            assert [row["a"] for row in rows if ids.start <= row["a"] < ids.end] == wanted, (seed, span)
            assert (not wanted) or ids.start == wanted[0], (seed, span)
            assert len(asked) <= 40, asked


async def test_a_quiet_market_is_loaded_whole():
    "Sixteen trades in two days, one every three hours, of which three in four hours have none."
    rows = [
        {"a": n, "p": "1.0", "q": "2.0", "f": 2 * n, "l": 2 * n + 1, "T": LISTED + (3 * n - 1) * HOUR, "m": n % 2 == 0}
        for n in range(1, 17)
    ]
    rest, _ = exchange_of(rows, HOUR)
    pages = agg_trades(rest, "AUSDT", TimeRange(LISTED, LISTED + 48 * HOUR))
    assert [trade.trade_id async for page in pages for trade in page] == list(range(1, 17))
    assert not pages.gaps


async def test_answers_that_are_short_or_empty_once_hide_no_trade():
    "Each page is cut to a third at most, and each answer may be empty the first time."
    for seed in range(20):
        chance = random.Random(seed)
        rows = trades_of(chance, 2_500, chance.choice((5, 5 * HOUR)), 0)
        last: list[bool] = [False]

        def spoil(page: list[dict], chance=chance, last=last) -> list[dict]:
            last[0] = not last[0] and chance.random() < 0.1
            return [] if last[0] else page[: max(len(page) // chance.choice((1, 3)), 1)]

        rest, _ = exchange_of(rows, HOUR, spoil)
        rest.concurrency = 1
        pages = agg_trades(rest, "AUSDT", TimeRange(rows[100]["T"], rows[-1]["T"] + 1))
        loaded = [trade.trade_id async for page in pages for trade in page]
        first = next(row["a"] for row in rows if row["T"] >= rows[100]["T"])
        missing = {trade_id for gap in pages.gaps for trade_id in range(gap.start, gap.end)}
        assert sorted(missing | set(loaded)) == list(range(first, rows[-1]["a"] + 1)), seed
