"""Notebooks are clean: the kernel that papermill and JupyterLab ask for, stable ids, outputs without errors and
large pictures, nothing of a machine."""

import base64
import re
from pathlib import Path

import pytest
import structlog
from execnb.nbio import read_nb
from runner import NotebookRun

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(
    p
    for folder in ("nbs", "pipelines")
    for p in (ROOT / folder).rglob("*.ipynb")
    if ".ipynb_checkpoints" not in p.parts
)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: str(p.relative_to(ROOT)))
def test_clean(path):
    notebook, wrong, ids = read_nb(path), [], []
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        wrong.append("no kernelspec python3")
    for number, cell in enumerate(notebook.cells):
        ids.append(cell.id)
        if cell.cell_type != "code":
            continue
        if cell.get("execution_count"):
            wrong.append(f"cell {number} has an execution count")
        if cell.get("outputs") and "volatile" in cell.metadata.get("tags", []):
            wrong.append(f"cell {number} keeps outputs although it is tagged `volatile`")
        for output in cell.get("outputs", []):
            if output.get("output_type") == "error":
                wrong.append(f"cell {number} keeps an error")
            if output.get("name") == "stderr":
                wrong.append(f"cell {number} keeps stderr")
            if png := output.get("data", {}).get("image/png"):
                if len(picture := base64.b64decode("".join(png))) >= 60_000:
                    wrong.append(f"cell {number} keeps a picture of {len(picture):,} bytes; draw less, or smaller")
                if "figure" not in cell.metadata:
                    wrong.append(f"cell {number} keeps a picture without the hash of its figure: make notebooks")
    if len(set(ids)) < len(ids):
        wrong.append("cell ids repeat")
    if match := re.search(r"(/home/\w+|/Users/\w+|/root/|/tmp/tmp\w+)", path.read_text()):
        wrong.append(f"a path of one developer's machine: {match[0]}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").glob("*.ipynb")), ids=lambda p: p.name)
def test_pipelines_take_parameters(path):
    tagged = [cell for cell in read_nb(path).cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1, f"{path.name}: expected one cell tagged `parameters`, found {len(tagged)}"


MODULE_NOTEBOOKS = [
    p
    for p in NOTEBOOKS
    if p.is_relative_to(ROOT / "nbs") and not any(part[0] in "_." for part in p.relative_to(ROOT).parts)
]


@pytest.mark.parametrize("path", MODULE_NOTEBOOKS, ids=lambda p: str(p.relative_to(ROOT)))
def test_begins_with_a_title_and_one_sentence(path):
    first = read_nb(path).cells[0]
    assert first.cell_type == "markdown" and re.match(r"# .+\n> .+", first.source), (
        "the first cell is not '# Title' and '> one sentence'"
    )


def test_one_notebook_one_module():
    exports = {p: m[1] for p in MODULE_NOTEBOOKS if (m := re.search(r"#\| default_exp ([\w.]+)", p.read_text()))}
    assert len(set(exports.values())) == len(exports), "two notebooks export to one module"
    places = {
        p: ".".join(re.sub(r"^\d+_", "", part) for part in p.relative_to(ROOT / "nbs").with_suffix("").parts)
        for p in exports
    }
    wrong = {str(p.relative_to(ROOT)): name for p, name in exports.items() if name != places[p]}
    assert not wrong, wrong


def test_what_ran_before_in_the_process_changes_no_output():
    structlog.configure(logger_factory=structlog.PrintLoggerFactory())  # as a test leaves it behind: lines to stdout
    run = NotebookRun(ROOT / "nbs/20_bus/embedded/05_log.ipynb")
    section = next(number for number, (title, _) in enumerate(run.sections) if title == "Killed writers")
    try:
        run.upto(section)
        run.compare(section)  # its writers are killed, and the log reports each record that was cut off
    finally:
        run.close()
        structlog.reset_defaults()
