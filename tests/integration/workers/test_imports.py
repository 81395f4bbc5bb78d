"""Files that are imported give the rows that loading gives, once, and come out again as they went in."""

import asyncio
import contextlib
import json
import secrets
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from streamforge.cli.data.transfer import data_app
from streamforge.core.errors import BadCandles, BadSetting, StreamForgeError
from streamforge.core.samples import candles
from streamforge.core.times import now_ms
from streamforge.exchange.simulator.app import Simulator, serve_app
from streamforge.ledger.entries import LedgerKey, read_entry
from streamforge.ledger.export import export_market, list_markets
from streamforge.ledger.ranges import Ranges, inside
from streamforge.ledger.verify import verify, verify_trades
from streamforge.store.base import open_store
from streamforge.workers.imports import rows as import_rows
from streamforge.workers.imports.files import ImportWishes, import_files, import_frame

sys.path.insert(0, str(Path(__file__).parents[2]))
from servers import need  # noqa: E402

HOUR, START = 3_600_000, 1_704_067_200_000  # 2024-01-01
SPAN = "2021-04-15:2021-05-15"


def bars(hours=200, start=START, seed=7, **columns):
    draw = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(draw.normal(0, 0.01, hours)))
    opened = np.r_[100, close[:-1]]
    return pd.DataFrame(
        {
            "open_time": start + HOUR * np.arange(hours),
            "open": opened,
            "high": np.maximum(opened, close) * 1.001,
            "low": np.minimum(opened, close) * 0.999,
            "close": close,
            "volume": draw.random(hours),
            **columns,
        }
    )


def opened(folder, name="store"):
    return open_store(f"sqlite:///{folder}/{name}.db")


async def everything(store):
    "All rows of all collections."
    return {name: (await store.read(name)).to_pylist() for name in sorted(await store.collections())}


@pytest.mark.slow
async def test_an_import_gives_the_rows_of_loader_and_connector(lab, tmp_path):
    exchange, connect = Simulator.open(), {"TYPE": "api_candles_1h", "UPSTREAM": "loader-producer__a1b2c3"}
    async with serve_app(exchange) as url:
        connector = await lab.start("arango-connector", **connect)
        load = {"TYPE": "api_candles_1h", "SYMBOL": "BTCUSDT", "TIME_RANGE": SPAN, "BINANCE_API_URL": url}
        assert await lab.run("loader-producer", **load) == 0
        assert await asyncio.wait_for(connector.wait(), 120) == 0
    frame = candles("BTCUSDT", SPAN)
    columns = {name: frame[name] for name in ("open_time", "open", "high", "low", "close", "volume")}
    async with open_store(lab.places.store_url) as loaded, opened(tmp_path, "imported") as imported:
        done = await import_frame(imported, columns, symbol="BTCUSDT", exchange="binance")
        assert done.written == len(frame)
        assert await everything(imported) == await everything(loaded)
        state = [await store.get("indicator-state", "candles_1h:BTCUSDT:1h") for store in (imported, loaded)]
        assert state[0].body == state[1].body


async def test_a_second_time_writes_nothing_and_what_contradicts_is_refused(tmp_path):
    first, other = bars(), bars()
    other.loc[100, "volume"] += 1
    async with opened(tmp_path) as store:
        assert (await import_frame(store, first, symbol="BTC/USDT")).written == 200
        before = await everything(store)
        assert (await import_frame(store, first, symbol="BTC/USDT")).written == 0
        with pytest.raises(BadCandles, match=r"found volume .* at 2024-01-05T04:00:00 \(1 such rows\); .*--replace"):
            await import_frame(store, other, symbol="BTC/USDT")
        assert await everything(store) == before
        assert (await import_frame(store, other, symbol="BTC/USDT", replace=True)).written == 1
        async with opened(tmp_path, "fresh") as fresh:
            await import_frame(fresh, other, symbol="BTC/USDT")
            plain = lambda rows: [{k: v for k, v in row.items() if k != "revision"} for row in rows]  # noqa: E731
            again, anew = await everything(store), await everything(fresh)
            assert {name: plain(rows) for name, rows in again.items()} == {n: plain(r) for n, r in anew.items()}


@pytest.mark.parametrize("bad", ["twice", "contradicts", "trades"])
def test_a_bad_file_among_good_ones_is_named_before_anything_is_stored(tmp_path, bad):
    "In a folder, and as one of several files of a command: each time the last one is bad."
    home, folder = tmp_path / "home", tmp_path / "files"
    folder.mkdir()
    other = bars()
    other.loc[100, "volume"] += 1
    for name in ("AAAUSDT", "BBBUSDT", "CCCUSDT"):
        bars().to_csv(folder / f"{name}.csv", index=False)
    run = lambda *words: CliRunner().invoke(data_app, [*words, "--home", str(home)])  # noqa: E731
    assert run("import", str(folder / "CCCUSDT.csv")).exit_code == 0
    before = run("list", "--json").output
    if bad == "trades":
        (folder / "DDDUSDT-aggTrades-2021-02-28.csv").write_text("7,1,2,9,9,1614470400000,True,True\n" * 2)
    else:
        wrong = pd.concat([other, other.tail(1)]) if bad == "twice" else other
        wrong.to_csv(folder / "CCCUSDT.csv", index=False)
    for sources in ([folder], sorted(folder.iterdir())):
        said = run("import", *map(str, sources), "--exchange", "import")
        assert isinstance(said.exception, BadCandles), said.output
        assert ("CCCUSDT" if bad != "trades" else "DDDUSDT") in str(said.exception)
        assert run("list", "--json").output == before


OLD = pd.date_range("1970-01-02", periods=200, freq="D", tz="America/New_York")
IMPOSSIBLE = {  # what a frame has -> what the error says; verification would call each row impossible for good
    "an index before 1973": (lambda bars: bars.drop(columns="open_time").set_index(OLD), "found 1970-01-02T05:00"),
    "a column before 1973": (lambda bars: pa.Table.from_pandas(bars.assign(open_time=OLD)), "found 1970-01-02T05:00"),
    "text before 1973": (lambda bars: bars.assign(open_time=OLD.strftime("%Y-%m-%d")), "found 1970-01-02"),
    "a volume beyond all": (lambda bars: bars.assign(volume=1e31), "below 1e"),
    "prices beyond all": (
        lambda bars: bars.assign(**dict.fromkeys(("open", "high", "low", "close"), 1e30)),
        "below 1e",
    ),
    "trades beyond all": (lambda bars: bars.assign(number_of_trades=1e300), r"number_of_trades 1e\+300"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
async def test_what_verification_calls_impossible_is_refused_before_the_first_row(tmp_path, case):
    make, message = IMPOSSIBLE[case]
    async with opened(tmp_path) as store:
        with pytest.raises(StreamForgeError, match=message):
            await import_frame(store, make(bars()), symbol="BTCUSDT")
        assert not await store.collections()


@pytest.mark.parametrize("column", ["close_time", "filled"])
async def test_replacing_corrects_what_the_file_states(tmp_path, column):
    "A candle was stored as cut short, or as made up, and is neither."
    right = bars(close_time=bars()["open_time"] + HOUR - 1, filled=False)
    wrong = right.copy()
    wrong.loc[7, column] = wrong.loc[7, "open_time"] + 1_000_000 if column == "close_time" else True
    async with opened(tmp_path) as store:
        await import_frame(store, wrong, symbol="BTCUSDT")
        assert (await import_frame(store, bars(), symbol="BTCUSDT", replace=True)).written == 0  # it states neither
        assert (await import_frame(store, right, symbol="BTCUSDT", replace=True)).written == 1
        stored = (await store.read("candles_1h", columns=[column]))[column].to_pylist()
        assert stored == (right[column].tolist() if column == "close_time" else [None] * 200)
        assert (await import_frame(store, right, symbol="BTCUSDT", replace=True)).written == 0


@pytest.mark.parametrize("kind", ["klines", "markPriceKlines"])
async def test_archives_of_futures_are_no_spot_market(tmp_path, kind):
    path = tmp_path / "futures" / "um" / "monthly" / kind / "BTCUSDT" / "1h" / "BTCUSDT-1h-2024-01.csv"
    path.parent.mkdir(parents=True)
    bars().to_csv(path, index=False)
    async with opened(tmp_path) as store:
        for source in (tmp_path / "futures", path.parent, path):
            with pytest.raises(BadSetting, match="say --exchange binance-futures"):
                await import_files(store, source)
        done = await import_files(store, path, ImportWishes(exchange="binance-futures"))
        assert [market.exchange for market in done.markets] == ["binance-futures"]


async def test_the_exchange_that_rows_name_is_theirs(tmp_path):
    bars(exchange="kraken").to_csv(tmp_path / "BTCUSD.csv", index=False)
    async with opened(tmp_path) as store:
        assert (await import_files(store, tmp_path / "BTCUSD.csv")).markets[0].exchange == "kraken"
        assert (await import_frame(store, bars(exchange="okx"), symbol="BTCUSD")).exchange == "okx"
        wishes = ImportWishes(exchange="mine")
        assert (await import_files(store, tmp_path / "BTCUSD.csv", wishes)).markets[0].exchange == "mine"


async def test_a_column_that_only_one_side_has_is_completed(tmp_path):
    rich = bars(quote_asset_volume=np.arange(200.0), number_of_trades=np.arange(200))
    async with opened(tmp_path) as store:
        await import_frame(store, bars(), symbol="BTCUSDT")
        assert (await import_frame(store, rich, symbol="BTCUSDT")).written == 200
        assert (await import_frame(store, bars(), symbol="BTCUSDT")).written == 0
        rows = await store.read("candles_1h")
        assert rows["number_of_trades"].to_pylist() == list(range(200))
        assert (await store.read("candles_1h_enriched"))["quote_asset_volume"].to_pylist() == list(range(200))


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("first", ["poor", "rich"])
async def test_files_of_which_one_lacks_a_column_are_one_market_in_any_order(tmp_path, together, first):
    "freqtrade's frames have no quote volume, Binance's have it; one candle was cut short, and only one file says so."
    ends = bars()["open_time"] + HOUR - 1
    ends[7] -= 1_000_000
    rich = bars(quote_asset_volume=np.arange(200.0), close_time=ends)
    names = ("a", "b") if first == "poor" else ("b", "a")
    for name, frame in zip(names, (bars().iloc[:150], rich.iloc[50:]), strict=True):
        (tmp_path / name).mkdir()
        frame.to_csv(tmp_path / name / "BTCUSDT.csv", index=False)
    async with opened(tmp_path) as store:
        for sources in [[tmp_path / "a", tmp_path / "b"]] if together else [[tmp_path / "a"], [tmp_path / "b"]]:
            await import_files(store, sources)
        rows = await store.read("candles_1h")
        assert rows["quote_asset_volume"].to_pylist() == [None] * 50 + list(range(50, 200))
        assert rows["close_time"].to_pylist() == [*(bars()["open_time"][:50] + HOUR - 1), *ends[50:]]
        other = rich.assign(quote_asset_volume=rich["quote_asset_volume"] + 1)
        with pytest.raises(BadCandles, match="found quote_asset_volume 51 instead of 50"):
            await import_frame(store, other, symbol="BTCUSDT")


async def test_a_close_time_that_one_side_knows_is_kept(tmp_path):
    ends = bars()["open_time"] + HOUR - 1
    ends[7] -= 1_000_000
    for n, frames in enumerate(((bars(), bars(close_time=ends)), (bars(close_time=ends), bars()))):
        async with opened(tmp_path, f"store{n}") as store:
            for frame in frames:
                await import_frame(store, frame, symbol="BTCUSDT")
            assert (await store.read("candles_1h"))["close_time"].to_pylist() == ends.tolist()


async def test_rows_go_only_into_collections_that_are_for_them(tmp_path):
    bars().to_csv(tmp_path / "BTCUSDT.csv", index=False)
    trades = tmp_path / "BTCUSDT-aggTrades-2024-01-01.csv"
    trades.write_text(f"11,1.5,2,21,22,{START * 1000},true,true\n")
    async with opened(tmp_path) as store:
        for source, collection, message in (
            ("BTCUSDT.csv", "trades", "candles of 1h of 'BTCUSDT.csv', found 'trades', which is for trades"),
            ("BTCUSDT.csv", "candles_5m", "found 'candles_5m', which is for candles of 5m; leave --collection out"),
            ("BTCUSDT.csv", "btcusdt_api_candles_5m_2024_01_01", "is for candles of 5m"),
            ("BTCUSDT.csv", "candles_1h_enriched", "is for enriched rows, which are computed"),
            ("BTCUSDT.csv", "books", "is for books"),
            (trades.name, "candles_1h", "trades of 'BTCUSDT-aggTrades-2024-01-01.csv', found 'candles_1h'"),
        ):
            with pytest.raises(BadSetting, match=message):
                await import_files(store, tmp_path / source, ImportWishes(collection=collection))
        with pytest.raises(BadSetting, match="of 'the frame', found 'candles_5m'"):
            await import_frame(store, bars(), symbol="BTCUSDT", collection="candles_5m")
        with pytest.raises(BadCandles, match="expected candles of 5m in .*, found steps of 1h"):
            await import_files(store, tmp_path / "BTCUSDT.csv", ImportWishes(interval="5m"))
        assert not await store.collections()
        await import_files(store, trades, ImportWishes(collection="mine"))
        with pytest.raises(BadSetting, match="found 'mine', which has rows by exchange, symbol, trade_id"):
            await import_files(store, tmp_path / "BTCUSDT.csv", ImportWishes(collection="mine"))
        assert list(await store.collections()) == ["mine"]
        await import_files(store, tmp_path / "BTCUSDT.csv", ImportWishes(collection="own_candles_1h"))
        assert await store.count("own_candles_1h") == 200


async def test_an_import_that_writes_nothing_leaves_the_source_as_it_was(tmp_path):
    async with opened(tmp_path) as store:
        await import_frame(store, bars(), symbol="BTCUSDT", exchange="binance")
        key = LedgerKey("candles_1h", "BTCUSDT", "candles", "1h")
        await store.delete("imports", key.id)  # as if they were loaded
        assert [market.source for market in await list_markets(store)] == ["loaded"]
        assert (await import_frame(store, bars(), symbol="BTCUSDT", exchange="binance")).written == 0
        assert [market.source for market in await list_markets(store)] == ["loaded"]
        await import_frame(store, bars(201), symbol="BTCUSDT", exchange="binance", replace=True)
        assert [market.source for market in await list_markets(store)] == ["import"]


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5])
async def test_an_import_that_was_cut_off_is_finished_by_running_it_again(tmp_path, monkeypatch, cut):
    monkeypatch.setattr(import_rows, "CHUNK_ROWS", 80)

    class Cut(Exception):
        pass

    async with opened(tmp_path) as store, opened(tmp_path, "whole") as whole:
        calls, upsert = 0, store.upsert

        async def cut_off(*arguments):
            nonlocal calls
            calls += 1
            if calls == cut:
                raise Cut
            return await upsert(*arguments)

        monkeypatch.setattr(store, "upsert", cut_off)
        with pytest.raises(Cut):
            await import_frame(store, bars(), symbol="BTCUSDT")
        monkeypatch.setattr(store, "upsert", upsert)
        await import_frame(store, bars(), symbol="BTCUSDT")
        await import_frame(whole, bars(), symbol="BTCUSDT")
        assert await everything(store) == await everything(whole)
        key = LedgerKey("candles_1h", "BTCUSDT", "candles", "1h", "import")
        assert await read_entry(store, key) == await read_entry(whole, key)


async def test_earlier_candles_change_the_indicators_of_later_ones(tmp_path):
    whole = bars(400)
    async with opened(tmp_path) as store, opened(tmp_path, "whole") as fresh:
        await import_frame(store, whole.tail(200), symbol="BTCUSDT")
        await import_frame(store, whole.head(200), symbol="BTCUSDT")
        await import_frame(fresh, whole, symbol="BTCUSDT")
        plain = lambda rows: [{k: v for k, v in row.items() if k != "revision"} for row in rows]  # noqa: E731
        one, two = await everything(store), await everything(fresh)
        assert plain(one["candles_1h_enriched"]) == plain(two["candles_1h_enriched"])


async def test_imports_of_one_market_at_the_same_time_are_as_good_as_one(tmp_path, monkeypatch):
    "The first one has read what indicators need; the others would write earlier candles before it goes on."
    whole, ended, warm = bars(400), asyncio.Semaphore(0), import_rows.warm_enricher
    parts = [whole.iloc[at : at + 100] for at in (300, 0, 200, 100)]

    async def slow(store, collection, market, first):
        enricher = await warm(store, collection, market, first)
        if first == parts[0]["open_time"].iloc[0]:
            with contextlib.suppress(TimeoutError):  # as it should be: the others wait
                await asyncio.wait_for(asyncio.gather(*(ended.acquire() for _ in parts[1:])), 1)
        return enricher

    monkeypatch.setattr(import_rows, "warm_enricher", lambda *arguments: slow(*arguments[:4]))

    async def bring(part):
        async with opened(tmp_path) as store:
            await import_frame(store, part, symbol="BTCUSDT")
        ended.release()

    async with opened(tmp_path) as store, opened(tmp_path, "whole") as fresh:
        await asyncio.gather(*map(bring, parts))
        await import_frame(fresh, whole, symbol="BTCUSDT")
        plain = lambda rows: [{k: v for k, v in row.items() if k != "revision"} for row in rows]  # noqa: E731
        one, two = await everything(store), await everything(fresh)
        assert {name: plain(rows) for name, rows in one.items()} == {name: plain(rows) for name, rows in two.items()}
        key = LedgerKey("candles_1h", "BTCUSDT", "candles", "1h", "import")
        assert await read_entry(store, key) == await read_entry(fresh, key)


async def test_the_ledger_knows_holes_candles_off_the_grid_and_those_not_closed(tmp_path):
    frame = bars(10).drop(index=[4])
    frame.loc[7:, "open_time"] += 1_694_789
    last = now_ms() // HOUR * HOUR
    frame = pd.concat([frame, bars(1, start=last)])
    for exchange, wanted in (("import", 0), ("binance", 1)):
        async with opened(tmp_path, exchange) as store:
            done = await import_frame(store, frame, symbol="BTCUSDT", exchange=exchange)
            assert [text.partition(": ")[2] for text in done.skipped] == ["not closed yet"] and done.rows == 9
            key = LedgerKey("candles_1h", "BTCUSDT", "candles", "1h", exchange)
            findings, entry = await verify(store, key)
            assert findings.gaps(entry).size // HOUR == wanted
            assert len(findings.off_grid) == 3 and not findings.impossible
            assert (
                entry.verified
                == entry.loaded
                == Ranges.of((START, START + 4 * HOUR), (START + 5 * HOUR, START + 10 * HOUR))
            )


async def test_candles_none_of_which_is_closed_import_nothing(tmp_path):
    frame = bars(2, start=now_ms() // HOUR * HOUR)
    async with opened(tmp_path) as store:
        done = await import_frame(store, frame, symbol="BTCUSDT")
        assert (done.rows, done.written, len(done.skipped)) == (0, 0, 2)
        assert await store.count("candles_1h") == 0 and await store.list("imports") == []


async def test_daily_rows_of_a_stock_exchange_count_as_many_as_they_are(tmp_path):
    "Days of New York open at 05:00, as yfinance gives them: sixty rows are sixty slots."
    frame = bars(60, start=START + 5 * HOUR)
    frame["open_time"] = START + 5 * HOUR + 24 * HOUR * np.arange(60)
    async with opened(tmp_path) as store:
        await import_frame(store, frame, symbol="AAPL", interval="1d")
        key = LedgerKey("candles_1d", "AAPL", "candles", "1d", "import")
        findings, entry = await verify(store, key)
        assert (findings.rows, len(findings.off_grid), findings.gaps(entry)) == (60, 60, Ranges())
        assert entry.asked == entry.verified == Ranges.of((START, START + 60 * 24 * HOUR))


async def test_whose_data_they_are(tmp_path):
    bars().to_csv(tmp_path / "BTCUSDT.csv", index=False)
    bars(24).to_csv(tmp_path / "ETHUSDT-1h-2024-01-01.csv", index=False)
    async with opened(tmp_path) as store:
        for name, exchange in (("BTCUSDT.csv", "import"), ("ETHUSDT-1h-2024-01-01.csv", "binance")):
            report = await import_files(store, tmp_path / name)
            assert [market.exchange for market in report.markets] == [exchange]
        bars().to_feather(tmp_path / "ZEC_BTC-1h.feather")
        with pytest.raises(BadSetting, match="expected the exchange of freqtrade's file 'ZEC_BTC-1h.feather'"):
            await import_files(store, tmp_path / "ZEC_BTC-1h.feather")
        report = await import_files(store, tmp_path / "ZEC_BTC-1h.feather", ImportWishes(exchange="kraken"))
        assert [(market.exchange, market.symbol) for market in report.markets] == [("kraken", "ZECBTC")]


async def test_trades_of_freqtrade_and_of_the_archive(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    trades = {
        "timestamp": [START, START + 5],
        "id": ["7", "8"],
        "type": [None, None],
        "side": ["sell", "buy"],
        "price": [1.5, 1.6],
        "amount": [2.0, 3.0],
        "cost": [3.0, 4.8],
    }
    pd.DataFrame(trades).to_feather(data / "ZEC_BTC-trades.feather")
    (data / "BTCUSDT-aggTrades-2024-01-01.csv").write_text(
        f"11,1.5,2,21,22,{START * 1000},true,true\n12,1.6,3,23,24,{START * 1000 + 5000},false,true\n"
    )
    async with opened(tmp_path) as store:
        for _ in range(2):
            for name in ("ZEC_BTC-trades.feather", "BTCUSDT-aggTrades-2024-01-01.csv"):
                await import_files(store, data / name, ImportWishes(exchange="binance"))
        rows = (await store.read("trades")).to_pylist()
        assert [(row["symbol"], row["trade_id"], row["timestamp"], row["is_buyer_maker"]) for row in rows] == [
            ("BTCUSDT", 11, START, True),
            ("BTCUSDT", 12, START + 5, False),
            ("ZECBTC", 7, START, True),
            ("ZECBTC", 8, START + 5, False),
        ]
        entry = await read_entry(store, LedgerKey("trades", "ZECBTC", "trade_ids"))
        assert entry.verified == entry.asked == Ranges.of((7, 9))
        (data / "BTCUSDT-trades-2024-01-01.csv").write_text(f"1,1.5,2,3,{START},true,true\n")
        with pytest.raises(BadCandles, match="expected aggregated trades"):
            await import_files(store, data / "BTCUSDT-trades-2024-01-01.csv")


@pytest.mark.parametrize(
    "name, words, message",
    [
        ("side", ["buy", "ask"], "side is 'ask' in row 1"),
        ("side", ["buy", ""], "side is '(None)?' in row 1"),
        ("symbol", ["ETHUSDT", "ETHUSDT"], "expected trades of BTCUSDT, .*, found ETHUSDT in its rows"),
        ("pair", ["BTC/USDT", "ETH/USDT"], "expected trades of one market in .*, found 2: BTC/USDT, ETH/USDT"),
        ("is_buyer_maker", [0.5, 1.0], "is_buyer_maker is 0.5 in row 0"),
        ("timestamp", ["0204-01-02", "0204-01-02"], "1973"),
    ],
)
async def test_trades_whose_side_market_or_time_is_not_certain_are_refused(tmp_path, name, words, message):
    rows = pd.DataFrame({"id": [1, 2], "price": 1.5, "amount": 2.0, "timestamp": [START, START], "side": ["b", "S"]})
    path = tmp_path / "BTCUSDT-trades.csv"
    async with opened(tmp_path) as store:
        rows.assign(**{name: words}).to_csv(path, index=False)
        with pytest.raises(BadCandles, match=message):
            await import_files(store, path)
        assert not await store.collections()
        rows.assign(symbol="BTC/USDT").to_csv(path, index=False)
        await import_files(store, path)
        assert (await store.read("trades"))["is_buyer_maker"].to_pylist() == [False, True]


def tape(ids):
    "A file of trades, one a second."
    return pd.DataFrame(
        {"trade_id": ids, "price": 1.5, "quantity": 2.0, "timestamp": START + 1000 * np.array(ids), "side": "buy"}
    )


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("exchange", ["binance", "kraken"])
async def test_what_lacks_in_and_between_files_is_noted(tmp_path, exchange, together):
    "Trades 2, 3 and 7 to 9, and a week between candles: wanted of Binance, which can be asked, else missing."
    for n, (ids, rows) in enumerate([([0, 1, 4, 5, 6], bars(24)), ([10, 11], bars(24, start=START + 192 * HOUR))]):
        (tmp_path / f"part{n}").mkdir()
        tape(ids).to_csv(tmp_path / f"part{n}" / "BTCUSDT-trades.csv", index=False)
        rows.to_csv(tmp_path / f"part{n}" / "BTCUSDT.csv", index=False)
    folders = [tmp_path / "part1", tmp_path / "part0"]
    async with opened(tmp_path) as store:
        for sources in [folders] if together else folders:
            await import_files(store, sources, ImportWishes(exchange=exchange))
        by_id = (await verify_trades(store, "trades", "BTCUSDT", exchange)).findings
        keys = [LedgerKey("trades", "BTCUSDT", kind, exchange=exchange) for kind in ("trade_ids", "trades")]
        ids, times = [await read_entry(store, key) for key in keys]
        findings, hours = await verify(store, LedgerKey("candles_1h", "BTCUSDT", "candles", "1h", exchange))
        holes, week = Ranges.of((2, 4), (7, 10)), Ranges.of((START + 24 * HOUR, START + 192 * HOUR))
        assert (ids.asked, ids.loaded) == (Ranges.of((0, 12)), Ranges.of((0, 2), (4, 7), (10, 12)))
        nothing = Ranges()
        expected = (holes, nothing, week, nothing) if exchange == "binance" else (nothing, holes, nothing, week)
        assert (by_id.gaps(ids), ids.missing, findings.gaps(hours), hours.missing) == expected
        assert times.asked == Ranges.of((START, START + 11_001))
        middle = [START + 2_500, START + 8_000]
        assert not inside(times.loaded | times.verified, middle).any()
        assert inside(times.missing, middle).all() == (exchange == "kraken")
        tape([2, 3, 7, 8, 9]).to_csv(tmp_path / "BTCUSDT-trades.csv", index=False)
        await import_files(store, tmp_path / "BTCUSDT-trades.csv", ImportWishes(exchange=exchange))
        ids, times = [await read_entry(store, key) for key in keys]
        assert (ids.verified, times.verified) == (ids.asked, times.asked) and not ids.missing | times.missing


async def test_files_of_trades_are_one_market_or_contradict_each_other_before_anything_is_stored(tmp_path):
    path = tmp_path / "BTCUSDT-trades-part1.csv"
    tape([0, 1, 2]).to_csv(path, index=False)
    tape([2, 3]).to_csv(tmp_path / "BTCUSDT-trades-part2.csv", index=False)
    async with opened(tmp_path) as store:
        (market,) = (await import_files(store, list(tmp_path.glob("*.csv")))).markets
        assert (market.written, market.rows, len(market.files)) == (4, 4, 2)
    async with opened(tmp_path, "other") as store:
        tape([0, 1, 2]).assign(price=9).to_csv(path, index=False)
        with pytest.raises(BadCandles, match="same trade of id 2 in .*part.* and .*part.*, found price"):
            await import_files(store, list(tmp_path.glob("*.csv")))
        assert not await store.collections() and not await store.list("ledger")


async def test_trades_whose_rows_name_an_exchange_go_there(tmp_path):
    path = tmp_path / "BTCUSDT-trades.csv"
    async with opened(tmp_path) as store:
        tape([0, 1]).assign(exchange=["Kraken", "Kraken"]).to_csv(path, index=False)
        (market,) = (await import_files(store, path)).markets
        assert market.exchange == "kraken"
        with pytest.raises(BadCandles, match="trades of one exchange, binance, in .*, found Kraken in its rows"):
            await import_files(store, path, ImportWishes(exchange="binance"))
        tape([0, 1]).assign(exchange=["kraken", "binance"]).to_csv(path, index=False)
        with pytest.raises(BadCandles, match="found binance, kraken in its rows"):
            await import_files(store, path)


NUMBER = st.floats(1e-8, 1e8, allow_nan=False)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prices=st.lists(st.tuples(NUMBER, NUMBER, NUMBER), min_size=1, max_size=30),
    format=st.sampled_from(["csv", "parquet"]),
)
def test_what_is_exported_comes_back_as_it_was(tmp_path_factory, prices, format):
    folder = tmp_path_factory.mktemp("round")
    low, close, high = np.sort(np.array(prices), axis=1).T
    frame = {"open_time": START + HOUR * np.arange(len(low)), "open": low, "high": high, "low": low, "close": close,
             "volume": high, "quote_asset_volume": low, "number_of_trades": np.arange(len(low)),
             "filled": np.arange(len(low)) % 3 == 0}  # fmt: skip

    async def there_and_back():
        async with opened(folder) as one, opened(folder, "other") as two:
            await import_frame(one, pa.table(frame), symbol="BTCUSDT", interval="1h", exchange="kraken")
            for market in await list_markets(one):
                await export_market(one, market, folder / "out", format)
            await import_files(two, folder / "out")
            return await everything(one), await everything(two)

    one, two = asyncio.run(there_and_back())
    assert one == two and len(one["candles_1h"]) == len(low)


async def test_postgresql_gives_back_what_was_imported(tmp_path):
    collection = f"t{secrets.token_hex(4)}"  # the database is shared
    frame = bars(number_of_trades=np.arange(200), filled=np.arange(200) % 3 == 0)
    async with open_store(need("postgresql")) as server, opened(tmp_path) as local:
        for _ in range(2):
            await import_frame(server, frame, symbol="币安USDT", collection=collection)
        (market,) = await list_markets(server, collection=collection)
        await export_market(server, market, tmp_path / "out")
        await import_files(local, tmp_path / "out", ImportWishes(collection=collection))
        for name, rows in (await everything(local)).items():
            assert (await server.read(name)).to_pylist() == rows and len(rows) == 200


def test_the_commands_say_what_they_did(tmp_path):
    home, source = ["--home", str(tmp_path / "home")], tmp_path / "source"
    run = lambda *words: CliRunner().invoke(data_app, [*words, *home])  # noqa: E731
    assert "nothing is stored yet: `streamforge data import FILE`" in run("list").output
    source.mkdir()
    bars().to_csv(source / "BTC-USDT.csv", index=False)
    (source / "README.md").touch()
    said = run("import", str(source))
    assert said.exit_code == 0 and "ignored README.md: no data by its name" in said.output
    assert [line.split() for line in run("list").output.splitlines()][1][:4] == [
        "import",
        "BTCUSDT",
        "1h",
        "candles_1h",
    ]
    market = json.loads(run("list", "--json").output)[0]
    assert (market["rows"], market["first"], market["source"]) == (200, START, "import")
    out = tmp_path / "out"
    for words, expected in (
        (("candles_1h_enriched",), "none in 'candles_1h_enriched'; export the candles"),
        (("candels_1h",), "the collection of stored data, found 'candels_1h'; there is candles_1h; see"),
        (("--symbol", "DOGEUSDT"), "the symbol of stored data, found 'DOGEUSDT'; there is BTCUSDT; see"),
        (("--symbol", "BTCUSDT,DOGEUSDT,NOPE"), "found 'DOGEUSDT,NOPE'; there is BTCUSDT; see"),
        (("--exchange", "kraken"), "the exchange of stored data, found 'kraken'; there is import; see"),
    ):
        assert expected in str(run("export", *words, "--to", str(out)).exception)
    below = str(source / "BTC-USDT.csv" / "out")
    assert f"found '{below}' (Not a directory)" in str(run("export", "--to", below).exception)
    assert "nothing is stored of such data" in run("list", "--symbol", "DOGEUSDT").output
    for command in ("list", "status"):  # what there is, and a word on what there is not
        told, both = "nothing is known of the symbol DOGEUSDT; there is BTCUSDT;", ("--symbol", "btc/usdt,DOGEUSDT")
        said = run(command, *both).output
        assert said.splitlines()[1].split()[1] in ("BTCUSDT", "import:BTCUSDT") and told in said
        as_json = run(command, *both, "--json")
        assert [row["symbol"] for row in json.loads(as_json.stdout)] == ["BTCUSDT"] and told in as_json.stderr
        assert "nothing is known of" not in run(command, "--symbol", "BTCUSDT", "--interval", "1h").output
    assert run("export", "candles_1h", "--to", str(out)).exit_code == 0
    again = run("export", "candles_1h", "--to", str(out))
    assert again.exit_code != 0 and "--replace" in str(again.exception)
    assert run("export", "--to", str(out), "--replace", "--format", "parquet").exit_code == 0
    files = [str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()]
    assert files == ["exchange=import/symbol=BTCUSDT/interval=1h/candles_1h.parquet"]
    assert pd.read_parquet(out)["symbol"].unique().tolist() == ["BTCUSDT"]
    assert run("verify").exit_code == 0
    with sqlite3.connect(tmp_path / "home" / "store.db") as db:
        db.execute("DELETE FROM candles_1h WHERE open_time = ?", (START + 9 * HOUR,))
    said = run("repair")
    assert said.exit_code == 65 and "import:BTCUSDT: no exchange has it: import its files again" in said.output
    assert said.output.endswith("no request was made\n")
    assert run("import", str(source)).exit_code == run("verify").exit_code == run("repair").exit_code == 0
