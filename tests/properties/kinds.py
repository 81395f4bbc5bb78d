"""What an argument may be: forms of the same value, which must give the same result, and values that must be refused."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

Forms = dict[str, object]


@dataclass(frozen=True)
class Kind:
    "How an argument can be given, and how it cannot."

    same: Callable[[object], Forms]  # value -> other forms of it
    wrong: Callable[[object, int], Forms]  # value, where -> what must be refused


def _with(values: np.ndarray, where: int, number: float) -> np.ndarray:
    "The values with another number at one place."
    changed = np.array(values, np.float64)
    changed.flat[where % changed.size] = number
    return changed


def _masked(values: np.ndarray, where: int) -> np.ma.MaskedArray:
    "The values with one of them masked."
    mask = np.zeros(values.size, bool)
    mask[where % values.size] = True
    return np.ma.array(values, mask=mask.reshape(values.shape))


def numbers(*, positive: bool = False, nan: bool = False, inf: bool = False, any_length: bool = False) -> Kind:
    "An array of floats, of the shape that the example has."

    def same(value: np.ndarray) -> Forms:
        forms: Forms = {
            "list": value.tolist(),
            "view": np.repeat(value, 2, axis=0)[::2],
            "Fortran order": np.asfortranarray(value),
            "objects": value.astype(object),
            "mask": np.ma.masked_invalid(value),
        }
        if value.ndim == 1:
            forms["Series"] = pd.Series(value, index=np.arange(len(value))[::-1] + 7)
            forms["Arrow"] = pa.array(value)
        if (value.astype(np.float32) == value).all():
            forms["float32"] = value.astype(np.float32)
        return forms

    def wrong(value: np.ndarray, where: int) -> Forms:
        forms: Forms = {
            "booleans": np.ones(value.shape, bool),
            "text": value.astype(str),
            "complex": value.astype(complex),
            "dates": np.full(value.shape, "2024-01-01", "datetime64[ms]"),
            "objects": np.full(value.shape, object()),
            "an axis more": value[..., None],
            "ragged": [[1.0], [1.0, 2.0]],
            "one number": 1.0,
        }
        if not nan:
            forms["NaN"], forms["masked"] = _with(value, where, math.nan), _masked(value, where)
        if not inf:
            forms["infinite"] = _with(value, where, math.inf)
        if positive:
            forms["negative"], forms["zero"] = _with(value, where, -1.0), _with(value, where, 0.0)
        if not any_length:
            forms["a row less"], forms["a row more"] = value[:-1], np.concatenate([value, value[-1:]])
            forms["empty"] = value[:0]
        return forms

    return Kind(same, wrong)


def times(*, any_length: bool = False) -> Kind:
    "Instants in ms UTC, ascending."

    def same(value: np.ndarray) -> Forms:
        stamps = pd.to_datetime(value, unit="ms")
        return {
            "list": value.tolist(),
            "floats": value.astype(float),
            "us": value.astype("datetime64[ms]").astype("datetime64[us]"),
            "ns": value.astype("datetime64[ms]").astype("datetime64[ns]"),
            "index with a zone": pd.DatetimeIndex(stamps, tz="UTC"),
            "Series": pd.Series(stamps.as_unit("us"), index=np.arange(len(value))[::-1]),
            "texts": [stamp.isoformat() for stamp in stamps],
        }

    def wrong(value: np.ndarray, where: int) -> Forms:
        without = pd.to_datetime(value, unit="ms").to_numpy().copy()
        without[where % len(value)] = "NaT"
        repeated = value.copy()
        repeated[1] = repeated[0]
        forms: Forms = {
            "seconds": value // 1000,
            "microseconds": value * 1000,
            "nanoseconds": value * 1_000_000,
            "reversed": value[::-1],
            "repeated": repeated,
            "NaN": _with(value, where, math.nan),
            "NaT": without,
            "masked": _masked(value, where),
            "booleans": np.ones(len(value), bool),
            "words": ["yesterday"] * len(value),
            "None": [None] * len(value),
        }
        return forms if any_length else forms | {"a row less": value[:-1]}

    return Kind(same, wrong)


def unordered_times() -> Kind:
    "Instants in ms UTC, in any order."
    ordered = times()
    free = ("reversed", "repeated")
    return Kind(ordered.same, lambda v, k: {n: form for n, form in ordered.wrong(v, k).items() if n not in free})


def count(least: int = 0, most: int | None = None) -> Kind:
    "A whole number."

    def wrong(value: int, where: int) -> Forms:
        forms = _no_number() | {"below": least - 1 - where % 5, "a fraction": value + 0.5}
        return forms if most is None else forms | {"above": most + 1 + where % 5}

    return Kind(lambda value: {"numpy": np.int32(value), "float": float(value)}, wrong)


def number(*, least: float | None = None, above: float | None = None, most: float | None = None) -> Kind:
    "A finite number."

    def wrong(value: float, where: int) -> Forms:
        forms = _no_number()
        if least is not None:
            forms["below"] = least - 0.001 - where % 7
        if above is not None:
            forms["at the bound"], forms["below"] = above, above - 1 - where % 7
        if most is not None:
            forms["above"] = most * 1.001 + where % 7
        return forms

    return Kind(lambda value: {"numpy": np.float64(value), "objects": float(value)}, wrong)


def _no_number() -> Forms:
    return {"NaN": math.nan, "infinite": math.inf, "text": "3", "boolean": True, "a list": [3], "object": object()}


def choice() -> Kind:
    "One of a set of texts."
    return Kind(lambda value: {}, lambda value, where: {"unknown": "nonsense", "empty": "", "a number": 7})


def named(kind: Kind, names: tuple[str, ...]) -> Kind:
    "A table whose columns have names: they are found by these, and not by their places."

    def same(value: np.ndarray) -> Forms:
        table = pd.DataFrame(value, columns=list(names))
        turned = table[table.columns[::-1]]
        tables: Forms = {
            "DataFrame": table,
            "columns in another order": turned,
            "Arrow in another order": pa.table(turned.to_dict("list")),
            "mapping in another order": turned.to_dict("list"),
        }
        return kind.same(value) | tables

    def wrong(value: np.ndarray, where: int) -> Forms:
        table, name = pd.DataFrame(value, columns=list(names)), names[where % len(names)]
        return kind.wrong(value, where) | {
            "another name": table.rename(columns={name: "another"}),
            "a name less": table.drop(columns=name),
            "a name twice": pd.concat([table, table[[name]]], axis=1),
        }

    return Kind(same, wrong)


def timed(kind: Kind, moments: np.ndarray) -> Kind:
    "A column or table that may have the times of its rows as index: other ones are refused."

    def indexed(value: np.ndarray, index: pd.Index) -> pd.Series | pd.DataFrame:
        return pd.Series(value, index) if value.ndim == 1 else pd.DataFrame(value, index)

    def same(value: np.ndarray) -> Forms:
        return kind.same(value) | {"indexed by its times": indexed(value, pd.to_datetime(moments, unit="ms"))}

    def wrong(value: np.ndarray, where: int) -> Forms:
        index = pd.to_datetime(moments, unit="ms")
        forms = {
            "shifted index": indexed(value, index + pd.Timedelta(hours=1 + where % 5)),
            "reversed index": indexed(value, index[::-1]),
        }
        return kind.wrong(value, where) | forms

    return Kind(same, wrong)


def without(kind: Kind, *labels: str) -> Kind:
    "A kind for which some of the wrong values are not wrong; the table of doors says why."
    return Kind(
        kind.same, lambda value, where: {k: form for k, form in kind.wrong(value, where).items() if k not in labels}
    )
