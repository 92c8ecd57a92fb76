"""Errors as RFC 9457 problem documents: one table of kinds, one exception, and the handlers that write them."""

import logging
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException

from api import metrics
from contract.jobs import ErrorCode, JobError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
OPENAPI: dict[str, Any] = {"content": {MEDIA_TYPE: {}}}  # how an endpoint's documentation shows a problem
TYPE_PREFIX = "urn:sentiment-neuron:problem:"


@dataclass(frozen=True)
class Kind:
    status: int
    title: str


KINDS: dict[str, Kind] = {
    "invalid-request": Kind(422, "The request is not valid"),
    "too-large": Kind(413, "The request is over a limit"),
    "queue-full": Kind(429, "The queue is full"),
    "unavailable": Kind(503, "The service cannot take requests now"),
    "not-ready": Kind(503, "No worker is ready"),
    "unknown-job": Kind(404, "There is no such job"),
    "expired-job": Kind(410, "The job's result has expired"),
    "cancelled": Kind(409, "The job was cancelled"),
    "not-found": Kind(404, "There is nothing at this address"),
    "method-not-allowed": Kind(405, "The method is not allowed here"),
    "internal": Kind(500, "The service failed"),
    ErrorCode.UNKNOWN_HEAD: Kind(404, "There is no such head"),
    ErrorCode.UNKNOWN_UNIT: Kind(422, "There is no such unit"),
    ErrorCode.NO_SENTIMENT_UNIT: Kind(409, "The model has no sentiment unit"),
    ErrorCode.DEADLINE_EXCEEDED: Kind(504, "The job did not end in time"),
    ErrorCode.ENGINE_FAILURE: Kind(500, "The engine could not run the job"),
}

_BY_STATUS = {404: "not-found", 405: "method-not-allowed"}


class Problem(HTTPException):
    """Raise it anywhere in a request. `members` are added to the document (limit, actual, ...)."""

    # An HTTPException, because FastAPI passes those through while it reads a body and hides all others.
    def __init__(self, kind: str, detail: str, headers: dict[str, str] | None = None, **members: Any) -> None:
        super().__init__(KINDS[kind].status, detail, headers)
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
    metrics.REFUSED.labels("too-large").inc()
    detail = f"{what}: {actual:,} is over the limit of {limit:,} (setting {setting})"
    return Problem("too-large", detail, limit=limit, actual=actual, setting=setting)


def response(problem: Problem) -> JSONResponse:
    return JSONResponse(problem.document, problem.status_code, dict(problem.headers or {}), MEDIA_TYPE)


def install(app: FastAPI, retry_after_s: int) -> None:
    """Make every error of `app` a problem document."""

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error, Problem):
            return response(error)
        if isinstance(error.__cause__, UnicodeDecodeError):
            return response(Problem("invalid-request", f"the body is not valid UTF-8: {error.__cause__}"))
        if isinstance(error.__cause__, RecursionError):
            return response(Problem("invalid-request", "the JSON of the body is nested too deeply"))
        kind = _BY_STATUS.get(error.status_code, "invalid-request")
        return response(Problem(kind, str(error.detail), dict(error.headers or {})))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        errors = [
            {"at": ".".join(map(str, item["loc"])), "message": item["msg"], "kind": item["type"]}
            for item in error.errors()
        ]
        detail = "; ".join(f"{item['at']}: {item['message']}" for item in errors[:5])
        metrics.REFUSED.labels("invalid-request").inc()
        return response(Problem("invalid-request", detail, errors=errors[:20]))

    @app.exception_handler(RedisError)
    async def redis_away(_: Request, error: RedisError) -> JSONResponse:
        log.warning("Redis: %s", error)
        metrics.REFUSED.labels("unavailable").inc()
        return response(Problem("unavailable", "Redis does not answer", {"Retry-After": str(retry_after_s)}))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return response(Problem("internal", "an unexpected error, which was logged"))
