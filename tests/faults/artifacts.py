"""What a model survives on its way into the artifact store and out of it."""

import asyncio
import os
import secrets

from drill import Lab, drill
from servers import url_of
from toxiproxy import proxied

from streamforge.artifacts.base import open_artifacts
from streamforge.core.errors import DamagedArtifact, NotFound, StoreError
from streamforge.core.urls import parse_url


@drill("artifact store down, upload cut in the middle", on=("minio",), runs=8, short=2, needs=("toxiproxy",))
async def cut(lab: Lab, runs: int) -> None:
    "A named error in bounded time, nothing visible; the next try succeeds and is read back whole."
    url = url_of("minio")
    server = parse_url(url, {}).hosts[0]
    for n in range(runs):
        name, content = f"t{secrets.token_hex(4)}", {"weights.bin": os.urandom(3_000_000)}
        async with proxied(url_of("toxiproxy"), server) as proxy:
            through = url.replace(server, f"127.0.0.1:{proxy.port}")
            async with open_artifacts(url) as straight, open_artifacts(through) as artifacts:
                await (
                    proxy.cut()
                    if n % 2
                    else proxy.poison("limit_data", stream="upstream", bytes=1_000_000 + 100_000 * n)
                )
                try:
                    await asyncio.wait_for(artifacts.put("models", name, content), 150)
                    message = ""
                except StoreError as error:
                    message = str(error)
                seen = await straight.versions("models", name)
                await (proxy.cut(False) if n % 2 else proxy.cure())
                manifest = await artifacts.put("models", name, content)
                whole = await straight.get(manifest, "weights.bin") == content["weights.bin"]
        lab.outcome.runs, lab.outcome.exact = n + 1, lab.outcome.exact + 1
        lab.outcome.check(
            bool(message) and not seen and whole, f"run {n}: error {message[:80]!r}, seen {len(seen)}, whole {whole}"
        )


@drill("artifact with a flipped bit, event before object", on=("embedded",), runs=8, short=2)
async def damaged(lab: Lab, runs: int) -> None:
    """A reader refuses bytes that are not those of the manifest, and a version that is announced but not there yet
    is `NotFound`."""
    lab.folder.mkdir(parents=True, exist_ok=True)
    for n in range(runs):
        async with open_artifacts(f"file://{lab.folder}/{n}") as artifacts:
            manifest = await artifacts.put("models", "m", {"weights.bin": os.urandom(50_000)})
            (stored,) = [path for path in (lab.folder / str(n)).rglob("weights.bin") if path.is_file()]
            content = bytearray(stored.read_bytes())
            content[n * 6_000] ^= 1 << (n % 8)
            stored.chmod(0o644)
            stored.write_bytes(bytes(content) if n % 2 else bytes(content[:-1]))
            refused = []
            for work in (artifacts.get(manifest, "weights.bin"), artifacts.manifest("models", "m", "0" * 64)):
                try:
                    await work
                except (DamagedArtifact, NotFound) as error:
                    refused.append(type(error))
        lab.outcome.runs, lab.outcome.exact = n + 1, lab.outcome.exact + 1
        lab.outcome.check(refused == [DamagedArtifact, NotFound], f"run {n}: {refused}")
