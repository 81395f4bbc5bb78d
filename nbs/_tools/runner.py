"""Run a notebook section by section inside one process, and keep or compare what its cells show.

Export cells are not run: their names come from the exported module, so that coverage, pickling and the identity of
classes are those of the library that ships. Every other cell runs in a shell of IPython's, inside a running event
loop, as in a Jupyter kernel.

What a reader sees is kept in the notebook: stdout and the result of each visible cell, tables, and plotly figures
as PNG. Text is compared with what the cell shows now; a picture is compared by a hash of its figure's rounded data,
kept in the cell's metadata (`figure`), because the bytes of a PNG depend on fonts and browser. Cells tagged
`volatile` show something else each time: nothing of them is kept.
"""

import base64
import hashlib
import importlib
import json
import os
import re
import sys
from pathlib import Path

import structlog

ROOT = Path(__file__).resolve().parents[2]
EXPORTS = {"export", "exporti", "exports"}
UNSEEN = {"hide", "default_exp", *EXPORTS}
WIDTH, HEIGHT = 700, 400  # pixels of a kept picture whose figure does not say
DIGITS = 6  # significant digits of a figure's data that enter its hash


class CellError(Exception):
    "A cell raised, or shows something else than the notebook keeps; the message is the report."


def shows(cell) -> bool:
    "Is what this cell shows kept?"
    return (
        cell.cell_type == "code"
        and "volatile" not in cell.metadata.get("tags", [])
        and not UNSEEN & set(directives(cell))
    )


def directives(cell) -> dict[str, list[str]]:
    "nbdev's `#| name: values` at the top of a cell."
    found = re.findall(r"^#\|\s*([\w-]+:?)[ \t]*(.*)$", cell.source, re.M)
    return {name: values.split() for name, values in found}


def outputs_of(stdout: str, displayed: list, result, shell) -> tuple[list[dict], list[dict]]:
    "What one cell shows, in the notebook format without pictures, and the figures among it, in order."
    outputs, figures = [], []
    if stdout:
        outputs.append({"output_type": "stream", "name": "stdout", "text": stdout})
    bundles = [(data, "display_data") for data in displayed]
    if result is not None and not hasattr(result, "_ipython_display_"):
        bundles.append((shell.display_formatter.format(result)[0], "execute_result"))
    for data, kind in bundles:
        if "layout" in (figure := data.get("application/json", {})):
            figures.append(figure)
            data = {"image/png": ""}
        more = {"execution_count": None} if kind == "execute_result" else {}
        outputs.append({"output_type": kind, "data": kept_data(data), "metadata": {}} | more)
    return outputs, figures


def kept_data(data: dict) -> dict:
    "Of what a cell displays, in several formats, those that are kept."
    kept = {mime: data[mime] for mime in data if mime in ("text/plain", "text/html", "image/png", "text/markdown")}
    if "text/html" in kept:
        kept["text/html"] = re.sub(r"\s*<style scoped>.*?</style>\s*", "\n", kept["text/html"], flags=re.S)
    return kept


def hash_of_figure(figure: dict, *, floats: bool = False) -> str:
    """A hash of what a figure draws, with every number rounded to a few significant digits.

    1 and 1.0 are one number, since a figure that has been in a browser has no 1.0. `floats`: as they were hashed
    before, each for itself.
    """

    def rounded(value):
        if isinstance(value, dict):
            if "bdata" in value:
                import numpy as np

                array = np.frombuffer(base64.b64decode(value["bdata"]), dtype=np.dtype(value["dtype"]))
                return rounded(array.tolist())
            return {k: rounded(v) for k, v in value.items() if k != "template"}
        if isinstance(value, list | tuple):
            return [rounded(v) for v in value]
        if isinstance(value, bool) or not isinstance(value, float if floats else int | float):
            return value
        number = float(f"{value:.{DIGITS}g}")
        return number if floats or not number.is_integer() else int(number)

    text = json.dumps(rounded(figure), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def same_figures(figures: list[dict], kept: str | list[str] | None) -> bool:
    "Whether these figures have the hashes that a cell's metadata keeps."
    hashes = _list(kept)
    return len(figures) == len(hashes) and all(
        was in (hash_of_figure(figure), hash_of_figure(figure, floats=True))
        for figure, was in zip(figures, hashes, strict=True)
    )


def as_text(outputs: list[dict]) -> list:
    "Outputs without what does not count in a comparison: how strings are split, counters, the bytes of pictures."

    def joined(value):
        return "".join(value) if isinstance(value, list) else value

    plain = []
    for output in outputs:
        if output["output_type"] == "stream":
            plain.append(joined(output["text"]).rstrip("\n"))
        else:
            data = {
                mime: "" if mime == "image/png" else joined(value).strip()
                for mime, value in output.get("data", {}).items()
            }
            plain.append(data)
    return plain


class NotebookRun:
    "One notebook, its shell, and how far it has been run."

    def __init__(self, path: Path, *, export_cells: bool = False, skipped: frozenset[str] = frozenset()):
        from execnb.nbio import read_nb

        self.path, self.export_cells, self.skipped = path, export_cells, skipped
        self.notebook = read_nb(path)
        self.sections: list[tuple[str, list[int]]] = [("top", [])]
        for number, cell in enumerate(self.notebook.cells):
            if cell.cell_type == "markdown" and (heading := re.search(r"^## +(.+)$", cell.source, re.M)):
                self.sections.append((re.sub(r"[^\w ,.()-]", "", heading[1]).strip(), []))
            self.sections[-1][1].append(number)
        self.done = 0  # sections
        self.shell = None
        self.module = None
        self.shown: dict[int, tuple[list[dict], list[dict]]] = {}  # cell -> outputs and figures
        self.failed = False

    def upto(self, section: int) -> None:
        """Run sections to the end of `section`; raises `CellError` if that one fails (earlier ones have their own
        report)."""
        while self.done <= section:
            here, self.done = self.done, self.done + 1
            try:
                self._run_section(here)
            except CellError:
                self.failed = True
                if here == section:
                    raise

    def close(self) -> None:
        "Forget everything that the cells have defined."
        if self.shell is not None:
            self.shell.reset(new_session=False)
            self.shell = None

    def _run_section(self, section: int) -> None:
        from execnb.shell import CaptureShell

        cwd, path = Path.cwd(), list(sys.path)
        os.chdir(self.path.parent)
        try:
            if self.shell is None:
                self.shell = CaptureShell(self.path)
                # the same state for each notebook, whatever ran before it in this process; log lines carry times,
                # so they go where nothing is kept
                structlog.reset_defaults()
                structlog.contextvars.clear_contextvars()
                structlog.configure(logger_factory=lambda *args: structlog.PrintLogger(sys.stderr))
            for number in self.sections[section][1]:
                self._run_cell(number)
        finally:
            os.chdir(cwd)
            sys.path[:] = path

    def _run_cell(self, number: int) -> None:
        cell = self.notebook.cells[number]
        if cell.cell_type != "code" or not cell.source.strip():
            return
        marks = directives(cell)
        if (marks.get("eval:") or [""])[0].lower() == "false" or self.skipped & marks.keys():
            return
        if "default_exp" in marks:
            self.module = marks["default_exp"][0]
        if EXPORTS & marks.keys() and self.module and not self.export_cells:
            names = vars(importlib.import_module(f"streamforge.{self.module}"))
            self.shell.user_ns.update({k: v for k, v in names.items() if not k.startswith("__")})
            return
        out, outcome = self._execute(cell)
        if error := outcome.error_before_exec or outcome.error_in_exec:
            raise CellError(self._report(number, out.stdout + out.stderr, error))
        if shows(cell):
            quiet = re.search(r";\s*(#.*)?$", cell.source)
            displayed = [output.data for output in out.outputs]
            self.shown[number] = outputs_of(out.stdout, displayed, None if quiet else outcome.result, self.shell)

    def _execute(self, cell):
        "Run one cell inside a running loop, as a Jupyter kernel does."
        from IPython.core.async_helpers import get_asyncio_loop
        from IPython.utils.capture import capture_output

        self.shell.showtraceback = self.shell.showsyntaxerror = lambda *args, **kwargs: None
        with capture_output() as out:
            source = self.shell.transform_cell(cell.source)
            coroutine = self.shell.run_cell_async(cell.source, transformed_cell=source, cell_id=cell.id)
            outcome = get_asyncio_loop().run_until_complete(coroutine)
        return out, outcome

    def compare(self, section: int) -> None:
        "Raise `CellError` where a cell of this section shows something else than the notebook keeps."
        problems = []
        for number in self.sections[section][1]:
            cell = self.notebook.cells[number]
            if number not in self.shown:
                continue
            outputs, figures = self.shown[number]
            kept, now = as_text(cell.get("outputs", [])), as_text(outputs)
            if kept != now:
                problems.append(
                    f"{self._where(number)} shows\n{_indented(now)}\nand the notebook keeps\n{_indented(kept)}"
                )
            elif not same_figures(figures, cell.metadata.get("figure")):
                problems.append(f"{self._where(number)} draws another figure than the one that is kept")
        if problems:
            hint = (
                "If the new output is right: make notebooks, look at it, commit it. "
                "If it differs from run to run: round or tag `volatile`."
            )
            raise CellError("\n".join([*problems, hint]))

    def write(self) -> bool:
        "Write what the cells have shown into the notebook; returns whether it changed."
        from execnb.nbio import read_nb, write_nb

        notebook = read_nb(self.path)
        before = self.path.read_bytes()
        for number, cell in enumerate(notebook.cells):
            if cell.cell_type != "code":
                continue
            cell.execution_count = None
            kept = cell.get("outputs", []) if shows(cell) else []
            outputs, figures = self.shown.get(number, ([], []))
            hashes = [hash_of_figure(figure) for figure in figures]
            if as_text(kept) != as_text(outputs) or not same_figures(figures, cell.metadata.get("figure")):
                cell.metadata.pop("figure", None)
                if hashes:
                    cell.metadata["figure"] = hashes[0] if len(hashes) == 1 else hashes
                drawn = iter(figures)
                for output in outputs:
                    if "image/png" in output.get("data", {}):
                        output["data"]["image/png"] = picture(next(drawn))
                cell["outputs"] = outputs
        write_nb(notebook, self.path)
        return before != self.path.read_bytes()

    def _where(self, number: int) -> str:
        return f"{self.path.relative_to(ROOT)} cell {number} (id {self.notebook.cells[number].id})"

    def _report(self, number: int, printed: str, error: BaseException) -> str:
        "The cell with an arrow, the frames below it, what it printed, the error."
        traceback, line, deeper = error.__traceback__, None, []
        while traceback:
            name = traceback.tb_frame.f_code.co_filename
            in_cell = name.startswith("<ipython-input")
            if in_cell and line is None:
                line = traceback.tb_lineno
            elif line and "/lib/python" not in name:
                place = "a cell" if in_cell else os.path.relpath(name, ROOT)
                deeper.append(f"  {place}:{traceback.tb_lineno} in {traceback.tb_frame.f_code.co_name}")
            traceback = traceback.tb_next
        if line is None and isinstance(error, SyntaxError):
            line = error.lineno
        source = self.notebook.cells[number].source.splitlines()
        body = [f"{'-->' if at == line else '   '} {at:3} {text}" for at, text in enumerate(source, 1)]
        tail = [f"printed: {printed.strip()[-2000:]}"] if printed.strip() else []
        return "\n".join(
            [f"{self._where(number)}, line {line}", *body, *deeper, *tail, f"{type(error).__name__}: {error}"]
        )


def picture(figure: dict) -> str:
    "A figure as PNG with 64 colours, in base64; needs kaleido and a Chromium on PATH."
    import io

    import plotly.graph_objects as go
    from PIL import Image

    drawn = go.Figure(figure)
    width, height = min(drawn.layout.width or WIDTH, WIDTH), min(drawn.layout.height or HEIGHT, 2 * HEIGHT)
    png = drawn.to_image("png", width=width, height=height, scale=1)
    small = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(small, "png", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def _list(value) -> list:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _indented(plain: list) -> str:
    text = "\n".join(
        part if isinstance(part, str) else json.dumps(part, ensure_ascii=False, indent=1) for part in plain
    )
    lines = text.splitlines() or ["(nothing)"]
    return "\n".join("    " + line for line in (lines if len(lines) <= 30 else [*lines[:30], "..."]))
