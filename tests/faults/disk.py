"""What happens on a full disk."""

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

from drill import CONNECT, Lab, drill

from streamforge.artifacts.base import open_artifacts
from streamforge.core.errors import StoreError


@contextmanager
def small_disk(folder: Path, size: str):
    "A file system of this size, made larger by calling what is yielded."
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True, capture_output=True
    )
    try:
        yield lambda more: subprocess.run(
            ["mount", "-o", f"remount,size={more}", str(folder)], check=True, capture_output=True
        )
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


@drill("disk full", on=("embedded",), runs=4, short=1)
async def full(lab: Lab, runs: int) -> None:
    """A clear error and the exit code for trying again; nothing is reported finished; with more room it ends
    exactly. Making a small disk takes root."""
    if os.geteuid() != 0:
        lab.outcome.notes.append("not run: only root can make a small disk")
        lab.outcome.runs = lab.outcome.exact = 1
        return
    expected = await lab.expected()
    for n in range(runs):
        async with lab.workers() as workers:
            with small_disk(workers.home / "store", f"{600 + 100 * n}k") as enlarge:
                env = CONNECT | {
                    "STREAMFORGE_STORE_URL": f"sqlite:///{workers.home}/store/store.db",
                    "RETRY_SECONDS": "3",
                }
                workers.places = type(workers.places)(
                    **{name: getattr(workers.places, name) for name in ("home", "bus_url", "artifacts_url")},
                    store_url=env["STREAMFORGE_STORE_URL"],
                )
                await workers.fill(await lab.stream())
                code = await workers.run("arango-connector", **env)
                events = [
                    (event.status, event.message)
                    for event in await workers.events("error", "finished")
                    if event.producer.startswith("arango")
                ]
                enlarge("64m")
                again = await workers.run("arango-connector", **env)
                lab.outcome.judge(expected, await workers.contents(), f"run {n}")
                clear = [status for status, _ in events] == ["error"] and "full" in events[0][1]
                lab.outcome.check(
                    code == 75 and clear and again == 0, f"run {n}: code {code}, events {events}, then {again}"
                )


@drill("disk full while an artifact is written", on=("embedded",), runs=1, short=1)
async def half_written(lab: Lab, runs: int) -> None:
    "No half-written artifact is to be seen, and the next try with more room succeeds."
    if os.geteuid() != 0:
        lab.outcome.notes.append("not run: only root can make a small disk")
        lab.outcome.runs = lab.outcome.exact = 1
        return
    lab.outcome.runs = lab.outcome.exact = 1
    with small_disk(lab.folder / "artifacts", "1m") as enlarge:
        files = {"weights.safetensors": os.urandom(700_000), "more.bin": os.urandom(700_000)}
        async with open_artifacts(f"file://{lab.folder}/artifacts") as artifacts:
            try:
                await artifacts.put("models", "big", files)
                message = ""
            except StoreError as error:
                message = str(error)
            seen = await artifacts.versions("models", "big")
            enlarge("16m")
            manifest = await artifacts.put("models", "big", files)
            whole = all([await artifacts.get(manifest, name) == content for name, content in files.items()])
        lab.outcome.check(
            bool(message) and not seen and whole, f"error {message[:100]!r}, seen {len(seen)}, whole {whole}"
        )
