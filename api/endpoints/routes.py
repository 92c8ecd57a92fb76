"""The route of the POSTs with a JSON body, which is parsed straight into its model."""

import re
from collections.abc import Callable
from inspect import signature
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request

from api.http import bodies
from api.http.answers import Message, Receive, Send
from api.problems import Problem
from api.redis import idempotency

_KEY = re.compile(idempotency.PATTERN)


class JobRoute(APIRoute):
    """A route whose endpoint, if it takes a body, is called with it, the request, idempotency_key, and maybe prefer.

    FastAPI's own way, through dependencies and exit stacks, takes several times as long as everything else in a small
    request. It still describes the endpoint.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        parameters = signature(endpoint).parameters
        self._body = parameters["body"].annotation if "body" in parameters else None
        self._takes_prefer = "prefer" in parameters

    async def handle(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST" or self._body is None:
            return await super().handle(scope, receive, send)
        request = Request(scope, receive, send)
        bodies.check_content_type(request.headers.get("content-type"))
        try:
            content = await request.body()
        except ClientDisconnect:
            raise Problem("invalid-request", "the connection ended within the body") from None
        key = request.headers.get(idempotency.HEADER)
        if key is not None and not _KEY.fullmatch(key):
            detail = f"the {idempotency.HEADER} is not of 1 to 255 printable ASCII characters"
            raise Problem("invalid-request", detail)
        body = bodies.parse(self._body, content, request.app.state.settings.api_max_texts)
        wishes = {"prefer": request.headers.get("prefer")} if self._takes_prefer else {}
        response = await self.endpoint(body, request, idempotency_key=key, **wishes)
        await response(scope, receive, send)
        return None
