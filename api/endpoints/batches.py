"""Batches: requests in a file of JSON lines, run one by one in the background, and answered line by line."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from redis import RedisError

from api import keys
from api.batches.desk import Seen, desk_of
from api.endpoints.call import IdempotencyKey
from api.http.middleware import key_of
from api.problems import OPENAPI, Problem
from api.redis.idempotency import REPLAYED, IdempotentRequest
from api.schemas import batches as schemas

router = APIRouter(prefix="/batches", tags=["batches"])

NDJSON = "application/x-ndjson"
BYTES = "application/octet-stream"  # for clients that know no JSON lines
_TYPES = (NDJSON, "application/jsonl", "application/jsonlines", "application/x-jsonlines", BYTES)
_NOT_FOUND = OPENAPI | {"description": "No such batch, or the gateway has no storage for batches"}
_AWAY = OPENAPI | {"description": "The storage of batches does not answer, or Redis does not"}
_NOT_VALID = OPENAPI | {"description": "Not valid"}
_RESPONSES: dict[int | str, dict[str, Any]] = {404: _NOT_FOUND, 503: _AWAY}
_CREATE_RESPONSES: dict[int | str, dict[str, Any]] = {
    404: OPENAPI | {"description": "The gateway has no storage for batches"},
    413: OPENAPI | {"description": "Over a limit, which the problem names"},
    415: OPENAPI | {"description": "The body is not sent as JSON lines"},
    422: _NOT_VALID,
    503: _AWAY,
}
_LINES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            NDJSON: {
                "schema": {"type": "string", "description": "A request a line, as in the example."},
                "example": '{"url": "/classify", "body": {"text": "A lovely film."}, "custom_id": "review 1"}\n',
            },
            BYTES: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {NDJSON: {"schema": {"type": "string"}}, BYTES: {"schema": {"type": "string", "format": "binary"}}}
    }
}


@router.post(
    "", status_code=202, response_model=schemas.BatchResponse, responses=_CREATE_RESPONSES, openapi_extra=_LINES
)
async def create_batch(
    request: Request,
    idempotency_key: IdempotencyKey = None,
    timeout_s: Annotated[
        float | None,
        Query(gt=0, allow_inf_nan=False, description="Lines without an answer by then get an error in its place."),
    ] = None,
) -> Response:
    """Run a file of JSON lines, each a request: `{"url": "/classify", "body": {...}, "custom_id": "..."}`.

    It runs behind requests that come alone, and survives restarts.
    """
    desk = desk_of(request)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in _TYPES:
        came = f"the Content-Type is {media_type[:100]!r}" if media_type else "there is no Content-Type"
        raise Problem("not-json", f"{came}: send JSON lines, with `Content-Type: {NDJSON}`", {"Accept": NDJSON})
    lifetime_s = desk.lifetime(timeout_s)
    key = key_of(request)
    file = await desk.take_file(keys.owner(key), lambda: None, request.stream())
    content = f"{timeout_s} {file.sha256}"
    idempotent = IdempotentRequest.of(request, idempotency_key, key, content) if idempotency_key else None
    try:
        seen, replayed = await desk.open(file, lifetime_s, idempotent)
    except (Problem, RedisError):
        await desk.drop_file(file)
        raise
    if replayed:
        await desk.drop_file(file)
    about = {"Location": f"/batches/{seen.batch.id}"} | (REPLAYED if replayed else {})
    return JSONResponse(_shown(seen), 202, about)


@router.get("", response_model=schemas.BatchesResponse, responses=_RESPONSES | {422: _NOT_VALID})
async def list_batches(
    request: Request,
    after: Annotated[str | None, Query(description="`next` of the page before.", max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Batches of a page at most.")] = 20,
) -> dict[str, Any]:
    """Your batches, the newest first."""
    found, more = await desk_of(request).list(keys.owner(key_of(request)), after, limit, of_files=False)
    return {"batches": [_shown(seen) for seen in found], "next": found[-1].batch.id if more else None}


@router.get("/{batch_id}", response_model=schemas.BatchResponse, responses=_RESPONSES)
async def get_batch(batch_id: str, request: Request) -> dict[str, Any]:
    """How far a batch is."""
    return _shown(await desk_of(request).find(keys.owner(key_of(request)), batch_id))


@router.get(
    "/{batch_id}/answers",
    response_class=StreamingResponse,
    responses=_RESPONSES | ANSWERS,
)
async def get_answers(batch_id: str, request: Request) -> Response:
    """The answers that are there by now, in the order of the lines.

    `{"error": null, "response": {"status_code": ..., "request_id": ..., "body": {...}}, "custom_id": ...}` a line, or
    an `error` with `code` and `message`, and `response` null, where the line was not asked.
    """
    desk = desk_of(request)
    seen = await desk.find(keys.owner(key_of(request)), batch_id)
    wanted = request.headers.get("accept", "")
    return StreamingResponse(
        desk.answers(seen), media_type=BYTES if BYTES in wanted and NDJSON not in wanted else NDJSON
    )


@router.delete("/{batch_id}", status_code=202, response_model=schemas.BatchResponse, responses=_RESPONSES)
async def cancel_batch(batch_id: str, request: Request) -> Response:
    """Cancel a batch. The answers that it has are kept; one that has ended stays as it is."""
    desk = desk_of(request)
    seen = await desk.find(keys.owner(key_of(request)), batch_id)
    return JSONResponse(_shown(await desk.cancel(seen)), 202)


def _shown(seen: Seen) -> dict[str, Any]:
    return {
        "id": seen.batch.id,
        "state": seen.state,
        "created": seen.batch.created,
        "expires": seen.batch.expires,
        "began": seen.progress.began,
        "ended": seen.progress.ended,
        "lines": seen.batch.file.lines,
        "completed": seen.completed,
        "failed": seen.failed,
    }
