"""Every place where a symbol enters: one spelling is kept, and what cannot be a symbol is refused in the user's words."""

import asyncio

import msgspec
import pytest
from typer.testing import CliRunner

from streamforge.cli.backtest import BacktestOptions, run_backtest
from streamforge.cli.main import app
from streamforge.cli.worker import worker_environment_of
from streamforge.core.errors import BadConfig, BadInterval, BadName, BadSetting
from streamforge.core.settings import read_settings
from streamforge.ledger.entries import LedgerKey, update_entry
from streamforge.ledger.ranges import Ranges
from streamforge.manager.plan import plan_workflow
from streamforge.store.base import open_store
from streamforge.store.schemas import CANDLES

HOUR, DAY = 3_600_000, 1_619_827_200_000
SPELLINGS = {"btc/usdt": "BTCUSDT", "BTC-USDT": "BTCUSDT", "btcusdt": "BTCUSDT", "币安人生usdt": "币安人生USDT"}
GARBAGE = ("../x", ";drop", "kraken:btc/usd", "BTC/USDT:USDT", "BTC-USDT-SWAP", "BTC/", "BTC/-")
WORKER = {"QUEUE_ID": "wf-1", "TELEMETRY_PRODUCER_ID": "loader-producer__a1b2c3"}
SHORT = {"type": "api_candles_1h", "time_range": "2021-05-01:2021-05-02"}


@pytest.fixture
def home(tmp_path):
    "A home folder whose store has three hours of each market."

    async def fill() -> None:
        async with open_store(f"sqlite:///{tmp_path}/store.db") as store:
            await store.ensure("candles_1h", CANDLES)
            for symbol in sorted(set(SPELLINGS.values())):
                key = LedgerKey("candles_1h", symbol, "candles", "1h")
                times = [DAY + n * HOUR for n in range(3)]
                prices = dict.fromkeys(("open", "high", "low", "close", "volume"), 1.0)
                about = {"exchange": "binance", "symbol": symbol, "interval": "1h"}
                rows = [about | prices | {"open_time": time, "close_time": time + HOUR - 1} for time in times]
                await store.upsert("candles_1h", [dict.fromkeys(CANDLES.columns) | row for row in rows])
                await update_entry(store, key, lambda entry: entry.note("asked", Ranges.of((DAY, DAY + 3 * HOUR))))

    asyncio.run(fill())
    return tmp_path


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize("command", ["status", "verify", "repair", "list", "export"])
def test_commands_for_data_know_a_market_by_any_spelling(home, command):
    for spelling, symbol in SPELLINGS.items():
        more = ["--to", str(home / spelling.replace("/", "_")), "--json"] if command == "export" else ["--json"]
        result = run("data", command, "--symbol", spelling, "--home", str(home), *more)
        assert result.exit_code == 0, result.output
        rows = msgspec.json.decode(result.stdout)
        if command != "repair":  # nothing is missing
            assert [row["symbol"] for row in rows] == [symbol]
    for text in GARBAGE:
        more = ["--to", str(home / "out")] if command == "export" else []
        error = run("data", command, "--symbol", text, "--home", str(home), *more).exception
        assert isinstance(error, BadName), error
        assert error.field == "symbol" and f"found '{text}'" in str(error)
    more = ["--to", str(home / "out")] if command == "export" else []
    assert isinstance(run("data", command, "--interval", "7m", "--home", str(home), *more).exception, BadInterval)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_requests_and_workers_keep_one_spelling(spelling):
    symbol = SPELLINGS[spelling]
    planned = plan_workflow({"symbol": spelling, **SHORT})
    assert planned.symbol == symbol and planned.queue_id.isascii()
    assert {target.env["SYMBOL"] for target in planned.targets} == {symbol}
    loader = {"target": "loader-producer", "symbol": spelling}
    (alone,) = plan_workflow({"targets": [loader], **SHORT}).targets
    assert alone.env["SYMBOL"] == symbol
    env = worker_environment_of("loader-producer", ["--symbol", spelling], WORKER)
    assert read_settings(env).symbols == (symbol,)
    assert BacktestOptions(symbols=f"{spelling},kraken:{spelling}").markets() == (symbol, f"kraken:{symbol}")


@pytest.mark.parametrize("text", GARBAGE)
def test_requests_and_workers_refuse_what_is_no_symbol(text):
    with pytest.raises(BadName) as short:
        plan_workflow({"symbol": text, **SHORT})
    with pytest.raises(BadName) as named:
        plan_workflow({"targets": [{"target": "loader-producer", "symbol": text}], **SHORT})
    with pytest.raises(BadSetting) as worker:
        read_settings(WORKER | {"SYMBOL": text})
    fields = [error.value.field for error in (short, named, worker)]
    assert fields == ["symbol", "targets.0.symbol", "SYMBOL"]
    assert all(f"found '{text}'" in str(error.value) for error in (short, named, worker))


@pytest.mark.parametrize("empty", ["", " ", ","])
def test_a_loader_without_a_symbol_is_refused(empty):
    for body in ({}, {"targets": [{"target": "loader-producer"}]}):
        with pytest.raises(BadConfig, match="(?i)symbol.*found none") as caught:
            plan_workflow({"symbol": empty, **SHORT, **body})
        assert caught.value.field == "symbol"


def test_a_backtest_refuses_what_is_no_market_before_it_opens_anything(tmp_path):
    for text in ("../x", ";drop", "BTC/USDT:USDT", ":BTCUSDT"):
        with pytest.raises(BadName, match="expected a market such as BTCUSDT or kraken:BTC/USD") as caught:
            asyncio.run(run_backtest(BacktestOptions(symbols=text, home=str(tmp_path / "home"))))
        assert caught.value.field == "symbol" and f"found '{text}'" in str(caught.value)
    assert not (tmp_path / "home").exists()
