"""Jobs by their id: status and result, cancellation, and the stream of their events."""

import re
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request
from fastapi.responses import JSONResponse, Response

from api import answers, inference, schemas
from api.problems import OPENAPI, Problem
from api.queue import JobQueue, Record

router = APIRouter(prefix="/jobs", tags=["jobs"])

JobId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{16,64}$")]
_RESPONSES: dict[int | str, dict[str, Any]] = {
    404: OPENAPI | {"description": "No such job"},
    410: OPENAPI | {"description": "Its result has expired"},
}


@router.get("/{job_id}", response_model=schemas.JobResponse, responses=_RESPONSES)
async def show(job_id: JobId, request: Request) -> Response:
    """How far a job is, and its result. `Accept: application/x-npy` gives features alone, as a NumPy file."""
    queue, record = await _find(request, job_id)
    state: dict[str, Any] = {"id": job_id, "kind": record.kind, "state": record.state, "created": record.created}
    outcome = await queue.outcome(job_id)
    if outcome is None:
        if record.ended:
            raise Problem("expired-job", f"job {job_id} ended as {record.state!r} and its result is kept no longer")
        return JSONResponse(state)
    state["state"] = outcome.state
    try:
        if record.kind == "featurize" and answers.wants_npy(request.headers.get("accept", "")):
            return answers.respond(outcome, record.kind, "npy")
        state["result"] = answers.body(outcome, record.kind, record.encoding)
    except Problem as problem:
        if outcome.state == "failed":
            state["error"] = problem.document
    return JSONResponse(state)


@router.delete("/{job_id}", status_code=202, response_model=schemas.JobResponse, responses=_RESPONSES)
async def cancel(job_id: JobId, request: Request) -> Response:
    """Cancel a job. One that has ended stays as it is."""
    queue, record = await _find(request, job_id)
    if not record.ended:
        await queue.cancel(job_id, "request")
    content = {"id": job_id, "kind": record.kind, "state": record.state, "created": record.created}
    return JSONResponse(content, 202)


@router.get("/{job_id}/events", responses=_RESPONSES | {200: {"content": {"text/event-stream": {}}}})
async def events(
    job_id: JobId,
    request: Request,
    last_event_id: Annotated[str | None, Header(description="Go on after this event.")] = None,
) -> Response:
    """The job's events as a stream: `token` while it generates, then `done`, `failed` or `cancelled`."""
    queue, record = await _find(request, job_id)
    after = last_event_id or "0"
    if not re.fullmatch(r"\d{1,20}(-\d{1,20})?", after):
        raise Problem("invalid-request", f"Last-Event-ID {after[:64]!r} is no id of an event of this service")
    if record.ended:
        outcome = await queue.outcome(job_id)
        if outcome is None:
            raise Problem("expired-job", f"job {job_id} ended as {record.state!r} and its events are kept no longer")
        if not await queue.has_events(job_id):
            return answers.EventStream(_only(answers.final_event(outcome, record.kind, record.encoding)))
    return answers.EventStream(inference.stream(queue, job_id, record.kind, record.encoding, after))


async def _only(event: tuple[str, str]) -> AsyncGenerator[bytes]:
    yield answers.sse(None, *event)


async def _find(request: Request, job_id: str) -> tuple[JobQueue, Record]:
    queue: JobQueue = request.app.state.queue
    record = await queue.record(job_id)
    if record is None:
        raise Problem("unknown-job", f"there is no job {job_id}: it never was, or ended more than a day ago")
    return queue, record
