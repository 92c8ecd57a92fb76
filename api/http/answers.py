"""Outcomes to HTTP: the JSON bodies, the `.npy` form of features, and server-sent events."""

import base64
import io
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from typing import Any

import anyio
import numpy as np
from fastapi.responses import JSONResponse, Response
from numpy.typing import NDArray

from api import problems
from api.problems import Problem
from contract.jobs import Outcome

NPY = "application/x-npy"

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def wants_npy(accept: str) -> bool:
    return any(part.split(";")[0].strip() == NPY for part in accept.split(","))


def respond(outcome: Outcome, kind: str, encoding: str) -> Response:
    """The response to a request whose job has ended. Raises Problem unless the job is done."""
    result = body(outcome, kind, encoding)
    if kind == "delete-head":
        return Response(status_code=204)
    if encoding == "npy" and kind == "featurize":
        buffer = io.BytesIO()
        np.save(buffer, _features(outcome.result or {}), allow_pickle=False)
        model = result["model"]
        return Response(buffer.getvalue(), media_type=NPY, headers={"X-Model": f"{model['name']}/step-{model['step']}"})
    return JSONResponse(result)


def body(outcome: Outcome, kind: str, encoding: str) -> dict[str, Any]:
    """The result of a job that is done, in the encoding that the client asked for. Raises Problem for any other end."""
    if outcome.error is not None:
        raise problems.of_job(outcome.error)
    if outcome.state == "cancelled" or outcome.result is None:
        raise Problem("cancelled", "the job was cancelled before it had ended")
    if kind != "featurize":
        return outcome.result
    matrix = _features(outcome.result)
    if encoding == "float":
        results: list[dict[str, Any]] = [{"features": row} for row in matrix.tolist()]
    else:
        results = [{"features": base64.b64encode(row.tobytes()).decode("ascii")} for row in matrix]
    return {
        "model": outcome.result["model"],
        "pooling": outcome.result["pooling"],
        "encoding": "float" if encoding == "float" else "base64",
        "results": results,
    }


def _features(result: dict[str, Any]) -> NDArray[np.float32]:
    """The worker's packed features, (texts, units)."""
    return np.frombuffer(base64.b64decode(result["features"]), dtype="<f4").reshape(-1, result["units"])


def final_event(outcome: Outcome, kind: str, encoding: str) -> tuple[str, str]:
    """(event, data) that ends a stream: `done` with the result, `failed` or `cancelled` with a problem document."""
    try:
        return "done", json.dumps(body(outcome, kind, encoding))
    except Problem as problem:
        return outcome.state, json.dumps(problem.document)


def sse(event_id: str | None, event: str, data: str) -> bytes:
    first_line = f"id: {event_id}\n" if event_id else ""
    return f"{first_line}event: {event}\ndata: {data}\n\n".encode()


class EventStream(Response):
    """Server-sent events, whose production stops as soon as the client has gone, even while none comes."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes], headers: dict[str, str] | None = None) -> None:
        # Proxies must not hold events back. That they must not store them is on every answer (`connections.py`).
        super().__init__(headers={"X-Accel-Buffering": "no"} | (headers or {}))
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                group.cancel_scope.cancel()

            group.start_soon(watch)
            try:
                async for chunk in self._events:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            finally:
                with anyio.CancelScope(shield=True):
                    await self._events.aclose()
            group.cancel_scope.cancel()
