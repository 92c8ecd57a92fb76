"""A line of a batch to its answer: the request that it holds goes through the application as if it had come alone."""

import asyncio
import json
import random
import time
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api import metrics
from api.http.answers import Message, Receive, Send
from api.http.middleware import App, Around
from api.keys import Key
from api.schemas.faults import faults
from api.stopping import outlast

Url = Literal["/classify", "/featurize", "/trace", "/generate", "/v1/embeddings", "/v1/completions"]
# Of an answer that holds what was asked for. Its order is fixed, so that what failed is seen without parsing it.
_COMPLETED = b'{"error":null,"response":{"status_code":200,'
# What is over a limit now may be tried later, and a Redis that is away may come back.
_LATER = (429, 503)
_LONGEST_PAUSE_S = 30.0
_NAME = 512  # characters of a custom_id


class Entrance:
    """Where lines enter the application: behind what concerns connections and browsers, before keys and failures."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._inside: App | None = None
        app.add_middleware(_Door, entrance=self)

    def lead_to(self, inside: App) -> None:
        self._inside = inside

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if self._inside is None:
            raise RuntimeError("the application has not begun")
        await self._inside({**scope, "app": self._app}, receive, send)


class _Door(Around):
    """Every request passes it on its way in."""

    def __init__(self, app: App, entrance: Entrance) -> None:
        super().__init__(app)
        entrance.lead_to(app)

    def concerns(self, scope: Message) -> bool:
        return False


class Line(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    custom_id: str | None = Field(None, max_length=_NAME)
    method: Literal["POST"] = "POST"
    url: Url
    body: dict[str, Any]


class NotALine(Exception):
    """What is wrong with it."""

    def __init__(self, custom_id: str | None, why: str) -> None:
        super().__init__(why)
        self.custom_id = custom_id


def parse(raw: bytes, url: str | None) -> tuple[Line, bytes]:
    """(the line, its body as JSON). url: the only one that it may name. Raises NotALine."""
    try:
        value = _value(raw)
    except (ValueError, RecursionError) as error:
        raise NotALine(None, f"not JSON: {error}") from None
    custom_id = _named(value)
    try:
        line = Line.model_validate(value)
        content = json.dumps(line.body).encode()
    except RecursionError:
        raise NotALine(custom_id, "body: too deeply nested") from None
    except ValidationError as error:
        found = (f"{fault['at']}: {fault['message']}".removeprefix(": ") for fault in faults(error, Line)[:5])
        raise NotALine(custom_id, "; ".join(found)) from None
    if url is not None and line.url != url:
        raise NotALine(custom_id, f"url: {line.url} is not that of the batch, {url}")
    if line.body.get("stream"):
        raise NotALine(custom_id, "stream: the answers of a batch do not stream: leave it out")
    return line, content


class Lines:
    def __init__(self, entrance: Entrance) -> None:
        self._entrance = entrance

    async def answer(self, raw: bytes, url: str | None, key: Key | None, name: str, expires: float) -> bytes:
        """The answer to a line, as a line. Does not raise for anything in it.

        name: of the line in logs. expires: when its batch does, as Unix time in seconds.
        """
        try:
            line, content = parse(raw, url)
        except NotALine as error:
            return failure(error.custom_id, "invalid-request", str(error))
        while True:
            status, headers, body = await self._ask(line.url, content, key, name, expires)
            if status not in _LATER:
                break
            metrics.BATCH_PAUSES.inc()
            pause_s = min(float(headers.get(b"retry-after", b"1")), _LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311 - so that they do not come at once
        about = b'"status_code":%d,"request_id":%s,"body":%s' % (status, json.dumps(name).encode(), body)
        return b'{"error":null,"response":{%s},"custom_id":%s}\n' % (about, json.dumps(line.custom_id).encode())

    async def _ask(
        self, url: str, content: bytes, key: Key | None, name: str, expires: float
    ) -> tuple[int, dict[bytes, bytes], bytes]:
        """(status, headers, body) of the answer. When this is cancelled, the job is as well."""
        asked, gone, status, headers, body = False, asyncio.Event(), 0, {}, []

        async def receive() -> Message:
            nonlocal asked
            if not asked:
                asked = True
                return {"type": "http.request", "body": content, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status, headers = message["status"], dict(message["headers"])
            else:
                body.append(message.get("body", b""))

        left_s = max(0.0, expires - time.time())
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": url,
            "raw_path": url.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))],
            "state": {"request_id": name, "key": key, "batched": True, "left_s": left_s},
        }
        running = asyncio.ensure_future(self._entrance(scope, receive, send))
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            gone.set()
            await outlast(running)  # it cancels the job
            raise
        return status, headers, b"".join(body)


def failure(custom_id: str | None, code: str, message: str) -> bytes:
    """The answer to a line that was not asked for."""
    error = {"code": code, "message": message}
    return (
        json.dumps({"error": error, "response": None, "custom_id": custom_id}, separators=(",", ":")).encode() + b"\n"
    )


def custom_id_of(raw: bytes) -> str | None:
    """What the line calls itself, if it can be read."""
    try:
        return _named(_value(raw))
    except (ValueError, RecursionError):
        return None


def _value(raw: bytes) -> Any:
    """Raises ValueError for what is not UTF-8 or not JSON, RecursionError."""
    return json.loads(raw.decode("utf-8-sig"))


def _named(value: Any) -> str | None:
    """What a line of this value calls itself, also where it is no valid one."""
    named = value.get("custom_id") if isinstance(value, dict) else None
    return named[:_NAME] if isinstance(named, str) else None


def has_completed(answer: bytes) -> bool:
    return answer.startswith(_COMPLETED)
