"""The store on a real PostgreSQL when something is wrong: refusals that say so, lost and stalled connections,
nothing half written."""

import asyncio
import json
import secrets
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from servers import need  # noqa: E402

from streamforge.core.errors import BadData, BadUrl, Refused, StoreError  # noqa: E402
from streamforge.core.urls import parse_url  # noqa: E402
from streamforge.store.base import open_store  # noqa: E402
from streamforge.store.schemas import EDGES  # noqa: E402
from streamforge.store.sql.postgresql import Postgresql  # noqa: E402

OPTIONS = {"timeout": "", "sslmode": "", "ca": ""}
DEADLINE = 60  # seconds; what has no end of its own would wait for ever


@pytest.fixture
def url() -> str:
    return need("postgresql")


@pytest.fixture
def fresh() -> str:
    return f"t{secrets.token_hex(4)}"


def edge(moment: int, weight: float = 0.5, **more) -> dict:
    return {"graph": "g", "source": "BTCUSDT", "target": "ETHUSDT", "open_time": moment, "weight": weight} | more


def administer(url: str, *statements: str) -> list[dict]:
    "Statements beside the store; the rows of the last one."
    connection = Postgresql(url).connect()
    try:
        return [connection.query(statement) for statement in statements][-1].to_pylist()
    finally:
        connection.close()


async def refused(url: str, kind: type[Exception]) -> str:
    with pytest.raises(kind) as error:
        async with asyncio.timeout(DEADLINE), open_store(url):
            pass
    assert type(error.value) is kind
    return str(error.value)


async def test_a_refused_connection_names_the_reason(url, tmp_path):
    wrong = tmp_path / "password"
    wrong.write_text("not-the-password")
    host = parse_url(url, OPTIONS).hosts[0]
    message = await refused(f"postgresql://sf@{host}/streamforge?password_file={wrong}", Refused)
    assert "not-the-password" not in message and "password" in message
    await refused(url.replace("/streamforge?", "/nobody_made_this?"), BadUrl)
    await refused(f"{url}&sslmode=verify-full", BadUrl)  # this server has no TLS
    await refused(url.replace(host, "127.0.0.1:1"), StoreError)


async def test_a_right_that_is_missing(url, fresh, tmp_path):
    "A user who may connect but not create, and then not write."
    password = tmp_path / "password"
    password.write_text(secrets.token_hex(8))
    host = parse_url(url, OPTIONS).hosts[0]
    async with open_store(url) as store:
        await store.ensure(fresh, EDGES)
    user = f"u{fresh}"
    administer(url, f"CREATE ROLE {user} LOGIN PASSWORD '{password.read_text()}'")
    try:
        await refused(f"postgresql://{user}@{host}/streamforge?password_file={password}", Refused)
        administer(
            url, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {user}", f"GRANT CREATE ON SCHEMA public TO {user}"
        )
        async with open_store(f"postgresql://{user}@{host}/streamforge?password_file={password}") as store:
            assert await store.count(fresh) == 0
            with pytest.raises(Refused):
                await store.upsert(fresh, [edge(1)])
    finally:
        administer(url, f"DROP OWNED BY {user}", f"DROP ROLE {user}")


async def test_the_password_is_read_again_at_each_connection(url, fresh, tmp_path):
    host, password, user = parse_url(url, OPTIONS).hosts[0], tmp_path / "password", f"u{fresh}"
    password.write_text("first")
    administer(url, f"CREATE ROLE {user} LOGIN SUPERUSER PASSWORD 'first'")
    try:
        async with open_store(f"postgresql://{user}@{host}/streamforge?password_file={password}") as store:
            await store.ensure(fresh, EDGES)
            administer(
                url,
                f"ALTER ROLE {user} PASSWORD 'second'",
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{user}'",
            )
            password.write_text("second\n")
            assert await store.upsert(fresh, [edge(1)]) == 1
    finally:
        administer(url, f"ALTER TABLE {fresh} OWNER TO CURRENT_USER", f"DROP OWNED BY {user}", f"DROP ROLE {user}")


async def test_connections_that_the_server_ended_are_replaced_unnoticed(url, fresh):
    async with open_store(url) as store:
        await store.ensure(fresh, EDGES)
        for generation in range(3):
            await asyncio.gather(
                *(store.upsert(fresh, [edge(k, generation)]) for k in range(8)), *(store.count(fresh) for _ in range(8))
            )
            pids = await asyncio.gather(
                *(store._reading.run(_pid) for _ in range(4)), *(store._writing.run(_pid, "write") for _ in range(4))
            )
            administer(
                url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid IN "
                f"({', '.join(map(str, set(pids)))})",
            )
        assert await store.count(fresh) == 8 and set((await store.read(fresh))["weight"].to_pylist()) == {2.0}


def _pid(connection) -> int:
    return connection.query("SELECT pg_backend_pid() AS pid")["pid"][0].as_py()


async def test_values_that_the_server_refuses_cost_their_batch_only(url, fresh):
    "A key too long for an index is nothing that a check of types can see."
    async with open_store(url) as store:
        await store.ensure(fresh, EDGES)
        long = "".join(secrets.token_hex(8) for _ in range(2_000))
        results = await asyncio.gather(
            store.upsert(fresh, [edge(1)]),
            store.upsert(fresh, [edge(2), edge(3, graph=long)]),
            store.upsert(fresh, [edge(4)]),
            return_exceptions=True,
        )
        assert results[0] == results[2] == 1 and isinstance(results[1], BadData)
        with pytest.raises(BadData):
            await store.upsert(fresh, [edge(5, target="a\0b")])
        assert (await store.read(fresh))["open_time"].to_pylist() == [1, 4]


async def test_a_lock_that_is_held_too_long(url, fresh):
    "Another connection holds the table: a named error in time, the event loop goes on, and the batch is not there."
    async with open_store(f"{url}&timeout=1") as store:
        await store.ensure(fresh, EDGES)
        holder = Postgresql(url).connect()
        holder.run("BEGIN")
        holder.run(f"LOCK TABLE {fresh}")
        with pytest.raises(StoreError):
            await asyncio.wait_for(store.upsert(fresh, [edge(1)]), DEADLINE)
        holder.run("ROLLBACK")
        holder.close()
        assert await store.count(fresh) == 0 and await store.upsert(fresh, [edge(1)]) == 1


async def test_deadlocks_end_well(url, fresh):
    "Many writers, the same keys in every order, several batches at once."
    async with open_store(url) as store, open_store(url) as other:
        await store.ensure(fresh, EDGES)
        batches = [[edge(k, float(n)) for k in (range(400) if n % 2 else reversed(range(400)))] for n in range(16)]
        await asyncio.gather(*((store, other)[n % 2].upsert(fresh, batch) for n, batch in enumerate(batches)))
        assert len(set((await store.read(fresh))["weight"].to_pylist())) == 1  # the last one's, whole


MAKER = """
import asyncio, sys
from streamforge.store.base import Schema, open_store
from streamforge.store.schemas import EDGES
async def main(url, names):
    for number, name in enumerate(names):
        async with open_store(url) as store:
            await store.ensure(name, Schema(columns=EDGES.columns | {f"by_{sys.argv[2]}": "int"}, key=EDGES.key))
asyncio.run(main(sys.argv[1], sys.argv[3:]))
"""


def maker(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", MAKER, *arguments])


async def test_two_processes_make_the_same_collections_at_once(url, fresh):
    names = [f"{fresh}_{k}" for k in range(10)]
    makers = [maker(url, me, *names) for me in "ab"]
    assert [await asyncio.to_thread(maker.wait, 60) for maker in makers] == [0, 0]
    async with open_store(url) as store:
        schemas = await store.collections()
    assert all(schemas[name].columns.keys() == EDGES.columns.keys() | {"by_a", "by_b"} for name in names)


def toxi(api: str, method: str, path: str, body: dict | None = None) -> None:
    asked = urllib.request.Request(
        f"{api}{path}", json.dumps(body).encode() if body else None, {"Content-Type": "application/json"}, method=method
    )
    urllib.request.urlopen(asked, timeout=5).close()


@pytest.fixture
def proxy(url):
    "A way to the server that can be spoilt: API, name and URL."
    api, name = need("toxiproxy"), f"postgresql-{secrets.token_hex(3)}"
    body = {"name": name, "listen": "127.0.0.1:0", "upstream": parse_url(url, OPTIONS).hosts[0], "enabled": True}
    toxi(api, "POST", "/proxies", body)
    with urllib.request.urlopen(f"{api}/proxies/{name}", timeout=5) as answer:
        listens = json.load(answer)["listen"]
    yield api, name, url.replace(parse_url(url, OPTIONS).hosts[0], listens)
    toxi(api, "DELETE", f"/proxies/{name}")


async def test_a_server_that_goes_away_and_comes_back(proxy, fresh):
    api, name, url = proxy
    async with open_store(url) as store:
        await store.ensure(fresh, EDGES)
        await store.upsert(fresh, [edge(1)])
        toxi(api, "POST", f"/proxies/{name}", {"enabled": False})
        for word in (store.upsert(fresh, [edge(2)]), store.count(fresh), store.put(fresh, "one", {})):
            with pytest.raises(StoreError):
                await word
        toxi(api, "POST", f"/proxies/{name}", {"enabled": True})
        assert (
            await store.upsert(fresh, [edge(2)]) == 1
            and await store.count(fresh) == 2
            and await store.put(fresh, "one", {}) == 1
        )


@pytest.mark.slow
async def test_a_server_that_takes_and_never_answers(proxy, fresh):
    "The caller gets an error in time, the event loop never stops, and what hung is not written later."
    api, name, url = proxy
    async with open_store(f"{url}&timeout=1") as store:
        await store.ensure(fresh, EDGES)
        toxi(
            api,
            "POST",
            f"/proxies/{name}/toxics",
            {"name": "stall", "type": "timeout", "stream": "downstream", "attributes": {"timeout": 0}},
        )
        began, ticks = time.monotonic(), 0
        stuck = asyncio.create_task(store.upsert(fresh, [edge(1)]))
        while not stuck.done():
            await asyncio.sleep(0.05)
            ticks += 1
        with pytest.raises(StoreError):
            stuck.result()
        assert time.monotonic() - began < DEADLINE and ticks > 20
        toxi(api, "DELETE", f"/proxies/{name}/toxics/stall")
        assert await store.upsert(fresh, [edge(2)]) == 1
        assert (await store.read(fresh))["open_time"].to_pylist() == [2]
