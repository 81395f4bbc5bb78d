"""Everything that takes a data frame reads its open times by one rule, whatever shape they have."""

import asyncio
import tempfile
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from streamforge.core.columns import candle_times
from streamforge.core.errors import BadCandles, BadData, BadTime
from streamforge.core.samples import candles
from streamforge.exchange.files import candles_of_table
from streamforge.exchange.formats.raw import table_of_frame
from streamforge.features.enricher import CANDLE_COLUMNS, Enricher
from streamforge.features.frame import panel_of
from streamforge.store.base import open_store
from streamforge.viz.charts import candlestick
from streamforge.viz.heatmap import volume_profile
from streamforge.workers.imports.files import import_frame

BARS = candles("BTCUSDT")[:60].reset_index(drop=True)
TIMES = BARS["open_time"].to_numpy()
MOMENTS = pd.DatetimeIndex(TIMES.astype("datetime64[ms]"))


def enriched(frame: pd.DataFrame) -> np.ndarray:
    "The open times that an enricher took: its last one, and the table's."
    enricher = Enricher()
    enricher.enrich(frame)
    return np.append(candle_times(frame)[:-1], enricher.last_open_time)


def from_history(frame: pd.DataFrame) -> np.ndarray:
    times, enricher = frame.get("open_time", frame.index), Enricher()
    enricher.history(times, *(frame[name] for name in CANDLE_COLUMNS[1:]))
    return np.append(TIMES[:-1], enricher.last_open_time)


def imported(frame: pd.DataFrame) -> np.ndarray:
    async def stored() -> np.ndarray:
        async with open_store(f"sqlite:///{folder}/store.db") as store:
            await import_frame(store, frame, symbol="BTCUSDT")
            return (await store.read("candles_1h"))["open_time"].to_numpy()

    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(stored())


def drawn(frame: pd.DataFrame) -> np.ndarray:
    return np.asarray(candlestick(frame).data[0].x, "datetime64[ms]").astype(np.int64)


def profiled(frame: pd.DataFrame) -> np.ndarray:
    price = BARS["close"].round()
    rows = {"open_time": TIMES, "price": price, "buy_volume": np.ones(60), "sell_volume": np.ones(60)}
    figure = volume_profile(frame, rows)
    assert np.sum(figure.data[1].x) == 60  # the volume of all candles was found
    return np.asarray(figure.data[0].x, "datetime64[ms]").astype(np.int64)


DOORS: dict[str, Callable[[pd.DataFrame], np.ndarray]] = {
    "panel_of": lambda frame: panel_of({"BTCUSDT": frame}).open_time,
    "panel_of, beside another market": lambda frame: panel_of({"BTCUSDT": frame, "ETHUSDT": BARS}).open_time,
    "Enricher.history": from_history,
    "Enricher.enrich": enriched,
    "candlestick": drawn,
    "volume_profile": profiled,
    "import_frame": imported,
}
WITHOUT = BARS.drop(columns="open_time")
SHAPES = {
    "ms": BARS,
    "ms as floats": BARS.assign(open_time=TIMES.astype(float)),
    "ms that may be null": BARS.assign(open_time=BARS["open_time"].astype("Int64")),
    "ISO text": BARS.assign(open_time=MOMENTS.strftime("%Y-%m-%dT%H:%M:%S")),
    **{f"datetime64[{unit}]": BARS.assign(open_time=MOMENTS.as_unit(unit)) for unit in ("s", "ms", "us", "ns")},
    "with a zone": BARS.assign(open_time=MOMENTS.tz_localize("UTC").tz_convert("Europe/Berlin")),
    "Arrow's timestamps": BARS.assign(open_time=pd.Series(MOMENTS.as_unit("us")).astype("timestamp[us][pyarrow]")),
    "datetime objects": BARS.assign(open_time=pd.Series(MOMENTS.to_pydatetime(), dtype=object)),
    **{
        f"index, {name or 'unnamed'}, {unit}": WITHOUT.set_axis(MOMENTS.as_unit(unit).rename(name))
        for name in (None, "open_time", "Date")
        for unit in ("s", "ns")
    },
    "index with a zone": WITHOUT.set_axis(MOMENTS.tz_localize("UTC").tz_convert("Asia/Tokyo")),
    "a column beside an index of close times": BARS.set_axis(MOMENTS + pd.Timedelta("1h")),
    "a column beside the same index": BARS.set_axis(MOMENTS.rename("open_time")),
}
ORDER = "(ascending|sorted) open.times?|each open time once|a candle after open time"
WRONG = {  # name -> the frame, and what its error says
    "reversed": (BARS[::-1], ORDER),
    "reversed index": (WITHOUT.set_axis(MOMENTS)[::-1], ORDER),
    "one twice": (pd.concat([BARS, BARS.tail(1)]), ORDER),
    "index, one twice": (pd.concat([WITHOUT.set_axis(MOMENTS), WITHOUT.set_axis(MOMENTS).tail(1)]), ORDER),
    "seconds": (BARS.assign(open_time=TIMES // 1000), "in row 0, which looks like seconds"),
    "microseconds": (BARS.assign(open_time=TIMES * 1000), "in row 0, which looks like microseconds"),
    "seconds from the middle on": (
        BARS.assign(open_time=np.where(np.arange(60) < 30, TIMES, TIMES // 1000)),
        "in row 30, which looks like seconds",
    ),
    "NaT": (BARS.assign(open_time=pd.Series(MOMENTS).where(np.arange(60) != 5)), "in row 5, found none"),
    "digits": (BARS.assign(open_time=MOMENTS.strftime("%Y%m%d%H").astype(int)), "or a date written as digits"),
    "none": (WITHOUT, "open_time"),
    "a column and an index that differ": (
        BARS.set_axis((MOMENTS + pd.Timedelta("1h")).rename("open_time")),
        "a column and an index that differ",
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("door", DOORS)
def test_a_frame_is_read_whatever_shape_its_times_have(door, shape):
    assert DOORS[door](SHAPES[shape]).tolist() == TIMES.tolist()


COLUMNS_ONLY = ("Enricher.history", ("none", "a column and an index that differ"))  # it takes no frame


@pytest.mark.parametrize(
    ("door", "wrong"),
    [(door, wrong) for door in DOORS for wrong in WRONG if not (door == COLUMNS_ONLY[0] and wrong in COLUMNS_ONLY[1])],
)
def test_a_frame_whose_times_are_wrong_is_refused(door, wrong):
    frame, message = WRONG[wrong]
    with pytest.raises((BadCandles, BadData, BadTime), match=message):
        DOORS[door](frame)


def test_other_tables_are_read_as_frames_are():
    for table in (pa.Table.from_pandas(BARS), BARS.to_dict("list")):
        assert panel_of({"BTCUSDT": table}).open_time.tolist() == TIMES.tolist()
        assert drawn(table).tolist() == imported(table).tolist() == TIMES.tolist()


@pytest.mark.parametrize("name", ["timestamp", "Date", "unix"])
def test_numbers_of_a_frame_are_milliseconds_by_whatever_name(name):
    "Only in a file the magnitude decides: it cannot be asked."
    frame = BARS.rename(columns={"open_time": name})
    assert imported(frame).tolist() == TIMES.tolist()
    seconds = frame.assign(**{name: TIMES // 1000})
    with pytest.raises(BadCandles, match="looks like seconds"):
        imported(seconds)
    read = candles_of_table(table_of_frame(seconds), "a file", symbol="BTCUSDT").table
    assert read.open_time.tolist() == TIMES.tolist()
