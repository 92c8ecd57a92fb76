"""Around every request, in plain ASGI: name it, measure it, check its key, bound its body, and answer its failures."""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import Request
from redis.exceptions import RedisError

from api import keys as api_keys
from api import metrics, problems
from api.http import documentation, encodings, page
from api.http.answers import Message, Receive, Send
from api.keys import Key
from api.problems import Problem
from api.redis.limits import Limits
from api.settings import ApiSettings

log = logging.getLogger(__name__)

App = Callable[[Message, Receive, Send], Awaitable[None]]


class Around:
    """Middleware around HTTP; what is none, such as the start of the application, passes."""

    def __init__(self, app: App) -> None:
        self._app = app

    # Not async: a coroutine less for every layer of every request, and none for one that does not concern it.
    def __call__(self, scope: Message, receive: Receive, send: Send) -> Awaitable[None]:
        concerned = scope["type"] == "http" and self.concerns(scope)
        return (self.http if concerned else self._app)(scope, receive, send)

    def concerns(self, scope: Message) -> bool:
        """Whether the request goes through `http`, and not past it."""
        return True

    async def http(self, scope: Message, receive: Receive, send: Send) -> None:
        raise NotImplementedError


# Where the body is a file, which goes to storage piece by piece.
FILES = ("/batches", "/v1/files")
# What a form adds to the file in it.
_FORM_BYTES = 65_536


class BodyLimit(Around):
    """Refuses a body over the limit: by its Content-Length before reading, or as soon as too much has come.

    A packed one is unpacked, to no more than the same limit.
    """

    def __init__(self, app: App, settings: ApiSettings) -> None:
        super().__init__(app)
        self._limit = settings.api_max_request_bytes, "NEURON_API_MAX_REQUEST_BYTES"
        self._larger = dict.fromkeys(FILES, (settings.api_max_batch_bytes, "NEURON_API_MAX_BATCH_BYTES"))
        self._larger["/heads"] = settings.api_max_fit_bytes, "NEURON_API_MAX_FIT_BYTES"

    async def http(self, scope: Message, receive: Receive, send: Send) -> None:
        limit, setting = self._larger.get(scope["path"], self._limit)
        most = limit + (_FORM_BYTES if scope["path"] in FILES else 0)
        headers = dict(scope["headers"])
        declared, encoding = headers.get(b"content-length", b"0"), headers.get(b"content-encoding", b"identity")
        if declared.isdigit() and int(declared) > most:
            await problems.response(_body_too_large(int(declared), limit, setting))(scope, receive, send)
            return
        packed = encoding.lower() != b"identity"
        if packed and scope["path"] in FILES:
            problem = Problem("unknown-encoding", "files come as they are: send it without Content-Encoding")
            await problems.response(problem)(scope, receive, send)
            return
        seen = 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                raise _body_too_large(seen, limit, setting)
            return message

        body = _unpacking(encoding.decode("latin-1"), bounded, limit, setting) if packed else bounded
        await self._app(scope, body, send)


def _unpacking(encoding: str, receive: Receive, limit: int, setting: str) -> Receive:
    """`receive` that unpacks the body, once somebody asks for it."""
    asked = False

    async def received() -> Message:
        nonlocal asked
        if asked:
            return await receive()
        asked, pieces, more = True, [], True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return message
            pieces.append(message.get("body", b""))
            more = message.get("more_body", False)
        body = b"".join(pieces)
        if body:
            body = await asyncio.to_thread(encodings.unpack, encoding, body, limit)
        if len(body) > limit:
            raise _body_too_large(len(body), limit, setting)
        return {"type": "http.request", "body": body, "more_body": False}

    return received


def _body_too_large(actual: int, limit: int, setting: str) -> Problem:
    return problems.too_large("bytes of the request body", actual, limit, setting)


# Probes have no key, and the documentation is public: it must be readable for those who have no key yet.
_OPEN = {"/", "/healthz", "/readyz", "/docs", "/openapi.json"}
_OPEN_ASSETS = (f"{documentation.ASSETS}/", f"{page.ASSETS}/")


def needed_scope(method: str, path: str) -> str | None:
    """The scope that a key needs to call this; None where no key is needed. Unknown paths need one too."""
    if path in _OPEN or path.startswith(_OPEN_ASSETS):
        return None
    if path == "/metrics":
        return "metrics"
    return "heads" if path.startswith("/heads") and method != "GET" else "use"


def key_of(request: Request) -> Key | None:
    """The key that the request came with; None where the gateway asks for none."""
    key: Key | None = request.scope["state"].get("key")
    return key


def is_batched(request: Request) -> bool:
    """Whether the request is a line of a batch, which this gateway itself sends."""
    return bool(request.scope["state"].get("batched"))


def batch_left_s(request: Request) -> float:
    """The time that the batch of a line has left, in seconds; 0 for what is no line."""
    left_s: float = request.scope["state"].get("left_s", 0.0)
    return left_s


class Authorize(Around):
    """Lets requests through that have a key (`Authorization: Bearer KEY`) with the scope that the path needs.

    The key is then that of `key_of`. A line of a batch comes with that of its batch.
    """

    def __init__(self, app: App, keys: Sequence[Key], limits: Limits | None, retry_after_s: int) -> None:
        super().__init__(app)
        self._keys = keys
        self._limits = limits
        self._retry_after_s = retry_after_s

    async def http(self, scope: Message, receive: Receive, send: Send) -> None:
        needed = needed_scope(scope["method"], scope["path"])
        if needed is not None and not scope["state"].get("batched"):
            try:
                scope["state"]["key"] = key = self._admit(scope["headers"], needed)
                if self._limits is not None and self._limits.before_reading(scope["method"], scope["path"]):
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
            detail = "send a key of this service as `Authorization: Bearer KEY`"
            raise Problem("unauthorized", detail, {"WWW-Authenticate": challenge})
        key = api_keys.find(self._keys, presented.strip())
        if key is None:
            challenge += ', error="invalid_token"'
            raise Problem("unauthorized", "this key is not known here", {"WWW-Authenticate": challenge})
        if not key.allows(needed):
            challenge += f', error="insufficient_scope", scope="{needed}"'
            detail = f"the key {key.name!r} is not for {needed!r}, only for {', '.join(sorted(key.scopes))}"
            raise Problem("forbidden", detail, {"WWW-Authenticate": challenge}, scope=needed)
        return key


class Measure(Around):
    """Counts and times requests by route; all paths without a route count as one."""

    async def http(self, scope: Message, receive: Receive, send: Send) -> None:
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


class Head(Around):
    """Answers HEAD wherever GET is answered, without the body."""

    def concerns(self, scope: Message) -> bool:
        return bool(scope["method"] == "HEAD")

    async def http(self, scope: Message, receive: Receive, send: Send) -> None:
        started = False

        async def received() -> Message:
            # A stream of events, which may be without end, ends with its header section.
            return {"type": "http.disconnect"} if started else await receive()

        async def headers_alone(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                scope["method"] = "HEAD"
                await send(message)

        scope["method"] = "GET"
        await self._app(scope, received, headers_alone)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Failures(Around):
    """Answers what nobody expected with a problem document, within the middleware that adds headers to it."""

    async def http(self, scope: Message, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            # The route and not the path, which is the client's text.
            route = getattr(scope.get("route"), "path", "?")
            log.error("%s %s failed (%s)", scope["method"], route, scope["state"]["request_id"], exc_info=error)
            if started:
                raise
            detail = f"an unexpected error, which was logged as {scope['state']['request_id']}"
            await problems.response(Problem("internal", detail))(scope, receive, send)


REQUEST_ID = "X-Request-Id"
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")


class RequestId(Around):
    """Names every request in `X-Request-Id`, as its client does or by a name of its own; it is in logs as well."""

    async def http(self, scope: Message, receive: Receive, send: Send) -> None:
        sent = dict(scope["headers"]).get(b"x-request-id", b"")
        name = sent if _REQUEST_ID.fullmatch(sent) else secrets.token_hex(8).encode()
        scope.setdefault("state", {})["request_id"] = name.decode()

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", name)]
            await send(message)

        await self._app(scope, receive, named)
