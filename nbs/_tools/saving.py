"""Save a notebook in JupyterLab so that only what a person changed differs: no counters, no widgets, pictures kept.

`make lab` starts JupyterLab with `jupyter/jupyter_server_config.py` beside this file, which sets the two hooks.
What they write is what `make notebooks` would write (see runner.py), with two exceptions: an error stays, and a figure
that has changed stays as its data, until `make notebooks` makes a picture of it.
"""

import contextlib
import os
from itertools import zip_longest
from pathlib import Path

import nbformat
from execnb.nbio import dict2nb, read_nb, write_nb
from runner import as_text, kept_data, same_figures, shows

CELL_METADATA = ("tags", "figure")  # as allowed_cell_metadata_keys in settings.ini
PLOTLY = "application/vnd.plotly.v1+json"


def before_saving(model: dict, path: str, contents_manager, **_: object) -> None:
    "Take out what no reader of a diff wants, and keep the outputs on disk where a cell shows the same."
    if model.get("type") != "notebook" or not model.get("content"):
        return
    notebook, kept = model["content"], {}
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a new notebook, or one that is damaged on disk
        before = read_nb(Path(contents_manager.root_dir, path))
        kept = {cell["id"]: cell for cell in before.cells if "id" in cell}
        notebook["metadata"] = before.metadata
    for cell in dict2nb(notebook).cells:
        raw = notebook["cells"][cell.idx_]
        raw["metadata"] = {name: value for name, value in cell.metadata.items() if name in CELL_METADATA}
        if cell.cell_type == "code":
            raw["execution_count"] = None
            raw["outputs"] = _outputs(cell, kept.get(cell.id, {})) if shows(cell) else []


def _outputs(cell, before: dict) -> list[dict]:
    "The outputs of a cell as they are kept: those on disk where they show the same."
    text, rest, figures = "", list[dict](), list[dict]()
    for output in cell.outputs:
        data = output.get("data", {})
        if output["output_type"] == "stream":
            text += "".join(output["text"]) if output["name"] == "stdout" else ""
        elif output["output_type"] == "error":
            rest.append(output)
        elif figure := data.get(PLOTLY) or ("layout" in data.get("application/json", {}) and data["application/json"]):
            figures.append({name: value for name, value in figure.items() if name != "config"})
            rest.append({"output_type": "display_data", "data": {PLOTLY: figure}, "metadata": {}})
        elif data := kept_data({mime: _joined(value) for mime, value in data.items()}):
            more = {"execution_count": None} if output["output_type"] == "execute_result" else {}
            rest.append({"output_type": output["output_type"], "data": data, "metadata": {}} | more)
    outputs = [{"output_type": "stream", "name": "stdout", "text": text}] * bool(text) + rest
    drawn = [output | {"data": {"image/png": ""}} if PLOTLY in output.get("data", {}) else output for output in outputs]
    was = before.get("outputs", [])
    if not same_figures(figures, before.get("metadata", {}).get("figure")):
        return outputs
    pairs = zip_longest(outputs, drawn, was[: len(outputs)])
    return [old if old and _same(old, now) else output for output, now, old in pairs]


def _same(old: dict, now: dict) -> bool:
    return now["output_type"] == old["output_type"] != "error" and as_text([old]) == as_text([now])


def _joined(value: object) -> object:
    return "".join(value) if isinstance(value, list) and all(isinstance(part, str) for part in value) else value


def after_saving(model: dict, os_path: str, contents_manager, **_: object) -> None:
    "Write the file as nbdev writes it, its texts in one piece, at the time that JupyterLab has just been told."
    if model.get("type") != "notebook":
        return
    path = Path(os_path)
    saved = path.stat()
    write_nb(dict2nb(nbformat.read(path, nbformat.NO_CONVERT)), path)
    os.utime(path, ns=(saved.st_atime_ns, saved.st_mtime_ns))
