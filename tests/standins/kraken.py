"""Stands in for Kraken: as much of its public REST interface as ccxt's class asks for, over rows written by a test.

What it follows, and where that is written (docs.kraken.com/api-reference/market-data):
- `get-server-time`, `get-asset-info`, `get-tradable-asset-pairs`: shapes and names of fields
- `get-ohlc-data`: rows of [time in s, open, high, low, close, vwap, volume, count], numbers as text; the last row is
  the candle that is not committed yet, and is always there; 720 rows at most, older ones cannot be had
- `get-recent-trades`: rows of [price, volume, time in s, b or s, m or l, misc, id], 1,000 at most, from `since` on
- `get-order-book`: levels of [price, volume, time in s]
- errors come with HTTP 200 as {"error": ["EQuery:Unknown asset pair"]}

What it does not do: private calls, WebSocket, rate limits of its own (a test injects one).
"""

import json
from collections import deque
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

KEPT = 720  # candles of each interval
PAIRS = {
    "XXBTZUSD": ("XBT/USD", "XXBT", "ZUSD"),
    "XETHZEUR": ("ETH/EUR", "XETH", "ZEUR"),
    "ADAUSD": ("ADA/USD", "ADA", "ZUSD"),
}
ASSETS = {"XXBT": "XBT", "XETH": "ETH", "ADA": "ADA", "ZUSD": "USD", "ZEUR": "EUR"}
FAULTS = {  # kind -> status, headers, body
    "limit": (200, {}, b'{"error":["EAPI:Rate limit exceeded"]}'),
    "busy": (429, {"retry-after": "0"}, b'{"error":["EAPI:Rate limit exceeded"]}'),
    "down": (503, {}, b"<html><body>Service Unavailable</body></html>"),
    "unavailable": (200, {}, b'{"error":["EService:Unavailable"]}'),
    "html": (200, {"content-type": "text/html"}, b"<html>a proxy's page</html>"),
    "restricted": (451, {}, b'{"error":["EGeneral:Restricted"]}'),
    "empty": (200, {}, b'{"error":[],"result":{"XXBTZUSD":[],"last":0}}'),
}


@dataclass
class KrakenStandIn:
    "An ASGI application; rows of candles and trades are those of XXBTZUSD."

    candles: list[tuple[int, float, float, float, float, float]]  # open time in s, open, high, low, close, volume
    now: int  # ms
    minutes: int = 60  # interval of the candles
    trades: list[tuple[int, float, float, float, str]] = field(
        default_factory=list
    )  # id, price, volume, time in s, b/s
    faults: deque[str] = field(default_factory=deque)  # one per request to come
    requests: list[str] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self.requests.append(f"{request.url.path}?{request.url.query}")
        await self.answer(request)(scope, receive, send)

    def answer(self, request: Request) -> Response:
        if self.faults and (self.faults[0] != "empty" or "OHLC" in request.url.path):
            status, headers, body = FAULTS[self.faults.popleft()]
            return Response(body, status, {"content-type": "application/json", **headers})
        name, query = request.url.path.removeprefix("/0/public/"), dict(request.query_params)
        if name in ("OHLC", "Trades", "Depth") and query.get("pair") not in PAIRS:
            return self.json({}, ["EQuery:Unknown asset pair"])
        if name == "Time":
            return self.json({"unixtime": self.now // 1_000, "rfc1123": "Thu, 01 Jan 70 00:00:00 +0000"})
        if name == "Assets":
            return self.json({name: self.asset(short) for name, short in ASSETS.items()})
        if name == "AssetPairs":
            return self.json({name: self.pair(*parts) for name, parts in PAIRS.items()})
        if name == "OHLC":
            return self.ohlc(query)
        if name == "Trades":
            return self.recent_trades(query)
        if name == "Depth":
            return self.depth(query)
        return self.json({}, ["EGeneral:Unknown method"])

    @staticmethod
    def json(result: object, error: list[str] | None = None) -> Response:
        body = {"error": error} if error else {"error": [], "result": result}
        return Response(json.dumps(body), media_type="application/json")

    @staticmethod
    def asset(short: str) -> dict[str, object]:
        return {"aclass": "currency", "altname": short, "decimals": 10, "display_decimals": 5, "status": "enabled"}

    @staticmethod
    def pair(wsname: str, base: str, quote: str) -> dict[str, object]:
        return {
            "altname": wsname.replace("/", ""),
            "wsname": wsname,
            "aclass_base": "currency",
            "base": base,
            "aclass_quote": "currency",
            "quote": quote,
            "lot": "unit",
            "pair_decimals": 1,
            "lot_decimals": 8,
            "lot_multiplier": 1,
            "leverage_buy": [2, 3],
            "leverage_sell": [2, 3],
            "fees": [[0, 0.4]],
            "fees_maker": [[0, 0.25]],
            "fee_volume_currency": "ZUSD",
            "margin_call": 80,
            "margin_stop": 40,
            "ordermin": "0.0001",
            "costmin": "0.5",
            "tick_size": "0.1",
            "status": "online",
        }

    def ohlc(self, query: dict[str, str]) -> Response:
        if query.get("interval", "1") != str(self.minutes):
            return self.json({query["pair"]: [], "last": 0})
        begun = [row for row in self.candles if row[0] * 1_000 <= self.now][-KEPT:]
        since = int(query.get("since", 0))
        rows = [row for row in begun[:-1] if row[0] > since] + begun[-1:]
        texts = [[t, str(o), str(h), str(low), str(c), str(o), f"{v:.8f}", 9] for t, o, h, low, c, v in rows]
        return self.json({query["pair"]: texts, "last": begun[-2][0] if len(begun) > 1 else 0})

    def recent_trades(self, query: dict[str, str]) -> Response:
        happened, most = [row for row in self.trades if row[3] * 1_000 <= self.now], int(query.get("count", 1_000))
        since = float(query["since"]) if "since" in query else None
        seconds = since if since is None or since < 1e12 else since / 1e9
        rows = happened[-most:] if seconds is None else [row for row in happened if row[3] > seconds][:most]
        texts = [[str(price), str(volume), time, side, "l", "", id_] for id_, price, volume, time, side in rows]
        return self.json({query["pair"]: texts, "last": str(round(rows[-1][3] * 1e9)) if rows else "0"})

    def depth(self, query: dict[str, str]) -> Response:
        count, second = int(query.get("count", 100)), self.now // 1_000
        bids = [[f"{30_000 - n / 10:.1f}", "1.500", second] for n in range(1, count + 1)]
        asks = [[f"{30_000 + n / 10:.1f}", "2.500", second] for n in range(1, count + 1)]
        return self.json({query["pair"]: {"asks": asks, "bids": bids}})
