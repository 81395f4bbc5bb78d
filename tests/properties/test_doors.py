"""Every way of giving the same data gives the same result, and what cannot be meant is refused before anything is computed."""

import dataclasses
import importlib
import inspect
import pkgutil
import warnings

import msgspec
import numpy as np
import pytest
from doors import DOORS, NOT_TRIED, Door
from hypothesis import given, settings
from hypothesis import strategies as st
from plotly.graph_objects import Figure

from streamforge.core.errors import StreamForgeError

ARGUMENTS = [(name, argument) for name, door in DOORS.items() for argument in door.kinds]


def plain(result: object) -> object:
    "A result as nested lists and numbers, which can be compared."
    if isinstance(result, Figure):
        return result.to_json()
    if isinstance(result, np.ndarray):
        return [str(x) for x in result.ravel().tolist()] if result.dtype.kind in "OUM" else result
    if isinstance(result, msgspec.Struct):
        return plain(msgspec.structs.asdict(result))
    if dataclasses.is_dataclass(result):
        return plain(vars(result))
    if isinstance(result, dict):
        return {key: plain(value) for key, value in result.items()}
    if isinstance(result, list | tuple):
        return [plain(value) for value in result]
    return result


def called(door: Door, **changed: object) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # a number that numpy doubts is not a silent one
        return door.call(**(door.arguments | changed))


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_other_forms_of_the_same_value_give_the_same_result(name, argument):
    door = DOORS[name]
    expected = plain(called(door))
    for label, form in door.kinds[argument].same(door.arguments[argument]).items():
        np.testing.assert_equal(plain(called(door, **{argument: form})), expected, err_msg=f"{argument} as {label}")


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
@settings(max_examples=8)
@given(where=st.integers(0, 10_000))
def test_what_cannot_be_meant_is_refused(name, argument, where):
    door, passed = DOORS[name], []
    for label, form in door.kinds[argument].wrong(door.arguments[argument], where).items():
        try:
            called(door, **{argument: form})
            passed.append(f"{label}: no error")
        except StreamForgeError as error:
            assert "expected" in str(error)
            assert "found" in str(error)
        except Exception as error:
            passed.append(f"{label}: {type(error).__name__}: {error}"[:200])
    assert not passed, f"{name}({argument}=...): " + "; ".join(passed)


def public_functions() -> set[str]:
    "Names of the public functions of research and runs, without those that numba compiles for other compiled ones."
    names = set()
    for room in ("features", "graph", "trading", "rl", "evaluation", "viz", "runs"):
        package = importlib.import_module(f"streamforge.{room}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            content = importlib.import_module(module.name)
            if module.ispkg:
                continue
            names |= {name for name in content.__all__ if inspect.isfunction(getattr(content, name))}
    return names


def test_every_public_function_is_tried_or_says_why_not():
    tried = {name.rpartition(".")[2] for name in DOORS}
    assert public_functions() - tried == set(NOT_TRIED)
