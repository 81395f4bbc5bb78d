"What a connector survives of an ArangoDB server, or of what stands in for one."

import asyncio
import json

from drill import CONNECT, Lab, drill
from standins.arango import Fault, Running, standin
from worker_lab import WorkerLab, until

SMALL = CONNECT | {"BATCH_ROWS": "20"}
STORMS = {
    "503, 429, write conflict": [
        Fault(503, chance=0.15),
        Fault(429, chance=0.15),
        Fault(1200, on="POST .*/(import|document)", chance=0.5),
    ],
    "queue, shards": [
        Fault(21004, chance=0.15),
        Fault(1495, on="POST", chance=0.1),
        Fault(1496, on="POST", chance=0.1),
    ],
    "lost answers": [
        Fault("drop", chance=0.1),
        Fault("lost", on="POST .*/(import|document)", chance=0.2),
        Fault("html", chance=0.05),
    ],
    "write conflicts": [Fault(1200, on="POST .*/(import|document)", chance=0.9)],
}


async def life(workers: WorkerLab, server: Running, lab: Lab) -> asyncio.subprocess.Process:
    "A connector in the middle of its work."
    await workers.fill(await lab.stream())
    worker = await workers.start("arango-connector", **SMALL)
    await until(lambda: workers.length(f"{workers.data}-enriched"))
    return worker


@drill("database 503, 429, write conflict", on=("arangodb-standin",), runs=2 * len(STORMS), short=1)
async def storms(lab: Lab, runs: int) -> None:
    "Retried with jitter; no dead letters but the true ones, every row once."
    expected = await lab.expected()
    for n in range(runs):
        name = list(STORMS)[n % len(STORMS)]
        with standin(n) as server:
            async with lab.workers(STREAMFORGE_STORE_URL=server.url()) as workers:
                worker = await life(workers, server, lab)
                server.arango.faults = [
                    Fault(storm.what, storm.on, storm.times, storm.chance) for storm in STORMS[name]
                ]
                before = len(server.arango.requests)
                await asyncio.wait({waiting := asyncio.ensure_future(worker.wait())}, timeout=8)
                met, server.arango.faults = len(server.arango.requests) - before, []
                code = await asyncio.wait_for(waiting, 120)
                lab.outcome.judge(expected, await workers.contents(), f"run {n} {name}")
                lab.outcome.check(
                    code == 0 and met > 5 and not await workers.events("error"),
                    f"run {n} {name}: code {code}, {met} requests in the storm",
                )


@drill("database slow, down, back (ArangoDB)", on=("arangodb-standin",), runs=2, short=1)
async def away(lab: Lab, runs: int) -> None:
    "Gone for some seconds, and slow when it comes back."
    expected = await lab.expected()
    for n in range(runs):
        with standin(n) as server:
            async with lab.workers(STREAMFORGE_STORE_URL=server.url()) as workers:
                worker = await life(workers, server, lab)
                await asyncio.to_thread(server.down)
                await asyncio.sleep(5)
                server.arango.faults = [Fault("slow", times=20, seconds=0.2)]
                server.up()
                code = await asyncio.wait_for(worker.wait(), 120)
                lab.outcome.judge(expected, await workers.contents(), f"run {n}")
                lab.outcome.check(code == 0 and not await workers.events("error"), f"run {n}: code {code}")


@drill("permanent database error", on=("arangodb-standin",), runs=4, short=1)
async def permanent(lab: Lab, runs: int) -> None:
    "The database refuses single candles for good: they alone are dead letters, their siblings are written."
    expected = await lab.expected()
    for n in range(runs):
        number = (1620, 1216, 1210, 1233)[n % 4]
        with standin(n) as server:
            async with lab.workers(STREAMFORGE_STORE_URL=server.url()) as workers:
                stream = await lab.stream()
                await workers.fill(stream)
                moments = sorted({key[-1] for key in expected["candles_1h"]})
                victims = {moments[number] for number in (100, 101, 300)}
                server.arango.spoiled = [
                    (lambda name, row, victims=victims: name == "candles_1h" and row["open_time"] in victims, number)
                ]
                code = await workers.run("arango-connector", **CONNECT)
                rows = {key: row for key, row in expected["candles_1h"].items() if key[-1] not in victims}
                lab.outcome.judge({"candles_1h": rows}, await workers.contents(), f"run {n} {number}")
                refused = [
                    record
                    for record in await workers.records(f"{workers.data}-dlq")
                    if dict(record.headers).get("sf.dlq.stage") == b"write"
                ]
                dead = {json.loads(record.value)["open_time"] for record in refused}
                explained = all(
                    f"number {number}" in dict(record.headers)["sf.dlq.error"].decode() for record in refused
                )
                lab.outcome.check(
                    code == 0 and dead == victims and explained,
                    f"run {n} {number}: code {code}, {len(refused)} refused, the number reported: {explained}",
                )
