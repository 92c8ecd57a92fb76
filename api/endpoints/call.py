"""The answer to a request that makes a job: in place, later, as events, or that of an earlier `Idempotency-Key`."""

import asyncio
import functools
import math
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Header, Request
from fastapi.responses import JSONResponse, Response

from api import keys as api_keys
from api import metrics
from api.endpoints.events import Frame, as_events, events_of, follow
from api.http import answers
from api.http.middleware import batch_left_s, is_batched, key_of
from api.problems import OPENAPI, Problem, expired, over_timeout
from api.redis.admission import new_id
from api.redis.idempotency import HEADER, PATTERN, REPLAYED, IdempotentRequest
from api.redis.limits import Limits
from api.redis.parts import parts_of
from api.redis.records import Record
from api.redis.submissions import Submission
from api.schemas import requests, responses
from api.schemas.form import AS_IT_IS, Form
from api.settings import ApiSettings
from api.webhooks import forbidden
from contract import telemetry, wire
from contract.jobs import AnyJob, Outcome

Prefer = Annotated[
    str | None,
    Header(description="`respond-async`: answer 202 with a job at once; `wait=SECONDS`: after so long (RFC 7240)."),
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias=HEADER,
        pattern=PATTERN,
        description="Of your choice. The same request with the same key gives the same job, for a day by default; "
        "another request with it answers 422.",
    ),
]

RESPONSES: dict[int | str, dict[str, Any]] = {
    202: {"model": responses.JobResponse, "description": "The job continues; `Location` is its address"},
    404: OPENAPI | {"description": "The model has no such head or unit"},
    409: OPENAPI | {"description": "The job was cancelled, or this model cannot do it: the problem says why"},
    410: OPENAPI | {"description": "The job that the `Idempotency-Key` made has ended, and its result has expired"},
    413: OPENAPI | {"description": "Over a limit, which the problem names"},
    415: OPENAPI | {"description": "The body is not sent as JSON, or packed in a way that is not read"},
    422: OPENAPI | {"description": "Not valid, or an `Idempotency-Key` that came with another request"},
    429: OPENAPI | {"description": "The queue is full; `Retry-After` says when to come back"},
    500: OPENAPI | {"description": "The engine could not run the job"},
    503: OPENAPI | {"description": "Redis does not answer"},
    504: OPENAPI | {"description": "The job did not end in time"},
}


class Call:
    """One request that makes a job: the kind of answer that its client wants, and the answering."""

    def __init__(
        self,
        request: Request,
        body: requests.Body,
        prefer: str | None,
        idempotency_key: str | None,
        in_place: bool = False,
        first: bool = True,
    ) -> None:
        """in_place: the client knows no 202, so it waits as long as the job may take.

        first: of the jobs that its request makes. Raises Problem for a `timeout_s` over the limit.
        """
        self._asked_at = time.perf_counter()
        self.request = request
        self.parts = parts_of(request)
        self._settings: ApiSettings = request.app.state.settings
        self._batched = is_batched(request)
        self._first = first
        self._key = key_of(request)
        wishes = {wish.strip().lower() for wish in (prefer or "").split(",")}
        self.respond_async = "respond-async" in wishes
        waits = [int(found[1]) for wish in wishes if (found := re.fullmatch(r"wait=(\d{1,9})", wish))]
        self._wait_s = min([self._settings.api_wait_s, *waits])
        limit = self._settings.api_job_timeout_s
        if body.timeout_s is not None and body.timeout_s > limit:
            raise over_timeout(body.timeout_s, limit)
        # A line that asks for no time has that of its batch, and more, so that the batch and not the job says its end.
        self._timeout_s = limit + batch_left_s(request) if body.timeout_s is None else body.timeout_s
        if in_place or self._batched:
            self._wait_s = math.inf
        self._webhook = self._checked(body)
        self._idempotent = (
            IdempotentRequest.of(request, idempotency_key, self._key, body.fingerprint()) if idempotency_key else None
        )
        # Awaited before a job is queued, but not if an earlier request made it; raises Problem.
        self.before_admission: Callable[[], Awaitable[None]] | None = None
        self.respond: Callable[[Outcome], Response] | None = None  # else as `answers.respond` does; raises Problem

    def _checked(self, body: requests.Body) -> str | None:
        """The webhook that the body names, as it is kept. Raises Problem where the job cannot or may not be posted."""
        webhook = body.webhook if isinstance(body, requests.JobBody) else None
        if webhook is None:
            return None
        if not self.respond_async:
            raise _no_webhook("webhook", "the answer comes in place: send `Prefer: respond-async` as well")
        if (why := forbidden(webhook.url, self._settings.webhook_hosts)) is not None:
            raise _no_webhook("webhook.url", why)
        return webhook.model_dump_json()

    def base(self) -> dict[str, Any]:
        """The fields that every job has. An asynchronous one has no waiting client, so it is of lower priority."""
        return {
            "id": self._key.owned(new_id()) if self._key else new_id(),
            "priority": "bulk" if self.respond_async or self._batched else "interactive",
            "timeout_s": self._timeout_s,
            "mailbox": None if self.respond_async else self.parts.mailbox.name,
            "events": self.respond_async,
            "request_id": self.request.state.request_id,
            "traceparent": telemetry.carried() if telemetry.enabled() else None,
        }

    async def answer(self, job: AnyJob, texts: int, size: int, form: Form = AS_IT_IS) -> Response:
        """Queue the job, then answer in place, or 202 if the client would not wait or has waited long enough."""
        if self.respond_async:
            made = await self._admit(job, texts, size, form, abandon=False)
            if made is None:
                return self._accepted(job.id, _fresh(job, form), "respond-async")
        else:
            with self.parts.mailbox.expect(job.id) as ended:
                made = await self._admit(job, texts, size, form, abandon=False)
                if made is None:
                    return await self._wait(ended, job.id, _fresh(job, form), form)
        return await self._replay(made, form, None)

    async def stream(self, job: AnyJob, texts: int, size: int, frame: Frame = as_events) -> Response:
        """Queue the job, then answer with its events, written as `frame` does."""
        made = await self._admit(job, texts, size, AS_IT_IS, abandon=self._idempotent is None)
        if made is None:
            entries = events_of(self.parts, job.id, job.kind, AS_IT_IS, "0", self._asked_at)
            return answers.EventStream(frame(job.id, entries), _where(job.id))
        return await self._replay(made, AS_IT_IS, frame)

    async def _admit(self, job: AnyJob, texts: int, size: int, form: Form, abandon: bool) -> str | None:
        """Queue the job and return None; or queue nothing and return the id of the job of an earlier such request."""
        made = None if self._idempotent is None else await self.parts.admission.made(self._idempotent)
        if made is None and self.before_admission is not None:
            await self.before_admission()
        counted_at = await self._charge(0 if made else size)
        try:
            if made is None:
                owner = api_keys.owner(self._key) if self.respond_async else None
                submission = Submission(
                    job, texts, size, form, abandon, self._idempotent, owner, self._webhook, self._batched
                )
                made = await self.parts.admission.submit(submission)
                if made is not None:  # the same request came first by a moment
                    await self._refund(counted_at, size)
        except Problem:
            await self._refund(counted_at, size)
            raise
        return self._idempotent.job_of(made) if self._idempotent and made else None

    async def _charge(self, size: int) -> str | None:
        """Count the bytes against the key's quota for the day. Raises Problem where that is used up."""
        limits: Limits | None = self.request.app.state.limits
        request = self.request
        if self._key is None or limits is None or limits.before_reading(request.method, request.url.path):
            return None
        return await limits.charge(self._key, size, counted=self._batched or not self._first)

    async def _refund(self, counted_at: str | None, size: int) -> None:
        if counted_at is not None:
            await self.request.app.state.limits.refund(counted_at, size)

    async def _wait(self, ended: "asyncio.Future[Outcome | None]", job_id: str, record: Record, form: Form) -> Response:
        """Answer when the job, which has been admitted, has ended; or 202."""
        self.parts.mailbox.admitted(job_id)
        gone = asyncio.create_task(self._disconnected(ended))
        late_s = record.left_s + wire.LATE_S
        try:
            async with asyncio.timeout(min(self._wait_s, late_s)):
                outcome = await ended
        except TimeoutError:
            # A worker should have ended it by now; perhaps none has it.
            outcome = await self.parts.records.expire(job_id, record.timeout_s) if late_s <= self._wait_s else None
            if outcome is None:
                return self._accepted(job_id, record, f"wait={self._wait_s:g}")
        finally:
            gone.cancel()
        if outcome is None:
            if self._idempotent is None:  # if it is idempotent, its client will ask again
                await self.parts.records.cancel(job_id, "disconnect")
            return Response(status_code=499)  # nobody reads it; the status is for metrics
        respond = self.respond or functools.partial(answers.respond, kind=record.kind, form=form)
        response = await answers.encoded(record.kind, lambda: respond(outcome))
        response.headers["X-Job-Id"] = job_id
        return response

    async def _replay(self, job_id: str, form: Form, frame: Frame | None) -> Response:
        """The answer to a repeated request, which made this job before."""
        metrics.REPLAYED.inc()
        try:
            response = await self._answer_again(job_id, form, frame)
        except Problem as problem:
            problem.headers = {**(problem.headers or {}), **REPLAYED}
            raise
        response.headers.update(REPLAYED)
        return response

    async def _answer_again(self, job_id: str, form: Form, frame: Frame | None) -> Response:
        record = await self.parts.records.record(job_id)
        if record is None:
            raise Problem("expired-job", f"job {job_id} ended more than a day ago")
        if frame is not None:
            response = await follow(self.parts, job_id, record, "0", frame)
            response.headers.update(_where(job_id))
            return response
        # Which texts were left out was decided then, perhaps by other limits.
        form = replace(record.form, encoding=form.encoding)
        with self.parts.mailbox.expect(job_id) as ended:
            outcome = await self.parts.records.outcome(job_id, record)
            if outcome is None and record.ended:
                raise expired(job_id, record.state)
            if self.respond_async:
                return self._accepted(job_id, record, "respond-async")
            if outcome is not None and not ended.done():
                ended.set_result(outcome)
            return await self._wait(ended, job_id, record, form)

    def _accepted(self, job_id: str, record: Record, applied: str) -> JSONResponse:
        content = responses.JobResponse(
            id=job_id, kind=record.kind, state=record.state, created=record.created, error=None
        )
        headers = _where(job_id) | {"Preference-Applied": applied}
        return JSONResponse(content.model_dump(exclude_none=True), 202, headers)

    async def _disconnected(self, ended: "asyncio.Future[Outcome | None]") -> None:
        """When the client has gone, end the wait for the outcome with None."""
        while (await self.request.receive())["type"] != "http.disconnect":
            pass
        if not ended.done():
            ended.set_result(None)


def _no_webhook(at: str, why: str) -> Problem:
    fault = {"at": f"body.{at}", "message": why, "kind": "value_error"}
    return Problem("invalid-request", f"body.{at}: {why}", errors=[fault])


def _fresh(job: AnyJob, form: Form) -> Record:
    """The record of a job that was queued just now."""
    return Record(job.kind, "queued", time.time(), form, job.timeout_s, job.timeout_s)


def _where(job_id: str) -> dict[str, str]:
    return {"Location": f"/jobs/{job_id}", "X-Job-Id": job_id}
