"""A store that is suddenly empty, while the bus remembers earlier work, is told of and not taken for the first day."""

import asyncio
import json

from structlog.testing import capture_logs
from typer.testing import CliRunner

from streamforge.bus.base import open_bus
from streamforge.cli.data import transfer  # noqa: F401  (registers `list`)
from streamforge.cli.data.commands import data_app
from streamforge.core.metrics import Metrics
from streamforge.jobs.base import open_jobs
from streamforge.ledger.entries import LedgerKey, update_entry
from streamforge.ledger.ranges import Ranges
from streamforge.manager.reconcile import Manager, World
from streamforge.store.base import open_store
from streamforge.workers.runtime.worker import serve

HOUR = 3_600_000


async def manage(home) -> list[str]:
    "Start and end a queue-manager; returns the warnings of its log."
    with capture_logs() as lines:
        async with (
            open_bus(f"embedded://{home}/bus") as bus,
            open_store(f"sqlite:///{home}/store.db") as store,
            open_jobs(f"process://?slots=1&logs={home}/logs", {}) as jobs,
            Manager(store, World(bus=bus, jobs=jobs, metrics=Metrics())),
        ):
            pass
    return [line["event"] for line in lines if line["log_level"] == "warning"]


async def work(home) -> None:
    "A worker reports on the bus (that its settings are wrong), and a market is noted in the ledger."
    env = {"QUEUE_ID": "q", "TELEMETRY_PRODUCER_ID": "t", "STREAMFORGE_HOME": str(home)}
    assert await serve("loader-producer", env) == 64
    async with open_store(f"sqlite:///{home}/store.db") as store:
        key = LedgerKey("candles_1h", "BTCUSDT", "candles", "1h")
        await update_entry(store, key, lambda entry: entry.note("asked", Ranges.of((0, HOUR))))


async def test_a_manager_warns_of_a_store_that_was_lost(tmp_path):
    assert "store is empty" not in await manage(tmp_path)
    await work(tmp_path)
    assert "store is empty" not in await manage(tmp_path)
    for file in tmp_path.glob("store.db*"):
        file.unlink()
    assert "store is empty" in await manage(tmp_path)


def test_data_commands_warn_of_a_store_that_was_lost(tmp_path):
    def run(command: str):
        return CliRunner().invoke(data_app, [command, "--home", str(tmp_path), "--json"])

    for command in ("list", "verify"):
        assert (run(command).stderr, json.loads(run(command).stdout)) == ("", [])
    assert not (tmp_path / "bus").exists()
    asyncio.run(work(tmp_path))
    assert run("list").stderr == run("verify").stderr == ""
    for file in tmp_path.glob("store.db*"):
        file.unlink()
    for command in ("list", "verify"):
        result = run(command)
        assert "warning: expected the store of earlier work, found an empty one" in result.stderr, result.output
        assert json.loads(result.stdout) == []
