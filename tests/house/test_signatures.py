"""Every public name can be looked up by tools: its annotations name types that exist at run time."""

import importlib
import inspect
import pkgutil

import pytest

import streamforge

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(streamforge.__path__, "streamforge.")
    if not module.ispkg and not module.name.rpartition(".")[2].startswith("_")
)


def public_callables(module):
    "Name and object of each public function, class and method that a module defines, also behind a decorator."
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", "") != module.__name__:
            continue
        if inspect.isclass(value):
            yield name, value
            for method, raw in vars(value).items():
                function = next(
                    (getattr(raw, part) for part in ("__func__", "fget", "func") if hasattr(raw, part)), raw
                )
                if not method.startswith("_") and inspect.isroutine(function):
                    yield f"{name}.{method}", function
        elif callable(value) and (inspect.isfunction(value) or hasattr(value, "__wrapped__")):
            yield name, value


@pytest.mark.parametrize("name", MODULES)
def test_signatures_can_be_read(name):
    wrong = []
    for where, value in public_callables(importlib.import_module(name)):
        try:
            inspect.signature(value, eval_str=True)
        except ValueError as error:
            if "no signature found" not in str(error):  # a class without __init__, such as an enumeration or an error
                wrong.append(f"{where}: {error}")
        except Exception as error:
            wrong.append(f"{where}: {type(error).__name__}: {error}")
    assert not wrong, "\n".join(wrong)
