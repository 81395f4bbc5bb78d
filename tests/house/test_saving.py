"""A notebook that JupyterLab has executed and saved differs from the file in git only where it shows something else."""

import asyncio
import copy
import difflib
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import nbformat
import pytest
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from nbclient import NotebookClient
from traitlets.config.loader import PyFileConfigLoader

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "nbs" / "_tools"
sys.path.insert(0, str(TOOLS))
import runner  # noqa: E402

FIGURE = (
    "import plotly.graph_objects as go\n\ngo.Figure(go.Scatter(y=[{0}], line_width=2.0), layout_title_text='prices')"
)
CELLS = {
    "aaaaaaa1": "import pandas as pd\n\nprint('one line')\nprint('another')\npd.DataFrame({'close': [1.5, 2.5]})",
    "aaaaaaa2": FIGURE.format("1.5, 2.5"),
    "aaaaaaa3": "#| hide\nimport os\n\nprint('process', os.getpid())",
    "aaaaaaa4": "import sys\n\nprint('a log line', file=sys.stderr)\n'result'",
    "aaaaaaa5": "#| eval: false\n1 / 0",
}


def in_git(path: Path) -> None:
    "Write a notebook as `make notebooks` leaves it."
    new = nbformat.v4.new_code_cell
    cells = [new(source, id=name, metadata={"tags": ["example"]}) for name, source in CELLS.items()]
    metadata = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    run = runner.NotebookRun(path)
    with patch.dict(os.environ, {"PLOTLY_RENDERER": "json"}), patch.object(runner, "picture", return_value="aGVsbG8="):
        run.upto(0)
        run.write()
    run.close()


def executed(path: Path, changed: dict[str, str]) -> dict:
    "The notebook as JupyterLab sends it after all cells were run, some of them changed before."
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        cell.source = changed.get(cell.id, cell.source)
        cell.metadata.tags += ["skip-execution"] * ("eval: false" in cell.source)
    with patch.dict(os.environ, {"PLOTLY_RENDERER": "plotly_mimetype"}):
        NotebookClient(notebook, timeout=120, allow_errors=True).execute()
    assert [cell.execution_count for cell in notebook.cells] == [1, 2, 3, 4, None]
    for cell in notebook.cells:
        cell.metadata |= {"trusted": True, "tags": ["example"]}
    notebook.metadata |= {"widgets": {"state": ["x" * 9_000]}}
    return json.loads(json.dumps(notebook), parse_float=number_of_a_browser)


def number_of_a_browser(text: str) -> int | float:
    "JavaScript knows no 2.0."
    return int(float(text)) if float(text).is_integer() else float(text)


def saved(path: Path, content: dict, *, ours: bool = True) -> list[str]:
    "Save as the server of `make lab` does; the lines of the file."
    found = PyFileConfigLoader("jupyter_server_config.py", path=str(TOOLS / "jupyter")).load_config()
    manager = AsyncLargeFileManager(root_dir=str(path.parent), config=found if ours else None)
    told = asyncio.run(
        manager.save({"type": "notebook", "format": "json", "content": copy.deepcopy(content)}, path.name)
    )
    assert abs(told["last_modified"].timestamp() - path.stat().st_mtime) < 1e-4, (
        "else JupyterLab takes it for another's change"
    )
    return path.read_text().splitlines()


def differing(before: list[str], after: list[str]) -> list[str]:
    lines = difflib.unified_diff(before, after, n=0, lineterm="")
    return [line for line in lines if line[0] in "+-" and line[:3] not in ("+++", "---")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Where kernels find no settings of a person."
    folder = tmp_path_factory.mktemp("saving")
    with patch.dict(os.environ, {"IPYTHONDIR": str(folder / "ipython")}):
        yield folder


@pytest.fixture(scope="module")
def example(folder):
    "A notebook as it lies in git, and as JupyterLab sends it when all cells were run again."
    path = folder / "example.ipynb"
    in_git(path)
    return path.read_bytes(), executed(path, {})


@pytest.mark.slow
def test_a_notebook_that_shows_the_same_has_no_diff(example, tmp_path):
    "Without the project's settings the same save changes most of the file."
    (path := tmp_path / "example.ipynb").write_bytes(example[0])
    before = path.read_text().splitlines()
    assert sum("image/png" in line for line in before) == 1 and '     "text": "one line\\nanother\\n"' in before
    assert differing(before, saved(path, example[1])) == []
    assert differing(before, saved(path, example[1])) == [], "saved again"
    assert len(differing(before, saved(path, example[1], ours=False))) > 60


@pytest.mark.slow
def test_what_a_person_changes_is_the_diff(example, folder, tmp_path):
    "A changed text, a changed figure, an error: each stays, and nothing else differs."
    (path := tmp_path / "example.ipynb").write_bytes(example[0])
    before = path.read_text().splitlines()
    changed = {
        "aaaaaaa1": CELLS["aaaaaaa1"].replace("another", "a third"),
        "aaaaaaa2": FIGURE.format("1.5, 3.5"),
        "aaaaaaa4": "1 / 0",
    }
    after = saved(path, executed(path, changed))
    lines, cells = differing(before, after), json.loads("\n".join(after))["cells"]
    assert '+     "text": "one line\\na third\\n"' in lines and any("print('a third')" in line for line in lines)
    assert not any("<table" in line for line in lines), "the table is as it was"
    assert list(cells[1]["outputs"][0]["data"]) == ["application/vnd.plotly.v1+json"], "as data until make notebooks"
    assert [output["ename"] for output in cells[3]["outputs"]] == ["ZeroDivisionError"]
    assert [cells[n] for n in (2, 4)] == [json.loads(example[0])["cells"][n] for n in (2, 4)]


@pytest.mark.slow
def test_new_and_damaged_files_are_saved(example, tmp_path):
    "What is on disk helps to keep the diff small, and is no condition."
    path = tmp_path / "example.ipynb"
    for damaged in (None, "", "{}", "[]"):
        path.unlink(missing_ok=True) if damaged is None else path.write_text(damaged)
        lines = saved(path, example[1])
        assert any("one line" in line for line in lines) and not any('"execution_count": 1' in line for line in lines)


def test_other_files_are_left_alone(tmp_path):
    found = PyFileConfigLoader("jupyter_server_config.py", path=str(TOOLS / "jupyter")).load_config()
    manager = AsyncLargeFileManager(root_dir=str(tmp_path), config=found)
    asyncio.run(manager.save({"type": "file", "format": "text", "content": "a = 1 \n\n"}, "a.py"))
    assert (tmp_path / "a.py").read_text() == "a = 1 \n\n"


def test_make_lab_uses_it():
    "JupyterLab reads these settings beside a person's own, and draws figures instead of listing their data."
    printed = subprocess.run(["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "JUPYTER_CONFIG_PATH=nbs/_tools/jupyter" in printed and "PLOTLY_RENDERER=plotly_mimetype" in printed
    assert (TOOLS / "jupyter" / "jupyter_server_config.py").is_file()
