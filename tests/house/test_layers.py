"""The shape of the house: imports go down, research knows nothing of platform, public names are documented and typed."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIB = ROOT / "streamforge"
RESEARCH = {"features", "graph", "trading", "rl", "evaluation", "viz"}
FREE = {"core", "messages"}  # both halves stand on these
ROOMS = {re.sub(r"^\d+_", "", p.name): int(p.name[:2]) for p in (ROOT / "nbs").iterdir() if re.match(r"\d\d_", p.name)}
PLACES = {  # module -> (room number, place in the room)
    f"{re.sub(r'^[0-9]+_', '', p.parent.name)}.{re.sub(r'^[0-9]+_', '', p.stem)}": (int(p.parent.name[:2]), int(p.name[:2]))
    for p in (ROOT / "nbs").rglob("[0-9][0-9]_*.ipynb")
    if ".ipynb_checkpoints" not in p.parts
}
MODULES = sorted(p for p in LIB.rglob("*.py") if not p.name.startswith("_"))
CLOCKS = {"time.time", "time.time_ns", "datetime.now", "os.environ", "os.getenv", "socket", "httpx", "requests", "urllib.request"}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(LIB).with_suffix("").parts)


def imports_of(path: Path) -> set[str]:
    "Modules of the house that `path` imports, relative ones resolved, as `room.module`."
    found, package = set(), ["streamforge", *path.relative_to(LIB).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [o.name for o in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            names = [stem, *(f"{stem}.{o.name}" for o in node.names)]
        found |= {m[1] for o in names if (m := re.match(r"streamforge\.(\w+\.\w+)", o)) and m[1] in PLACES}
    return found


def test_every_module_has_its_notebook():
    assert {name_of(p) for p in MODULES} == set(PLACES)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down(path):
    here = PLACES[name_of(path)]
    wrong = {o for o in imports_of(path) if PLACES[o] >= here}
    assert not wrong, f"{name_of(path)} {here} imports what is built later: {wrong}"


@pytest.mark.parametrize("path", [p for p in MODULES if p.parent.name in RESEARCH], ids=name_of)
def test_research_is_pure(path):
    rooms = {o.partition(".")[0] for o in imports_of(path)}
    assert rooms <= RESEARCH | FREE, f"research imports platform: {rooms - RESEARCH - FREE}"
    source = path.read_text()
    reached = {ast.unparse(o) for o in ast.walk(ast.parse(source)) if isinstance(o, (ast.Attribute, ast.Name))}
    imported = {a.name for o in ast.walk(ast.parse(source)) if isinstance(o, ast.Import) for a in o.names}
    assert not CLOCKS & (reached | imported), f"research uses clock, environment or network: {CLOCKS & (reached | imported)}"


def untold(tree: ast.Module) -> list[str]:
    "Public functions, classes and methods without a docstring, or with a parameter or result that has no type."
    wrong = []
    for owner in [tree, *(o for o in tree.body if isinstance(o, ast.ClassDef) and o.name[0] != "_")]:
        for node in owner.body:
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or node.name[0] == "_":
                continue
            if not ast.get_docstring(node):
                wrong.append(f"line {node.lineno}: {node.name} has no docstring")
            if not isinstance(node, ast.ClassDef):
                arguments = [o for o in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if o.arg not in ("self", "cls")]
                wrong += [f"line {node.lineno}: {node.name}({o.arg}) has no type" for o in arguments if o.annotation is None]
                wrong += [f"line {node.lineno}: {node.name} has no result type"] if node.returns is None else []
    return wrong


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_public_names_are_told(path):
    assert not (wrong := untold(ast.parse(path.read_text()))), "\n".join(wrong)


def test_import_is_light():
    "`import streamforge` takes under 0.3 s and loads neither torch nor pandas (the best of three: machines are noisy)."
    code = "import sys, time; t = time.perf_counter(); import streamforge; print(time.perf_counter() - t, 'torch' in sys.modules, 'pandas' in sys.modules)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() for _ in range(3)]
    assert all(o[1:] == ["False", "False"] for o in runs) and min(float(o[0]) for o in runs) < 0.3


HEAVY = {"torch", "sklearn", "stable_baselines3", "papermill", "gymnasium", "torch_geometric", "jupyterlab", "TA-Lib", "talib"}
LEAN = ["workers.base", "workers.loader", "workers.connector", "cli.main", "manager.api", "visualizer.app"]


@pytest.mark.parametrize("module", [o for o in LEAN if o in PLACES])
def test_the_core_install_is_enough(module):
    "Loaders, connectors, the manager and the page need no package of the extras."
    code = f"import sys, streamforge.{module}; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert not HEAVY & loaded, HEAVY & loaded
