"""What a connector survives when its broker dies."""

import asyncio
import os
import subprocess
import time
from pathlib import Path

from drill import CONNECT, Lab, drill
from servers import free_port
from worker_lab import until

SCRIPT = Path(__file__).parents[2] / "deploy" / "dev" / "servers" / "kafka.sh"
CACHE = Path(os.environ.get("STREAMFORGE_SERVERS_CACHE", Path.home() / ".cache/streamforge/servers"))


def kafka_sh(home: Path, port: int, verb: str) -> None:
    "A broker of our own: starting, stopping and killing it disturbs no other test."
    env = os.environ | {
        "KAFKA_HOME": str(home),
        "KAFKA_LIBS": str(CACHE / "kafka"),
        "KAFKA_PORT": str(port),
        "KAFKA_HEAP": "256m",
    }
    done = subprocess.run(["bash", str(SCRIPT), verb], env=env, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise RuntimeError(f"kafka.sh {verb} ended with {done.returncode}: {done.stdout[-500:]} {done.stderr[-1500:]}")


@drill("broker killed and restarted", on=("kafka+postgresql",), runs=6, short=1)
async def broker_killed(lab: Lab, runs: int) -> None:
    "No worker ends, and the first enriched candle comes within 15 s of its return."
    expected, port = await lab.expected(), free_port()
    home = lab.folder / "kafka"
    home.mkdir(parents=True, exist_ok=True)
    await asyncio.to_thread(kafka_sh, home, port, "start")
    try:
        for n in range(runs):
            async with lab.workers(STREAMFORGE_BUS_URL=f"kafka://127.0.0.1:{port}") as workers:
                await workers.fill(await lab.stream())
                worker = await workers.start("arango-connector", **CONNECT | {"BATCH_ROWS": "20"})
                await until(lambda: workers.length(f"{workers.data}-enriched"))
                os.kill(int((home / f"plain-{port}" / "pid").read_text()), 9)
                await asyncio.sleep(1 + 12 * n)  # away for as long
                await asyncio.to_thread(kafka_sh, home, port, "start")
                began, before = time.monotonic(), await workers.length(f"{workers.data}-enriched")

                async def goes_on(workers=workers, before=before, worker=worker) -> bool:
                    return worker.returncode is not None or await workers.length(f"{workers.data}-enriched") > before

                await until(goes_on, 60)
                back, code = time.monotonic() - began, await asyncio.wait_for(worker.wait(), 120)
                lab.outcome.judge(expected, await workers.contents(), f"run {n}")
                lab.outcome.check(
                    code == 0 and back < 15 and not await workers.events("error"),
                    f"run {n}: code {code}, went on after {back:.1f} s",
                )
    finally:
        await asyncio.to_thread(kafka_sh, home, port, "stop")
