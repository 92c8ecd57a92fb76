"""The route of the POSTs that make a job: a valid body is parsed straight into its model."""

import re
from collections.abc import Callable
from inspect import signature
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request

from api.http.answers import Message, Receive, Send
from api.problems import Problem
from api.redis import idempotency

_KEY = re.compile(idempotency.PATTERN)


class JobRoute(APIRoute):
    """A route whose endpoint is called with (body, request, prefer, idempotency_key).

    FastAPI's own way, through dependencies and exit stacks, takes several times as long as everything else in a small
    request. Only a body that is not plainly valid goes there, because FastAPI reports what is wrong.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self._body = signature(endpoint).parameters["body"].annotation

    async def handle(self, scope: Message, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        if scope["method"] != "POST" or request.headers.get("content-type") != "application/json":
            return await super().handle(scope, receive, send)
        try:
            content = await request.body()
        except ClientDisconnect:
            raise Problem("invalid-request", "the connection ended within the body") from None
        key = request.headers.get(idempotency.HEADER)
        try:
            if key is not None and not _KEY.fullmatch(key):
                raise ValueError
            body = self._body.model_validate_json(content)
        except ValueError:  # pydantic's ValidationError is one
            return await super().handle(scope, _again(content, receive), send)
        response = await self.endpoint(body, request, request.headers.get("prefer"), key)
        await response(scope, receive, send)
        return None


def _again(content: bytes, receive: Receive) -> Receive:
    """`receive` as it was before the body was read."""
    body = [{"type": "http.request", "body": content, "more_body": False}]

    async def received() -> Message:
        return body.pop() if body else await receive()

    return received
