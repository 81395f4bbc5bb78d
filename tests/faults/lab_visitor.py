"""Visits the store, artifacts and results of a lab that may be damaged, as the command line, the manager and workers do.

python tests/faults/lab_visitor.py HOME PRISTINE FILE

FILE is then put back from PRISTINE, and everything is read again: a visit may not have harmed anything else.
"""

import asyncio
import contextlib
import hashlib
import io
import json
import os
import shutil
import sqlite3
import sys
import tempfile
from pathlib import Path

import msgspec

from streamforge.artifacts.base import Artifacts, open_artifacts
from streamforge.cli.main import main
from streamforge.core.errors import StreamForgeError
from streamforge.core.logs import setup
from streamforge.ledger.entries import LedgerKey, read_entry
from streamforge.manager.state import Board, Workflow
from streamforge.runs.datasets import load_panel
from streamforge.runs.experiments import experiments, load_experiment
from streamforge.runs.folds import read_result
from streamforge.runs.models import load_model
from streamforge.store.base import Store, open_store, reading

NOBODY = 65_534
WORDS: list[str] = []  # every error, and what the terminal shows


@contextlib.contextmanager
def saying():
    "Keep a named error; any other one ends the visit with a traceback, which the drill counts as a fault."
    try:
        yield
    except StreamForgeError as error:
        WORDS.append(f"{type(error).__name__}: {error}")


def command(*words: str) -> None:
    "Run a command line in this process."
    before, shown = sys.argv, io.StringIO()
    sys.argv = ["streamforge", *words]
    try:
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
            main()
    except SystemExit:
        pass
    finally:
        sys.argv = before
    WORDS.append(shown.getvalue())


def text_of(kind: str, body: dict) -> str:
    "A document's body; of the ledger what was asked for, because `data verify` notes what it found."
    return json.dumps(body["asked"] if kind == "ledger" else body, sort_keys=True)


async def read_candles(store: Store, keys: list[tuple[str, int]]) -> list[list]:
    "Each market whole, or row by row where that cannot be done."
    rows = []
    for symbol in dict.fromkeys(symbol for symbol, _ in keys):
        where = {"exchange": "binance", "symbol": symbol, "interval": "1h"}
        try:
            table = await store.read("candles_1h", where=where, columns=["open_time", "close"])
            rows += [[symbol, row["open_time"], repr(row["close"])] for row in table.to_pylist()]
            continue
        except StreamForgeError as error:
            WORDS.append(f"{type(error).__name__}: {error}")
        for open_time in [time for name, time in keys if name == symbol]:
            with saying():
                table = await store.read(
                    "candles_1h", where=where, start=open_time, end=open_time + 1, columns=["close"]
                )
                rows += [[symbol, open_time, repr(close)] for close in table["close"].to_pylist()]
    return rows


async def visit_store(home: Path, pristine: Path) -> dict[str, list[list]]:
    with contextlib.closing(sqlite3.connect(f"file:{pristine}/store.db?immutable=1", uri=True)) as file:
        keys = file.execute("SELECT symbol, open_time FROM candles_1h").fetchall()
        documents = file.execute("SELECT kind, id FROM sf_documents").fetchall()
    contents: dict[str, list[list]] = {"candles": [], "documents": [], "workflows": []}
    with saying():
        async with open_store(f"sqlite:///{home}/store.db") as store:
            contents["candles"] = await read_candles(store, keys)
            for kind, id in documents:
                with saying():
                    if found := await store.get(kind, id):
                        if kind == "experiment":
                            await load_experiment(store, id)
                        if kind == "ledger":
                            await read_entry(store, LedgerKey.from_id(id))
                        if kind == "workflow":
                            with reading(found):
                                msgspec.convert(found.body, Workflow, str_keys=True)
                        contents["documents"].append([kind, id, text_of(kind, found.body)])
            with saying():
                await experiments(store)
            board = Board(store)
            with saying():
                await board.load()
            contents["workflows"] = [[id, id] for id in board.workflows]
    return contents


async def visit_artifacts(home: Path) -> dict[str, list[list]]:
    contents: dict[str, list[list]] = {"files": [], "results": []}
    async with open_artifacts(f"file://{home}/artifacts") as artifacts:
        for kind in ("models", "datasets"):
            for name in await artifacts.names(kind):
                for manifest in await artifacts.versions(kind, name):
                    for path in manifest.sums():
                        with saying():
                            content = await artifacts.get(manifest, path)
                            key = f"artifacts/{kind}/{name}/{manifest.version}"
                            contents["files"].append([key, path, hashlib.sha256(content).hexdigest()])
                    with saying():
                        await load(artifacts, kind, name, manifest.version)
    for folder in sorted((home / "runs").iterdir()):
        with saying():
            if result := read_result(folder):
                contents["results"].append([folder.name, msgspec.json.encode(result).decode()])
    return contents


async def load(artifacts: Artifacts, kind: str, name: str, version: str) -> None:
    "Read a version as workers do."
    if kind == "models":
        await load_model(artifacts, name, version)
    else:
        await load_panel(artifacts, name, version)


def visit(home: Path, pristine: Path) -> dict[str, list[list]]:
    if not (pristine / "store.db").exists():
        return asyncio.run(visit_artifacts(home))
    for words in (("data", "list"), ("data", "status"), ("data", "verify")):
        command(*words, "--home", str(home))
    return asyncio.run(visit_store(home, pristine))


def put_back(home: Path, pristine: Path, file: str) -> None:
    "Restore one file as from a backup."
    path = home / file
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    for end in ("-wal", "-shm"):
        (home / f"{file}{end}").unlink(missing_ok=True)
    if (pristine / file).exists():
        shutil.copyfile(pristine / file, path)


if __name__ == "__main__":
    setup("visitor", stream=sys.stderr)
    home, pristine = map(Path, sys.argv[1:3])
    with tempfile.TemporaryDirectory() as folder:  # what is imported late is imported before the user changes
        shutil.copytree(pristine, warm := Path(folder, "home"))
        visit(warm, pristine)
        WORDS.clear()
    if os.geteuid() == 0:  # rights mean nothing to root, so that it visits as another user
        for path in (part for top in (home, pristine) for part in (top, *top.rglob("*"))):
            os.chown(path, NOBODY, NOBODY)
        os.setuid(NOBODY)
    contents = visit(home, pristine)
    words = list(WORDS)
    put_back(home, pristine, sys.argv[3])
    print(json.dumps({"contents": contents, "words": words, "after": visit(home, pristine)}))
