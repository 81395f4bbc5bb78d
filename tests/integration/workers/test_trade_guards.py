"""What loaders of trades refuse, and when they ask for no history."""

from types import SimpleNamespace

import pytest

from streamforge.core.errors import BadSetting
from streamforge.workers.loaders.live_trades import LiveTradeSource
from streamforge.workers.loaders.trades import TradeHistorySource


def test_trades_cannot_be_filled_in():
    with pytest.raises(BadSetting, match="expected no FILL for trades") as caught:
        TradeHistorySource(None, SimpleNamespace(fill=True), {})
    assert caught.value.field == "FILL"


@pytest.mark.parametrize("start", [0, 5_000])
async def test_a_live_loader_without_a_past_asks_for_none(start):
    "No start, or one that lies ahead: the exchange is asked for no history."

    async def now() -> int:
        return 1_000

    async def retry(what, call):
        raise AssertionError(f"{what} was asked")

    source = LiveTradeSource.__new__(LiveTradeSource)
    source.session, source.ctx = SimpleNamespace(now=now, rest=None), SimpleNamespace(retry=retry)
    source.order, source.follower = SimpleNamespace(symbols=["BTCUSDT"]), SimpleNamespace(last={})
    source.seen, source.since, source.start, source.end = {}, {}, start, 9_000
    assert [part async for part in source._history()] == []
