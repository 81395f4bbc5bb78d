"""The shape of the package: imports go down, research knows nothing of platform, public names are documented."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from layers import BOTH_HALVES, RANKS, RESEARCH

ROOT = Path(__file__).parents[2]
LIB = ROOT / "streamforge"
PLACES = {  # module -> number of its notebook
    ".".join(re.sub(r"^\d+_", "", part) for part in path.relative_to(ROOT / "nbs").with_suffix("").parts): int(
        path.name[:2]
    )
    for path in (ROOT / "nbs").rglob("[0-9][0-9]_*.ipynb")
    if ".ipynb_checkpoints" not in path.parts
}
MODULES = sorted(p for p in LIB.rglob("*.py") if not p.name.startswith("_"))
CLOCKS = {
    "time.time",
    "time.time_ns",
    "datetime.now",
    "os.environ",
    "os.getenv",
    "socket",
    "httpx",
    "requests",
    "urllib.request",
}


def rank(module: str) -> tuple[int, str]:
    "The layer of a module, and the name in the list that gave it: its own, or that of its package."
    name = module if module in RANKS else module.rpartition(".")[0]
    return RANKS[name], name


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(LIB).with_suffix("").parts)


def imports_of(path: Path) -> set[str]:
    "Modules of the library that `path` imports, relative ones resolved, as `package.module`."
    modules, package = set(), ["streamforge", *path.relative_to(LIB).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            names = [stem, *(f"{stem}.{alias.name}" for alias in node.names)]
        modules |= {name.removeprefix("streamforge.") for name in names if name.startswith("streamforge.")}
    return modules & set(PLACES)


def test_every_module_has_its_notebook():
    assert {name_of(p) for p in MODULES} == set(PLACES)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down(path):
    module = name_of(path)
    here, package = rank(module)
    wrong = set()
    for other in imports_of(path) - {module}:
        there, its_package = rank(other)
        if there > here or (there == here and (its_package != package or PLACES[other] >= PLACES[module])):
            wrong.add(other)
    assert not wrong, f"{module} imports from a layer that is not below its own (see layers.py): {wrong}"


def test_every_package_has_its_layer():
    modules = {name_of(path) for path in MODULES}
    without = {name for name in modules if name not in RANKS and name.rpartition(".")[0] not in RANKS}
    assert not without, f"add their package to layers.py: {without}"


def test_numbers_are_the_order_of_reading():
    "In each folder of notebooks the numbers begin at 01 and none is missing or used twice."
    folders = {
        path.parent for path in (ROOT / "nbs").rglob("[0-9][0-9]_*.ipynb") if ".ipynb_checkpoints" not in path.parts
    }
    numbers = {folder: sorted(int(path.name[:2]) for path in folder.glob("[0-9][0-9]_*.ipynb")) for folder in folders}
    wrong = {
        str(folder.relative_to(ROOT)): in_folder
        for folder, in_folder in numbers.items()
        if in_folder != list(range(1, len(in_folder) + 1))
    }
    assert not wrong, wrong


@pytest.mark.parametrize("path", [p for p in MODULES if name_of(p).partition(".")[0] in RESEARCH], ids=name_of)
def test_research_is_pure(path):
    packages = {module.partition(".")[0] for module in imports_of(path)}
    assert packages <= RESEARCH | BOTH_HALVES, f"research imports platform: {packages - RESEARCH - BOTH_HALVES}"
    nodes = list(ast.walk(ast.parse(path.read_text())))
    reached = {ast.unparse(node) for node in nodes if isinstance(node, (ast.Attribute, ast.Name))}
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    assert not CLOCKS & (reached | imported), (
        f"research uses clock, environment or network: {CLOCKS & (reached | imported)}"
    )


def undocumented(tree: ast.Module) -> list[str]:
    "Public functions, classes and methods without a docstring, or with a parameter or result that has no type."
    wrong = []
    for owner in [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name[0] != "_")]:
        for node in owner.body:
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or node.name[0] == "_":
                continue
            if not ast.get_docstring(node):
                wrong.append(f"line {node.lineno}: {node.name} has no docstring")
            if not isinstance(node, ast.ClassDef):
                arguments = [
                    argument
                    for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
                    if argument.arg not in ("self", "cls")
                ]
                wrong += [
                    f"line {node.lineno}: {node.name}({argument.arg}) has no type"
                    for argument in arguments
                    if argument.annotation is None
                ]
                wrong += [f"line {node.lineno}: {node.name} has no result type"] if node.returns is None else []
    return wrong


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_public_names_are_documented(path):
    assert not (wrong := undocumented(ast.parse(path.read_text()))), "\n".join(wrong)


def test_import_is_light():
    "`import streamforge` loads neither torch nor pandas nor numba: a command that needs none starts at once."
    code = "import sys, streamforge; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not {"torch", "pandas", "numba", "pyarrow"} & loaded


HEAVY = {
    "torch",
    "sklearn",
    "stable_baselines3",
    "papermill",
    "gymnasium",
    "torch_geometric",
    "arch",
    "statsmodels",
    "jupyterlab",
    "TA-Lib",
    "talib",
}
LEAN = [
    "workers.runtime.worker",
    "workers.loaders.worker",
    "workers.connector.worker",
    "cli.main",
    "manager.api",
    "visualizer.app",
]


@pytest.mark.parametrize("module", LEAN)
def test_the_core_install_is_enough(module):
    "Loaders, connectors, the manager and the page need no package of the extras."
    code = f"import sys, streamforge.{module}; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not HEAVY & loaded, HEAVY & loaded
