"""Around every request, in plain ASGI: bound the body while it is read, and measure."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from api import metrics, problems
from api.answers import Message, Receive, Send

App = Callable[[Message, Receive, Send], Awaitable[None]]


class BodyLimit:
    """Refuses a body over the limit: by its Content-Length before reading, else as soon as too much has come."""

    def __init__(self, app: App, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._limit:
            await problems.response(self._problem(int(declared)))(scope, receive, send)
            return
        seen = 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._limit:
                raise self._problem(seen)
            return message

        await self._app(scope, bounded, send)

    def _problem(self, actual: int) -> problems.Problem:
        return problems.too_large("bytes of the request body", actual, self._limit, "NEURON_API_MAX_REQUEST_BYTES")


class Measure:
    """Counts and times requests by route; a path that no route knows counts as one."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route: Any = scope.get("route")
            path = getattr(route, "path", "unknown")
            metrics.REQUESTS.labels(scope["method"], path, str(status)).inc()
            metrics.REQUEST_SECONDS.labels(path).observe(time.perf_counter() - started)
