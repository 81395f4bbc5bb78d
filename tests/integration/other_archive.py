"""A simulated exchange whose archive has some files otherwise, with checksums that fit: damaged at their origin."""

import hashlib
import io
import zipfile
from collections.abc import Callable, Mapping

from streamforge.exchange.simulator.app import Simulator
from streamforge.exchange.simulator.archive import archive_name, archive_rows


def zipped(**members: bytes) -> bytes:
    "A zip of some files, named without their ending."
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.csv", content)
    return target.getvalue()


def _interleaved(lines: list[bytes]) -> list[bytes]:
    half = len(lines) // 2
    return [line for pair in zip(lines[:half], lines[half:], strict=False) for line in pair]


def _another_month(lines: list[bytes]) -> list[bytes]:
    return [line.replace(b",16", b",15").replace(b"16", b"15", 1) for line in lines]


DAMAGES: dict[str, Callable[[str, list[bytes]], bytes]] = {
    "a row twice": lambda name, lines: zipped(**{name: b"".join([*lines[:5], *lines[4:]])}),
    "interleaved rows": lambda name, lines: zipped(**{name: b"".join(_interleaved(lines))}),
    "another number of columns": lambda name, lines: zipped(
        **{name: b"".join(b",".join(line.split(b",")[:6]) + b"\n" for line in lines)}
    ),
    "times of another month": lambda name, lines: zipped(**{name: b"".join(_another_month(lines))}),
    "an empty file": lambda name, lines: zipped(**{name: b""}),
    "two members": lambda name, lines: zipped(**{name: b"".join(lines), "README": b"x"}),
    "another member": lambda name, lines: zipped(README=b"".join(lines)),
    "no zip": lambda name, lines: b"<html>busy</html>",
    "half a zip": lambda name, lines: zipped(**{name: b"".join(lines)})[:-40],
    "no bytes": lambda name, lines: b"",
    "a price that is none": lambda name, lines: zipped(
        **{name: b"".join(lines[:-1]) + b",".join([lines[-1].split(b",")[0], b"x", *lines[-1].split(b",")[2:]])}
    ),
    "another price": lambda name, lines: zipped(
        **{name: b"".join(b",".join([a, b"1.5", rest]) for a, _, rest in (line.split(b",", 2) for line in lines))}
    ),
}


class OtherArchive:
    "An ASGI application: the simulator, with other files at some paths of the archive."

    def __init__(self, simulator: Simulator, files: Mapping[str, bytes]) -> None:
        self.simulator, self.files = simulator, files

    async def __call__(self, scope, receive, send) -> None:
        path = scope.get("path", "")
        body = self.files.get(path.removesuffix(".CHECKSUM"))
        if scope["type"] != "http" or body is None:
            await self.simulator(scope, receive, send)
            return
        if path.endswith(".CHECKSUM"):
            body = f"{hashlib.sha256(body).hexdigest()}  {path.rpartition('/')[2]}\n".encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": body})


def rows_at(simulator: Simulator, path: str) -> list[bytes]:
    "The lines of a file of the simulator's archive."
    name = archive_name(path)
    market = simulator.market(name.symbol) if name else None
    assert name and market
    return archive_rows(market, name)


def damaged(simulator: Simulator, path: str, damage: str) -> bytes:
    "The file that the simulator has at a path, damaged."
    return DAMAGES[damage](path.rpartition("/")[2].removesuffix(".zip"), rows_at(simulator, path))
