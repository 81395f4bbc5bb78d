"""Workers as processes: what they write, say and obey, and with which code they end."""

import asyncio
import signal
import time

import httpx
import msgspec
from worker_lab import bad_values, sample_candles, stream_with_nonsense, until

from streamforge.core.names import enriched_collection
from streamforge.core.samples import candles
from streamforge.exchange.simulator.app import Simulator, serve_app
from streamforge.exchange.simulator.faults import Fault
from streamforge.features.enricher import Enricher
from streamforge.messages.records import Candle, decode, encode
from streamforge.store.base import open_store
from streamforge.workers.connector.enrichment import enrich

LOADER, CONNECTOR = "loader-producer__a1b2c3", "arango-connector__a1b2c3"
CANDLES = {"TYPE": "api_candles_1h"}
CONNECT = CANDLES | {"UPSTREAM": LOADER}


async def statuses(lab, producer):
    return [event.status for event in await lab.events() if event.producer == producer]


async def test_from_the_exchange_to_the_store(lab):
    """The data line: every candle of the file is stored and enriched, gaps are those of the file, and both workers
    end by themselves."""
    span = "2021-04-20:2021-05-20"
    async with serve_app(Simulator.open()) as url:
        connector = await lab.start("arango-connector", **CONNECT)
        code = await lab.run(
            "loader-producer", SYMBOL="BTCUSDT,ETHUSDT", TIME_RANGE=span, BINANCE_API_URL=url, **CANDLES
        )
        assert code == 0 and await connector.wait() == 0
    async with open_store(lab.places.store_url) as store:
        for symbol in ("BTCUSDT", "ETHUSDT"):
            rows = [candle for candle in sample_candles((symbol,), span)]
            assert (await store.read("candles_1h", where={"symbol": symbol})).to_pylist() == [
                msgspec.to_builtins(row) | {"filled": None} for row in rows
            ]
            enriched = (await store.read(enriched_collection("candles_1h"), where={"symbol": symbol})).to_pylist()
            assert enriched == [
                msgspec.to_builtins(candle) | {"filled": None, "revision": None} for candle in enrich(Enricher(), rows)
            ]
    times, (loaded,) = (
        set(candles("BTCUSDT", span).open_time),
        [event for event in await lab.events("finished") if event.producer == LOADER],
    )
    missing = [n for n in range(1618876800000, 1621468800000, 3_600_000) if n not in times]  # 2021-04-20 to 2021-05-20
    assert [
        m for g in loaded.extra["gaps"] if g["symbol"] == "ETHUSDT" for m in range(g["start"], g["end"], 3_600_000)
    ] == missing
    assert sum(loaded.end_offsets["wf-1-data"].values()) == loaded.records_written == 2 * len(times)
    for producer in (LOADER, CONNECTOR):
        reported = await statuses(lab, producer)
        assert (
            reported[0] == "started"
            and reported[-1] == "finished"
            and "loading" in reported
            and "error" not in reported
        )
    (done,) = [event for event in await lab.events("finished") if event.producer == CONNECTOR]
    assert (
        sum(done.end_offsets["wf-1-data-enriched"].values()) == 2 * len(times) == await lab.length("wf-1-data-enriched")
    )


async def test_bad_records_go_aside_as_they_were(lab):
    rows = sample_candles(("BTCUSDT",), "2021-05-01:2021-05-05")
    good, bad = [("BTCUSDT", encode(row)) for row in rows], bad_values(encode(rows[0]))
    await lab.fill(good[:40] + [("BTCUSDT", value) for value in bad.values()] + good[40:])
    assert await lab.run("arango-connector", **CONNECT) == 0
    dead = await lab.records("wf-1-data-dlq")
    assert [record.value for record in dead] == list(bad.values()) and {record.key for record in dead} == {"BTCUSDT"}
    for record in dead:
        headers = dict(record.headers)
        assert (
            headers["sf.dlq.topic"] == b"wf-1-data"
            and headers["sf.dlq.error"].startswith(b"BadRecord")
            and headers["sf.dlq.stage"] == b"decode"
            and headers["sf.dlq.attempts"] == b"1"
        )
    assert [decode(Candle, record.value).open_time for record in await lab.records("wf-1-data-enriched")] == [
        row.open_time for row in rows
    ]


async def test_a_bad_configuration_ends_with_64_and_is_reported(lab):
    wrong = {
        "BadTimeRange": ("loader-producer", CANDLES | {"SYMBOL": "BTCUSDT", "TIME_RANGE": "2021-05-02:2021-05-01"}),
        "BadInterval": (
            "loader-producer",
            CANDLES | {"SYMBOL": "BTCUSDT", "TIME_RANGE": "2021-05-01:2021-05-02", "INTERVAL": "7h"},
        ),
        "UnknownTarget": ("loader-of-dreams", {}),
        "BadSetting": ("arango-connector", {"COLLECTION_NAME": "", "TYPE": ""}),
        "BadUrl": ("arango-connector", CANDLES | {"STREAMFORGE_STORE_URL": "mysql://nowhere"}),
    }
    codes = await asyncio.gather(
        *(lab.run(target, **env | {"TELEMETRY_PRODUCER_ID": name}) for name, (target, env) in wrong.items())
    )
    assert codes == [64] * len(wrong)
    events = {event.producer: event for event in await lab.events()}
    for name in wrong:
        assert (
            events[name].status,
            events[name].finished,
            events[name].extra["error_type"],
            events[name].extra["exit_code"],
        ) == ("error", True, name, 64)


async def test_an_unknown_symbol_ends_the_loader_and_its_connector(lab):
    async with serve_app(Simulator.open()) as url:
        connector = await lab.start("arango-connector", **CONNECT)
        code = await lab.run(
            "loader-producer",
            SYMBOL="LUNAUSDT,NOSUCHCOIN",
            TIME_RANGE="2021-05-01:2021-05-02",
            BINANCE_API_URL=url,
            **CANDLES,
        )
    assert code == 64 and await connector.wait() == 65
    assert {event.producer: event.extra["error_type"] for event in await lab.events("error")} == {
        LOADER: "UnknownSymbol",
        CONNECTOR: "UpstreamFailed",
    }
    assert await lab.length("wf-1-data") == 0


async def test_an_unknown_symbol_takes_no_other_market_with_it(lab):
    "One is unknown, one has nothing in the range; the third is loaded, and each is told of by name."
    simulator = Simulator.open()
    async with serve_app(simulator) as url:
        connector = await lab.start("arango-connector", **CONNECT)
        order = {"SYMBOL": "LUNAUSDT,BTCUSDT", "TIME_RANGE": "2021-05-01:2021-05-02", "BINANCE_API_URL": url}
        assert await lab.run("loader-producer", **order, **CANDLES) == 0
        assert await connector.wait() == 0
        early = order | {"TIME_RANGE": "2019-05-01:2019-05-02", "QUEUE_ID": "wf-early"}
        assert await lab.run("loader-producer", **early, **CANDLES) == 0
        late = order | {"TIME_RANGE": "2024-01-01:2024-01-02", "QUEUE_ID": "wf-late", "SYMBOL": "BTCUSDT"}
        assert await lab.run("loader-producer", **late, **CANDLES) == 0
    loaded, nothing, over = [event for event in await lab.events("finished") if "markets" in event.extra]
    outcomes = [
        [(market["symbol"], market["outcome"], market["records"]) for market in event.extra["markets"]]
        for event in (loaded, nothing)
    ]
    assert outcomes[0] == [("LUNAUSDT", "unknown", 0), ("BTCUSDT", "loaded", 24)]
    assert outcomes[1] == [("LUNAUSDT", "unknown", 0), ("BTCUSDT", "none", 0)]
    assert loaded.message.startswith("1 of 2 markets loaded whole; LUNAUSDT unknown: ")
    assert "BTCUSDT none: the exchange has nothing in this range: not listed yet, its first candle" in nothing.message
    assert over.message.endswith("it has candles from 2021-04-04T20:00:00 to 2023-06-30T23:00:00")
    log = (lab.home / "loader-producer-2.log").read_text()
    assert "market not loaded whole" in log and "BTCUSDT" in log


async def test_stop_and_ping(lab):
    await lab.fill(stream_with_nonsense(sample_candles()))
    connector = await lab.start("arango-connector", **CANDLES)  # no upstream worker: it would run for ever
    await until(lambda: lab.length("wf-1-data-enriched"))
    await lab.command("stop", "wf-2")
    await lab.command("ping")
    await until(lambda: lab.events("pong"))
    await lab.command("stop")
    assert await connector.wait() == 0
    (last,) = await lab.events("interrupted")
    assert last.finished and last.extra["reason"] == "stop" and not await lab.events("error")


async def test_sigterm_between_batches_leaves_nothing_half_done(lab):
    await lab.fill(stream_with_nonsense(sample_candles(time_range="2021-04-10:2021-08-10")))
    connector = await lab.start("arango-connector", BATCH_ROWS="50", **CANDLES)
    await until(lambda: lab.length("wf-1-data-enriched"))
    asked = time.monotonic()
    connector.send_signal(signal.SIGTERM)
    assert await connector.wait() == 75 and time.monotonic() - asked < 60
    (last,) = await lab.events("interrupted")
    assert not last.finished and last.extra["reason"] == "SIGTERM" and 0 < last.records_written < 5_800
    assert await lab.run("arango-connector", **CONNECT) == 0
    enriched = await lab.records("wf-1-data-enriched")
    assert len({dict(record.headers)["sf.source"] for record in enriched}) == len(enriched), (
        "something was delivered again"
    )


async def test_metrics_and_health(lab):
    dummy = await lab.start("dummy-service", NOOP="1", EXIT_ON_PING="1")
    (started,) = await until(lambda: lab.events("started"))
    url = f"http://127.0.0.1:{started.extra['metrics_port']}"
    async with httpx.AsyncClient(base_url=url, trust_env=False) as scraper:
        for path in ("/health/live", "/health/ready", "/health/startup", "/metrics"):
            answer = await scraper.get(path)
            assert answer.status_code == 200
    text = answer.text
    assert 'streamforge_event_loop_lag_seconds{worker="dummy-service"}' in text and "dummy_events_total 1.0" in text
    assert await lab.run("dummy-service", METRICS_PORT=str(started.extra["metrics_port"])) == 64
    assert (await lab.events("error"))[-1].extra["error_type"] == "PortInUse"
    await lab.command("ping")
    assert await dummy.wait() == 0


async def test_a_stopped_loader_ends_its_connector_where_it_stopped(lab):
    "A `stop` for one worker alone: what it wrote ends somewhere, and the one after it goes that far and no further."
    env = {"SYMBOL": "BTCUSDT,ETHUSDT,BNBUSDT", "TIME_RANGE": "2021-04-05:2023-06-01", **CANDLES}
    slow = Simulator.open()
    slow.faults.add(Fault(kind="slow", seconds=0.2, times=0))
    async with serve_app(slow) as url:
        connector = await lab.start("arango-connector", **CONNECT)
        loader = await lab.start("loader-producer", BINANCE_API_URL=url, **env)
        await until(lambda: lab.length("wf-1-data"))
        await lab.command("stop", telemetry_id=LOADER)
        assert await loader.wait() == 0 and await connector.wait() == 0
    (stopped,), (done,) = await lab.events("interrupted"), await lab.events("finished")
    written = await lab.length("wf-1-data")
    assert (
        stopped.finished
        and "gaps" not in stopped.extra
        and sum(stopped.end_offsets["wf-1-data"].values()) == written == stopped.records_written
    )
    assert (
        done.producer == CONNECTOR
        and done.records_written == written == await lab.length("wf-1-data-enriched") < 3 * 18_000
    )
