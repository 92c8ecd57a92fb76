"""Jobs by their id: status and result, cancellation, and the stream of their events."""

import re
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse, Response

from api.endpoints.events import follow
from api.http import answers
from api.keys import Key
from api.problems import OPENAPI, Problem, expired
from api.redis.parts import Parts, parts_of
from api.redis.records import Record
from api.schemas import responses

router = APIRouter(prefix="/jobs", tags=["jobs"])

_JOB_ID = re.compile(r"[A-Za-z0-9_-]{16,64}")
# Redis holds such an id in two numbers of 64 bits.
LastEventId = Annotated[str, Header(pattern=r"^[0-9]{1,19}(-[0-9]{1,19})?$", description="Continue after this event.")]
_RESPONSES: dict[int | str, dict[str, Any]] = {
    404: OPENAPI | {"description": "No such job"},
    410: OPENAPI | {"description": "Its result has expired"},
    422: OPENAPI | {"description": "Not valid"},
    503: OPENAPI | {"description": "Redis does not answer"},
}


@router.get("/{job_id}", response_model=responses.JobResponse, responses=_RESPONSES)
async def get_job(job_id: str, request: Request) -> Response:
    """How far a job is, and its result. `Accept: application/x-npy` gives features alone, as a NumPy file."""
    parts, record = await _find(request, job_id)
    state: dict[str, Any] = {"id": job_id, "kind": record.kind, "state": record.state, "created": record.created}
    outcome = await parts.records.outcome(job_id, record)
    if outcome is None:
        if record.ended:
            raise expired(job_id, record.state)
        return JSONResponse(state)
    state["state"] = outcome.state
    try:
        if record.kind == "featurize" and answers.wants_npy(request.headers.get("accept", "")):
            return answers.respond(outcome, record.kind, replace(record.form, encoding="npy"))
        state["result"] = answers.body(outcome, record.kind, record.form)
    except Problem as problem:
        if outcome.state == "failed":
            state["error"] = problem.document
    return JSONResponse(state)


@router.delete("/{job_id}", status_code=202, response_model=responses.JobResponse, responses=_RESPONSES)
async def cancel_job(job_id: str, request: Request) -> Response:
    """Cancel a job. One that has ended stays as it is."""
    parts, record = await _find(request, job_id)
    if not record.ended:
        await parts.records.cancel(job_id, "request")
    content = {"id": job_id, "kind": record.kind, "state": record.state, "created": record.created}
    return JSONResponse(content, 202)


@router.get("/{job_id}/events", responses=_RESPONSES | {200: {"content": {"text/event-stream": {}}}})
async def follow_job(
    job_id: str,
    request: Request,
    last_event_id: LastEventId = "0",
) -> Response:
    """The job's events as a stream: `token` while it generates, then `done`, `failed` or `cancelled`."""
    parts, record = await _find(request, job_id)
    return await follow(parts, job_id, record, last_event_id)


async def _find(request: Request, job_id: str) -> tuple[Parts, Record]:
    parts = parts_of(request)
    key: Key | None = getattr(request.state, "key", None)
    # To another key the job does not exist: even that it does must stay secret.
    may_be_seen = _JOB_ID.fullmatch(job_id) and (key is None or key.may_see(job_id))
    record = await parts.records.record(job_id) if may_be_seen else None
    if record is None:
        raise Problem("unknown-job", f"there is no job {job_id[:64]!r}: it never was, or ended more than a day ago")
    return parts, record
