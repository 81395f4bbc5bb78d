"""JupyterLab as `make lab` opens it: the executed tour is there to read, and its first cells run in a kernel."""

import asyncio
import contextlib
import json
import os
import shutil
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from chromium import CHROMIUM, FLAGS, MISSING, Witness, needs_browser, until

NBS = Path(__file__).parents[2] / "nbs"
QUIET = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
pytestmark = [needs_browser, pytest.mark.slow]


@asynccontextmanager
async def jupyterlab(home: Path):
    "A JupyterLab of its own over a copy of the tour; its host and the address of the notebook."
    for folder in ("nbs", "app", "runtime"):
        (home / folder).mkdir()
    shutil.copy(NBS / "index.ipynb", home / "nbs")
    (home / "app" / "overrides.json").write_text(json.dumps(QUIET))
    own = {name: str(home / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")}
    env = os.environ | own | {"JUPYTER_RUNTIME_DIR": str(home / "runtime"), "PLOTLY_RENDERER": "plotly_mimetype"}
    env["JUPYTER_CONFIG_PATH"] = str(NBS / "_tools" / "jupyter")  # as `make lab` does
    args = [
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        "--port=0",
        "--IdentityProvider.token=tour",
        f"--ServerApp.root_dir={home}",
    ]
    args += ["--LabApp.expose_app_in_browser=True", f"--LabApp.app_settings_dir={home / 'app'}"]
    with (home / "lab.log").open("wb") as log:
        server = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "jupyterlab", *args, env=env, stdout=log, stderr=log
        )
    try:
        port = await asyncio.wait_for(listening(home / "runtime", server), 60)
        yield f"127.0.0.1:{port}", f"http://127.0.0.1:{port}/lab/tree/nbs/index.ipynb?token=tour&reset"
    except BaseException:
        print((home / "lab.log").read_text()[-3000:])
        raise
    finally:
        if server.returncode is None:
            server.terminate()
        await asyncio.wait_for(server.wait(), 60)


def announced(runtime: Path) -> int:
    "The port that the server wrote down when it began to listen; 0 before that."
    for path in runtime.glob("jpserver-*.json"):
        with contextlib.suppress(ValueError):  # half written
            return json.loads(path.read_text())["port"]
    return 0


async def listening(runtime: Path, server: asyncio.subprocess.Process) -> int:
    "Wait for the port, or for the server's early end."
    while not (port := announced(runtime)):
        assert server.returncode is None, f"JupyterLab ended with {server.returncode}"
        await asyncio.sleep(0.05)
    return port


NOTEBOOK = "window.jupyterapp?.shell.currentWidget"
RUN = """async (cells) => {
  const { commands, shell } = window.jupyterapp;
  await commands.execute('notebook:clear-all-cell-outputs');
  shell.currentWidget.content.activeCellIndex = cells;
  await commands.execute('notebook:run-all-above');
}"""
PRINTED = (
    f"[...{NOTEBOOK}.content.widgets].flatMap((o) => o.model.type === 'code' ? o.model.outputs.toJSON() : "
    "[]).map((o) => o.output_type === 'error' ? 'error: ' + o.evalue : [o.text].flat().join('')).join('')"
)


async def save(page) -> None:
    "Save the notebook as a person does, and wait until it is on disk; a question of JupyterLab's is an error."
    await asyncio.wait_for(page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')"), 40)
    assert not await page.locator(".jp-Dialog").count(), await page.locator(".jp-Dialog").inner_text()


async def test_the_tour_opens_and_runs(tmp_path):
    assert not MISSING, MISSING
    from playwright.async_api import async_playwright

    cells = [
        cell["cell_type"] + "".join(cell["source"]) for cell in json.loads((NBS / "index.ipynb").read_text())["cells"]
    ]
    first = next(
        n for n, source in enumerate(cells) if "audit(" in source and source.startswith("code")
    )  # run what comes before it
    async with jupyterlab(tmp_path) as (host, url), async_playwright() as play:
        browser = await play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = await browser.new_page(viewport={"width": 1200, "height": 2600})
        witness = Witness(page, host)
        await page.goto(url, wait_until="domcontentloaded")
        await page.locator(".jp-RenderedImage img").first.wait_for(
            timeout=40_000
        )  # a picture from the file, before anything has run
        await until(page, f"{NOTEBOOK}?.context?.sessionContext?.session?.kernel?.connectionStatus === 'connected'", 40)
        path, kept = tmp_path / "nbs" / "index.ipynb", (NBS / "index.ipynb").read_bytes()
        await save(page)
        assert path.read_bytes() == kept, "opened and saved: no diff"
        await page.evaluate(RUN, first)
        printed = await until(
            page, f"/largest difference[^]*same after a restart|error:/.test({PRINTED}) && {PRINTED}", 40
        )
        assert "error:" not in printed and "largest difference over all indicators: 0.0" in printed
        await until(
            page, "document.querySelectorAll('.js-plotly-plot .boxlayer path.box').length > 100"
        )  # live in the page, no picture
        for _ in range(2):
            await save(page)
        again, before = json.loads(path.read_bytes()), json.loads(kept)
        assert again["cells"][:first] == before["cells"][:first], "what was run shows the same, pictures included"
        assert again["metadata"] == before["metadata"]
        faults = [fault for fault in witness.faults if fault.startswith(("exception", "to another host"))]
        await browser.close()
    assert not faults, "\n".join(faults)
