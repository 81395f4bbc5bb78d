"""What a connector survives."""

import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import time

from drill import CONNECT, Lab, drill, join_trainings
from servers import url_of
from toxiproxy import proxied
from worker_lab import until

from streamforge.bus.base import Message
from streamforge.core.errors import BadRecord
from streamforge.core.urls import parse_url

POINTS = ("before-write", "after-write", "after-publish", "after-dead-letter", "after-checkpoint", "after-commit")
SMALL = CONNECT | {"BATCH_ROWS": "20"}


@drill("worker killed (-9)", runs=100, short=6)
async def killed(lab: Lab, runs: int) -> None:
    "Half of them at named points, half at any moment; started again until it is done."
    expected, chance = await lab.expected(), random.Random(11)
    plans = [
        (n, POINTS[n // 2 % len(POINTS)] if n % 2 == 0 else "", chance.randrange(1, 6), chance.random())
        for n in range(runs)
    ]

    async def life(n: int, point: str, nth: int, moment: float) -> None:
        async with lab.workers() as workers:
            await workers.fill(await lab.stream())
            if point:
                code = await workers.run("arango-connector", FAILPOINT=f"{point}:{nth}", **CONNECT)
            else:
                worker, upto = await workers.start("arango-connector", **SMALL), int(moment * 1_300)

                async def far_enough() -> bool:
                    return worker.returncode is not None or await workers.length(f"{workers.data}-enriched") >= upto

                await until(far_enough)
                await asyncio.sleep(moment * 0.03)  # anywhere within a batch: here chance is the point
                if worker.returncode is None:
                    worker.kill()
                code = await worker.wait()
            again = await workers.run("arango-connector", **CONNECT)
            lab.outcome.judge(expected, await workers.contents(), f"run {n} {point or 'random'}")
            lab.outcome.check(code in (-signal.SIGKILL, 0) and again == 0, f"run {n}: ended with {code}, then {again}")

    await join_trainings([lambda p=p: life(*p) for p in plans])


@drill("SIGTERM mid-batch", runs=10, short=2)
async def terminated(lab: Lab, runs: int) -> None:
    "75 in time, one `interrupted`, nothing redelivered; after a `stop` command 0."
    expected = await lab.expected()

    async def life(n: int) -> None:
        async with lab.workers() as workers:
            await workers.fill(await lab.stream())
            worker = await workers.start("arango-connector", **SMALL)
            await until(lambda: workers.length(f"{workers.data}-enriched"))
            began = time.monotonic()
            await workers.command("stop") if n % 2 else worker.terminate()
            code = await asyncio.wait_for(worker.wait(), 120)
            lasted, before = time.monotonic() - began, await workers.length(f"{workers.data}-enriched")
            again = await workers.run("arango-connector", **CONNECT)
            contents = await workers.contents()
            lab.outcome.judge(expected, contents, f"run {n}")
            statuses = [event.status for event in await workers.events("interrupted", "error")]
            once = await workers.length(f"{workers.data}-enriched") == len(contents["stream"])
            good = code == (0 if n % 2 else 75) and lasted < 30 and statuses == ["interrupted"] and again == 0 and once
            lab.outcome.check(
                good,
                f"run {n}: code {code} after {lasted:.1f} s, events {statuses}, then {again}, nothing twice: "
                f"{once}, {before} before",
            )

    await join_trainings([lambda n=n: life(n) for n in range(runs)])


@drill("SIGSTOP, then CONT (a zombie)", runs=4, short=0)
async def frozen(lab: Lab, runs: int) -> None:
    """Frozen for longer than its group waits, while another works; a late commit is refused. Between two locks, and
    at random, where the other may have to wait for one."""
    expected = await lab.expected()
    for n in range(runs):
        async with lab.workers() as workers:
            await workers.fill(await lab.stream())
            mark = "&" if "?" in workers.places.bus_url else "?"
            workers.env["STREAMFORGE_BUS_URL"] = f"{workers.places.bus_url}{mark}session_timeout=6"
            zombie = await workers.start(
                "arango-connector", **SMALL | ({"FAILPOINT": f"after-publish:{1 + n}:stop"} if n % 2 else {})
            )
            await until(lambda: workers.length(f"{workers.data}-enriched"))
            if not n % 2:
                zombie.send_signal(signal.SIGSTOP)
            running = asyncio.create_task(
                workers.run(
                    "arango-connector", timeout=180, **CONNECT | {"TELEMETRY_PRODUCER_ID": "arango-connector__b"}
                )
            )
            await asyncio.sleep(60 if runs > 1 else 15)
            zombie.send_signal(signal.SIGCONT)
            other, code = await running, await asyncio.wait_for(zombie.wait(), 180)
            lab.outcome.judge(expected, await workers.contents(), f"run {n}")
            lab.outcome.check(other == 0 and code == 0, f"run {n}: other {other}, zombie {code}")


@drill("rebalance storm", runs=2, short=0)
async def storm(lab: Lab, runs: int) -> None:
    "Four workers of one group, one of which is stopped and started again every 2 to 5 seconds."
    expected, chance = await lab.expected(), random.Random(5)
    for n in range(runs):
        async with lab.workers() as workers:
            await workers.fill(await lab.stream(), partitions=8)
            tiny = CONNECT | {"BATCH_ROWS": "10"}
            connectors = [
                await workers.start("arango-connector", **tiny | {"TELEMETRY_PRODUCER_ID": f"arango-connector__{i}"})
                for i in range(4)
            ]
            for i in range(4):
                await asyncio.sleep(chance.uniform(2, 5))
                if connectors[i].returncode is None:
                    connectors[i].terminate() if i % 2 else connectors[i].kill()
                await connectors[i].wait()
                connectors[i] = await workers.start(
                    "arango-connector", **tiny | {"TELEMETRY_PRODUCER_ID": f"arango-connector__{i}"}
                )
            codes = [await asyncio.wait_for(worker.wait(), 240) for worker in connectors]
            contents = await workers.contents()
            dead = {(value,) for value in contents["dead"].values()}
            lab.outcome.judge(
                {k: v for k, v in expected.items() if k != "dead"},
                {k: v for k, v in contents.items() if k != "dead"},
                f"run {n}",
            )
            lab.outcome.check(
                codes == [0] * 4 and dead == {(value,) for value in expected["dead"].values()},
                f"run {n}: codes {codes}",
            )


@drill("duplicate and out-of-order records", runs=10, short=2)
async def shuffled(lab: Lab, runs: int) -> None:
    "Neighbours swapped and stretches sent again: the stored rows are those of the orderly stream."
    expected, stream = await lab.expected(), await lab.stream()

    async def life(n: int) -> None:
        chance, values = random.Random(n), list(stream)
        for at in range(0, len(values) - 40, 40):
            if chance.random() < 0.5:
                part = values[at : at + 8]
                chance.shuffle(part)
                values[at : at + 8] = part
            if chance.random() < 0.3:
                values[at + 20 : at + 20] = values[at : at + 20]
        async with lab.workers() as workers:
            await workers.fill(values)
            code = await workers.run("arango-connector", **CONNECT)
            contents = await workers.contents()
            rows = [name for name in expected if name.startswith("candles")]
            lab.outcome.judge({row: expected[row] for row in rows}, contents, f"run {n}")
            lab.outcome.check(code == 0, f"run {n}: code {code}")

    await join_trainings([lambda n=n: life(n) for n in range(runs)])


@drill("unreadable records", runs=4, short=1)
async def nonsense(lab: Lab, runs: int) -> None:
    """Broken JSON, NaN, invalid UTF-8, nothing, another schema, impossible prices: dead letters are exactly what
    was put in."""
    expected, stream = await lab.expected(), await lab.stream()
    for n in range(runs):
        async with lab.workers() as workers:
            await workers.fill(stream)
            code = await workers.run("arango-connector", **CONNECT | {"BATCH_ROWS": str((7, 50, 333, 5_000)[n % 4])})
            contents = await workers.contents()
            lab.outcome.judge(expected, contents, f"run {n}")
            (done,) = [
                event for event in await workers.events("finished") if event.producer.startswith("arango-connector")
            ]
            lab.outcome.check(
                code == 0 and done.extra["dead"] == len(contents["dead"]) > 0,
                f"run {n}: code {code}, reported {done.extra.get('dead')} dead",
            )


@drill("record of 0.9 MB, record of 1.1 MB", runs=1, short=1)
async def large(lab: Lab, runs: int) -> None:
    "The first passes the bus, the second is refused at the producer by name and nothing of its batch is sent."
    async with lab.workers() as workers, workers.bus() as bus:
        await bus.create_topic(workers.data)
        await bus.publish(workers.data, [Message(b"x" * 900_000, "A")])
        try:
            await bus.publish(workers.data, [Message(b"small", "A"), Message(b"x" * 1_100_000, "A")])
            refused = ""
        except BadRecord as error:
            refused = str(error)
        sizes = [len(record.value) for record in await workers.records(workers.data)]
        lab.outcome.runs, lab.outcome.exact = 1, 1
        lab.outcome.check(bool(refused) and sizes == [900_000], f"refused: {refused[:80]!r}; in the topic: {sizes}")


@drill("database slow, down, back", on=("kafka+postgresql",), runs=4, short=1, needs=("toxiproxy", "postgresql"))
async def database_away(lab: Lab, runs: int) -> None:
    "Retried with jitter, no dead letters but the true ones, every row once."
    expected = await lab.expected()
    for n in range(runs):
        async with lab.workers() as workers:
            here, _, options = workers.places.store_url.partition("?")
            server = here.split("@")[1].split("/")[0]
            async with proxied(url_of("toxiproxy"), server) as proxy:
                through = here.replace(server, f"127.0.0.1:{proxy.port}") + f"?{options}"
                await workers.fill(await lab.stream())
                worker = await workers.start("arango-connector", **SMALL | {"STREAMFORGE_STORE_URL": through})
                await until(lambda: workers.length(f"{workers.data}-enriched"))
                if n % 2 == 0:
                    await proxy.cut()
                    await asyncio.sleep(600 if n == 2 and runs > 3 else 8)  # ten minutes once, in the long form
                    await proxy.cut(False)
                else:
                    await proxy.poison("latency", latency=400, jitter=200)
                    await asyncio.sleep(8)
                    await proxy.cure()
                code = await asyncio.wait_for(worker.wait(), 120)
            lab.outcome.judge(expected, await workers.contents(), f"run {n}")
            lab.outcome.check(code == 0 and not await workers.events("error"), f"run {n}: code {code}")


@drill("database locked by another", on=("embedded",), runs=3, short=1)
async def database_locked(lab: Lab, runs: int) -> None:
    "Another connection holds SQLite's write lock for longer than the store waits."
    expected = await lab.expected()
    for n in range(runs):
        async with lab.workers() as workers:
            await workers.fill(await lab.stream())
            worker = await workers.start(
                "arango-connector", **SMALL | {"STREAMFORGE_STORE_URL": f"{workers.places.store_url}?timeout=0.5"}
            )
            await until(lambda: workers.length(f"{workers.data}-enriched"))
            other = sqlite3.connect(
                workers.places.store_url.removeprefix("sqlite:///"), isolation_level=None, timeout=30
            )
            other.execute("BEGIN IMMEDIATE")
            await asyncio.sleep(4)
            other.execute("ROLLBACK")
            other.close()
            code = await asyncio.wait_for(worker.wait(), 120)
            lab.outcome.judge(expected, await workers.contents(), f"run {n}")
            lab.outcome.check(code == 0, f"run {n}: code {code}")


@drill("permanent error of single rows", on=("kafka+postgresql",), runs=1, short=1)
async def one_bad_row(lab: Lab, runs: int) -> None:
    "The database refuses one candle for good: it alone is a dead letter, its siblings are written."

    expected = await lab.expected()
    async with lab.workers() as workers:
        stream = await lab.stream()
        await workers.fill(stream[:5])
        assert await workers.run("arango-connector", **CONNECT) == 0
        rows = (await workers.contents())["candles_1h"]
        victim = (
            json.loads(stream[700][1])["open_time"]
            if stream[700][1].startswith(b"{")
            else json.loads(stream[701][1])["open_time"]
        )
        forbid(workers, f"open_time <> {victim}")
        await workers.fill(
            stream[5:], producer="loader-producer__rest"
        )  # the first loader has reported its end already
        code = await workers.run("arango-connector", **CONNECT | {"UPSTREAM": "loader-producer__rest"})
        contents = await workers.contents()
        lab.outcome.runs = 1
        stored = {key for key in expected["candles_1h"] if key[-1] != victim}
        lab.outcome.lost = len(stored - contents["candles_1h"].keys())
        lab.outcome.duplicated = len(contents["candles_1h"].keys() - stored)
        lab.outcome.exact = int(lab.outcome.lost + lab.outcome.duplicated == 0)
        refused = [
            record
            for record in await workers.records(f"{workers.data}-dlq")
            if dict(record.headers).get("sf.dlq.stage") == b"write"
        ]
        lab.outcome.check(
            code == 0 and len(rows) > 0 and {json.loads(record.value)["open_time"] for record in refused} == {victim},
            f"code {code}, {len(refused)} refused",
        )


def forbid(workers, condition: str) -> None:
    "A constraint that the database enforces from now on, on the table of candles."
    address = parse_url(workers.places.store_url, {})
    host, port = address.hosts[0].split(":")
    find = "SELECT physical FROM sf_collections WHERE name = 'candles_1h'"
    base = [
        "psql",
        "-h",
        host,
        "-p",
        port,
        "-U",
        address.user,
        "-d",
        address.path,
        "-v",
        "ON_ERROR_STOP=1",
        "-At",
        "-c",
    ]
    env = os.environ | {"PGPASSWORD": address.password({}, "POSTGRES_PASSWORD")}
    table = subprocess.run([*base, find], env=env, check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run(
        [*base, f'ALTER TABLE "{table}" ADD CONSTRAINT drill CHECK ({condition}) NOT VALID'],
        env=env,
        check=True,
        capture_output=True,
    )
