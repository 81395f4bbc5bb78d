"""Artifacts in a bucket beside the bare client: `python tests/bench/store/artifacts.py [--json FILE] [--url
minio://...] [--megabytes N]`.

The peer is the `minio` client as its documentation shows it: `put_object`, and `get_object` with a sha256 over what
came, since a store that does not check is none to compare with. Ours writes a manifest too, by a conditional
create, and reads in steps so that a slow line can be given up. The same bytes on the same server, in turns; the
best of several rounds counts. Writes a list of {work, unit, ours, peer, peer_name, ratio}; a ratio above 1 means
that ours is better. Without a server nothing is measured.
"""

import argparse
import asyncio
import hashlib
import io
import json
import secrets
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from servers import url_of  # noqa: E402

from streamforge.artifacts.address import BucketAddress  # noqa: E402
from streamforge.artifacts.bucket import Bucket  # noqa: E402
from streamforge.artifacts.minio import MinioArtifacts  # noqa: E402

NAME = f"bench-{secrets.token_hex(4)}"
ROUNDS = 4


async def best(work: Callable[[int], Awaitable[object]]) -> float:
    "Seconds of the fastest of several rounds."
    seconds = []
    for number in range(ROUNDS):
        began = time.perf_counter()
        await work(number)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


async def measure(url: str, size: int) -> list[dict[str, object]]:
    content, address = secrets.token_bytes(size), BucketAddress.parse(url)
    raw = Bucket(address)
    client, key = raw.client, f"{address.prefix}{NAME}"

    async def peer_put(number: int) -> None:
        await asyncio.to_thread(client.put_object, address.name, key, io.BytesIO(content), size)

    async def peer_get(number: int) -> None:
        answer = await asyncio.to_thread(client.get_object, address.name, key)
        read = await asyncio.to_thread(answer.read)
        assert hashlib.sha256(read).digest() == hashlib.sha256(content).digest()

    results: list[dict[str, object]] = []
    async with MinioArtifacts(url) as artifacts:
        try:
            manifest = await artifacts.put("datasets", NAME, {"data": content})
            for work, ours, peer in (
                (
                    "publish one file",
                    lambda number: artifacts.put("datasets", NAME, {"data": content}, {"round": number}),
                    peer_put,
                ),
                ("read one file, checked", lambda number: artifacts.get(manifest, "data"), peer_get),
            ):
                speed = [size / await best(peer) / 1e6, size / await best(ours) / 1e6]
                results.append(
                    {
                        "work": work,
                        "unit": "MB/s",
                        "ours": round(speed[1]),
                        "peer": round(speed[0]),
                        "peer_name": "minio client",
                        "ratio": round(speed[1] / speed[0], 2),
                    }
                )
        finally:
            for old, _ in await asyncio.to_thread(raw.listed, f"datasets/{NAME}"):
                await asyncio.to_thread(raw.remove, old)
            await asyncio.to_thread(raw.remove, NAME)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the list to this file")
    parser.add_argument("--url", default=url_of("minio"), help="of a bucket; the one of `make servers` by default")
    parser.add_argument("--megabytes", type=int, default=100)
    options = parser.parse_args()
    results = asyncio.run(measure(options.url, options.megabytes * 1_000_000)) if options.url else []
    if not options.url:
        print("no MinIO server: `make servers` starts one", file=sys.stderr)
    for one in results:
        print(json.dumps(one))
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
