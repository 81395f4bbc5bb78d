"""The simulated exchange over real sockets: what a client of the wire sees, with and without injected faults."""

import asyncio
import hashlib
import io
import itertools
import json
import zipfile
from contextlib import asynccontextmanager

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus

from streamforge.core.samples import SAMPLES
from streamforge.core.times import to_ms
from streamforge.exchange.files import read_file
from streamforge.exchange.simulator.app import Simulator, serve_app
from streamforge.exchange.simulator.events import stream_events
from streamforge.exchange.simulator.faults import Fault
from streamforge.exchange.simulator.streams import StreamRules

NOON, HOUR = to_ms("2021-05-19T12:00"), 3_600_000


@pytest.fixture(scope="module")
def tables():
    return {name: read_file(SAMPLES / f"{name}.parquet") for name in ("BTCUSDT", "ETHUSDT")}


@asynccontextmanager
async def lab(tables, **rules):
    "A simulator at noon, its HTTP client, and the address of its streams."
    sim = Simulator(tables, now=NOON)
    sim.streams.rules = StreamRules(**rules)
    async with serve_app(sim) as url, httpx.AsyncClient(base_url=url, trust_env=False) as http:
        yield sim, http, "ws" + url[4:]


def plain(url, **options):
    return connect(url, compression=None, proxy=None, close_timeout=0.1, **options)


async def take(socket, n):
    return [json.loads(await asyncio.wait_for(socket.recv(), 60)) for _ in range(n)]


async def until(condition, seconds=60):
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_day_of_trades_by_stream_rest_and_archive_is_the_same(tables):
    async with lab(tables) as (sim, http, url), plain(f"{url}/ws/btcusdt@aggTrade") as socket:
        await http.post("/sim/clock", json={"now": "2021-05-20T12:00"})
        streamed = await take(socket, 288)
        asked = (
            await http.get("/api/v3/aggTrades", params={"symbol": "BTCUSDT", "fromId": streamed[0]["a"], "limit": 288})
        ).json()
        assert [{k: trade[k] for k in asked[0]} for trade in streamed] == asked
        path = "/data/spot/daily/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2021-05-19.zip"
        body, checksum = (await http.get(path)).content, (await http.get(path + ".CHECKSUM")).text
        assert checksum.split() == [hashlib.sha256(body).hexdigest(), path.rpartition("/")[2]]
        with zipfile.ZipFile(io.BytesIO(body)) as file:
            lines = [line.split(",") for line in file.read(file.namelist()[0]).decode().splitlines()]
        midnight = [trade for trade in asked if trade["T"] < to_ms("2021-05-20")]
        assert [(int(trade[0]), trade[1], trade[2]) for trade in lines[-len(midnight) :]] == [
            (trade["a"], trade["p"], trade["q"]) for trade in midnight
        ]
        assert (await http.get(path.replace("05-19", "05-20"))).status_code == 404  # the day is not over
        assert (await http.get("/sim/state")).json()["sent"] == 288


async def test_several_connections_get_the_same_and_a_slow_one_holds_up_no_other(tables):
    streams = "btcusdt@kline_1h/ethusdt@aggTrade/btcusdt@depth"
    async with lab(tables) as (sim, http, url):
        async with (
            plain(f"{url}/stream?streams={streams}") as one,
            plain(f"{url}/stream?streams={streams}") as two,
            plain(f"{url}/ws/btcusdt@depth@100ms", max_queue=1) as slow,
        ):
            await until(lambda: sim.streams.connected == 3)
            sim.now = NOON + HOUR
            first, second = await asyncio.gather(take(one, 13 + 12 + 3_600), take(two, 13 + 12 + 3_600))
            assert first == second and [event["data"]["E"] for event in first] == sorted(
                event["data"]["E"] for event in first
            )
            assert sim.streams.sent < 36_000 + 2 * len(first)  # one is still behind, waiting for its reader
            wanted = [
                json.loads(event) for _, event in stream_events(sim.market, "btcusdt@depth@100ms", NOON, NOON + 200_000)
            ]
            assert await take(slow, 2_000) == wanted


async def test_a_book_kept_by_the_rules_is_the_simulators_after_faults_too(tables):
    def apply(book, event):
        for side, changes in (("bids", event["b"]), ("asks", event["a"])):
            for price, quantity in changes:
                book[side].pop(price, None) if float(quantity) == 0 else book[side].__setitem__(price, quantity)
        book["id"] = event["u"]

    async with lab(tables) as (sim, http, url), plain(f"{url}/ws/btcusdt@depth@100ms") as socket:
        sim.faults.add(Fault(kind="stale", seconds=3_600), Fault(kind="gap", path="@depth", after=300, times=2))
        await until(lambda: sim.streams.connected == 1)
        sim.now = NOON + 30_000
        events, tries, holes, book = await take(socket, 300), 0, 0, None
        sim.now = NOON + 60_000
        events += await take(socket, 298)
        stale = (await http.get("/api/v3/depth", params={"symbol": "BTCUSDT", "limit": 5_000})).json()
        assert stale["lastUpdateId"] < events[0]["U"]  # recognised by its id
        for event in events:
            if book is None or event["U"] > book["id"] + 1:
                holes, tries = holes + (book is not None), tries + 1
                at = sim.market("BTCUSDT").book.tick_of(event["U"]) - 1
                sim.now = at * 100 + 250  # a snapshot inside the stream
                got = (await http.get("/api/v3/depth", params={"symbol": "BTCUSDT", "limit": 5_000})).json()
                book = {"id": got["lastUpdateId"], "bids": dict(got["bids"]), "asks": dict(got["asks"])}
            if event["u"] > book["id"]:
                apply(book, event)
        sim.now = NOON + 60_000
        final = (await http.get("/api/v3/depth", params={"symbol": "BTCUSDT", "limit": 5_000})).json()
        assert holes == 1 and book == {
            "id": final["lastUpdateId"],
            "bids": dict(final["bids"]),
            "asks": dict(final["asks"]),
        }
        injected = (await http.get("/sim/injected")).json()
        assert [fault["kind"] for fault in injected] == ["gap", "gap", "stale"] and injected[0]["when"] == NOON + 30_100


async def test_a_frame_is_cut_in_the_middle(tables):
    async with lab(tables) as (sim, http, url), plain(f"{url}/ws/btcusdt@aggTrade") as socket:
        await until(lambda: sim.streams.connected == 1)
        sim.faults.add(Fault(kind="truncated", path="@aggTrade", after=3))
        sim.now = NOON + HOUR
        assert len(await take(socket, 3)) == 3
        with pytest.raises(ConnectionClosedError) as caught:
            await take(socket, 1)
        assert caught.value.rcvd is None  # no close frame
        await until(lambda: not sim.streams.open)


async def test_silence_has_no_pings_and_ends_with_what_was_held_back(tables):
    async with lab(tables, ping=0.05) as (sim, http, url), plain(f"{url}/ws/btcusdt@aggTrade") as socket:
        pings, handle = [], socket.protocol.recv_frame
        socket.protocol.recv_frame = lambda frame: (
            pings.append(asyncio.get_running_loop().time()) if frame.opcode == 9 else None,
            handle(frame),
        )[1]
        await until(lambda: len(pings) > 3)
        sim.faults.add(Fault(kind="silence", seconds=0.6))
        sim.now = NOON + HOUR
        assert len(await take(socket, 12)) == 12
        await until(lambda: max(b - a for a, b in itertools.pairwise(pings)) > 0.5)


@pytest.mark.parametrize("kind", ["close", "shutdown"])
async def test_connections_that_are_closed_with_a_reason(tables, kind):
    async with lab(tables) as (sim, http, url), plain(f"{url}/stream?streams=btcusdt@aggTrade") as socket:
        await until(lambda: sim.streams.connected == 1)
        sim.faults.add(Fault(kind=kind, after=2, seconds=0.05))
        sim.now = NOON + HOUR
        got = await take(socket, 2 if kind == "close" else 13)
        assert kind == "close" or got[2]["data"]["e"] == "serverShutdown"
        with pytest.raises(ConnectionClosed) as caught:
            await take(socket, 1)
        assert caught.value.rcvd.code == 1001


async def test_connections_age_and_are_refused(tables):
    async with lab(tables, life=0.3, notice=0.2) as (sim, http, url):
        async with plain(f"{url}/ws/btcusdt@aggTrade") as socket:
            assert (await take(socket, 1))[0]["e"] == "serverShutdown"
            with pytest.raises(ConnectionClosed):
                await take(socket, 1)
        sim.faults.add(Fault(kind="refuse", seconds=0.2))
        for _ in range(2):
            with pytest.raises(InvalidStatus) as caught:
                await plain(f"{url}/ws")
            assert caught.value.response.status_code == 503
        await asyncio.sleep(0.2)
        async with plain(f"{url}/ws"):
            assert (await http.get("/sim/state")).json()["refused"] == 2


async def test_requests_on_the_socket(tables):
    async with lab(tables) as (sim, http, url), plain(f"{url}/ws") as socket:
        await socket.send(json.dumps({"method": "SUBSCRIBE", "params": ["btcusdt@trade", "ethusdt@trade"], "id": 1}))
        assert await take(socket, 1) == [{"result": None, "id": 1}]
        await socket.send(json.dumps({"method": "UNSUBSCRIBE", "params": ["ethusdt@trade"], "id": 2}))
        assert await take(socket, 1) == [{"result": None, "id": 2}]
        await http.post("/sim/clock", json={"speed": 36_000})  # an hour in a tenth of a second
        assert {event["s"] for event in await take(socket, 24)} == {"BTCUSDT"}
        await http.post("/sim/clock", json={"speed": 0})
        for number in range(10):
            await socket.send(json.dumps({"method": "LIST_SUBSCRIPTIONS", "id": number}))
        with pytest.raises(ConnectionClosed) as caught:
            await take(socket, 1_000)
        assert caught.value.rcvd.code == 1008
        assert (await http.post("/sim/clock", json={"speed": -1})).status_code == 422 and (
            await http.post("/sim/rules", json={"pong": "x"})
        ).status_code == 422
        assert (await http.post("/sim/rules", json={"ping": 1})).json()["ping"] == 1


async def test_a_hole_of_the_exchange_is_missing_everywhere(tables):
    async with lab(tables) as (sim, http, url), plain(f"{url}/ws/btcusdt@kline_1h") as socket:
        await until(lambda: sim.streams.connected == 1)
        start = NOON + 2 * HOUR
        await http.post(
            "/sim/faults", json=[{"kind": "gap", "path": "*", "times": 0, "start": start, "end": start + HOUR + 1}]
        )
        sim.now = NOON + 5 * HOUR
        closed = []
        while not closed or closed[-1] < NOON + 4 * HOUR:
            closed += [event["k"]["t"] for event in await take(socket, 1) if event["k"]["x"]]
        rest = (
            await http.get(
                "/api/v3/klines", params={"symbol": "BTCUSDT", "interval": "1h", "startTime": NOON, "limit": 5}
            )
        ).json()
        assert start not in [row[0] for row in rest] and len(rest) < 5 and start not in closed


async def test_real_trades_from_a_folder(tmp_path):
    table = pq.read_table(SAMPLES.parent / "binance_trades" / "XRPETH.parquet").slice(0, 2_000)
    pq.write_table(table, tmp_path / "XRPETH_trades.parquet")
    sim = Simulator.open(str(tmp_path))
    ids = table.column("trade_id").to_pylist()
    async with serve_app(sim) as url, httpx.AsyncClient(base_url=url, trust_env=False) as http:
        rows = (
            await http.get("/api/v3/aggTrades", params={"symbol": "XRPETH", "fromId": ids[0], "limit": 1_000})
        ).json()
        assert [row["a"] for row in rows] == ids[:1_000] and [float(row["p"]) for row in rows] == table.column(
            "price"
        ).to_pylist()[:1_000]
        klines = (
            await http.get(
                "/api/v3/klines", params={"symbol": "XRPETH", "interval": "1m", "startTime": 0, "limit": 1_000}
            )
        ).json()
        assert sum(row[8] for row in klines if row[6] < rows[-1]["T"]) <= 1_000 and all(
            b[0] - a[0] == 60_000 for a, b in itertools.pairwise(klines)
        )
    assert pa.types.is_integer(table.schema.field("trade_id").type)
