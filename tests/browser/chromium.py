"""The system's Chromium, driven by playwright, and a witness of all that goes wrong in a page."""

import importlib.util
import os
import shutil
from urllib.parse import urlsplit

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
MISSING = "" if CHROMIUM else "chromium is not installed (apt-get install chromium)"
if not importlib.util.find_spec("playwright"):
    MISSING = "playwright is not installed (the extra `dev`)"
needs_browser = pytest.mark.skipif(bool(MISSING) and os.environ.get("CI") != "true", reason=MISSING or "never")


class Witness:
    "What a page must not do: errors in the console, exceptions, requests that fail or go to another host."

    def __init__(self, page, host: str):
        self.host, self.faults = host, list[str]()
        page.on(
            "console",
            lambda o: self.saw(
                o.type in ("error", "warning") and not o.text.startswith("[.WebGL"), f"console: {o.text}"
            ),
        )
        page.on("pageerror", lambda o: self.saw(True, f"exception: {o}"))
        page.on("request", lambda o: self.saw(self.outside(o.url), f"to another host: {o.url}"))
        page.on("websocket", lambda o: self.saw(self.outside(o.url), f"to another host: {o.url}"))
        page.on("requestfailed", lambda o: self.saw(True, f"failed: {o.url} {o.failure}"))
        page.on("response", lambda o: self.saw(o.status >= 400, f"status {o.status}: {o.url}"))

    def outside(self, url: str) -> bool:
        parts = urlsplit(url)
        return parts.scheme not in ("data", "blob") and parts.netloc != self.host

    def saw(self, wrong: bool, what: str) -> None:
        if wrong:
            self.faults.append(what)


async def until(page, expression: str, seconds: float = 60):
    "Wait until a JavaScript expression is true in the page, frame by frame; its value. (wait_for_function needs eval, which our pages forbid.)"
    look = f"const look = () => {{ const found = {expression}; if (found || performance.now() > end) resolve(found); else requestAnimationFrame(look); }};"
    found = await page.evaluate(
        f"new Promise((resolve) => {{ const end = performance.now() + {1000 * seconds}; {look} look(); }})"
    )
    assert found, f"waited {seconds} s in vain for {expression}"
    return found
