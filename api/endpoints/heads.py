"""Heads of users: fit one on labelled texts, list and show them, delete one."""

import re
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.endpoints.call import RESPONSES, Call, IdempotencyKey, Prefer
from api.endpoints.inference import check_sizes
from api.endpoints.routes import JobRoute
from api.problems import OPENAPI, Problem, too_large
from api.redis.fleet import Fleet
from api.redis.parts import parts_of
from api.schemas import requests, responses
from api.settings import ApiSettings
from contract.jobs import DeleteHeadJob, ErrorCode, FitJob, HeadInfo

router = APIRouter(prefix="/heads", tags=["heads"], route_class=JobRoute)

_RESPONSES: dict[int | str, dict[str, Any]] = {
    404: OPENAPI | {"description": "No such head was fitted"},
    422: OPENAPI | {"description": "Not valid"},
    503: OPENAPI | {"description": "Redis does not answer, or the worker cannot keep heads"},
}
_FIT_RESPONSES = RESPONSES | {
    409: OPENAPI | {"description": "The job was cancelled, or there is a head of that name"},
    422: OPENAPI | {"description": "Not valid, no unit tells the labels apart, or a reused `Idempotency-Key`"},
    503: _RESPONSES[503],
}
_DELETE_RESPONSES = _RESPONSES | {
    202: RESPONSES[202],
    409: OPENAPI | {"description": "The job was cancelled"},
    429: RESPONSES[429],
    500: RESPONSES[500],
    504: RESPONSES[504],
}


@router.post("", response_model=responses.FitResponse, responses=_FIT_RESPONSES)
async def fit_head(
    body: requests.FitRequest, request: Request, prefer: Prefer = None, idempotency_key: IdempotencyKey = None
) -> Response:
    """Fit a classifier of your own on labelled texts, for `POST /classify` with its name as `head`.

    It belongs to the checkpoint that is served now. All units with an L1 penalty, whose strength is chosen by
    cross-validation; `unit_only` takes a single one. Larger sets take minutes: ask with `Prefer: respond-async`.
    """
    settings: ApiSettings = request.app.state.settings
    if len(body.examples) > settings.api_max_examples:
        limit = settings.api_max_examples
        raise too_large("examples in the request", len(body.examples), limit, "NEURON_API_MAX_EXAMPLES")
    texts = [example.text for example in body.examples]
    size = check_sizes(texts, settings)
    call = Call(request, body, prefer, idempotency_key)
    job = FitJob(
        **call.base() | {"priority": "bulk"},
        name=body.name,
        texts=texts,
        labels=[example.label for example in body.examples],
        unit_only=body.unit_only,
        pooling=body.features,
    )
    call.before_admission = lambda: _check_free(call.parts.fleet, body.name)
    # In the queue it counts its bytes, but only one text, because its texts wait behind those of all other jobs.
    return await call.answer(job, 1, size)


@router.get("", response_model=responses.HeadsResponse, responses={503: RESPONSES[503]})
async def list_heads(request: Request) -> dict[str, Any]:
    """The heads that were fitted here. Those that come with the model are in `GET /models`."""
    fleet = parts_of(request).fleet
    served = await _served(fleet)
    return {"heads": [_shown(info, served) for info in (await fleet.heads()).values()]}


@router.get("/{name}", response_model=responses.FittedHead, responses=_RESPONSES)
async def get_head(name: str, request: Request) -> dict[str, Any]:
    """How good a head is, what it was fitted on, and whether its model is served."""
    fleet = parts_of(request).fleet
    info = await fleet.head(_possible(name))
    if info is None and await fleet.has_head(name):
        detail = f"the record of head {name!r} is damaged or of another version: ask a newer gateway, or delete it"
        raise Problem(ErrorCode.UNKNOWN_HEAD, detail)
    if info is None:
        raise _unknown(name)
    return _shown(info, await _served(fleet))


@router.delete("/{name}", status_code=204, responses=_DELETE_RESPONSES)
async def delete_head(name: str, request: Request) -> Response:
    """Delete a head for good. Requests that classify with it already may still succeed."""
    fleet = parts_of(request).fleet
    if not await fleet.has_head(_possible(name)) and (owner := await _owner(fleet, name)) is not None:
        raise Problem(ErrorCode.UNKNOWN_HEAD, f"{owner} has the head {name!r} itself: only fitted heads can be deleted")
    call = Call(request, requests.Body(timeout_s=None), None, None)
    return await call.answer(DeleteHeadJob(**call.base(), name=name), 1, 0)


def _possible(name: str) -> str:
    """Raises Problem for a name that no head can have."""
    if not re.fullmatch(requests.HEAD_NAME, name):
        raise _unknown(name)
    return name


def _unknown(name: str) -> Problem:
    where = "`GET /heads` lists the fitted heads, `GET /models` those of the models"
    return Problem(ErrorCode.UNKNOWN_HEAD, f"no head {name[:64]!r} was fitted; {where}")


async def _check_free(fleet: Fleet, name: str) -> None:
    """Refuse a name that is taken before any work is done; the worker checks again. Raises Problem."""
    if await fleet.has_head(name):
        detail = f"there is a head {name!r} already: delete it first, or choose another name"
        raise Problem(ErrorCode.HEAD_EXISTS, detail)
    if (owner := await _owner(fleet, name)) is not None:
        raise Problem(ErrorCode.HEAD_EXISTS, f"{owner} has a head {name!r} of its own: choose another name")


async def _owner(fleet: Fleet, name: str) -> str | None:
    """The model that came with a head of that name."""
    owners = (f"{model.name} step {model.step}" for model in await fleet.models() if name in model.heads)
    return next(owners, None)


async def _served(fleet: Fleet) -> set[tuple[str, int]]:
    return {(model.name, model.step) for model in await fleet.models()}


def _shown(info: HeadInfo, served: set[tuple[str, int]]) -> dict[str, Any]:
    of = info.checkpoint
    return info.model_dump() | {"usable": of is None or (of.name, of.step) in served}
