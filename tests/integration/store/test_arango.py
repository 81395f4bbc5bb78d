"""The ArangoDB store while its server fails. The server is a stand-in; see `tests/standins/arango.py` for the
sources that it follows."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from standins.arango import Fault, standin  # noqa: E402
from worker_lab import WorkerLab, sample_candles, stream_with_nonsense  # noqa: E402

from streamforge.core.errors import BadConfig, BadData, BadUrl, Conflict, Refused, StoreError  # noqa: E402
from streamforge.store.arango.client import ArangoConnection  # noqa: E402
from streamforge.store.arango.names import document_key  # noqa: E402
from streamforge.store.base import Schema, open_store  # noqa: E402
from streamforge.store.schemas import CANDLES, EDGES  # noqa: E402

REVISED = Schema(columns=CANDLES.columns | {"revision": "int"}, key=CANDLES.key)
PERMANENT = [1208, 1210, 1216, 1221, 1222, 1226, 1233, 1620]
PASSING = [429, 503, 1495, 1496, 21004]


@pytest.fixture(scope="module")
def server():
    with standin() as running:
        yield running


@pytest.fixture
def calm(server):
    "Without the faults of other tests."
    yield server
    assert not server.arango.unsynced  # a connector commits offsets after a write and relies on it
    server.arango.faults, server.arango.spoiled, server.arango.mismatch, server.arango.users["lab"] = (
        [],
        [],
        412,
        "secret",
    )
    server.arango.version = "3.12.4"


@pytest.fixture
async def store(calm):
    async with open_store(calm.url(timeout="5")) as opened:
        yield opened


def candle(moment: int, **more) -> dict:
    return {"symbol": "BTCUSDT", "interval": "1h", "open_time": moment, "close": 0.5} | more


def edge(moment: int, source: str = "BTCUSDT") -> dict:
    return {"graph": "g", "source": source, "target": "ETHUSDT", "open_time": moment, "weight": 0.5}


@pytest.mark.parametrize("number", PERMANENT)
@pytest.mark.parametrize("form", ["rows", "revised rows"])
async def test_one_document_that_is_refused_takes_its_batch_with_it(store, calm, number, form):
    name = f"refused-{number}-{form[:4]}"
    revision = {} if form == "rows" else {"revision": 1}
    await store.ensure(name, REVISED)
    await store.upsert(name, [candle(-1, **revision)])
    calm.arango.spoiled = [(lambda where, row: where == name and row["open_time"] == 70, number)]
    with pytest.raises(BadData) as refused:
        await store.upsert(name, [candle(k, close=1.5, **revision) for k in range(-1, 100)])
    assert f"number {number}" in str(refused.value) and refused.value.field
    assert form == "rows" or "BTCUSDT:1h:70" in str(refused.value)  # the row is named where the server tells
    assert (await store.read(name))["close"].to_pylist() == [0.5]
    with pytest.raises(BadData, match="the row binance:BTCUSDT:1h:70"):
        await store.upsert(name, [candle(70, **revision)])


@pytest.mark.parametrize("what", [*PASSING, "drop", "html"])
async def test_what_passes_is_for_the_caller_to_try_again(store, calm, what):
    name = f"passing-{what}"
    await store.ensure(name, CANDLES)
    calm.arango.faults = [Fault(what, on="import|cursor", times=2)]
    with pytest.raises(StoreError):
        await store.upsert(name, [candle(1)])
    with pytest.raises(StoreError):
        await store.read(name)
    assert await store.upsert(name, [candle(1)]) == 1 and await store.count(name) == 1


async def test_a_write_that_another_crossed_is_repeated_at_once(store, calm):
    await store.ensure("crossed", CANDLES)
    calm.arango.faults = [Fault(1200, on="import", times=4)]
    assert await store.upsert("crossed", [candle(1)]) == 1
    calm.arango.faults = [Fault(1200, on="import")]
    with pytest.raises(StoreError, match="number 1200"):
        await store.upsert("crossed", [candle(1)])


async def test_a_lost_answer_does_no_harm_to_rows(store, calm):
    "It was written, and the answer was lost: the batch is sent again."
    await store.ensure("lost", CANDLES)
    calm.arango.faults = [Fault("lost", on="import", times=1)]
    with pytest.raises(StoreError):
        await store.upsert("lost", [candle(k) for k in range(10)])
    assert await store.upsert("lost", [candle(k) for k in range(10)]) == 10 and await store.count("lost") == 10


async def test_a_lost_answer_to_a_document_is_a_conflict_and_never_a_second_write(store, calm):
    calm.arango.faults = [Fault("lost", on="POST .*/document", times=1)]
    with pytest.raises(StoreError):
        await store.put("lost", "one", {"n": 1}, version=0)
    with pytest.raises(Conflict):
        await store.put("lost", "one", {"n": 1}, version=0)
    assert (await store.get("lost", "one")).version == 1


async def test_an_older_revision_never_goes_over_a_newer_one(store, calm):
    "A worker that was thought dead writes an older revision late."
    await store.ensure("revised", REVISED)
    for close, revision in ((0.5, None), (2.0, 2), (1.0, 1), (2.5, 2)):
        await store.upsert("revised", [candle(1, close=close, revision=revision)])
    assert (await store.read("revised")).select(["close", "revision"]).to_pylist() == [{"close": 2.0, "revision": 2}]
    await store.upsert("revised", [candle(1, close=3.0, revision=3), candle(2, close=1.0, revision=1)])
    assert (await store.read("revised"))["close"].to_pylist() == [3.0, 1.0]


async def test_a_transaction_that_dies_leaves_nothing(store, calm):
    await store.ensure("dies", REVISED)
    calm.arango.faults = [Fault(503, on="(PUT|DELETE) .*/transaction", times=2)]
    with pytest.raises(StoreError):
        await store.upsert("dies", [candle(1, revision=1)])
    (left,) = calm.arango.databases["lab"].transactions
    with pytest.raises(StoreError, match="number 1200"):  # its documents are held until the server gives it up
        await store.upsert("dies", [candle(1, revision=1)])
    for undone in reversed(calm.arango.databases["lab"].transactions[left]):
        undone[0].place(undone[1], undone[2])
    calm.arango.databases["lab"].transactions.clear()
    calm.arango.databases["lab"].collections["dies"].held.clear()
    assert await store.count("dies") == 0 and await store.upsert("dies", [candle(1, revision=1)]) == 1


async def test_more_than_fits_one_request(store, calm):
    await store.ensure("large", Schema(columns={"at": "int", "text": "text"}, key=("at",)))
    with pytest.raises(BadData, match="smaller batches"):
        await store.upsert("large", [{"at": k, "text": "x" * 1_000_000} for k in range(101)])
    assert await store.count("large") == 0


async def test_edges_are_a_named_graph(store, calm):
    await store.ensure("relations", EDGES)
    await store.upsert("relations", [edge(1), edge(1, "ADA/USDT")])
    lab = calm.arango.databases["lab"]
    assert lab.collections["relations"].edge and set(lab.collections["sf_markets"].documents) >= {
        "BTCUSDT",
        "ETHUSDT",
        "ADA$2FUSDT",
    }
    (graph,) = [graph for graph in lab.graphs.values() if graph["name"] == "relations-graph"]
    assert graph["edgeDefinitions"] == [{"collection": "relations", "from": ["sf_markets"], "to": ["sf_markets"]}]
    row = lab.collections["relations"].documents[document_key(["g", "ADA/USDT", "ETHUSDT", 1])]
    assert (row["_from"], row["_to"]) == ("sf_markets/ADA$2FUSDT", "sf_markets/ETHUSDT")


async def test_an_index_on_the_natural_key(store, calm):
    await store.ensure("indexed", CANDLES)
    assert calm.arango.databases["lab"].collections["indexed"].indexes == [CANDLES.key]


async def test_a_long_history_comes_in_bounded_batches(store, calm):
    await store.ensure("long", CANDLES)
    await store.upsert("long", [candle(k) for k in range(25_000)])
    before = len(calm.arango.requests)
    assert (await store.read("long"))["open_time"].to_pylist() == list(range(25_000))
    assert (
        len([request for request in calm.arango.requests[before:] if "/cursor" in request]) == 3
        and not calm.arango.databases["lab"].cursors
    )
    calm.arango.faults = [Fault(1600, on=r"cursor/\d+", times=1)]  # a reader that is too slow finds it gone
    with pytest.raises(StoreError, match="number 1600"):
        await store.read("long")
    assert await store.count("long") == 25_000


async def test_a_cursor_that_is_not_read_to_its_end_is_deleted(store, calm):
    name = "half-read"
    await store.ensure(name, CANDLES)
    await store.upsert(name, [candle(moment) for moment in range(25_000)])  # three batches
    calm.arango.faults = [Fault(503, on=r"cursor/\d+", times=1)]  # the second
    with pytest.raises(StoreError):
        await store.read(name)
    assert not calm.arango.databases["lab"].cursors
    collection = next(one for one in calm.arango.databases["lab"].collections.values() if "half-read" in one.name)
    collection.documents[next(iter(collection.documents))]["close"] = "much"  # in the first
    with pytest.raises(StoreError, match="much"):
        await store.read(name)
    assert not calm.arango.databases["lab"].cursors


async def test_the_stand_in_understands_only_the_queries_of_the_store(calm):
    connection = ArangoConnection(calm.url())
    with pytest.raises(StoreError, match="number 1501"):
        await connection.run(lambda database: database.aql.execute("FOR d IN sf_documents REMOVE d IN sf_documents"))
    connection.close()


@pytest.mark.parametrize("status", [412, 409])
async def test_a_revision_that_does_not_match(calm, status):
    "Versions of ArangoDB say it with either status."
    calm.arango.mismatch, id = status, f"doc-{status}"
    async with open_store(calm.url()) as one, open_store(calm.url()) as two:
        await one.put("raced", id, {}, version=0)
        for version in range(1, 6):
            results = await asyncio.gather(
                *((one, two)[k % 2].put("raced", id, {"k": k}, version=version) for k in range(8)),
                return_exceptions=True,
            )
            assert (
                sum(result == version + 1 for result in results) == 1
                and sum(isinstance(result, Conflict) for result in results) == 7
            )
        await asyncio.gather(*((one, two)[k % 2].put("raced", id, {"k": k}) for k in range(4)))
        assert (await one.get("raced", id)).version == 10


async def test_a_changed_password_is_read_again(calm, tmp_path):
    (secret := tmp_path / "password").write_text("secret\n")
    url = f"arangodb://lab@127.0.0.1:{calm.port}/lab?password_file={secret}"
    async with open_store(url) as store:
        calm.arango.users["lab"] = "another"
        with pytest.raises(Refused, match="password"):
            await store.put("who", "one", {})
        secret.write_text("another\n")
        assert await store.put("who", "one", {}) > 0


@pytest.mark.parametrize(
    ("password", "rest", "kind"),
    [("wrong-pass", "lab", Refused), ("secret", "nowhere", BadUrl), ("secret", "lab?tls=1", BadUrl)],
    ids=["password", "database", "no TLS there"],
)
async def test_wrong_credentials_raise_named_errors(calm, password, rest, kind):
    with pytest.raises(kind) as caught:
        async with open_store(f"arangodb://lab:{password}@127.0.0.1:{calm.port}/{rest}"):
            pass
    assert password not in str(caught.value)


async def test_a_server_that_is_too_old(calm):
    calm.arango.version = "3.11.8"
    with pytest.raises(BadConfig, match=r"3\.12.*3\.11"):
        async with open_store(calm.url()):
            pass


@pytest.fixture
def certificate(tmp_path) -> tuple[str, str]:
    "Files with a key and the certificate that it signed for itself."
    key, ca = str(tmp_path / "key"), str(tmp_path / "ca")
    options = ["-subj", "/CN=lab", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", ca]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *options],
        check=True,
        capture_output=True,
    )
    return key, ca


async def test_only_a_known_certificate_is_trusted(certificate):
    with standin(tls=certificate) as server:
        async with open_store(server.url(ca=certificate[1])) as store:
            assert await store.put("tls", "one", {}) == 1
        for options, kind, text in (
            ({"tls": "1"}, Refused, "known authority"),
            ({"ca": "/nowhere"}, BadUrl, "/nowhere"),
            ({}, StoreError, "to accept this"),
        ):
            with pytest.raises(kind, match=text):
                async with open_store(server.url(**options)):
                    pass


async def test_every_wait_has_an_end(calm):
    async with open_store(calm.url(timeout="0.5")) as store:
        calm.arango.faults = [Fault("slow", on="document", times=1, seconds=60)]
        began = time.monotonic()
        with pytest.raises(StoreError):
            await store.get("slow", "one")
        assert time.monotonic() - began < 30
        assert await store.get("slow", "one") is None


async def test_down_and_back(calm):
    async with open_store(calm.url()) as store:
        await store.put("away", "one", {})
        await asyncio.to_thread(calm.down)
        with pytest.raises(StoreError):
            await store.get("away", "one")
        calm.up()
        assert (await store.get("away", "one")).version == 1


CONNECT = {"TYPE": "api_candles_1h", "UPSTREAM": "loader-producer__a1b2c3", "INDICATORS": "none"}


async def test_a_connector_puts_aside_what_is_refused_and_nothing_else(calm, tmp_path):
    rows = sample_candles(time_range="2021-05-01:2021-05-10")
    victims = {rows[k].open_time for k in (30, 31, 200)}
    calm.arango.spoiled = [
        (lambda name, row: name == "candles_1h" and row["open_time"] in victims and row["symbol"] == "BTCUSDT", 1620)
    ]
    calm.arango.faults = [Fault(503, on="import", times=5, chance=0.3), Fault(1200, on="import", times=5, chance=0.5)]
    lab = WorkerLab(tmp_path, {"STREAMFORGE_STORE_URL": calm.url()})
    await lab.fill(stream_with_nonsense(rows))
    assert await lab.run("arango-connector", **CONNECT) == 0
    contents = await lab.contents()
    assert set(contents["candles_1h"]) == {("binance", row.symbol, "1h", row.open_time) for row in rows} - {
        ("binance", "BTCUSDT", "1h", victim) for victim in victims
    }
    refused = [
        record for record in await lab.records(f"{lab.data}-dlq") if dict(record.headers)["sf.dlq.stage"] == b"write"
    ]
    assert {json.loads(record.value)["open_time"] for record in refused} == victims
    assert all(b"number 1620" in dict(record.headers)["sf.dlq.error"] for record in refused)


@pytest.mark.parametrize(("password", "database", "code"), [("wrong", "lab", 78), ("secret", "nowhere", 64)])
async def test_a_connector_without_access_reports_it(calm, tmp_path, password, database, code):
    lab = WorkerLab(tmp_path, {"STREAMFORGE_STORE_URL": f"arangodb://lab:{password}@127.0.0.1:{calm.port}/{database}"})
    await lab.fill([])
    assert await lab.run("arango-connector", **CONNECT) == code
    (event,) = await lab.events("error")
    assert event.message and "wrong" not in event.message
