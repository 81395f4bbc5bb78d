"""Edit notebooks as text: percent files under .text/ (not in git) with the cell ids in them.

python nbs/_tools/nb.py pull   [nbs/20_bus ...]   notebooks -> .text/*.py
python nbs/_tools/nb.py push   [.text/... ...]    .text/*.py -> notebooks (ids and outputs of unchanged cells stay)
python nbs/_tools/nb.py export [nbs/x.ipynb ...]  write and format the modules of these notebooks only
python nbs/_tools/nb.py strip  [nbs ...]          drop outputs of cells that show nothing worth keeping (see runner.py)

Outputs are written by `make notebooks` and compared by pytest.
"""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import jupytext
from execnb.nbio import dict2nb, read_nb, write_nb
from runner import shows

ROOT = Path(__file__).resolve().parents[2]
TEXT = ROOT / ".text"
FMT = {
    "extension": ".py",
    "format_name": "percent",
    "cell_metadata_filter": "cid,tags,-all",
    "notebook_metadata_filter": "-all",
}
META = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}


def _text_path(nb: Path) -> Path:
    return (TEXT / nb.resolve().relative_to(ROOT)).with_suffix(".py")


def _nb_path(txt: Path) -> Path:
    return (ROOT / txt.resolve().relative_to(TEXT)).with_suffix(".ipynb")


def pull(nb_path: Path):
    "Write `nb_path` as a percent file whose cell headers carry the ids."
    nb = jupytext.read(nb_path)
    for cell in nb.cells:
        cell.metadata = {"cid": cell.id, **{k: v for k, v in cell.metadata.items() if k == "tags"}}
    out = _text_path(nb_path)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(jupytext.writes(nb, fmt=FMT), encoding="utf-8")


def push(txt_path: Path):
    "Write the notebook of `txt_path`; a new cell's id is made from the path and its text; then the text gets the ids."
    nb_path, new = _nb_path(txt_path), jupytext.read(txt_path, fmt=FMT)
    if nb_path.exists() and nb_path.stat().st_mtime > txt_path.stat().st_mtime:
        return print(f"{nb_path.relative_to(ROOT)} is newer than its text: pull first (or touch the text to overwrite)")
    old = {c["id"]: c for c in read_nb(nb_path).cells} if nb_path.exists() else {}
    taken, seen, cells = {c.metadata.get("cid") for c in new.cells}, set(), []
    for cell in new.cells:
        cid, n = cell.metadata.get("cid"), 0
        while not cid or cid in seen or (n and cid in taken):
            cid, n = hashlib.sha256(f"{nb_path.relative_to(ROOT)}\n{n}\n{cell.source}".encode()).hexdigest()[:8], n + 1
        seen.add(cid)
        meta = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
        out = dict(cell_type=cell.cell_type, id=cid, metadata=meta, source=cell.source)
        if cell.cell_type == "code":
            same = cid in old and old[cid].source == cell.source
            if same and old[cid].metadata.get("figure"):
                meta["figure"] = old[cid].metadata["figure"]
            out.update(execution_count=None, outputs=old[cid].get("outputs", []) if same else [])
        cells.append(out)
    nb_path.parent.mkdir(parents=True, exist_ok=True)
    write_nb(dict2nb(cells=cells, metadata=META, nbformat=4, nbformat_minor=5), nb_path)
    pull(nb_path)


def strip(nb_path: Path):
    "Drop counters, and the outputs of cells that are hidden, exported or tagged `volatile`."
    nb = read_nb(nb_path)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.execution_count = None
            if not shows(cell):
                cell.outputs = []
                cell.metadata.pop("figure", None)
    write_nb(nb, nb_path)


def export(nb_path: Path):
    """Write the module of one notebook and format it: the quick step while editing (`make export` does all and
    checks the index)."""
    from nbdev.export import nb_export

    nb_export(nb_path)
    found = re.search(r"#\| default_exp ([\w.]+)", nb_path.read_text(encoding="utf-8"))
    if found:
        module = ROOT / "streamforge" / f"{found[1].replace('.', '/')}.py"
        for folder in (parent for parent in module.parents if parent.is_relative_to(ROOT / "streamforge")):
            (folder / "__init__.py").touch()
        subprocess.run([sys.executable, "-m", "black", "-q", str(module)], check=True)


def main(cmd: str, *paths: str):
    base = [TEXT] if cmd == "push" else [ROOT / "nbs", ROOT / "pipelines"]
    ext = ".py" if cmd == "push" else ".ipynb"
    roots = [Path(p) for p in paths] or base
    files = [
        f
        for r in roots
        for f in ([r] if r.is_file() else sorted(r.rglob(f"*{ext}")))
        if ".ipynb_checkpoints" not in f.parts
    ]
    for f in files:
        dict(pull=pull, push=push, export=export, strip=strip)[cmd](f)


if __name__ == "__main__":
    main(*sys.argv[1:])
