"""Errors under `/v1` as OpenAI's clients read them: a problem document is rewritten on its way out."""

import json
from collections.abc import Mapping
from typing import Any

from api import problems
from api.http.answers import Message, Receive, Send
from api.http.middleware import Around

PREFIX = "/v1/"
OPENAPI: dict[str, Any] = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}}}
# Their names of kinds of errors, by status.
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def error_of(problem: Mapping[str, Any]) -> dict[str, Any]:
    """A problem document in OpenAI's form."""
    status = problem["status"]
    faults = problem.get("errors") or [{}]
    return {
        "message": problem["detail"],
        "type": _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"),
        "param": faults[0].get("at", "").removeprefix("body").removeprefix(".") or None,
        "code": problem["type"].removeprefix(problems.TYPE_PREFIX),
    }


class OpenAIErrors(Around):
    """What is not valid answers 400 here, as their clients expect, and not 422."""

    def concerns(self, scope: Message) -> bool:
        return bool(scope["path"].startswith(PREFIX))

    async def http(self, scope: Message, receive: Receive, send: Send) -> None:
        start: Message | None = None
        body = b""

        async def rewritten(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message if (b"content-type", problems.MEDIA_TYPE.encode()) in message["headers"] else None
            if start is None:
                await send(message)
            elif message["type"] == "http.response.body":
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    await self._send(send, start, body)

        await self._app(scope, receive, rewritten)

    async def _send(self, send: Send, start: Message, body: bytes) -> None:
        content = json.dumps({"error": error_of(json.loads(body))}).encode()
        replaced = {b"content-type": b"application/json", b"content-length": b"%d" % len(content)}
        headers = [(name, replaced.get(name, value)) for name, value in start["headers"]]
        status = 400 if start["status"] == 422 else start["status"]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content, "more_body": False})
