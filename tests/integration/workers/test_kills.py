"""A connector that is killed, anywhere and at any time, and started again, leaves what an undisturbed one leaves."""

import asyncio
import random
import signal

import pytest
from worker_lab import sample_candles, stream_with_nonsense, until

from streamforge.core.samples import candles
from streamforge.core.times import TimeRange
from streamforge.exchange.simulator.app import Simulator, serve_app
from streamforge.messages.records import Candle, decode

CONNECT = {"TYPE": "api_candles_1h", "UPSTREAM": "loader-producer__a1b2c3", "BATCH_ROWS": "200"}
FAILPOINTS = ("before-write", "after-write", "after-publish", "after-dead-letter", "after-checkpoint", "after-commit")


def stream():
    return stream_with_nonsense(sample_candles())


_once: dict[str, str] = {}  # the fingerprint of the undisturbed run


@pytest.fixture
async def undisturbed(new_lab):
    if not _once:
        lab = new_lab("undisturbed")
        await lab.fill(stream())
        assert await lab.run("arango-connector", **CONNECT) == 0
        _once.update(await lab.fingerprint())
    return _once


@pytest.mark.slow
async def test_killed_at_every_failpoint(new_lab, undisturbed):
    async def life(nth: int, point: str):
        lab = new_lab(point)
        await lab.fill(stream())
        assert await lab.run("arango-connector", FAILPOINT=f"{point}:{1 + nth % 3}", **CONNECT) == -signal.SIGKILL, (
            point
        )
        assert await lab.run("arango-connector", **CONNECT) == 0, point
        assert await lab.fingerprint() == undisturbed, point

    for n in range(0, len(FAILPOINTS), 2):  # two at a time
        await asyncio.gather(*(life(n + i, point) for i, point in enumerate(FAILPOINTS[n : n + 2])))


@pytest.mark.slow
async def test_killed_at_one_failpoint_after_the_other(new_lab, undisturbed):
    lab = new_lab("unlucky")
    await lab.fill(stream())
    for point in FAILPOINTS:
        assert await lab.run("arango-connector", FAILPOINT=f"{point}:2", **CONNECT) == -signal.SIGKILL, point
    assert await lab.run("arango-connector", **CONNECT) == 0
    assert await lab.fingerprint() == undisturbed


@pytest.mark.slow
async def test_killed_at_random_moments(new_lab, undisturbed):
    chance, lab = random.Random(7), new_lab("random")
    await lab.fill(stream())
    small, killed = CONNECT | {"BATCH_ROWS": "20"}, 0
    for _ in range(5):
        connector, before = await lab.start("arango-connector", **small), await lab.length("wf-1-data-enriched")
        upto = before + chance.randrange(1, 200)

        async def far_enough(connector=connector, upto=upto):
            return connector.returncode is not None or await lab.length("wf-1-data-enriched") >= upto

        await until(far_enough)
        await asyncio.sleep(chance.random() * 0.02)  # anywhere in a batch: here the randomness is the point
        if connector.returncode is None:
            connector.kill()
        killed += await connector.wait() == -signal.SIGKILL
    assert killed >= 3 and await lab.run("arango-connector", **small) == 0
    assert await lab.fingerprint() == undisturbed


@pytest.mark.slow
async def test_two_connectors_one_of_them_killed(new_lab, undisturbed):
    lab = new_lab("two")
    await lab.fill(stream())
    small = CONNECT | {"BATCH_ROWS": "20"}
    one, two = (
        await lab.start("arango-connector", **small),
        await lab.start("arango-connector", **small | {"TELEMETRY_PRODUCER_ID": "arango-connector__b"}),
    )
    await until(lambda: lab.length("wf-1-data-enriched"))
    one.kill()
    assert await one.wait() == -signal.SIGKILL and await two.wait() == 0
    assert await lab.fingerprint() == undisturbed


@pytest.mark.slow
async def test_a_frozen_connector_resumes_after_its_work_was_done(new_lab, undisturbed):
    lab = new_lab("frozen")
    await lab.fill(stream())
    lab.env["STREAMFORGE_BUS_URL"] = (
        f"{lab.places.bus_url}?session_timeout=2"  # so long is a silent consumer waited for
    )
    frozen = await lab.start(
        "arango-connector", FAILPOINT="after-publish:1:stop", **CONNECT | {"BATCH_ROWS": "20"}
    )  # where it holds no lock
    await until(lambda: lab.length("wf-1-data-enriched"))
    assert (
        await lab.run("arango-connector", timeout=120, **CONNECT | {"TELEMETRY_PRODUCER_ID": "arango-connector__b"})
        == 0
    )
    frozen.send_signal(signal.SIGCONT)
    assert await asyncio.wait_for(frozen.wait(), 60) == 0
    assert await lab.fingerprint() == undisturbed


async def test_a_loader_that_was_killed_goes_on(new_lab):
    lab, span = new_lab("loader"), "2021-04-10:2021-12-10"
    env = {"TYPE": "api_candles_1h", "SYMBOL": "BTCUSDT,ETHUSDT", "TIME_RANGE": span}
    async with serve_app(Simulator.open()) as url:
        assert (
            await lab.run("loader-producer", FAILPOINT="after-publish:2", BINANCE_API_URL=url, **env) == -signal.SIGKILL
        )
        half = await lab.length("wf-1-data")
        assert await lab.run("loader-producer", BINANCE_API_URL=url, **env) == 0
    loaded = [decode(Candle, record.value) for record in await lab.records("wf-1-data")]
    for symbol in ("BTCUSDT", "ETHUSDT"):
        assert [candle.open_time for candle in loaded if candle.symbol == symbol] == candles(
            symbol, span
        ).open_time.tolist()
    (done,) = await lab.events("finished")
    hours = (TimeRange.parse(span).end - TimeRange.parse(span).start) // 3_600_000
    assert 0 < half < len(loaded) == done.records_written and done.extra["missing"] == 2 * hours - len(loaded)
