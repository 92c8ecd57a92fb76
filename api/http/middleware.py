"""Around every request, in plain ASGI: ask for the key, bound the body while it is read, measure and trace."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from opentelemetry.trace import SpanKind
from redis.exceptions import RedisError

from api import keys as api_keys
from api import metrics, problems
from api.http.answers import Message, Receive, Send
from api.keys import Key
from api.problems import Problem
from api.redis.limits import Limits
from contract import tracing

App = Callable[[Message, Receive, Send], Awaitable[None]]


class BodyLimit:
    """Refuses a body over the limit: by its Content-Length before reading, else as soon as too much has come."""

    def __init__(self, app: App, limit: int, fit_limit: int) -> None:
        """fit_limit: for `POST /heads`, whose examples are many."""
        self._app = app
        self._limits = {
            False: (limit, "NEURON_API_MAX_REQUEST_BYTES"),
            True: (fit_limit, "NEURON_API_MAX_FIT_BYTES"),
        }

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit, setting = self._limits[scope["path"] == "/heads"]
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            await problems.response(_body_too_large(int(declared), limit, setting))(scope, receive, send)
            return
        seen = 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise _body_too_large(seen, limit, setting)
            return message

        await self._app(scope, bounded, send)


def _body_too_large(actual: int, limit: int, setting: str) -> Problem:
    return problems.too_large("bytes of the request body", actual, limit, setting)


# Probes ask without a key, and the documentation is no secret: who has no key yet must read how to give one.
_OPEN = {"/healthz", "/readyz", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"}


def needed_scope(method: str, path: str) -> str | None:
    """What a key must be for to call this; None where none is asked for. An address that nothing has asks for one."""
    if path in _OPEN:
        return None
    if path == "/metrics":
        return "metrics"
    return "heads" if path.startswith("/heads") and method not in ("GET", "HEAD") else "use"


class Authorize:
    """Lets through who brings a key (`Authorization: Bearer KEY`) of the scope that the address asks for.

    The key is then `request.state.key`.
    """

    def __init__(self, app: App, keys: Sequence[Key], limits: Limits | None, retry_after_s: int) -> None:
        self._app = app
        self._keys = keys
        self._limits = limits
        self._retry_after_s = retry_after_s

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        needed = needed_scope(scope["method"], scope["path"])
        if needed is not None:
            try:
                scope.setdefault("state", {})["key"] = key = self._admit(scope["headers"], needed)
                if self._limits is not None and self._limits.at_door(scope["method"]):
                    await self._limits.charge(key, 0)
            except (Problem, RedisError) as error:
                problem = error if isinstance(error, Problem) else problems.redis_away(error, self._retry_after_s)
                await problems.response(problem)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _admit(self, headers: Sequence[tuple[bytes, bytes]], needed: str) -> Key:
        scheme, _, presented = dict(headers).get(b"authorization", b"").decode("latin-1").partition(" ")
        challenge = 'Bearer realm="sentiment-neuron"'
        if scheme.lower() != "bearer" or not presented:
            metrics.REFUSED.labels("unauthorized").inc()
            detail = "send a key of this service as `Authorization: Bearer KEY`"
            raise Problem("unauthorized", detail, {"WWW-Authenticate": challenge})
        key = api_keys.find(self._keys, presented.strip())
        if key is None:
            metrics.REFUSED.labels("unauthorized").inc()
            challenge += ', error="invalid_token"'
            raise Problem("unauthorized", "this key is not known here", {"WWW-Authenticate": challenge})
        if not key.allows(needed):
            metrics.REFUSED.labels("forbidden").inc()
            challenge += f', error="insufficient_scope", scope="{needed}"'
            detail = f"the key {key.name!r} is not for {needed!r}, only for {', '.join(sorted(key.scopes))}"
            raise Problem("forbidden", detail, {"WWW-Authenticate": challenge}, scope=needed)
        return key


class Trace:
    """A span for every request, which continues the caller's trace where one came (`traceparent`)."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        method = scope["method"]
        with tracing.TRACER.start_as_current_span(
            method, tracing.CONTEXT.extract(headers), SpanKind.SERVER, {"http.request.method": method}
        ) as span:

            async def watched(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                await send(message)

            await self._app(scope, receive, watched)
            route = getattr(scope.get("route"), "path", None)
            if route is not None:
                span.set_attribute("http.route", route)
                span.update_name(f"{method} {route}")


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
