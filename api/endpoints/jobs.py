"""Jobs by their id: status and result, cancellation, and the stream of their events."""

import re
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse, Response

from api import keys
from api.endpoints.events import follow
from api.http import answers
from api.http.middleware import key_of
from api.problems import OPENAPI, Problem, expired
from api.redis.parts import Parts, parts_of
from api.redis.records import Record
from api.schemas import responses
from contract.jobs import JobState

router = APIRouter(prefix="/jobs", tags=["jobs"])

_JOB_ID = re.compile(r"[A-Za-z0-9_-]{16,64}")
_PAGE = 1000  # jobs of a list that are read at once; the list has LISTED_AT_MOST
_PAGES_READ = 10
# Redis holds such an id in two numbers of 64 bits.
LastEventId = Annotated[str, Header(pattern=r"^[0-9]{1,19}(-[0-9]{1,19})?$", description="Continue after this event.")]
_RESPONSES: dict[int | str, dict[str, Any]] = {
    404: OPENAPI | {"description": "No such job"},
    410: OPENAPI | {"description": "Its result has expired"},
    422: OPENAPI | {"description": "Not valid"},
    503: OPENAPI | {"description": "Redis does not answer"},
}
_LIST_RESPONSES: dict[int | str, dict[str, Any]] = {
    404: OPENAPI | {"description": "`after` names no job of the list"},
    422: _RESPONSES[422],
    503: _RESPONSES[503],
}


@router.get("", response_model=responses.JobsResponse, responses=_LIST_RESPONSES)
async def list_jobs(
    request: Request,
    state: Annotated[list[JobState] | None, Query(description="Only jobs in this state; may be repeated.")] = None,
    after: Annotated[str | None, Query(description="`next` of the page before.", max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=_PAGE, description="Jobs of a page at most.")] = 100,
) -> dict[str, Any]:
    """Your jobs of the last day that were asked for with `Prefer: respond-async`, the newest first."""
    owner = keys.owner(key_of(request))
    found: list[dict[str, Any]] = []
    records = parts_of(request).records
    count = limit if state is None else _PAGE
    for _ in range(_PAGES_READ):
        read = await records.listed(owner, after, count)
        if read is None:
            raise Problem("unknown-job", f"after: there is no job {after!r} in your list: begin again without it")
        for job_id, record in zip(*read, strict=True):
            after = job_id
            if record is not None and (state is None or record.state in state):
                found.append(answers.listed(job_id, record))
                if len(found) == limit:
                    return {"jobs": found, "next": after}
        if len(read[0]) < count:
            return {"jobs": found, "next": None}
    return {"jobs": found, "next": after}


@router.get(
    "/{job_id}",
    response_model=responses.JobResponse,
    responses=_RESPONSES | {200: answers.MATRIX | {"description": "JSON, or features by `Accept`"}},
)
async def get_job(job_id: str, request: Request) -> Response:
    """How far a job is, and its result. `Accept: application/x-npy` gives features alone, as a NumPy file."""
    parts, record = await _find(request, job_id)
    outcome = await parts.records.outcome(job_id, record)
    if outcome is None:
        if record.ended:
            raise expired(job_id, record.state)
        return JSONResponse(answers.listed(job_id, record))
    wants_npy = answers.wants(answers.NPY, request.headers.get("accept", ""))
    if record.kind == "featurize" and outcome.state == "done" and wants_npy:
        form = replace(record.form, encoding="npy")
        return await answers.encoded(record.kind, lambda: answers.respond(outcome, record.kind, form))
    return await answers.encoded(record.kind, lambda: JSONResponse(answers.job(job_id, record, outcome)))


@router.delete("/{job_id}", status_code=202, response_model=responses.JobResponse, responses=_RESPONSES)
async def cancel_job(job_id: str, request: Request) -> Response:
    """Cancel a job. One that has ended stays as it is."""
    parts, record = await _find(request, job_id)
    if not record.ended:
        await parts.records.cancel(job_id, "request")
    return JSONResponse(answers.listed(job_id, record), 202)


@router.get("/{job_id}/events", responses=_RESPONSES | {200: answers.EVENTS})
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
    key = key_of(request)
    # To another key the job does not exist: even that it does must stay secret.
    may_be_seen = _JOB_ID.fullmatch(job_id) and (key is None or key.may_see(job_id))
    record = await parts.records.record(job_id) if may_be_seen else None
    if record is None:
        raise Problem("unknown-job", f"there is no job {job_id[:64]!r}: it never was, or ended more than a day ago")
    return parts, record
