"""Notebooks are clean: the kernel that papermill and JupyterLab ask for, stable ids, no outputs but the pictures chosen to stay, nothing of a machine."""

import re
from pathlib import Path

import pytest
from execnb.nbio import read_nb

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(p for folder in ("nbs", "pipelines") for p in (ROOT / folder).rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


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
        if cell.get("outputs") and "keep" not in cell.metadata.get("tags", []):
            wrong.append(f"cell {number} has outputs without the tag `keep`")
        for output in cell.get("outputs", []):
            if output.get("output_type") == "error":
                wrong.append(f"cell {number} keeps an error")
    if len(set(ids)) < len(ids):
        wrong.append("cell ids repeat")
    if found := re.search(r"(/home/\w+|/Users/\w+|/root/|/tmp/tmp\w+)", path.read_text()):
        wrong.append(f"a path of somebody's machine: {found[0]}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").glob("*.ipynb")), ids=lambda p: p.name)
def test_pipelines_take_parameters(path):
    tagged = [o for o in read_nb(path).cells if "parameters" in o.metadata.get("tags", [])]
    assert len(tagged) == 1, f"{path.name}: expected one cell tagged `parameters`, found {len(tagged)}"
