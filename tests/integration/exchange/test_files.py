"""Every kind of file that people bring gives the same candles, or is refused by name."""

import gzip
import json
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamforge.core.errors import BadCandles, BadName, StreamForgeError
from streamforge.exchange.files import CandleTable, candles_of_table, join_tables, read_candles, read_folder
from streamforge.exchange.formats.names import list_files, name_of
from streamforge.exchange.formats.raw import table_of_frame

HOUR, START = 3_600_000, 1_704_067_200_000  # 2024-01-01
OHLCV = [[START + n * HOUR, 100.0 + n, 102.0 + n, 99.5 + n, 101.0 + n, 10.5 + n] for n in range(6)]
NAMES = ("open_time", "open", "high", "low", "close", "volume")


def csv(rows=OHLCV, head=NAMES, mark=","):
    lines = ([mark.join(head)] if head else []) + [mark.join(map(str, row)) for row in rows]
    return "\n".join(lines) + "\n"


def klines(unit=1):
    return [
        [t * unit, o, h, low, c, v, (t + HOUR) * unit - 1, v * c, 3, v / 2, v * c / 2, 0]
        for t, o, h, low, c, v in OHLCV
    ]


def frame(**index):
    columns = pd.DataFrame([row[1:] for row in OHLCV], columns=["Open", "High", "Low", "Close", "Volume"])
    columns.index = pd.DatetimeIndex(pd.to_datetime([row[0] for row in OHLCV], unit="ms"), **index)
    return columns


def zipped(path, text, member):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, text)


def freqtrade(path):
    table = pd.DataFrame(OHLCV, columns=["date", *NAMES[1:]])
    table["date"] = pd.to_datetime(table["date"], unit="ms", utc=True)
    table.to_feather(path)


def yfinance(path):
    wide = frame(name="Date")[["Close", "High", "Low", "Open", "Volume"]]
    wide.columns = pd.MultiIndex.from_product([wide.columns, ["BTC-USD"]], names=["Price", "Ticker"])
    wide.to_csv(path) if path.suffix == ".csv" else wide.to_parquet(path)


ISO = [[pd.Timestamp(row[0], unit="ms").isoformat(), *row[1:]] for row in OHLCV]
WRITERS = {  # file -> writes it
    "BTCUSDT.csv": lambda path: path.write_text(csv()),
    "BTC-USDT.csv": lambda path: path.write_text(
        "\ufeff" + csv(head=("Timestamp", "OPEN", "High", "low", "Close", "Volume"))
    ),
    "BTC_USDT-1h.csv": lambda path: path.write_text(csv(mark=";")),
    "btcusdt_1h.csv": lambda path: path.write_text(csv(ISO, ("datetime", *NAMES[1:]))),
    "BTCUSDT-1h-2024-01.csv": lambda path: path.write_text(csv(klines(), ())),
    "BTCUSDT-1h-2024-01.zip": lambda path: zipped(path, csv(klines(1000), ()), "BTCUSDT-1h-2024-01.csv"),
    "BTCUSDT-1h-2024-01-01.csv": lambda path: path.write_text(
        csv(
            klines(),
            (
                "open_time",
                "open",
                "high",
                "low",
                "close",
                "volume",
                "close_time",
                "quote_volume",
                "count",
                "taker_buy_volume",
                "taker_buy_quote_volume",
                "ignore",
            ),
        )
    ),
    "BTC_USDT-1h.feather": freqtrade,
    "BTCUSDT.csv.gz": lambda path: path.write_bytes(gzip.compress(csv().encode())),
    "BTC-USDT.json": lambda path: path.write_text(json.dumps(OHLCV)),
    "BTCUSDT-1h.json": lambda path: path.write_text(
        json.dumps([[row[0], *map(str, row[1:6]), row[6], *map(str, row[7:])] for row in klines()])
    ),
    "BTCUSDT/1h/2024.csv": lambda path: path.write_text(csv()),
    "symbol=BTCUSDT/interval=1h/part-0.parquet": lambda path: pq.write_table(
        pa.Table.from_pylist([dict(zip(NAMES, row, strict=True)) for row in OHLCV]), path
    ),
    "btcusdt.csv": lambda path: path.write_text(
        csv([[t[:10], t[11:], *row] for t, *row in ISO], ("Date", "Time", *NAMES[1:]))
    ),
    "BTC_USDT.csv": lambda path: path.write_text(
        "https://www.CryptoDataDownload.com\n"
        + csv(
            [
                [row[0] // 1000, t.replace("T", " "), "BTC/USDT", *row[1:], 5]
                for (t, *_), row in zip(ISO, OHLCV, strict=True)
            ],
            ("unix", "date", "symbol", "open", "high", "low", "close", "Volume BTC", "tradecount"),
        )
    ),
    "BTC-USDT-1h.csv": lambda path: path.write_text(
        csv([[2024010100 + n, *row[1:]] for n, row in enumerate(OHLCV)], ("date", *NAMES[1:]))
    ),
    "BTCUSDT.pq": lambda path: frame(name="Date").to_parquet(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_candles(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    WRITERS[name](path)
    tables = read_folder(tmp_path)
    assert list(tables) == ["BTCUSDT"] and tables["BTCUSDT"].interval == "1h"
    table = tables["BTCUSDT"]
    assert [list(row) for row in zip(*(getattr(table, column).tolist() for column in NAMES), strict=True)] == OHLCV


@pytest.mark.parametrize("name", ["BTCUSD.csv", "BTC-USD.parquet"])
def test_frames_of_yfinance_are_read(tmp_path, name):
    yfinance(tmp_path / name)
    table = read_folder(tmp_path)["BTCUSD"]
    assert table.open_time.tolist() == [row[0] for row in OHLCV]
    assert table.close.tolist() == [row[4] for row in OHLCV]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
def test_frames_are_read_whatever_unit_their_index_has(unit, zone):
    bars = frame()
    bars.index = (
        bars.index.as_unit(unit) if zone is None else bars.index.as_unit(unit).tz_localize("UTC").tz_convert(zone)
    )
    table = candles_of_table(table_of_frame(bars), "the frame", symbol="BTC/USDT").table
    assert table.open_time.tolist() == [row[0] for row in OHLCV]
    assert table.volume.tolist() == [row[5] for row in OHLCV]


NO_MARKET = {  # a file's name -> what the error says; each was read as a market of a made-up name
    "BTCUSDT-1H.csv": "found 1H in the name 'BTCUSDT-1H.csv'; say --interval 1h, or write it 1h in the name",
    "BTCUSDT-60m.csv": "say --interval 1h",
    "BTCUSDT_60min.csv": "say --interval 1h",
    "EURUSD_M15.csv": "say --interval 15m",
    "AAPL_daily.csv": "say --interval 1d",
    "BTCUSDT-1M.csv": "say --symbol BTCUSDT and --interval",
    "BTCUSDT-10m.csv": "say --symbol BTCUSDT and --interval",
    "BTCUSDT-1h-2024-13.csv": "found '2024-13'; rename the file, or say --symbol BTCUSDT",
    "BTCUSDT-2024-02-30.csv": "found '2024-02-30'",
    "BTCUSDT-20241301.csv": "found '20241301'",
    "BTCUSDT-2.csv": "found '2'",
    "candles_1h.csv": "found none; name the file after its market, or say --symbol",
    "klines.csv": "say --symbol",
    "README.csv": "say --symbol",
    "my_data.csv": "say --symbol",
    "aapl.csv": "say --symbol",
    "BTCUSDT1h.csv": "say --symbol",
    "EURUSD60.csv": "say --symbol",
    "AAPL2024.csv": "say --symbol",
    "1h_BTCUSDT.csv": "say --symbol",
    "Binance_BTCUSDT_1h.csv": "say --symbol",
    "BRK.B.csv": "say --symbol BRKB",
    "^GSPC.csv": "say --symbol GSPC",
    "EURUSD=X.csv": "say --symbol EURUSD",
}


@pytest.mark.parametrize("name", NO_MARKET)
def test_a_name_that_is_no_market_is_refused_and_read_with_a_symbol(tmp_path, name):
    (tmp_path / name).write_text(csv())
    with pytest.raises(StreamForgeError) as caught:
        read_folder(tmp_path)
    assert NO_MARKET[name] in str(caught.value) and name in str(caught.value)
    assert read_candles(tmp_path / name, symbol="BRK-B").table.symbol == "BRKB"


MARKETS = {
    "AAPL.csv": "AAPL",
    "BRK-B.csv": "BRKB",
    "BTC-USD.csv": "BTCUSD",
    "btcusdt_2024.csv": "BTCUSDT",
    "BTCUSDT_2024-01-01_2024-02-01.csv": "BTCUSDT",
    "BTCUSDT_240628.csv": "BTCUSDT240628",
    "BTCUSDT-klines-part-3.csv": "BTCUSDT",
    "BTCUSD1.csv": "BTCUSD1",
    "币安人生USDT.csv": "币安人生USDT",
}


@pytest.mark.parametrize("name", MARKETS)
def test_a_name_that_can_only_be_a_market_is_read(tmp_path, name):
    (tmp_path / name).write_text(csv())
    assert list(read_folder(tmp_path)) == [MARKETS[name]]


def test_a_general_name_leaves_the_market_to_the_rows(tmp_path):
    (tmp_path / "candles_1h.csv").write_text(csv([[*row, "ETH/USDT"] for row in OHLCV], (*NAMES, "symbol")))
    (tmp_path / "BRKB.csv").write_text(csv([[*row, "BRK.B"] for row in OHLCV], (*NAMES, "ticker")))
    assert list(read_folder(tmp_path)) == ["BRKB", "ETHUSDT"]
    (tmp_path / "data.csv").write_text(csv([[*row, "BRK.B"] for row in OHLCV], (*NAMES, "ticker")))
    with pytest.raises(BadCandles, match=r"found 'BRK\.B' in its rows; say --symbol BRKB"):
        read_folder(tmp_path)


REFUSED = {  # the name of the file, its text, what the error says
    "two volumes": (
        "AAAUSDT.csv",
        csv([[*row, 99] for row in OHLCV], (*NAMES, "Volume")),
        "found 'volume' and 'Volume'",
    ),
    "digits": (
        "AAAUSDT.csv",
        csv([[2024010100 + n, *row[1:]] for n, row in enumerate(OHLCV)], ("time", *NAMES[1:])),
        "2024010100 in row 0",
    ),
    "two times": (
        "AAAUSDT.csv",
        csv([[*row, row[0] + HOUR] for row in OHLCV], (*NAMES, "timestamp")),
        "found open_time 2024-01-01",
    ),
    "other interval": ("AAAUSDT-5m.csv", csv(), "found steps of 1h"),
    "other symbol": (
        "AAAUSDT.csv",
        csv([[*row, "BBB/USDT"] for row in OHLCV], (*NAMES, "symbol")),
        "BBB/USDT in its rows",
    ),
    "two markets": (
        "AAAUSDT.csv",
        csv([[*row, f"{'AB'[n % 2]}USDT"] for n, row in enumerate(OHLCV)], (*NAMES, "symbol")),
        "AUSDT, BUSDT",
    ),
    "three columns": ("AAAUSDT.csv", csv([row[:3] for row in OHLCV], ()), "found 3 columns"),
    "milliseconds first, then seconds": (
        "AAAUSDT.csv",
        csv([[t // (1000 if n else 1), *row] for n, (t, *row) in enumerate(OHLCV)]),
        "s as 1704070800 in row 1, found 1704067200000 in row 0, which is ms",
    ),
    "seconds at the end": (
        "AAAUSDT.csv",
        csv([[t // (1000 if n > 3 else 1), *row] for n, (t, *row) in enumerate(OHLCV)]),
        "found 1704081600 in row 4, which is s",
    ),
    "milliseconds, then microseconds": (
        "AAAUSDT.csv",
        csv([[t * (1000 if n > 2 else 1), *row] for n, (t, *row) in enumerate(OHLCV)]),
        "ms as 1704067200000 in row 0, found 1704078000000000 in row 3, which is us",
    ),
    "a pickle": ("AAAUSDT.pkl", "", "AAAUSDT.pkl"),
    "a name": ("a.b.c.csv", csv(), "a.b.c"),
    "months": ("AAAUSDT-1mo-2024-01.csv", csv(), "found 1mo"),
    "years before the first time that a record can have": (
        "AAAUSDT.csv",
        csv([[f"{1927 + n}-01-03", *row[1:]] for n, row in enumerate(OHLCV)], ("date", *NAMES[1:])),
        "expected times from 1973-03-03 to 2099, found 1927-01-03 in row 0 (6 such rows)",
    ),
    "a year typed wrong": (
        "AAAUSDT.csv",
        csv([[t if n != 2 else "0204-01-01T02:00", *row] for n, (t, *row) in enumerate(ISO)], NAMES),
        "found 0204-01-01T02:00:00 in row 2",
    ),
    "a volume that no store takes": (
        "AAAUSDT.csv",
        csv([[*row[:5], 1e31] for row in OHLCV]),
        "expected prices and amounts below 1e+30",
    ),
    "half a trade": ("AAAUSDT.csv", csv([[*row, 1.5] for row in OHLCV], (*NAMES, "trades")), "whole number of trades"),
    "more of takers than of all": (
        "AAAUSDT.csv",
        csv([[*row, 5 * row[5]] for row in OHLCV], (*NAMES, "taker_buy_volume")),
        "no more volume of takers than volume",
    ),
    "rows of another market, as ccxt spells it": (
        "BTCUSDT.csv",
        csv([[*row, "ETH/USDT:USDT"] for row in OHLCV], (*NAMES, "symbol")),
        "found BTCUSDT there and ETH/USDT:USDT in its rows",
    ),
    "rows that name a market, and rows that do not": (
        "BTCUSDT.csv",
        csv([[*row, "BTCUSDT" if n else ""] for n, row in enumerate(OHLCV)], (*NAMES, "symbol")),
        "found rows without one beside BTCUSDT",
    ),
    "no market at all": (
        "data.csv",
        csv([[*row, ""] for row in OHLCV], (*NAMES, "symbol")),
        "found none; name the file after its market",
    ),
    "two exchanges": (
        "BTCUSDT.csv",
        csv([[*row, ("kraken", "binance")[n % 2]] for n, row in enumerate(OHLCV)], (*NAMES, "exchange")),
        "expected one exchange",
    ),
    "rows of another interval": (
        "BTCUSDT.csv",
        csv([[*row, "5m"] for row in OHLCV], (*NAMES, "interval")),
        "expected candles of 5m",
    ),
    "a name and rows of two intervals": (
        "BTCUSDT-1h.csv",
        csv([[*row, "5m"] for row in OHLCV], (*NAMES, "timeframe")),
        "expected candles of 1h",
    ),
    "filled, in another sense": (
        "BTCUSDT.csv",
        csv([[*row, "maybe"] for row in OHLCV], (*NAMES, "filled")),
        "true or false in column filled",
    ),
    "filled by half": ("BTCUSDT.csv", csv([[*row, 0.5] for row in OHLCV], (*NAMES, "filled")), "found 0.5 in row 0"),
    "an hour off, and back": (
        "BTCUSDT.csv",
        csv([[START + 24 * HOUR * n - HOUR * (n == 3), *row[1:]] for n, row in enumerate(OHLCV)]),
        "to end before the next one opens",
    ),
    "close after the next": (
        "AAAUSDT.csv",
        csv([[*row, row[0] + HOUR] for row in OHLCV], (*NAMES, "close_time")),
        "close time within 1h",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_by_name(tmp_path, case):
    name, text, message = REFUSED[case]
    (tmp_path / name).write_text(text)
    with pytest.raises(StreamForgeError) as caught:
        read_folder(tmp_path)
    assert message in str(caught.value) and name in str(caught.value)


def test_a_zip_with_two_files_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "BTCUSDT.zip", "w") as archive:
        archive.writestr("a.csv", csv())
        archive.writestr("b.csv", csv())
    with pytest.raises(BadCandles, match=r"found a\.csv, b\.csv"):
        read_folder(tmp_path)


def test_bad_rows_are_skipped_on_request_and_listed(tmp_path):
    rows = [list(row) for row in OHLCV]
    rows[1][3] = 500.0  # low above high
    rows[2][5] = -1.0
    rows = [rows[3], *rows, [*OHLCV[4][:4], 101.5, 3.0]]  # unsorted, and one time twice more
    (tmp_path / "BTCUSDT.csv").write_text(csv(rows))
    with pytest.raises(BadCandles, match="sorted open times"):
        read_candles(tmp_path / "BTCUSDT.csv")
    read = read_candles(tmp_path / "BTCUSDT.csv", skip_bad=True)
    assert read.table.open_time.tolist() == [OHLCV[n][0] for n in (0, 3, 4, 5)]
    assert read.table.close[2] == OHLCV[4][4]  # the first one counts
    assert len(read.skipped) == 4
    for part in ("row 4 after", "row 7 after", "row 2 (2024-01-01T01:00:00)", "row 3 (2024-01-01T02:00:00)"):
        assert any(part in text for text in read.skipped), part


def test_candles_off_the_grid_and_cut_short_keep_their_times(tmp_path):
    shifted = klines()
    shifted[2][6] = shifted[2][0] + 1_200_000  # a stop cuts it short
    for row in shifted[3:]:
        row[0], row[6] = row[0] + 1_694_789, row[6] + 1_694_789
    (tmp_path / "OFFUSDT-1h-2018-02.csv").write_text(csv(shifted, ()))
    table = read_folder(tmp_path)["OFFUSDT"]
    assert table.open_time.tolist() == [row[0] for row in shifted]
    assert table.ends.tolist() == [row[6] for row in shifted]


def test_what_is_no_data_is_listed_with_the_reason(tmp_path):
    for name in ("BTCUSDT.csv", "README.md", ".hidden.csv", "BTCUSDT-1h-2024-01.zip.CHECKSUM"):
        (tmp_path / name).write_text(csv())
    listing = list_files(tmp_path)
    assert [path.name for path in listing.files] == ["BTCUSDT.csv"]
    assert {path.name: why for path, why in listing.ignored.items()} == {
        "README.md": "no data by its name",
        ".hidden.csv": "hidden",
        "BTCUSDT-1h-2024-01.zip.CHECKSUM": "no data by its name",
    }
    (tmp_path / "BTCUSDT.xlsx").touch()
    with pytest.raises(BadName, match=r"BTCUSDT\.xlsx"):
        list_files(tmp_path)


@given(st.integers(1, 6), st.data())
def test_files_that_overlap_join_to_the_whole(count, data):
    table = CandleTable(
        symbol="BTCUSDT", interval="1h", **{name: np.array([row[n] for row in OHLCV]) for n, name in enumerate(NAMES)}
    )
    parts = {"all but the first": table.rows(np.arange(1, 6)), "the first": table.rows(np.arange(1))}
    for n in range(count):
        keep = data.draw(st.lists(st.booleans(), min_size=6, max_size=6))
        if any(keep):
            parts[f"part {n}"] = table.rows(np.array(keep))
    joined = join_tables(parts)
    for name in NAMES:
        assert getattr(joined, name).tolist() == getattr(table, name).tolist()


def test_files_of_two_units_are_one_market(tmp_path):
    "Binance's archive went from milliseconds to microseconds between two files."
    (tmp_path / "BTCUSDT-1h-2024-12.csv").write_text(csv(klines()[:3], ()))
    (tmp_path / "BTCUSDT-1h-2025-01.csv").write_text(csv(klines(1000)[3:], ()))
    assert read_folder(tmp_path)["BTCUSDT"].open_time.tolist() == [row[0] for row in OHLCV]


@pytest.mark.parametrize("order", [("a", "b", "c"), ("b", "a", "c"), ("c", "b", "a")])
def test_what_a_file_lacks_another_completes(order):
    known = np.array([np.nan, 7.0])
    parts = {
        "a": part(2),
        "b": part(2, quote_asset_volume=known),
        "c": part(2, ends=np.array([HOUR - 1, 1_000_000]), number_of_trades=np.array([3.0, np.nan])),
    }
    joined = join_tables({name: parts[name] for name in order})
    assert joined.extra["quote_asset_volume"].tolist()[1:] == [7.0] and np.isnan(joined.extra["quote_asset_volume"][0])
    assert joined.extra["number_of_trades"].tolist()[:1] == [3.0] and np.isnan(joined.extra["number_of_trades"][1])
    assert joined.ends.tolist() == [START + HOUR - 1, START + HOUR + 1_000_000]
    parts["b"] = part(2, quote_asset_volume=np.array([np.nan, 8.0]))
    parts["d"] = part(2, quote_asset_volume=known)
    with pytest.raises(BadCandles, match="found quote_asset_volume [78] and [78]"):
        join_tables({name: parts[name] for name in (*order, "d")})


def part(count, ends=None, **extra):
    times = START + HOUR * np.arange(count)
    columns = {name: np.array([row[n] for row in OHLCV[:count]]) for n, name in enumerate(NAMES)}
    return CandleTable(
        symbol="BTCUSDT", interval="1h", **columns, extra=extra, close_time=None if ends is None else times + ends
    )


def test_what_looks_like_the_volume_of_an_asset_is_not(tmp_path):
    rows = [[*row, 7, 8, 9] for row in OHLCV]
    (tmp_path / "AAAUSDT.csv").write_text(csv(rows, (*NAMES, "volume_ma", "Volume USDT", "volume_sma")))
    (tmp_path / "BBBUSDT.csv").write_text(csv(rows, (*NAMES, "volume_ma", "volume_24h", "volume_")))
    tables = read_folder(tmp_path)
    assert tables["AAAUSDT"].extra["quote_asset_volume"].tolist() == [8.0] * 6
    assert not tables["BBBUSDT"].extra


@pytest.mark.parametrize("kind", ["string", "large_string", "null", "float64", "int64", "timestamp[ms]", "date32"])
def test_a_second_column_of_times_without_a_value_says_nothing(tmp_path, kind):
    whole = pa.Table.from_pylist([dict(zip(NAMES, row, strict=True)) for row in OHLCV])
    empty = pa.nulls(len(OHLCV), pa.type_for_alias(kind))
    for name in ("timestamp", "date", "close_time"):
        for position in (0, len(NAMES)):
            pq.write_table(whole.add_column(position, name, empty), tmp_path / "BTCUSDT.parquet")
            assert read_folder(tmp_path)["BTCUSDT"].open_time.tolist() == [row[0] for row in OHLCV]
    (tmp_path / "BTCUSDT.parquet").unlink()
    (tmp_path / "BTCUSDT.csv").write_text(csv([["", *row] for row in OHLCV], ("date", *NAMES)))
    assert read_folder(tmp_path)["BTCUSDT"].open_time.tolist() == [row[0] for row in OHLCV]
    pq.write_table(whole.set_column(0, "open_time", empty), tmp_path / "ETHUSDT.parquet")
    with pytest.raises(BadCandles, match=r"ETHUSDT\.parquet"):
        read_folder(tmp_path)


def test_a_quiet_market_has_the_interval_that_it_is_given(tmp_path):
    minutes = [0, 7, 16, 23, 30, 39]
    rows = [[START + 60_000 * minute, *row[1:]] for minute, row in zip(minutes, OHLCV, strict=True)]
    (tmp_path / "SPAUSDT-1m.csv").write_text(csv(rows))
    (tmp_path / "SPBUSDT.csv").write_text(csv([[*row, "1m"] for row in rows], (*NAMES, "interval")))
    (tmp_path / "SPCUSDT.csv").write_text(csv(rows))
    for name in ("SPAUSDT-1m.csv", "SPBUSDT.csv"):
        assert read_candles(tmp_path / name).table.interval == "1m"
    assert read_candles(tmp_path / "SPCUSDT.csv", interval="1m").table.open_time.tolist() == [row[0] for row in rows]
    with pytest.raises(BadCandles, match="or name the interval"):
        read_candles(tmp_path / "SPCUSDT.csv")


@pytest.mark.parametrize(
    ("zone", "freq", "interval"),
    [("America/New_York", "W-MON", "1w"), ("America/New_York", "D", "1d"), ("Europe/Berlin", "D", "1d")],
)
@pytest.mark.parametrize("cut", [0, 3, 7, 20])
def test_days_of_a_zone_are_read_across_the_change_of_its_clock(tmp_path, zone, freq, interval, cut):
    "As one file, and as two that meet anywhere."
    begins = pd.date_range("2024-02-26" if interval == "1w" else "2024-03-06", periods=40, freq=freq, tz=zone)
    bars = pd.DataFrame({"Date": begins.astype(str), **dict.fromkeys(NAMES[1:], 100.0)})
    for n, part in enumerate(part for part in (bars[:cut], bars[cut:]) if len(part)):
        (tmp_path / f"AAPL-{interval}-part-{n}.csv").write_text(part.to_csv(index=False))
    table = read_folder(tmp_path)["AAPL"]
    assert table.open_time.tolist() == begins.as_unit("ms").asi8.tolist() and table.interval == interval
    assert (table.ends[:-1] < table.open_time[1:]).all()
    lengths = table.ends - table.open_time + 1
    assert sorted(set(lengths.tolist())) == [lengths.max() - HOUR, lengths.max()]


def test_candles_of_kraken_and_a_ticker_of_one_letter(tmp_path):
    path = tmp_path / "F_60.csv"
    path.write_text(csv([[row[0] // 1000, *row[1:], 3] for row in OHLCV], ()))
    table = read_candles(path, symbol="F").table
    assert (table.symbol, table.interval) == ("F", "1h") and table.volume.tolist() == [row[5] for row in OHLCV]
    assert table.extra["number_of_trades"].tolist() == [3.0] * 6
    (tmp_path / "F.csv").write_text(csv())
    with pytest.raises(StreamForgeError, match="say --symbol"):
        read_candles(tmp_path / "F.csv")


def test_names_that_are_not_ascii():
    from pathlib import Path

    assert name_of(Path("币安人生USDT-1h.csv")).symbol == "币安人生USDT"
