"""Errors as RFC 9457 problem documents: one table of kinds, one exception, and the handlers that write them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Route

from api import metrics
from contract.jobs import ErrorCode, JobError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:sentiment-neuron:problem:"
# How documentation shows a problem: by the model of that name in `schemas/responses.py`.
OPENAPI: dict[str, Any] = {"content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}


@dataclass(frozen=True)
class Kind:
    status: int
    title: str


KINDS: dict[str, Kind] = {
    "bad-request": Kind(400, "The request is not HTTP"),
    "unauthorized": Kind(401, "A key is needed"),
    "forbidden": Kind(403, "The key may not do this"),
    "too-slow": Kind(408, "The request came too slowly"),
    "head-too-large": Kind(431, "The request's header section is over a limit"),
    "rate-limited": Kind(429, "The key makes too many requests"),
    "quota-used": Kind(429, "The key has used up its day"),
    "invalid-request": Kind(422, "The request is not valid"),
    "not-json": Kind(415, "The body is not JSON by its Content-Type"),
    "unknown-encoding": Kind(415, "The body has a Content-Encoding that is not read"),
    "idempotency-key-reused": Kind(422, "The key came before with another request"),
    "too-large": Kind(413, "The request is over a limit"),
    "queue-full": Kind(429, "The queue is full"),
    "unavailable": Kind(503, "The service cannot take requests now"),
    "not-ready": Kind(503, "No worker is ready"),
    "unknown-model": Kind(404, "There is no such model"),
    "unknown-job": Kind(404, "There is no such job"),
    "unknown-batch": Kind(404, "There is no such batch"),
    "unknown-file": Kind(404, "There is no such file"),
    "file-in-use": Kind(409, "A batch reads the file"),
    "expired-job": Kind(410, "The job's result has expired"),
    "cancelled": Kind(409, "The job was cancelled"),
    "not-found": Kind(404, "There is nothing at this address"),
    "method-not-allowed": Kind(405, "The method is not allowed here"),
    "internal": Kind(500, "The service failed"),
    ErrorCode.UNKNOWN_HEAD: Kind(404, "There is no such head"),
    ErrorCode.UNKNOWN_UNIT: Kind(404, "There is no such unit"),
    ErrorCode.NO_SENTIMENT_UNIT: Kind(409, "The model has no sentiment unit"),
    ErrorCode.DEADLINE_EXCEEDED: Kind(504, "The job did not end in time"),
    ErrorCode.ENGINE_FAILURE: Kind(500, "The engine could not run the job"),
    ErrorCode.WORKERS_DIED: Kind(500, "Every worker that ran the job died"),
    ErrorCode.JOB_LOST: Kind(503, "Redis has lost the job"),
    ErrorCode.HEAD_EXISTS: Kind(409, "There is a head of that name already"),
    ErrorCode.HEAD_OF_OTHER_CHECKPOINT: Kind(409, "The head was fitted on another checkpoint"),
    ErrorCode.CANNOT_TRACE_HEAD: Kind(409, "The head's features cannot be traced"),
    ErrorCode.CANNOT_FIT: Kind(422, "No head can be fitted on these examples"),
    ErrorCode.CANNOT_KEEP_HEADS: Kind(503, "The worker cannot keep heads"),
    ErrorCode.MODEL_CHANGED: Kind(409, "Another model has replaced the one that began the stream"),
}

_BY_STATUS = {404: "not-found", 405: "method-not-allowed"}


class Problem(HTTPException):
    """May be raised anywhere in a request. members: added to the document (limit, actual, ...)."""

    # An HTTPException, because FastAPI passes those through while it reads a body and hides all others.
    def __init__(self, kind: str, detail: str, headers: dict[str, str] | None = None, **members: Any) -> None:
        super().__init__(KINDS[kind].status, detail, headers)
        self.kind = str(kind)
        self.document = document(kind, detail) | members


def document(kind: str, detail: str) -> dict[str, Any]:
    return {
        "type": TYPE_PREFIX + kind,
        "title": KINDS[kind].title,
        "status": KINDS[kind].status,
        "detail": detail,
    }


def of_job(error: JobError) -> Problem:
    return Problem(error.code, error.detail)


def too_large(what: str, actual: int, limit: int, setting: str) -> Problem:
    detail = over(what, actual, limit, setting)
    return Problem("too-large", detail, limit=limit, actual=actual, setting=setting)


def too_many_texts(count: int, limit: int) -> Problem:
    return too_large("texts in the request", count, limit, "NEURON_API_MAX_TEXTS")


def over(what: str, actual: int, limit: int, setting: str) -> str:
    return f"{what}: {actual:,} is over the limit of {limit:,} (setting {setting})"


def over_timeout(actual: float, limit: float, setting: str = "NEURON_API_JOB_TIMEOUT_S") -> Problem:
    detail = f"timeout_s: {actual:g} seconds are over the limit of {limit:g} (setting {setting})"
    return Problem("invalid-request", detail, limit=limit, actual=actual, setting=setting)


def expired(job_id: str, state: str) -> Problem:
    return Problem("expired-job", f"job {job_id} ended as {state!r} and its result is no longer kept")


def redis_away(error: RedisError, retry_after_s: int) -> Problem:
    log.warning("Redis: %s", error)
    return Problem("unavailable", "Redis does not answer", {"Retry-After": str(retry_after_s)})


# Before there is a job; the metric says so.
_REFUSALS = {
    *("bad-request", "unauthorized", "forbidden", "too-slow", "head-too-large", "rate-limited", "quota-used"),
    *("invalid-request", "not-json", "unknown-encoding", "idempotency-key-reused", "too-large", "queue-full"),
    *("unavailable", "unknown-model"),
}


def count(problem: Problem) -> None:
    """Count an answer that refuses a request."""
    if problem.kind in _REFUSALS:
        metrics.REFUSED.labels(problem.kind).inc()


def response(problem: Problem, counted: bool = True) -> JSONResponse:
    """counted: among the requests that are refused."""
    if counted:
        count(problem)
    return JSONResponse(problem.document, problem.status_code, dict(problem.headers or {}), MEDIA_TYPE)


def install(app: FastAPI, routes: Sequence[BaseRoute], retry_after_s: int) -> None:
    """Answer every error of `app`, which has these routes, with a problem document."""

    def methods(request: Request) -> set[str]:
        found = [route for route in routes if isinstance(route, Route)]
        return {
            method
            for route in found
            if route.matches(request.scope)[0] is Match.PARTIAL
            for method in route.methods or ()
        }

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error, Problem):
            # A line of a batch that must wait for its turn is no request that somebody has to send again.
            return response(error, counted=not getattr(request.state, "batched", False))
        kind = _BY_STATUS.get(error.status_code, "invalid-request")
        headers = dict(error.headers or {})
        if error.status_code == 405:
            allowed = methods(request) or set(headers.get("Allow", "").split(", "))
            head = {"HEAD"} if "GET" in allowed else set()
            headers["Allow"] = ", ".join(sorted(allowed | head))  # Starlette names those of the first route alone
        return response(Problem(kind, str(error.detail), headers))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        """Of a parameter: bodies are parsed without FastAPI (`api/http/bodies.py`)."""
        detail = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        return response(Problem("invalid-request", detail))

    @app.exception_handler(RedisError)
    async def redis_error(_: Request, error: RedisError) -> JSONResponse:
        return response(redis_away(error, retry_after_s))
