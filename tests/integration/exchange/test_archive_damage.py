"""Whatever is wrong with a file of the archive: the same records as by REST, and the file named with the reason."""

import pytest
from other_archive import DAMAGES, OtherArchive, damaged, rows_at, zipped

from streamforge.core.samples import SAMPLES
from streamforge.core.times import TimeRange
from streamforge.exchange.binance.archive import Archive
from streamforge.exchange.binance.rest import BinanceRest
from streamforge.exchange.files import read_folder
from streamforge.exchange.simulator.app import Simulator, serve_app
from streamforge.exchange.simulator.faults import Fault
from streamforge.workers.loaders.archive import ArchivedCandles, ArchivedTrades, archive_figures

SPAN = TimeRange.parse("2021-05-01:2021-06-03")
MONTH = "/data/spot/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2021-05.zip"
DAY = "/data/spot/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2021-05-20.zip"
TRADES = "/data/spot/daily/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2021-05-20.zip"
THREE = TimeRange.parse("2021-05-19:2021-05-22")


async def read(pages) -> list:
    return [record async for page in pages for record in page]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_candles_come_from_the_days_and_from_rest(tmp_path, damage):
    "The file of the month is damaged, and the one of a day."
    simulator = Simulator.open()
    files = {path: damaged(simulator, path, damage) for path in (MONTH, DAY)}
    async with (
        serve_app(OtherArchive(simulator, files)) as url,
        BinanceRest(url) as rest,
        Archive(tmp_path, url) as archive,
    ):
        truth = await read(rest.klines("BTCUSDT", "1h", SPAN))
        candles = ArchivedCandles(archive, rest, "BTCUSDT", "1h", SPAN, whole=SPAN, always=True)
        assert await read(candles) == truth
    figures = archive_figures(archive, [candles])["archive"]
    assert [failed["file"] for failed in figures["failed"]] == ["BTCUSDT-1h-2021-05", "BTCUSDT-1h-2021-05-20"]
    assert all("expected" in failed["reason"] and "found" in failed["reason"] for failed in figures["failed"])
    assert figures["not_used"] == 2
    assert candles.lacked == 24
    assert candles.archived == len(truth) - 24
    differing = [(file["file"], len(file["rows"])) for file in figures["differing"]]
    assert differing == ([(failed["file"], 5) for failed in figures["failed"]] if damage == "another price" else [])


@pytest.mark.parametrize("damage", DAMAGES)
async def test_trades_come_from_rest(tmp_path, damage):
    "Three days, of which the second is damaged."
    simulator = Simulator.open()
    files = {TRADES: damaged(simulator, TRADES, damage)}
    async with (
        serve_app(OtherArchive(simulator, files)) as url,
        BinanceRest(url) as rest,
        Archive(tmp_path, url) as archive,
    ):
        truth = await read(ArchivedTrades(None, rest, "BTCUSDT", THREE, whole=THREE))
        trades = ArchivedTrades(archive, rest, "BTCUSDT", THREE, whole=THREE, always=True)
        assert await read(trades) == truth
    figures = archive_figures(archive, [trades])["archive"]
    assert [failed["file"] for failed in figures["failed"]] == ["BTCUSDT-aggTrades-2021-05-20"]
    assert (trades.archived, trades.lacked) == (576, 288)
    assert not trades.gaps


async def test_a_wrong_checksum_for_good(tmp_path):
    "Of the month and of a day; and a day that is not public."
    simulator = Simulator.open()
    for path in (MONTH, DAY):
        simulator.faults.add(Fault(kind="checksum", path=f"{path}.CHECKSUM", times=0))
    private = DAY.replace("20.zip", "21.zip.CHECKSUM")
    simulator.faults.add(Fault(kind="server_error", status=403, path=private, times=0))
    async with serve_app(simulator) as url, BinanceRest(url) as rest, Archive(tmp_path, url) as archive:
        truth = await read(rest.klines("BTCUSDT", "1h", SPAN))
        candles = ArchivedCandles(archive, rest, "BTCUSDT", "1h", SPAN, whole=SPAN, always=True)
        assert await read(candles) == truth
    assert [bad.file[-10:] for bad in archive.bad] == ["1h-2021-05", "2021-05-20", "2021-05-21"]


async def test_days_that_overlap_at_midnight(tmp_path):
    "A day that begins with the last trades of the day before: each once, and what is dropped is counted."
    simulator = Simulator.open()
    before = rows_at(simulator, TRADES.replace("05-20", "05-19"))
    second = rows_at(simulator, TRADES)
    files = {TRADES: zipped(**{"BTCUSDT-aggTrades-2021-05-20": b"".join(before[-2:] + second)})}
    async with (
        serve_app(OtherArchive(simulator, files)) as url,
        BinanceRest(url) as rest,
        Archive(tmp_path, url) as archive,
    ):
        truth = await read(ArchivedTrades(None, rest, "BTCUSDT", THREE, whole=THREE))
        trades = ArchivedTrades(archive, rest, "BTCUSDT", THREE, whole=THREE, always=True)
        assert await read(trades) == truth
    last = int(before[-1].split(b",")[0])
    assert trades.repeated.parts == ((last - 1, last + 1),)
    assert archive_figures(archive, [trades])["archive"]["repeated"] == 2
    assert not archive.bad


async def test_a_market_that_the_exchange_no_longer_knows(tmp_path):
    "Its files are all there is: a damaged day is not to be had, and nothing is asked of REST."
    gone = Simulator.open()
    listed = Simulator({symbol: table for symbol, table in read_folder(SAMPLES).items() if symbol != "ETHUSDT"})
    path = DAY.replace("BTC", "ETH")
    files = {path: damaged(gone, path, "a row twice"), MONTH.replace("BTC", "ETH"): b""}
    async with (
        serve_app(OtherArchive(gone, files)) as archive_url,
        serve_app(listed) as url,
        BinanceRest(url) as rest,
        Archive(tmp_path, archive_url) as archive,
    ):
        span = TimeRange.parse("2021-05-19T12:00:2021-05-22")
        known = await archive.known_span("klines", "ETHUSDT", "1h", span, await rest.server_time())
        assert str(known) == "2021-05-01:2021-06-01"
        candles = ArchivedCandles(archive, rest, "ETHUSDT", "1h", span, whole=span, files_only=known)
        rows = await read(candles)
        trades = ArchivedTrades(archive, rest, "ETHUSDT", span, whole=span, files_only=known)
        tape = await read(trades)
    assert [candle.open_time for candle in rows] == [
        time
        for time in range(span.start, span.end, 3_600_000)
        if not candles.gaps[0].start <= time < candles.gaps[0].end
    ]
    assert [(gap.missing, gap.start) for gap in candles.gaps] == [(24, TimeRange.parse("2021-05-20:2021-05-21").start)]
    assert tape and not trades.gaps and all(trade.timestamp in span for trade in tape)
    assert {path for _, path, *_ in listed.log} == {"/api/v3/time"}
