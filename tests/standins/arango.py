"""Stands in for an ArangoDB server: as much of its HTTP interface as the store uses, with its error numbers, and
faults on demand.

What it follows, and where that is written:
- collections, documents, indexes, cursors, stream transactions, named graphs:
  docs.arango.ai/arangodb/3.10/develop/http-api/ (`collections`, `documents`, `indexes`, `queries/aql-queries`,
  `transactions/stream-transactions`, `graphs/named-graphs`)
- imports: `arangod/RestHandler/RestImportHandler.cpp` (all are inserted, those whose key is there are then
  replaced; with `complete` the first error ends the transaction)
- error numbers and texts: `lib/Basics/errors.dat`, which the driver has as `arango/errno.py`

What it does not do: other AQL than the store's few queries (anything else is a parse error, 1501), JWT, users'
rights, anything across several shards. It has one thread, so no two requests ever cross, except those that a stream
transaction keeps out.
"""

import asyncio
import base64
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec
import uvicorn

Json = dict[str, Any]
TEXTS = {
    11: (401, "not authorized to execute this request"),
    400: (400, "bad parameter"),
    404: (404, "unknown path"),
    429: (429, "too many requests"),
    503: (503, "service unavailable"),
    600: (400, "VPackError error: Expecting digit"),
    1200: (409, "write-write conflict"),
    1202: (404, "document not found"),
    1203: (404, "collection or view not found"),
    1207: (409, "duplicate name"),
    1208: (400, "illegal name"),
    1210: (409, "unique constraint violated"),
    1212: (404, "index not found"),
    1216: (400, "document too large"),
    1221: (400, "illegal document key"),
    1222: (400, "unexpected document key"),
    1226: (400, "missing document key"),
    1228: (404, "database not found"),
    1233: (400, "edge attribute missing or invalid"),
    1495: (503, "shard leader resignation in progress"),
    1496: (503, "not a leader"),
    1501: (400, "syntax error, unexpected identifier"),
    1551: (400, "no value specified for declared bind parameter"),
    1552: (400, "bind parameter was not declared in the query"),
    1600: (404, "cursor not found"),
    1620: (400, "document validation failed"),
    1655: (404, "transaction not found"),
    1925: (409, "graph already exists"),
    21004: (412, "queue time requirement cannot be met"),
}
KEY = re.compile(r"[A-Za-z0-9_\-.@()+,=;$!*'%:]{1,254}")
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,255}")


class Refusal(Exception):
    "An error as the server answers it."

    def __init__(self, number: int, more: str = "", status: int = 0, **extra: str):
        usual, text = TEXTS[number]
        self.status, self.number = status or usual, number
        self.body = {
            "error": True,
            "code": self.status,
            "errorNum": number,
            "errorMessage": f"{text}{more and f' - {more}'}",
            **extra,
        }
        super().__init__(self.body["errorMessage"])


@dataclass
class Fault:
    """What goes wrong with a request: an error number, `drop` (no whole answer), `lost` (done, and no whole
    answer), `slow`, `html`."""

    what: int | str
    on: str = ".*"  # of `METHOD path`
    times: int = -1  # how often; -1: for ever
    chance: float = 1.0
    seconds: float = 0.0

    def strikes(self, line: str, rng: random.Random) -> bool:
        if self.times == 0 or not re.search(self.on, line) or rng.random() >= self.chance:
            return False
        self.times -= 1
        return True


@dataclass
class Collection:
    "Documents, unique indexes and who holds which key."

    name: str
    edge: bool
    documents: dict[str, Json] = field(default_factory=dict)
    indexes: list[tuple[str, ...]] = field(default_factory=list)
    taken: dict[tuple[str, ...], dict[tuple, str]] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)  # key -> transaction

    def place(self, key: str, document: Json | None) -> Json | None:
        "Put a document at a key, or take it away; what was there."
        before = self.documents.pop(key, None) if document is None else self.documents.get(key)
        if document is not None:
            self.documents[key] = document
        for fields in self.indexes:
            if before is not None:
                self.taken[fields].pop(_values(before, fields), None)
            if document is not None:
                self.taken[fields][_values(document, fields)] = key
        return before

    def index(self, fields: tuple[str, ...]) -> bool:
        if fields in self.indexes:
            return False
        self.taken[fields] = {_values(document, fields): key for key, document in self.documents.items()}
        if len(self.taken[fields]) < len(self.documents):
            raise Refusal(1210)
        self.indexes.append(fields)
        return True


def _values(document: Json, fields: tuple[str, ...]) -> tuple:
    return tuple(document.get(field) for field in fields)


@dataclass
class Database:
    "Collections, graphs, open cursors and transactions."

    collections: dict[str, Collection] = field(default_factory=dict)
    graphs: dict[str, Json] = field(default_factory=dict)
    cursors: dict[str, tuple[Iterator[list[Any]], list[Any], float, float]] = field(default_factory=dict)
    transactions: dict[str, list[tuple[Collection, str, Json | None]]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Collection:
        if name not in self.collections:
            raise Refusal(1203, name)
        return self.collections[name]


class Arango:
    "The server: an ASGI application and what it remembers."

    def __init__(self, seed: int = 0):
        self.databases = {"_system": Database(), "lab": Database()}
        self.users = {"root": "", "lab": "secret"}
        self.faults: list[Fault] = []
        self.spoiled: list[
            tuple[Callable[[str, Json], bool], int]
        ] = []  # documents that are refused, with the error number
        self.requests: list[str] = []
        self.unsynced: list[str] = []  # writes that were answered before they were on the disk
        self.version = "3.12.4"
        self.mismatch = 412  # status of a revision that does not match; some versions say 409
        self.rng, self._numbers = random.Random(seed), count(1)

    # HTTP

    async def __call__(self, scope: Json, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        line = f"{scope['method']} {scope['path']}"
        self.requests.append(line)
        injected = [fault for fault in self.faults if fault.strikes(line, self.rng)]
        for fault in injected:
            if fault.what == "slow":
                await asyncio.sleep(fault.seconds)
        whats = [fault.what for fault in injected]
        if "drop" in whats:
            return await _broken(send)
        if "html" in whats:
            return await _answer(send, 502, b"<html><h1>502 Bad Gateway</h1></html>", b"text/html")
        try:
            for what in whats:
                if isinstance(what, int):
                    raise Refusal(what)
            status, answer = self._serve(scope, body)
        except Refusal as refusal:
            status, answer = refusal.status, refusal.body
        if "lost" in whats:
            return await _broken(send)
        await _answer(send, status, msgspec.json.encode(answer))

    def _serve(self, scope: Json, body: bytes) -> tuple[int, Any]:
        "Who asks, for which database, and what."
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        kind, _, secret = headers.get("authorization", "").partition(" ")
        user, _, password = (
            base64.b64decode(secret).decode().partition(":") if kind.lower() == "basic" else ("", "", "")
        )
        if user not in self.users or self.users[user] != password:
            raise Refusal(11)
        place = re.fullmatch(r"/_db/([^/]+)(/.*)", unquote(scope["path"]))
        if not place or place[1] not in self.databases:
            raise Refusal(1228 if place else 404)
        query = dict(parse_qsl(scope["query_string"].decode(), keep_blank_values=True))
        try:
            request = msgspec.json.decode(body) if body else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Refusal(600) from None
        self.database, self.headers, self.query, self.request = self.databases[place[1]], headers, query, request
        if _WRITES.fullmatch(f"{scope['method']} {place[2]}") and not (
            self._flag("waitForSync")
            or "x-arango-trx-id" in headers
            or (isinstance(request, dict) and request.get("waitForSync"))
        ):
            self.unsynced.append(f"{scope['method']} {place[2]}")
        for pattern, serve in _ROUTES:
            if match := re.fullmatch(pattern, f"{scope['method']} {place[2]}"):
                return serve(self, *match.groups())
        raise Refusal(404, place[2])

    def _flag(self, name: str, otherwise: bool = False) -> bool:
        "A boolean of the query as the server reads it (`StringUtils::boolean`); the driver writes 1 and 0."
        return self.query[name].lower() in ("true", "yes", "on", "y", "1") if name in self.query else otherwise

    # collections

    def version(self) -> tuple[int, Any]:
        return 200, {"server": "arango", "license": "community", "version": self.version}

    def collections(self) -> tuple[int, Any]:
        return 200, {
            "error": False,
            "code": 200,
            "result": [_shown(collection) for collection in self.database.collections.values()],
        }

    def make_collection(self) -> tuple[int, Any]:
        name = self.request["name"]
        if not NAME.fullmatch(name):
            raise Refusal(1208, name)
        if name in self.database.collections:
            raise Refusal(1207)
        collection = self.database.collections[name] = Collection(name, self.request.get("type") == 3)
        return 200, {"error": False, "code": 200, **_shown(collection)}

    def make_index(self) -> tuple[int, Any]:
        fields = tuple(self.request["fields"])
        if (
            self.request["type"] != "persistent"
            or not self.request.get("unique")
            or any("." in field for field in fields)
        ):
            raise Refusal(400, "this stand-in has unique persistent indexes on top-level attributes only")
        new = self.database[self.query["collection"]].index(fields)
        more = {
            "type": "persistent",
            "fields": fields,
            "unique": True,
            "sparse": False,
            "deduplicate": True,
            "isNewlyCreated": new,
        }
        return (201 if new else 200), {
            "error": False,
            "code": 201 if new else 200,
            "id": f"{self.query['collection']}/{next(self._numbers)}",
            "name": f"idx_{'_'.join(fields)}",
            **more,
        }

    def indexes(self) -> tuple[int, Any]:
        name = self.query["collection"]
        primary = {"id": f"{name}/0", "type": "primary", "name": "primary", "fields": ["_key"], "unique": True}
        listed = [
            {"id": f"{name}/{number}", "type": "persistent", "name": f"idx_{number}", "fields": fields, "unique": True}
            for number, fields in enumerate(self.database[name].indexes, start=1)
        ]
        return 200, {"error": False, "code": 200, "indexes": [primary, *listed], "identifiers": {}}

    def delete_index(self, name: str, number: str) -> tuple[int, Any]:
        collection = self.database[name]
        if not 0 < int(number) <= len(collection.indexes):
            raise Refusal(1212)
        del collection.taken[collection.indexes.pop(int(number) - 1)]
        return 200, {"error": False, "code": 200, "id": f"{name}/{number}"}

    # documents

    def _write(self, collection: Collection, document: Json, mode: str, undo: list, transaction: str = "") -> Json:
        "Insert or replace one document; `undo` gets what was there."
        for wrong, number in self.spoiled:
            if wrong(collection.name, document):
                raise Refusal(number)
        key = document.get("_key") or str(next(self._numbers))
        if not isinstance(key, str) or not KEY.fullmatch(key):
            raise Refusal(1221)
        if collection.edge and not all(
            re.fullmatch(r"[A-Za-z0-9_-]+/.+", str(document.get(name, ""))) for name in ("_from", "_to")
        ):
            raise Refusal(1233)
        if collection.held.get(key, transaction) != transaction:
            raise Refusal(1200)
        before = collection.documents.get(key)
        if before is not None and mode == "conflict":
            raise Refusal(1210, "in index primary of type primary over '_key'; conflicting key: " + key)
        named = self.query.get("versionAttribute", "")
        if (
            before is not None
            and named
            and isinstance(new := document.get(named), int | float)
            and isinstance(old := before.get(named), int | float)
            and new <= old
        ):
            return _identity(before)  # not a write at all, and not an error
        for fields in collection.indexes:
            if (owner := collection.taken[fields].get(_values(document, fields), key)) != key:
                raise Refusal(1210, f"in index of type persistent over '{', '.join(fields)}'; conflicting key: {owner}")
        stored = {"_key": key, "_id": f"{collection.name}/{key}", "_rev": f"_{next(self._numbers):x}---"} | {
            k: v for k, v in document.items() if k not in ("_key", "_id", "_rev")
        }
        undo.append((collection, key, collection.place(key, stored)))
        if transaction:
            collection.held[key] = transaction
        return _identity(stored) | ({"_oldRev": before["_rev"]} if before else {})

    def import_(self) -> tuple[int, Any]:
        """As `performImport` does: insert, then replace those whose key was there; the first error ends it if it
        has to be complete."""
        collection, complete, action = (
            self.database[self.query["collection"]],
            self._flag("complete"),
            self.query.get("onDuplicate", "error"),
        )
        if not isinstance(self.request, list):
            raise Refusal(400, "expecting a JSON array in the request")
        undo: list = []
        figures, details = {"created": 0, "errors": 0, "empty": 0, "updated": 0, "ignored": 0}, []
        again = []
        for replacing, work in ((False, enumerate(self.request)), (True, again)):
            for position, document in work:
                try:
                    self._write(collection, document, "replace" if replacing else "conflict", undo)
                    figures["updated" if replacing else "created"] += 1
                except Refusal as refusal:
                    if (
                        not replacing
                        and refusal.number == 1210
                        and "primary" in str(refusal)
                        and action in ("replace", "ignore")
                    ):
                        if action == "replace":
                            again.append((position, document))
                        else:
                            figures["ignored"] += 1
                        continue
                    if complete:
                        _roll_back(undo)
                        raise
                    figures["errors"] += 1
                    details.append(
                        f"at position {position}: creating document failed with error "
                        f"'{TEXTS[refusal.number][1]}', offending document: "
                        f"{msgspec.json.encode(document).decode()[:255]}"
                    )
        return 201, {"error": False, **figures, "details": details}

    def insert(self, name: str) -> tuple[int, Any]:
        collection, mode, transaction = (
            self.database[name],
            self.query.get("overwriteMode", "conflict"),
            self.headers.get("x-arango-trx-id", ""),
        )
        if transaction and transaction not in self.database.transactions:
            raise Refusal(1655)
        undo = self.database.transactions[transaction] if transaction else []
        if isinstance(self.request, dict):
            return 202, self._write(collection, self.request, mode, undo, transaction)
        results = []
        for document in self.request:
            try:
                results.append(self._write(collection, document, mode, undo, transaction))
            except Refusal as refusal:
                results.append({"error": True, "errorNum": refusal.number, "errorMessage": str(refusal)})
        return 202, results

    def _found(self, name: str, key: str) -> tuple[Collection, Json]:
        "A document at its address, in the revision that If-Match asks for."
        collection = self.database[name]
        if key not in collection.documents:
            raise Refusal(1202)
        document, wanted = collection.documents[key], self.headers.get("if-match", "").strip('"')
        if not self._flag("ignoreRevs", True) and isinstance(self.request, dict):  # the driver puts it into the body
            wanted = wanted or self.request.get("_rev", "")
        if wanted and wanted != document["_rev"]:
            raise Refusal(1200, "conflict, _rev values do not match", self.mismatch, **_identity(document))
        return collection, document

    def get(self, name: str, key: str) -> tuple[int, Any]:
        return 200, self._found(name, key)[1]

    def replace(self, name: str, key: str) -> tuple[int, Any]:
        collection, _ = self._found(name, key)
        return 202, self._write(collection, self.request | {"_key": key}, "replace", [])

    def delete(self, name: str, key: str) -> tuple[int, Any]:
        collection, document = self._found(name, key)
        collection.place(key, None)
        return 200, _identity(document)

    # transactions

    def begin(self) -> tuple[int, Any]:
        for name in self.request["collections"].get("write", []):
            self.database[name]
        id = str(next(self._numbers))
        self.database.transactions[id] = []
        return 201, {"error": False, "code": 201, "result": {"id": id, "status": "running"}}

    def commit(self, id: str) -> tuple[int, Any]:
        self._end(id)
        return 200, {"error": False, "code": 200, "result": {"id": id, "status": "committed"}}

    def abort(self, id: str) -> tuple[int, Any]:
        _roll_back(self._end(id))
        return 200, {"error": False, "code": 200, "result": {"id": id, "status": "aborted"}}

    def _end(self, id: str) -> list:
        undo = self.database.transactions.pop(id, None)
        if undo is None:
            raise Refusal(1655)
        for collection in self.database.collections.values():
            collection.held = {key: holder for key, holder in collection.held.items() if holder != id}
        return undo

    # AQL

    def ask(self) -> tuple[int, Any]:
        results = _answers(self.database, self.request["query"], self.request.get("bindVars", {}))
        size, ttl = self.request.get("batchSize", 1000), self.request.get("ttl", 30)
        batches = iter([results[n : n + size] for n in range(0, len(results), size)])
        first, second = next(batches, []), next(batches, [])
        answer = {
            "error": False,
            "code": 201,
            "result": _plain(first),
            "hasMore": bool(second),
            "cached": False,
            "extra": {"warnings": [], "stats": {}},
        }
        if second:
            answer["id"] = str(next(self._numbers))
            self.database.cursors[answer["id"]] = (batches, second, time.monotonic() + ttl, ttl)
        return 201, answer

    def more(self, id: str) -> tuple[int, Any]:
        batches, batch, dies, ttl = self.database.cursors.pop(id, ([], [], 0.0, 0.0))
        if time.monotonic() > dies:
            raise Refusal(1600)
        if following := next(batches, []):
            self.database.cursors[id] = (batches, following, time.monotonic() + ttl, ttl)
        return 200, {
            "error": False,
            "code": 200,
            "id": id,
            "result": _plain(batch),
            "hasMore": bool(following),
            "cached": False,
        }

    def forget(self, id: str) -> tuple[int, Any]:
        if self.database.cursors.pop(id, None) is None:
            raise Refusal(1600)
        return 202, {"error": False, "code": 202, "id": id}

    # graphs

    def make_graph(self) -> tuple[int, Any]:
        name, relations = self.request["name"], self.request.get("edgeDefinitions", [])
        if name in self.database.graphs:
            raise Refusal(1925)
        self.database.graphs[name] = {
            "_key": name,
            "_id": f"_graphs/{name}",
            "name": name,
            "edgeDefinitions": relations,
            "orphanCollections": [],
        }
        return 202, {"error": False, "code": 202, "graph": self.database.graphs[name]}


_WRITES = re.compile(r"POST /_api/import|(POST|PUT|DELETE) /_api/document/.*|POST /_api/transaction/begin")
_ROUTES: list[tuple[str, Callable]] = [
    (r"GET /_api/version", Arango.version),
    (r"GET /_api/collection", Arango.collections),
    (r"POST /_api/collection", Arango.make_collection),
    (r"POST /_api/index", Arango.make_index),
    (r"GET /_api/index", Arango.indexes),
    (r"DELETE /_api/index/([^/]+)/(\d+)", Arango.delete_index),
    (r"POST /_api/import", Arango.import_),
    (r"POST /_api/document/([^/]+)", Arango.insert),
    (r"GET /_api/document/([^/]+)/([^/]+)", Arango.get),
    (r"PUT /_api/document/([^/]+)/([^/]+)", Arango.replace),
    (r"DELETE /_api/document/([^/]+)/([^/]+)", Arango.delete),
    (r"POST /_api/transaction/begin", Arango.begin),
    (r"PUT /_api/transaction/(\d+)", Arango.commit),
    (r"DELETE /_api/transaction/(\d+)", Arango.abort),
    (r"POST /_api/cursor", Arango.ask),
    (r"POST /_api/cursor/(\d+)", Arango.more),
    (r"DELETE /_api/cursor/(\d+)", Arango.forget),
    (r"POST /_api/gharial", Arango.make_graph),
]


def _shown(collection: Collection) -> Json:
    return {
        "id": collection.name,
        "name": collection.name,
        "status": 3,
        "type": 3 if collection.edge else 2,
        "isSystem": False,
        "globallyUniqueId": f"h/{collection.name}",
    }


def _identity(document: Json) -> Json:
    return {name: document[name] for name in ("_id", "_key", "_rev")}


def _roll_back(undo: list) -> None:
    for collection, key, before in reversed(undo):
        collection.place(key, before)


def _plain(values: list[Any]) -> list[Any]:
    "As VelocyPack writes numbers: 5.0 is 5."
    return [
        {k: int(v) if type(v) is float and abs(v) < 1e15 and v == int(v) else v for k, v in value.items()}
        if isinstance(value, dict)
        else value
        for value in values
    ]


# The store's queries, copied and not imported: a change of one must be looked at here.
_WHERE = r"((?: FILTER d\[@c\d\] IN @v\d)*)"
_RANGE = r"FOR d IN @@collection FILTER d\[@range_column\] >= @start AND d\[@range_column\] <= @last" + _WHERE
_QUERIES = {
    "range": re.compile(_RANGE + r" RETURN KEEP\(d, @columns\)"),
    "nth last": re.compile(_RANGE + r" SORT d\[@range_column\] DESC LIMIT @skipped, 1 RETURN d\[@range_column\]"),
    "count": re.compile(r"FOR d IN @@collection" + _WHERE + " COLLECT WITH COUNT INTO n RETURN n"),
    "distinct": re.compile(
        r"FOR d IN @@collection COLLECT c0 = d\[@c0\](?:, c\d = d\[@c\d\])* RETURN \[c0(?:, c\d)*\]"
    ),
    "schemas": re.compile(r"FOR d IN @@collection RETURN d"),
    "documents": re.compile(
        r"FOR d IN @@collection FILTER d\.kind == @kind AND STARTS_WITH\(d\.id, @prefix\) RETURN d"
    ),
    "add exchange": re.compile(
        r"FOR d IN @@collection FILTER d\.exchange == null LIMIT @rows "
        r"UPDATE d WITH {exchange: @exchange} IN @@collection OPTIONS {waitForSync: true} RETURN 1"
    ),
}


def _answers(database: Database, text: str, variables: Json) -> list[Any]:
    "The result of a query."
    name = next((kind for kind, pattern in _QUERIES.items() if pattern.fullmatch(text)), None)
    if name is None:
        raise Refusal(1501, text[:80])
    declared = set(re.findall(r"@(@?\w+)", text))
    if declared != variables.keys():
        raise Refusal(1551 if declared - variables.keys() else 1552, " ".join(declared ^ variables.keys()))
    documents = list(database[variables["@collection"]].documents.values())
    if name == "add exchange":
        lacking = [document for document in documents if document.get("exchange") is None][: variables["rows"]]
        for document in lacking:
            named = document | {"exchange": variables["exchange"]}
            database[variables["@collection"]].place(document["_key"], named)
        return [1] * len(lacking)
    if "range_column" in variables:
        moment, start, last = variables["range_column"], variables["start"], variables["last"]
        documents = [document for document in documents if start <= document[moment] <= last]
    if name == "distinct":
        columns = [variables[f"c{n}"] for n in re.findall(r"@c(\d)", text)]
        return [list(values) for values in {tuple(document[k] for k in columns) for document in documents}]
    for n in re.findall(r"@c(\d)", text):
        column, values = variables[f"c{n}"], set(variables[f"v{n}"])
        documents = [document for document in documents if document.get(column) in values]
    if name == "count":
        return [len(documents)]
    if name == "nth last":
        return sorted((document[variables["range_column"]] for document in documents), reverse=True)[
            variables["skipped"] : variables["skipped"] + 1
        ]
    if name == "range":
        return [{k: document[k] for k in variables["columns"] if k in document} for document in documents]
    return (
        documents
        if name == "schemas"
        else [
            document
            for document in documents
            if document["kind"] == variables["kind"] and document["id"].startswith(variables["prefix"])
        ]
    )


async def _answer(send: Callable, status: int, body: bytes, kind: bytes = b"application/json; charset=utf-8") -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode()), (b"server", b"ArangoDB")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _broken(send: Callable) -> None:
    "Half an answer, then the connection is closed."
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
    await send({"type": "http.response.body", "body": b'{"result":', "more_body": True})


class Running:
    "A stand-in that listens at a port of its own, in a thread; it can go down and come back."

    def __init__(self, arango: Arango, tls: tuple[str, str] | None = None):
        self.arango, self.port, self.tls = arango, 0, tls  # files with key and certificate
        self.up()

    def up(self) -> None:
        key, certificate = self.tls or (None, None)
        quiet = {"log_level": "critical", "access_log": False, "lifespan": "off", "timeout_graceful_shutdown": 1}
        config = uvicorn.Config(
            self.arango, host="127.0.0.1", port=self.port, ssl_keyfile=key, ssl_certfile=certificate, **quiet
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True, name="arango-standin")
        self._thread.start()
        deadline = time.monotonic() + 60
        while not self._server.started:
            assert self._thread.is_alive() and time.monotonic() < deadline, "the stand-in did not start"
            time.sleep(0.005)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]

    def down(self) -> None:
        self._server.should_exit = True
        self._thread.join(15)
        assert not self._thread.is_alive()

    def url(self, **options: str) -> str:
        query = "&".join(f"{k}={v}" for k, v in options.items())
        return f"arangodb://lab:secret@127.0.0.1:{self.port}/lab{query and '?' + query}"


@contextmanager
def standin(seed: int = 0, tls: tuple[str, str] | None = None) -> Iterator[Running]:
    "A stand-in for the length of a block."
    running = Running(Arango(seed), tls)
    try:
        yield running
    finally:
        running.down()
