"""`streamforge data` in this process: exit codes, and what is said when the queue-manager's workflow does not finish."""

import asyncio

import pytest
from typer.testing import CliRunner

from streamforge.cli.data import repair
from streamforge.cli.data.commands import data_app
from streamforge.core.errors import BadConfig, TryAgain
from streamforge.core.samples import candles
from streamforge.exchange.simulator.app import Simulator, serve_app
from streamforge.ledger.entries import LedgerKey, update_entry
from streamforge.ledger.ranges import Ranges
from streamforge.messages.records import candles_of
from streamforge.store.base import open_store
from streamforge.store.schemas import CANDLES

HOUR = 3_600_000


def test_verify_ends_with_65_where_the_exchange_may_have_more(tmp_path):
    async def ask_for_three_hours() -> None:
        async with open_store(f"sqlite:///{tmp_path}/store.db") as store:
            await store.ensure("candles_1h", CANDLES)
            key = LedgerKey("candles_1h", "BTCUSDT", "candles", "1h")
            await update_entry(store, key, lambda entry: entry.note("asked", Ranges.of((0, 3 * HOUR))))

    asyncio.run(ask_for_three_hours())
    result = CliRunner().invoke(data_app, ["verify", "--home", str(tmp_path), "--json"])
    assert result.exit_code == 65, result.output


class StoppedWorkflow:
    "A client of a queue-manager whose workflows are stopped before they finish."

    def __init__(self, url: str):
        self.url = url

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exc):
        pass

    async def start(self, **request):
        return {"queue_id": request["queue_id"]}

    async def wait(self, queue_id, timeout):
        return {"status": "stopped", "message": "by hand"}


async def test_a_repair_that_did_not_finish_is_no_success(monkeypatch):
    monkeypatch.setattr(repair, "Client", StoppedWorkflow)
    with pytest.raises(TryAgain, match="expected 'repair-1' to finish, found it stopped: by hand"):
        await repair._ask_manager("http://127.0.0.1:1", "repair-1", [])


async def test_a_repair_with_a_wrong_setting_ends_with_its_error(tmp_path, monkeypatch):
    columns = {name: column.to_numpy() for name, column in candles("BTCUSDT", "2021-05-01:2021-05-02").items()}
    rows = candles_of(columns, "BTCUSDT", "1h", HOUR)
    async with serve_app(Simulator.open()) as url, open_store(f"sqlite:///{tmp_path}/store.db") as store:
        monkeypatch.setenv("BINANCE_API_URL", url)  # which has no archive
        monkeypatch.delenv("BINANCE_ARCHIVE_URL", raising=False)
        await store.ensure("candles_1h", CANDLES)
        await store.upsert("candles_1h", rows[:10] + rows[13:])
        words = ["repair", "--home", str(tmp_path), "--source", "archive"]
        result = await asyncio.to_thread(CliRunner().invoke, data_app, words)
    assert isinstance(result.exception, BadConfig), result.output
    assert "loader-producer of BTCUSDT ended with 64" in str(result.exception)
    assert "correct the setting" in str(result.exception)
    assert result.output.split("\n")[1].split()[-1] == "3", "what became of the market comes first"
