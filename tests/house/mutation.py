"""Guards of the library, and how one of them is switched off while tests run.

A guard is an `if` whose body ends in `raise`, or is a single early `return` or `continue`: it keeps bad input out.
A mutant is the library with one guard switched off (`if condition` becomes `if (condition) and False`, so that what
the condition assigns is still there). Nothing is written: `install` puts an import hook in front of one module, in
a process that the environment variable STREAMFORGE_MUTANT names.
"""

import ast
import importlib.abc
import importlib.machinery
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "streamforge"


@dataclass(frozen=True)
class Guard:
    "One guard of a generated module."

    path: str  # relative to the root
    line: int  # of the `if`
    column: int
    function: str  # qualified name
    condition: str  # source
    body: tuple[int, ...]  # lines that run when the guard holds

    @property
    def key(self) -> str:
        "A name that survives edits elsewhere in the module."
        return f"{self.path.removeprefix('streamforge/')}:{self.function}: if {self.condition}"

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.function}: if {self.condition}"


def is_guard(node: ast.AST) -> bool:
    "Does this `if` keep something out?"
    if not isinstance(node, ast.If):
        return False
    last = node.body[-1]
    alone = len(node.body) == 1 and not node.orelse
    return isinstance(last, ast.Raise) or (alone and isinstance(last, ast.Return | ast.Continue))


def guards_of(path: Path) -> list[Guard]:
    """The guards of one module; those inside functions that numba compiles are left out, because coverage cannot
    see them."""
    name, guards = str(path.relative_to(ROOT)), []

    def visit(node: ast.AST, function: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                if not any(re.search(r"\bn?jit\b|\bkernel\b", ast.unparse(name)) for name in child.decorator_list):
                    visit(child, f"{function}.{child.name}".strip("."))
                continue
            if function and is_guard(child):
                body = tuple(range(child.body[0].lineno, (child.body[-1].end_lineno or child.lineno) + 1))
                guards.append(Guard(name, child.lineno, child.col_offset, function, ast.unparse(child.test), body))
            visit(child, function)

    visit(ast.parse(path.read_text()), "")
    return guards


def all_guards() -> list[Guard]:
    "Every guard of the library, in order of path and line."
    paths = sorted(path for path in LIBRARY.rglob("*.py") if not path.name.startswith("_"))
    return [guard for path in paths for guard in guards_of(path)]


class _SwitchOff(ast.NodeTransformer):
    def __init__(self, line: int, column: int):
        self.place, self.count = (line, column), 0

    def visit_If(self, node: ast.If) -> ast.AST:
        self.generic_visit(node)
        if (node.lineno, node.col_offset) == self.place:
            self.count += 1
            node.test = ast.copy_location(ast.BoolOp(ast.And(), [node.test, ast.Constant(False)]), node.test)
        return node


def switched_off(source: str, line: int, column: int) -> ast.Module:
    "The module with one guard off; raises `ValueError` if there is none at this place."
    switch = _SwitchOff(line, column)
    tree = ast.fix_missing_locations(switch.visit(ast.parse(source)))
    if switch.count != 1:
        raise ValueError(f"expected one guard at {line}:{column}, found {switch.count}")
    return tree


class _Loader(importlib.machinery.SourceFileLoader):
    place = (0, 0)

    def get_code(self, fullname: str):
        tree = switched_off(Path(self.path).read_text(), *self.place)
        return compile(tree, self.path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, module: str, place: tuple[int, int]):
        self.module, self.place = module, place

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        spec.loader = _Loader(fullname, spec.origin)
        spec.loader.place = self.place
        return spec


def install(mutant: str) -> None:
    "Switch off the guard that `path:line:column` names, in this process, before its module is imported."
    path, line, column = mutant.rsplit(":", 2)
    module = path.removesuffix(".py").replace("/", ".")
    if module in sys.modules:
        raise RuntimeError(f"{module} is imported already")
    sys.meta_path.insert(0, _Finder(module, (int(line), int(column))))
