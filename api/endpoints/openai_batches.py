"""Files and batches of OpenAI's API: the same batches as `POST /batches`, whose lines are all for one endpoint."""

import re
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from api import keys
from api.batches.desk import Desk, Seen, desk_of
from api.batches.ledger import StoredFile
from api.endpoints.batches import BYTES
from api.endpoints.call import IdempotencyKey
from api.endpoints.routes import JobRoute
from api.http.forms import FORM, Form
from api.http.middleware import key_of
from api.problems import Problem
from api.redis.idempotency import REPLAYED, IdempotentRequest
from api.schemas import openai_batches as schemas
from api.schemas.openai import ErrorResponse

router = APIRouter(prefix="/v1", tags=["openai"], route_class=JobRoute)

_FILE = re.compile("file-([0-9a-f]{32})")
_ANSWERS = re.compile("file-([0-9a-f]{32})-(output|errors)")  # of a batch of this id
_BATCH = re.compile("batch_([0-9a-f]{32})")
_STATUS = {"queued": "in_progress", "running": "in_progress", "done": "completed"}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": description}
    for status, description in {
        400: "Not valid",
        404: "There is no such file or batch, or the gateway has no storage for batches",
        409: "A batch that has not ended reads the file",
        413: "Over a limit",
        415: "The body is not sent as the endpoint takes it",
        503: "The storage of batches does not answer, or Redis does not",
    }.items()
}
_FIND: dict[int | str, dict[str, Any]] = {status: _RESPONSES[status] for status in (400, 404, 503)}
_UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            FORM: {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": ["batch"]},
                    },
                }
            }
        },
    }
}
After = Annotated[str | None, Query(max_length=64, description="The last id of the page before.")]
Limit = Annotated[int, Query(ge=1, le=100)]


@router.post("/files", response_model=schemas.StoredFile, responses=_RESPONSES, openapi_extra=_UPLOAD)
async def upload_file_v1(request: Request) -> schemas.StoredFile:
    """A file of JSON lines for `POST /v1/batches`."""
    desk, form = desk_of(request), Form(request, "file")

    async def content() -> AsyncIterator[bytes]:
        async for piece in form.content():
            yield piece
        purpose = form.fields.get("purpose")
        if purpose != "batch":
            found = "the form has none" if purpose is None else f"{purpose!r} is none that files have here"
            raise Problem("invalid-request", f"purpose: {found}: send `batch`", errors=[{"at": "purpose"}])
        if others := form.fields.keys() - {"purpose"}:
            name = min(others)[:64]
            detail = f"{name}: there is no such field: files go a while after they came, or after their batch has ended"
            raise Problem("invalid-request", detail, errors=[{"at": name}])

    return _shown_file(await desk.take_file(keys.owner(key_of(request)), lambda: form.file_name, content()))


@router.get("/files", response_model=schemas.FileList, responses=_FIND)
async def list_files_v1(
    request: Request,
    after: After = None,
    limit: Limit = 100,
    purpose: Annotated[
        str | None, Query(max_length=64, description="Only files of this purpose: all have `batch`.")
    ] = None,
    order: Annotated[Literal["desc"], Query(description="The newest first.")] = "desc",  # noqa: ARG001 - no other is taken
) -> dict[str, Any]:
    """Your uploaded files, the newest first."""
    if purpose not in (None, "batch"):
        return _page([], more=False)
    behind = None if after is None else _id(_FILE, after, "unknown-file")
    files, more = await desk_of(request).files(keys.owner(key_of(request)), behind, limit)
    return _page([_shown_file(file) for file in files], more)


@router.get("/files/{file_id}", response_model=schemas.StoredFile, responses=_FIND)
async def get_file_v1(file_id: str, request: Request) -> schemas.StoredFile:
    desk, owner = desk_of(request), keys.owner(key_of(request))
    if (answers := _ANSWERS.fullmatch(file_id)) is None:
        return _shown_file(await desk.file(owner, _id(_FILE, file_id, "unknown-file")))
    seen = await _ended(desk, owner, answers, file_id)
    completed = answers[2] == "output"
    progress = seen.progress
    return schemas.StoredFile(
        id=file_id,
        bytes=progress.completed_bytes if completed else progress.failed_bytes,
        created_at=int(progress.ended or 0),
        filename=f"batch_{seen.batch.id}_{answers[2]}.jsonl",
        purpose="batch_output",
    )


@router.get(
    "/files/{file_id}/content",
    response_class=StreamingResponse,
    responses=_FIND | {200: {"content": {BYTES: {"schema": {"type": "string", "format": "binary"}}}}},
)
async def get_file_content_v1(file_id: str, request: Request) -> Response:
    desk, owner = desk_of(request), keys.owner(key_of(request))
    if (answers := _ANSWERS.fullmatch(file_id)) is None:
        file = await desk.file(owner, _id(_FILE, file_id, "unknown-file"))
        return StreamingResponse(desk.content(file), media_type=BYTES)
    seen = await _ended(desk, owner, answers, file_id)
    return StreamingResponse(desk.answers(seen, completed=answers[2] == "output"), media_type=BYTES)


@router.delete("/files/{file_id}", response_model=schemas.DeletedFile, responses=_FIND | {409: _RESPONSES[409]})
async def delete_file_v1(file_id: str, request: Request) -> schemas.DeletedFile:
    """Only files that were uploaded; answers go with their batch."""
    if _ANSWERS.fullmatch(file_id):
        raise Problem("file-in-use", f"the file {file_id} holds answers, which go with their batch")
    await desk_of(request).delete_file(keys.owner(key_of(request)), _id(_FILE, file_id, "unknown-file"))
    return schemas.DeletedFile(id=file_id)


@router.post("/batches", response_model=schemas.Batch, responses=_RESPONSES)
async def create_batch_v1(
    body: schemas.BatchRequest, request: Request, idempotency_key: IdempotencyKey = None
) -> Response:
    """Run the lines of a file, behind requests that come alone."""
    desk = desk_of(request)
    file_id, key = _id(_FILE, body.input_file_id, "unknown-file"), key_of(request)
    file = await desk.file(keys.owner(key), file_id)
    content = body.model_dump_json()
    idempotent = IdempotentRequest.of(request, idempotency_key, key, content) if idempotency_key else None
    seen, replayed = await desk.open(file, desk.lifetime(None), idempotent, body.endpoint, body.metadata)
    return Response(
        _shown(seen).model_dump_json(), headers=REPLAYED if replayed else None, media_type="application/json"
    )


@router.get("/batches", response_model=schemas.BatchList, responses=_FIND)
async def list_batches_v1(request: Request, after: After = None, limit: Limit = 20) -> dict[str, Any]:
    """Your batches of `POST /v1/batches`, the newest first."""
    behind = None if after is None else _id(_BATCH, after, "unknown-batch")
    found, more = await desk_of(request).list(keys.owner(key_of(request)), behind, limit, of_files=True)
    return _page([_shown(seen) for seen in found], more)


@router.get("/batches/{batch_id}", response_model=schemas.Batch, responses=_FIND)
async def get_batch_v1(batch_id: str, request: Request) -> schemas.Batch:
    return _shown(await _find(request, batch_id))


@router.post("/batches/{batch_id}/cancel", response_model=schemas.Batch, responses=_FIND)
async def cancel_batch_v1(batch_id: str, request: Request) -> schemas.Batch:
    """The answers that it has are kept; one that has ended stays as it is."""
    seen = await _find(request, batch_id)
    return _shown(await desk_of(request).cancel(seen))


async def _find(request: Request, batch_id: str) -> Seen:
    return await desk_of(request).find(keys.owner(key_of(request)), _id(_BATCH, batch_id, "unknown-batch"))


async def _ended(desk: Desk, owner: str, answers: re.Match[str], file_id: str) -> Seen:
    """The batch whose answers the file holds, which is there once the batch has ended."""
    seen = await desk.find(owner, answers[1])
    if seen.progress.state is None:
        raise Problem("unknown-file", f"there is no file {file_id!r} yet: its batch has not ended")
    return seen


def _id(pattern: "re.Pattern[str]", named: str, kind: str) -> str:
    """Ours for an id of theirs."""
    found = pattern.fullmatch(named)
    if found is None:
        raise Problem(kind, f"there is no {kind.removeprefix('unknown-')} {named[:128]!r}")
    return found[1]


def _page(data: list[Any], more: bool) -> dict[str, Any]:
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more}


def _shown_file(file: StoredFile) -> schemas.StoredFile:
    return schemas.StoredFile(
        id=f"file-{file.id}",
        bytes=file.bytes,
        created_at=int(file.created),
        filename=file.name,
        purpose="batch",
    )


def _shown(seen: Seen) -> schemas.Batch:
    batch, progress = seen.batch, seen.progress
    ended = int(progress.ended) if progress.ended is not None else None
    return schemas.Batch(
        id=f"batch_{batch.id}",
        endpoint=batch.url or "",
        input_file_id=f"file-{batch.file.id}",
        completion_window="24h",
        status=_STATUS.get(seen.state, seen.state),
        output_file_id=f"file-{batch.id}-output" if ended and progress.completed else None,
        error_file_id=f"file-{batch.id}-errors" if ended and progress.failed else None,
        created_at=int(batch.created),
        in_progress_at=None if progress.began is None else int(progress.began),
        expires_at=int(batch.expires),
        completed_at=ended if progress.state == "done" else None,
        expired_at=ended if progress.state == "expired" else None,
        failed_at=ended if progress.state == "failed" else None,
        cancelled_at=ended if progress.state == "cancelled" else None,
        request_counts=schemas.RequestCounts(total=batch.file.lines, completed=seen.completed, failed=seen.failed),
        metadata=batch.metadata,
    )
