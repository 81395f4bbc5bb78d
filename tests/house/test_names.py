"""One public name means one thing in the whole library."""

import ast
from collections import defaultdict
from pathlib import Path

LIBRARY = Path(__file__).parents[2] / "streamforge"
REPEATED = {"log"}  # the logger of a module


def defined_names(path: Path) -> set[str]:
    "The public functions, classes and constants that a module defines at its top level."
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return {name for name in names if not name.startswith("_")} - REPEATED


def test_a_public_name_is_defined_once():
    modules = defaultdict(list)
    for path in sorted(LIBRARY.rglob("*.py")):
        if not path.name.startswith("_"):
            for name in defined_names(path):
                modules[name].append(".".join(path.relative_to(LIBRARY).with_suffix("").parts))
    doubles = {name: where for name, where in sorted(modules.items()) if len(where) > 1}
    assert not doubles, "rename them, or make them private with `_`:\n" + "\n".join(
        f"{name}: {', '.join(where)}" for name, where in doubles.items()
    )
