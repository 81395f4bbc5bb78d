"""Faults between two real servers: a proxy that cuts, slows and stalls (https://github.com/Shopify/toxiproxy)."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from servers import free_port


class Proxy:
    "A port in front of a server."

    def __init__(self, api: httpx.AsyncClient, name: str, port: int):
        self.api, self.name, self.port = api, name, port

    async def cut(self, down: bool = True) -> None:
        "Close every connection and refuse new ones; `cut(False)` lets them in again."
        (await self.api.post(f"/proxies/{self.name}", json={"enabled": not down})).raise_for_status()

    async def poison(self, kind: str, *, stream: str = "downstream", **attributes: Any) -> None:
        """Add a toxic: `latency` (latency, jitter in ms), `timeout`, `reset_peer`, `bandwidth` (rate in KB/s),
        `limit_data` (bytes), `slicer`."""
        body = {"name": f"{kind}-{stream}", "type": kind, "stream": stream, "attributes": attributes}
        (await self.api.post(f"/proxies/{self.name}/toxics", json=body)).raise_for_status()

    async def cure(self) -> None:
        "Take every toxic away."
        for toxic in (await self.api.get(f"/proxies/{self.name}/toxics")).raise_for_status().json():
            (await self.api.delete(f"/proxies/{self.name}/toxics/{toxic['name']}")).raise_for_status()


@asynccontextmanager
async def proxied(api_url: str, upstream: str) -> AsyncIterator[Proxy]:
    "A proxy in front of `host:port`, gone at the end."
    async with httpx.AsyncClient(base_url=api_url, timeout=10) as api:
        name, port = f"t{secrets.token_hex(4)}", free_port()
        (
            await api.post(
                "/proxies", json={"name": name, "listen": f"127.0.0.1:{port}", "upstream": upstream, "enabled": True}
            )
        ).raise_for_status()
        try:
            yield Proxy(api, name, port)
        finally:
            await api.delete(f"/proxies/{name}")
