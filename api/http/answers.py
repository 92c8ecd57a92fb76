"""Outcomes to HTTP: the JSON bodies, the `.npy` form of features, and server-sent events."""

import asyncio
import base64
import io
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from dataclasses import replace
from typing import Any, TypeVar

import anyio
import numpy as np
from fastapi.responses import JSONResponse, Response
from numpy.typing import NDArray

from api import problems
from api.problems import Problem
from api.redis.records import Record
from api.schemas.form import Form
from contract.jobs import Outcome
from heatmaps.cells import heat_maps
from heatmaps.picture import svg
from texts.preparation import align

NPY = "application/x-npy"
SVG = "image/svg+xml"

# Vectors and traces take long to encode, so a thread does it; for other results a thread costs more than it saves.
_LONG = ("featurize", "trace")

_QUALITY = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")

T = TypeVar("T")
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def wants(media_type: str, accept: str) -> bool:
    """Whether the header `Accept` names it, and likes JSON no better (RFC 9110, 12.5.1)."""
    asked = _qualities(accept)
    of_json = next((asked[name] for name in ("application/json", "application/*", "*/*") if name in asked), 0.0)
    return asked.get(media_type, 0.0) > 0 and asked[media_type] >= of_json


def _qualities(accept: str) -> dict[str, float]:
    """The media types of a header `Accept`, and the quality of each, in [0, 1]; 0 where it is not a quality."""
    found = {}
    for part in accept.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        quality = next((piece[2:].strip() for piece in parameters if piece.startswith("q=")), "1")
        found[name] = float(quality) if _QUALITY.fullmatch(quality) else 0.0
    return found


async def encoded(kind: str, encode: Callable[[], T]) -> T:
    """What `encode` makes of the result of a job of this kind, by one of the functions below. Raises what it raises."""
    return await asyncio.to_thread(encode) if kind in _LONG else encode()


def respond(outcome: Outcome, kind: str, form: Form) -> Response:
    """The response to a request whose job has ended. Raises Problem unless the job is done."""
    if kind == "featurize" and form.encoding == "npy":
        return _npy(result(outcome), form)
    content = body(outcome, kind, form)
    return Response(status_code=204) if kind == "delete-head" else JSONResponse(content)


def body(outcome: Outcome, kind: str, form: Form) -> dict[str, Any]:
    """The result of a job that is done, in this form. Raises Problem for any other end."""
    found = result(outcome)
    if kind == "featurize":
        matrix = features(found)
        if form.encoding == "float":
            shown: list[dict[str, Any]] = [{"features": row} for row in matrix.tolist()]
        else:
            shown = [{"features": base64.b64encode(row.tobytes()).decode("ascii")} for row in matrix]
        encoding = "float" if form.encoding == "float" else "base64"
        found = {"model": found["model"], "pooling": found["pooling"], "encoding": encoding, "results": shown}
    if form.skipped:
        errors = {number: {"error": problems.document(*why)} for number, why in form.skipped.items()}
        answered = iter(found["results"])
        count = len(errors) + len(found["results"])
        found = found | {"results": [errors.get(number) or next(answered) for number in range(count)]}
    return found


def listed(job_id: str, record: Record) -> dict[str, Any]:
    """What lists of jobs show of one."""
    progress = {"done": record.done_bytes, "total": record.total_bytes}
    known = {"id": job_id, "kind": record.kind, "state": record.state}
    return known | {"created": record.created, "progress": progress}


def job(job_id: str, record: Record, outcome: Outcome) -> dict[str, Any]:
    """A job that has ended."""
    shown = listed(job_id, replace(record, state=outcome.state))
    try:
        shown["result"] = body(outcome, record.kind, record.form)
    except Problem as problem:
        if outcome.state == "failed":
            shown["error"] = problem.document
    return shown


def features(result: dict[str, Any]) -> NDArray[np.float32]:
    """The worker's packed features, (texts, units)."""
    return np.frombuffer(base64.b64decode(result["features"]), dtype="<f4").reshape(-1, result["units"])


def result(outcome: Outcome) -> dict[str, Any]:
    """What the worker found. Raises Problem unless the job is done."""
    if outcome.error is not None:
        raise problems.of_job(outcome.error)
    if outcome.state == "cancelled" or outcome.result is None:
        raise Problem("cancelled", "the job was cancelled before it had ended")
    return outcome.result


def picture(text: str, outcome: Outcome) -> Response:
    """A trace of this text as heat maps. Raises Problem unless the job is done."""
    found = result(outcome)
    steps = found["bytes"]
    # The offsets of the answer may be those of UTF-16, and its bytes those of the end alone.
    origins = align(text)[-len(steps) :]
    placed = [step | {"start": at.start, "end": at.end} for step, at in zip(steps, origins, strict=True)]
    maps = heat_maps(text, found | {"bytes": placed})
    name = "{name}, step {step}".format(**found["model"])
    return Response(svg(text, maps, name), media_type=SVG, headers=_model(found))


def _model(found: dict[str, Any]) -> dict[str, str]:
    return {"X-Model": "{name}/step-{step}".format(**found["model"])}


def _npy(found: dict[str, Any], form: Form) -> Response:
    """A NumPy file of all features; those of a text that was left out are NaN."""
    matrix = features(found)
    if form.skipped:
        whole = np.full((len(matrix) + len(form.skipped), matrix.shape[1]), np.nan, np.float32)
        whole[[number for number in range(len(whole)) if number not in form.skipped]] = matrix
        matrix = whole
    buffer = io.BytesIO()
    np.save(buffer, matrix, allow_pickle=False)
    return Response(buffer.getvalue(), media_type=NPY, headers=_model(found))


def final_event(outcome: Outcome, kind: str, form: Form) -> tuple[str, str]:
    """(event, data) that ends a stream: `done` with the result, `failed` or `cancelled` with a problem document."""
    try:
        return "done", json.dumps(body(outcome, kind, form))
    except Problem as problem:
        return outcome.state, json.dumps(problem.document)


def sse(event_id: str | None, event: str, data: str) -> bytes:
    first_line = f"id: {event_id}\n" if event_id else ""
    return f"{first_line}event: {event}\ndata: {data}\n\n".encode()


# For the document: without a schema, generators know nothing of the other form of the answer either.
_EVENT = {"type": "object", "properties": {name: {"type": "string"} for name in ("id", "event", "data")}}
EVENTS: dict[str, Any] = {"content": {"text/event-stream": {"schema": _EVENT}}}
PICTURE: dict[str, Any] = {"content": {SVG: {"schema": {"type": "string", "format": "binary"}}}}
MATRIX: dict[str, Any] = {"content": {NPY: {"schema": {"type": "string", "format": "binary"}}}}


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
