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
            lambda message: self.saw(
                message.type in ("error", "warning") and not message.text.startswith("[.WebGL"),
                f"console: {message.text}",
            ),
        )
        page.on("pageerror", lambda error: self.saw(True, f"exception: {error}"))
        page.on("request", lambda request: self.saw(self.outside(request.url), f"to another host: {request.url}"))
        page.on("websocket", lambda socket: self.saw(self.outside(socket.url), f"to another host: {socket.url}"))
        page.on("requestfailed", lambda request: self.saw(True, f"failed: {request.url} {request.failure}"))
        page.on("response", lambda event: self.saw(event.status >= 400, f"status {event.status}: {event.url}"))

    def outside(self, url: str) -> bool:
        parts = urlsplit(url)
        return parts.scheme not in ("data", "blob") and parts.netloc != self.host

    def saw(self, wrong: bool, what: str) -> None:
        if wrong:
            self.faults.append(what)


async def until(page, expression: str, seconds: float = 60):
    """Wait until a JavaScript expression is true in the page, frame by frame; its value. (wait_for_function needs
    eval, which our pages forbid.)"""
    look = (
        f"const look = () => {{ const found = {expression}; if (found || performance.now() > end) "
        f"resolve(found); else requestAnimationFrame(look); }};"
    )
    value = await page.evaluate(
        f"new Promise((resolve) => {{ const end = performance.now() + {1000 * seconds}; {look} look(); }})"
    )
    assert value, f"waited {seconds} s in vain for {expression}"
    return value
