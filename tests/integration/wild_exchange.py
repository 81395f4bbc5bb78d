"""An exchange that has its candles as real ones have them: off the grid, cut short, late, or not at all. REST and archive
answer from lists of rows, as Binance documents it, and its stream sends events that a test writes."""

import asyncio
import hashlib
import io
import re
import time
import zipfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from streamforge.exchange.simulator.app import serve_app

Row = list[int | str]


def kline(open_time: int, close_time: int, price: float = 100.0) -> Row:
    "One row as `klines` has it."
    numbers = [f"{price + n:.8f}" for n in (0, 2, -1, 1)]
    return [open_time, *numbers, "10.00000000", close_time, "1000.00000000", 5, "4.00000000", "400.00000000", "0"]


def kline_event(symbol: str, interval: str, row: Row, *, closed: bool) -> dict[str, object]:
    "A frame of the kline stream about one row."
    names = ("t", "o", "h", "l", "c", "v", "T", "q", "n", "V", "Q")
    k = dict(zip(names, row, strict=False)) | {"s": symbol, "i": interval, "x": closed}
    return {
        "stream": f"{symbol.lower()}@kline_{interval}",
        "data": {"e": "kline", "E": row[6], "s": symbol, "k": k},
    }


class WildExchange:
    "Serves the rows of each market by REST and as months and days of an archive."

    def __init__(self, rows: dict[str, Sequence[Row]], interval: str = "1h", *, delisted: Sequence[str] = ()):
        self.rows, self.interval, self.delisted = dict(rows), interval, set(delisted)
        self.silent = False  # answer every request for candles with an empty page
        self.files = True  # has an archive
        self.archived: dict[str, Sequence[Row]] = {}  # rows of its archive, where they differ from those of REST
        self.log: list[dict[str, str]] = []  # requests for candles
        self.now: int | None = None  # its clock, ms; None: the real one
        self.live: Callable[[], AsyncIterator[dict[str, object]]] = _nothing  # the frames of its stream
        self.app = Starlette(
            routes=[
                Route("/api/v3/exchangeInfo", self._info),
                Route("/api/v3/time", lambda request: JSONResponse({"serverTime": self._time()})),
                Route("/api/v3/klines", self._klines),
                Route("/data/spot/{folder:path}", self._file),
                WebSocketRoute("/stream", self._stream),
            ]
        )

    @asynccontextmanager
    async def serve(self):
        "Serve on a free port, and give the variables that name the exchange to a worker."
        async with serve_app(self.app) as url:
            yield {"BINANCE_API_URL": url, "BINANCE_ARCHIVE_URL": url, "BINANCE_WS_URL": "ws" + url[4:]}

    def _time(self) -> int:
        return int(time.time() * 1000) if self.now is None else self.now

    def _known(self, request: Request) -> bool:
        symbol = request.query_params.get("symbol", "")
        return not symbol or (symbol in self.rows and symbol not in self.delisted)

    async def _info(self, request: Request) -> Response:
        if not self._known(request):
            return JSONResponse({"code": -1121, "msg": "Invalid symbol."}, 400)
        symbols = [request.query_params["symbol"]] if "symbol" in request.query_params else sorted(self.rows)
        markets = [{"symbol": symbol, "status": "TRADING"} for symbol in symbols if symbol not in self.delisted]
        return JSONResponse({"serverTime": self._time(), "rateLimits": [], "symbols": markets})

    async def _klines(self, request: Request) -> Response:
        query = dict(request.query_params)
        self.log.append(query)
        if not self._known(request):
            return JSONResponse({"code": -1121, "msg": "Invalid symbol."}, 400)
        start, end = int(query.get("startTime", 0)), int(query.get("endTime", 1 << 62))
        rows = (
            []
            if self.silent
            else [row for row in self.rows[query["symbol"]] if start <= int(row[0]) <= min(end, self._time())]
        )
        return JSONResponse(rows[: int(query.get("limit", 500))])

    async def _stream(self, socket: WebSocket) -> None:
        await socket.accept()
        try:
            async for frame in self.live():
                await socket.send_json(frame)
            await asyncio.Event().wait()  # the stream stays open
        except WebSocketDisconnect:
            return

    async def _file(self, request: Request) -> Response:
        path = re.fullmatch(r".*/((\w+)-(\w+)-(\d{4}-\d\d(?:-\d\d)?)).zip(\.CHECKSUM)?", request.url.path)
        if not path or not self.files or path[3] != self.interval or path[2] not in self.rows:
            return Response(status_code=404)
        rows = self.archived.get(path[2], self.rows[path[2]])
        rows = [row for row in rows if _day(int(row[0])).startswith(path[4])]
        if not rows:
            return Response(status_code=404)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            member = zipfile.ZipInfo(f"{path[1]}.csv")
            archive.writestr(member, "".join(",".join(map(str, row)) + "\n" for row in rows))
        if path[5]:
            return Response(f"{hashlib.sha256(packed.getvalue()).hexdigest()}  {path[1]}.zip\n")
        return Response(packed.getvalue())


async def _nothing() -> AsyncIterator[dict[str, object]]:
    return
    yield {}


def _day(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).date().isoformat()
