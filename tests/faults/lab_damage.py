"""Ways to damage one file of the store, one of its documents, an artifact or a result."""

import hashlib
import json
import os
import random
import shutil
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
from damage import Harm, Subject, way

from streamforge.artifacts.base import open_artifacts
from streamforge.bus.base import Message, TopicSpec, open_bus
from streamforge.core.samples import candles
from streamforge.evaluation.results import FoldResult
from streamforge.features.frame import panel_of
from streamforge.ledger.entries import LedgerKey, update_entry
from streamforge.ledger.ranges import Ranges
from streamforge.manager.state import TargetState, Workflow
from streamforge.runs.datasets import freeze
from streamforge.runs.experiments import experiment
from streamforge.runs.folds import write_result
from streamforge.store.base import open_store
from streamforge.store.schemas import CANDLES

Rows = dict[str, dict[tuple, str]]
VISITOR = Path(__file__).with_name("lab_visitor.py")
HOUR, FIRST, PAGE = 3_600_000, 1_640_995_200_000, 4_096
SYMBOLS, ROWS = ("BTCUSDT", "ETHUSDT"), 400


def flip(path: Path, position: int, bit: int = 3) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def overwrite(path: Path, position: int, content: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[position : position + len(content)] = content
    path.write_bytes(data)


# ---- the store


async def make_store(home: Path) -> Rows:
    "Candles of two markets, documents of several kinds, and a bus that remembers the work."
    rng, rows = random.Random(3), Rows()
    async with open_store(f"sqlite:///{home}/store.db") as store, open_bus(f"embedded://{home}/bus") as bus:
        await bus.create_topic("queue-events", TopicSpec(partitions=1))
        await bus.publish("queue-events", [Message(b"{}", key="a")])
        await store.ensure("candles_1h", CANDLES)
        for symbol in SYMBOLS:
            prices = {FIRST + n * HOUR: 100 + rng.random() for n in range(ROWS)}
            market = {"exchange": "binance", "symbol": symbol, "interval": "1h", "volume": 1.0}
            four = ("open", "high", "low", "close")
            await store.upsert(
                "candles_1h",
                [
                    market | {"open_time": t, "close_time": t + HOUR - 1} | dict.fromkeys(four, p)
                    for t, p in prices.items()
                ],
            )
            rows |= {"candles": rows.get("candles", {}) | {(symbol, t): repr(p) for t, p in prices.items()}}
            span = Ranges.of((FIRST, FIRST + ROWS * HOUR))
            await update_entry(
                store,
                LedgerKey("candles_1h", symbol, "candles", "1h"),
                lambda entry, span=span: entry.note("asked", span).note("loaded", span),
            )
        for id in ("one", "two"):
            target = TargetState(target="loader-producer", telemetry_id="a", env={}, status="finished", job="succeeded")
            body = Workflow(
                queue_id=id, symbol="BTCUSDT", type="api_candles_1h", time_range="", targets=[target], topics=[]
            )
            await store.put("workflow", id, msgspec.to_builtins(body, str_keys=True))
        for n in range(40):
            async with experiment(store, "gnn", {"note": "x" * 300}, id=f"gnn-{n:02}"):
                pass
    with closing(sqlite3.connect(home / "store.db")) as file:
        file.execute("PRAGMA journal_mode=DELETE")
        file.execute("VACUUM")
        documents = file.execute("SELECT kind, id, body FROM sf_documents").fetchall()
    rows["documents"] = {(kind, id): text_of(kind, json.loads(body)) for kind, id, body in documents}
    rows["workflows"] = {(id,): id for id in ("one", "two")}
    return rows


def text_of(kind: str, body: dict) -> str:
    "A document's body as the visitor prints it; of the ledger what was asked for, because a check notes what it found."
    return json.dumps(body["asked"] if kind == "ledger" else body, sort_keys=True)


STORE = Subject("store", make_store, lambda rows: rows, VISITOR, restores=True)


def everything(rows: Rows) -> set[tuple]:
    return {key for its_rows in rows.values() for key in its_rows}


def document(kind: str, id: str) -> set[tuple]:
    return {(kind, id), *({(id,)} if kind == "workflow" else set())}


def whole_file(name: str, says: str = "store.db", file: str = "store.db"):
    "Register a way after which nothing of the store is read."

    def register(apply: Callable[[Path], None]):
        @way(STORE, name)
        def damaged(home: Path, rows: Rows) -> Harm:
            apply(home / file)
            return Harm(file, everything(rows), says=says)

    return register


whole_file("a bit of the first bytes")(lambda path: flip(path, 3))
whole_file("a bit of the page size")(lambda path: flip(path, 16))
whole_file("cut in half")(lambda path: os.truncate(path, path.stat().st_size // 2))
whole_file("the last 100 bytes cut off", says="its end was cut off")(
    lambda path: os.truncate(path, path.stat().st_size - 100)
)
whole_file("emptied", says="found an empty one")(lambda path: os.truncate(path, 0))
whole_file("deleted", says="found an empty one")(Path.unlink)
whole_file("a text in its place")(lambda path: path.write_text("Dear Sir or Madam\n" * 512))
whole_file("no rights", says="no right to read it")(lambda path: path.chmod(0))


@whole_file("another program's database in its place", says="found an empty one")
def foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("CREATE TABLE songs (title)")


@whole_file("a folder in its place", says="found a folder")
def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def leaf(path: Path, table: str) -> tuple[int, bytes]:
    "Where a leaf page in the middle of a table begins, and its content."
    with closing(sqlite3.connect(path)) as file:
        query = "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf' ORDER BY path"
        pages = [number for (number,) in file.execute(query, (table,))]
    start = (pages[len(pages) // 2] - 1) * PAGE
    return start, path.read_bytes()[start : start + PAGE]


def beside(keys: set[tuple], lost: set[tuple], steps: tuple[int, ...]) -> set[tuple]:
    """The rows next to a damaged page. They stand in the page above it, and SQLite reaches them, or ends its query after
    them, only by a step through the damaged page."""
    order = sorted(keys)
    places = [order.index(key) for key in lost]
    return {order[place] for step in steps if 0 <= (place := (max if step > 0 else min)(places) + step) < len(order)}


def page_ways(name: str, change: Callable[[Path, int], None]) -> None:
    "The ways to damage one page of the candles or the documents."

    @way(STORE, f"{name}, of the candles")
    def of_candles(home: Path, rows: Rows) -> Harm:
        start, page = leaf(home / "store.db", "candles_1h")
        change(home / "store.db", start)
        lost = {key for key, price in rows["candles"].items() if struct.pack(">d", float(price)) in page}
        return Harm("store.db", lost | beside(set(rows["candles"]), lost, (-1, 1)), says="store.db")

    @way(STORE, f"{name}, of the documents")
    def of_documents(home: Path, rows: Rows) -> Harm:
        path = home / "store.db"
        start, page = leaf(path, "sf_documents")
        with closing(sqlite3.connect(path)) as file:
            held = file.execute("SELECT kind, id, body FROM sf_documents").fetchall()
        change(path, start)
        keys = {(kind, id) for kind, id, body in held if body.encode() in page}
        keys |= beside({(kind, id) for kind, id, _ in held}, keys, (1,))
        return Harm("store.db", {key for kind, id in keys for key in document(kind, id)}, says="store.db")


page_ways("the type of a page", lambda path, start: flip(path, start, 6))
page_ways("a page of zeros", lambda path, start: overwrite(path, start, bytes(PAGE)))
page_ways(
    "a page of garbage", lambda path, start: overwrite(path, start, b"\xa5" + random.Random(5).randbytes(PAGE - 1))
)


def stray_beside(end: str) -> None:
    @way(STORE, f"a stray store.db-{end} of garbage")
    def stray(home: Path, rows: Rows) -> Harm:
        (home / f"store.db-{end}").write_bytes(random.Random(7).randbytes(5_000))
        return Harm(f"store.db-{end}", quiet=True)


for end in ("wal", "shm", "journal"):
    stray_beside(end)


def execute(home: Path, statement: str, *values: str) -> None:
    with closing(sqlite3.connect(home / "store.db")) as file, file:
        file.execute(statement, values)


def document_ways(kind: str, id: str, shapes: dict[str, str]) -> None:
    "The ways to damage one document inside a sound file."
    for name, text in shapes.items():

        @way(STORE, f"a document of kind {kind}: {name}")
        def damaged(home: Path, rows: Rows, text: str = text) -> Harm:
            execute(home, "UPDATE sf_documents SET body = ? WHERE kind = ? AND id = ?", text, kind, id)
            return Harm("store.db", document(kind, id), says=f"document {kind} '{id}'")


NO_JSON = {"cut": '{"queue_id": "tw', "emptied": "", "garbage": "\x01?\x7f", "a list": "[1, 2]", "a number": "5"}
document_ways("workflow", "two", NO_JSON | {"of another shape": '{"a": 1}', "a wrong type": '{"targets": 3}'})
document_ways("experiment", "gnn-07", NO_JSON | {"of another shape": '{"a": 1}'})
document_ways("ledger", "candles_1h:ETHUSDT:candles:1h", NO_JSON | {"of another shape": '{"a": 1}'})


@way(STORE, "the schema of a collection cut")
def schema(home: Path, rows: Rows) -> Harm:
    execute(home, "UPDATE sf_collections SET schema = substr(schema, 1, 30) WHERE name = ?", "candles_1h")
    return Harm("store.db", set(rows["candles"]), says="collection 'candles_1h'")


@way(STORE, "a table dropped")
def table(home: Path, rows: Rows) -> Harm:
    execute(home, "DROP TABLE candles_1h")
    return Harm("store.db", set(rows["candles"]), says="no such table: candles_1h")


# ---- artifacts and results


async def make_artifacts(home: Path) -> Rows:
    "Two versions of a model, a frozen dataset, and the results of two folds."
    rows: Rows = {"files": {}, "results": {}}
    panel = panel_of({symbol: candles(symbol, "2022-01-01:2022-01-05") for symbol in SYMBOLS})
    async with open_artifacts(f"file://{home}/artifacts") as artifacts:
        manifests = [
            await artifacts.put(
                "models",
                "gatv2",
                {"weights.safetensors": random.Random(n).randbytes(4_000), "config.json": b'{"hidden": 32}'},
                {"number": n},
            )
            for n in range(2)
        ]
        manifests.append(await freeze(artifacts, "week", panel, interval="1h"))
        for manifest in manifests:
            for path in manifest.sums():
                content = await artifacts.get(manifest, path)
                key = (f"artifacts/{manifest.kind}/{manifest.name}/{manifest.version}", path)
                rows["files"][key] = hashlib.sha256(content).hexdigest()
    for fold in range(2):
        (folder := home / "runs" / f"fold-{fold}").mkdir(parents=True)
        result = FoldResult(
            fold=fold,
            dataset_sha256=manifests[-1].version,
            seed=7,
            symbols=list(SYMBOLS),
            rows={},
            strategies={},
            gnn={"auc": 0.52},
            ppo={},
            periods_per_year=8_760.0,
        )
        write_result(folder, result)
        next(folder.iterdir()).rename(folder / "result.json")
        rows["results"][(folder.name,)] = msgspec.json.encode(result).decode()
    return rows


ARTIFACTS = Subject("artifacts", make_artifacts, lambda rows: rows, VISITOR, restores=True)


def held_by(rows: Rows, version: str, path: str) -> set[tuple]:
    "What a file of a version holds: itself; a manifest all of them."
    return {key for key in rows["files"] if key[0] == version and path in (f"files/{key[1]}", "manifest.json")}


def version_of_file(rows: Rows, path: str) -> str:
    "The newest version of the model, or the dataset."
    versions = list(dict.fromkeys(key[0] for key in rows["files"]))
    return versions[-1] if path.endswith((".npy", ".parquet")) else versions[1]


def swapped(path: Path) -> None:
    "Another sound file of an artifact in its place."
    other = next(one for one in sorted(path.parent.rglob("*")) if one.is_file() and one.name != path.name)
    path.write_bytes(other.read_bytes() + b"\n")


def in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


CHANGES: dict[str, Callable[[Path], None]] = {
    "a bit": lambda path: flip(path, path.stat().st_size // 2, 1),
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "ten bytes of zeros": lambda path: overwrite(path, path.stat().st_size // 3, bytes(10)),
    "a byte more": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "another file in its place": swapped,
    "deleted": Path.unlink,
    "no rights": lambda path: path.chmod(0),
    "a folder in its place": in_its_place,
}


def artifact_ways(path: str) -> None:
    for name, change in CHANGES.items():

        @way(ARTIFACTS, f"{path}: {name}")
        def damaged(home: Path, rows: Rows, change: Callable[[Path], None] = change) -> Harm:
            version = version_of_file(rows, path)
            change(home / version / path)
            says = version.split("/")[-1][:12] if path == "manifest.json" else Path(path).name
            return Harm(f"{version}/{path}", held_by(rows, version, path), says=says)


for path in ("files/weights.safetensors", "files/close.npy", "files/candles.parquet", "manifest.json"):
    artifact_ways(path)


def stray_way(name: str, file: str) -> None:
    @way(ARTIFACTS, f"stray: {name}")
    def stray(home: Path, rows: Rows) -> Harm:
        path = home / file.replace("VERSION", version_of_file(rows, ""))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"?")
        return Harm(str(path.relative_to(home)), quiet=True)


stray_way("a file beside the models", "artifacts/models/.DS_Store")
stray_way("a file beside the versions", "artifacts/models/gatv2/.DS_Store")
stray_way("a file inside a version", "VERSION/files/notes.txt")
stray_way("half of an upload", "artifacts/.incoming/tmpabc/files/weights.safetensors")

for name, change in CHANGES.items():

    @way(ARTIFACTS, f"the result of a fold: {name}")
    def result(home: Path, rows: Rows, name: str = name, change: Callable[[Path], None] = change) -> Harm:
        file = "runs/fold-1/result.json"
        if name == "another file in its place":
            shutil.copyfile(home / "runs/fold-0/result.json", home / file)
            os.truncate(home / file, 200)
        else:
            change(home / file)
        return Harm(file, {("fold-1",)}, says="fold-1", quiet=name == "deleted")  # then the fold is run again
