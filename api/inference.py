"""POSTs that make a job: classify, featurize, trace, generate; and how any job is answered in place or later."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse, Response

from api import answers, metrics, schemas
from api.idempotency import HEADER, PATTERN, REPLAYED, once
from api.keys import Key
from api.limits import Limits
from api.problems import OPENAPI, Problem, expired, over_timeout, too_large
from api.queue import JobQueue, Record, new_id
from api.routes import JobRoute
from api.settings import ApiSettings
from contract import tracing, wire
from contract.jobs import AnyJob, ClassifyJob, FeaturizeJob, GenerateJob, Outcome, TraceJob

router = APIRouter(tags=["inference"], route_class=JobRoute)

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
# Vectors and traces take a while to spell out; other requests go on meanwhile. For the rest a thread costs more.
_LONG = ("featurize", "trace")

RESPONSES: dict[int | str, dict[str, Any]] = {
    202: {"model": schemas.JobResponse, "description": "The job goes on; `Location` is its address"},
    404: OPENAPI | {"description": "The model has no such head or unit"},
    409: OPENAPI | {"description": "The job was cancelled, or needs a sentiment unit that the model has not"},
    410: OPENAPI | {"description": "The job that the `Idempotency-Key` made before has ended, its result has expired"},
    413: OPENAPI | {"description": "Over a limit, which the problem names"},
    422: OPENAPI | {"description": "Not valid, or an `Idempotency-Key` that came with another request"},
    429: OPENAPI | {"description": "The queue is full; `Retry-After` says when to come back"},
    500: OPENAPI | {"description": "The engine could not run the job"},
    503: OPENAPI | {"description": "Redis does not answer"},
    504: OPENAPI | {"description": "The job did not end in time"},
}


@router.post("/classify", response_model=schemas.ClassifyResponse, responses=RESPONSES)
async def classify(
    body: schemas.ClassifyRequest, request: Request, prefer: Prefer = None, idempotency_key: IdempotencyKey = None
) -> Response:
    """Label texts by a classifier on the model's features."""
    texts = body.all_texts()
    size = _check_texts(texts, _settings(request))
    call = Call(request, body, prefer, idempotency_key)
    job = ClassifyJob(**call.base(), texts=texts, head=body.head)
    return await call.answer(job, len(texts), size)


@router.post(
    "/featurize",
    response_model=schemas.FeaturizeResponse,
    responses=RESPONSES | {200: {"content": {answers.NPY: {}}, "description": "JSON, or a matrix by `Accept`"}},
)
async def featurize(
    body: schemas.FeaturizeRequest, request: Request, prefer: Prefer = None, idempotency_key: IdempotencyKey = None
) -> Response:
    """The model's feature vector of every text: its final cell. `Accept: application/x-npy` gives a NumPy file."""
    texts = body.all_texts()
    size = _check_texts(texts, _settings(request))
    call = Call(request, body, prefer, idempotency_key)
    job = FeaturizeJob(**call.base(), texts=texts, pooling=body.pooling)
    encoding = "npy" if answers.wants_npy(request.headers.get("accept", "")) else body.encoding
    return await call.answer(job, len(texts), size, encoding)


@router.post("/trace", response_model=schemas.TraceResponse, responses=RESPONSES)
async def trace(
    body: schemas.TraceRequest, request: Request, prefer: Prefer = None, idempotency_key: IdempotencyKey = None
) -> Response:
    """The value of units after every byte, with the characters that the byte belongs to."""
    size, limit = len(body.text.encode()), _settings(request).api_max_trace_bytes
    if size > limit:
        raise too_large("bytes of the text to trace", size, limit, "NEURON_API_MAX_TRACE_BYTES")
    call = Call(request, body, prefer, idempotency_key)
    job = TraceJob(**call.base(), text=body.text, units=body.units)
    return await call.answer(job, 1, size)


@router.post(
    "/generate",
    response_model=schemas.GenerateResponse,
    responses=RESPONSES | {200: {"content": {"text/event-stream": {}}, "description": "JSON, or events if `stream`"}},
)
async def generate(
    body: schemas.GenerateRequest, request: Request, prefer: Prefer = None, idempotency_key: IdempotencyKey = None
) -> Response:
    """Continue a prompt, with the sentiment unit held where `sentiment` asks for it."""
    settings = _settings(request)
    size = len(body.prompt.encode())
    for what, actual, limit, setting in (
        ("bytes of the prompt", size, settings.api_max_text_bytes, "NEURON_API_MAX_TEXT_BYTES"),
        ("bytes to generate", body.length, settings.api_max_length, "NEURON_API_MAX_LENGTH"),
        ("samples", body.samples, settings.api_max_samples, "NEURON_API_MAX_SAMPLES"),
    ):
        if actual > limit:
            raise too_large(what, actual, limit, setting)
    call = Call(request, body, prefer, idempotency_key)
    base = call.base()
    if body.stream:
        base |= {"mailbox": None, "events": True}
    job = GenerateJob(**base, **body.job_fields())
    times = 2 if body.rank_by == "sentiment" else 1  # what was written is read
    cost = body.samples, body.samples * (size + body.length) * times
    if body.stream and not call.respond_async:
        return await call.stream(job, *cost)
    return await call.answer(job, *cost)


async def follow(queue: JobQueue, job_id: str, record: Record, after: str) -> answers.EventStream:
    """The events of a job that was made before, after the event `after`. Raises Problem where they are gone."""
    outcome = await queue.outcome(job_id, record)
    if outcome is None and record.ended:
        raise expired(job_id, record.state)
    if outcome is not None and not await queue.has_events(job_id):
        return answers.EventStream(_only(answers.final_event(outcome, record.kind, record.encoding)))
    return answers.EventStream(stream(queue, job_id, record.kind, record.encoding, after))


async def stream(
    queue: JobQueue, job_id: str, kind: str, encoding: str, after: str, asked_at: float | None = None
) -> AsyncGenerator[bytes]:
    """The events of a job as server-sent events, after the event `after`.

    asked_at: when, by time.perf_counter, a job was asked for that is fresh; how fast its characters come is measured.
    """
    told_at, measure = asked_at, metrics.FIRST_CHARACTER
    async with contextlib.aclosing(queue.events(job_id, after)) as events:
        outcome: Outcome | None = None
        async for item in events:
            if item is None:
                # A job that keeps no events, or a client that has seen them all, still gets its end. Nothing must have
                # come after that either: the job may have ended between the look at its events and that at its end.
                if outcome is not None:
                    yield answers.sse(None, *answers.final_event(outcome, kind, encoding))
                    return
                record = await queue.record(job_id)
                outcome = None if record is None else await queue.outcome(job_id, record)
                yield b": nothing yet\n\n"
                continue
            event_id, event, data = item
            if event == "token" and told_at is not None:
                now = time.perf_counter()
                measure.observe(now - told_at)
                told_at, measure = now, metrics.BETWEEN_CHARACTERS
            if event != "token":
                event, data = answers.final_event(Outcome.model_validate_json(data), kind, encoding)
            yield answers.sse(event_id, event, data)


async def _only(event: tuple[str, str]) -> AsyncGenerator[bytes]:
    yield answers.sse(None, *event)


def _settings(request: Request) -> ApiSettings:
    settings: ApiSettings = request.app.state.settings
    return settings


def _check_texts(texts: list[str], settings: ApiSettings) -> int:
    """The bytes of all texts. Raises Problem where a limit is passed."""
    if len(texts) > settings.api_max_texts:
        raise too_large("texts in the request", len(texts), settings.api_max_texts, "NEURON_API_MAX_TEXTS")
    return check_sizes(texts, settings)


def check_sizes(texts: list[str], settings: ApiSettings) -> int:
    """The bytes of all texts. Raises Problem where one has too many."""
    sizes = [len(text.encode()) for text in texts]
    for number, size in enumerate(sizes):
        if size > settings.api_max_text_bytes:
            what = f"bytes of text {number}"
            raise too_large(what, size, settings.api_max_text_bytes, "NEURON_API_MAX_TEXT_BYTES")
    return sum(sizes)


class Call:
    """One request that makes a job: how its client wants to be answered, and the answering."""

    def __init__(self, request: Request, body: schemas.Body, prefer: str | None, idempotency_key: str | None) -> None:
        """Raises Problem for a `timeout_s` over the limit."""
        self._asked_at = time.perf_counter()
        self.request = request
        self.queue: JobQueue = request.app.state.queue
        self._settings = _settings(request)
        self._key: Key | None = getattr(request.state, "key", None)
        wishes = {wish.strip().lower() for wish in (prefer or "").split(",")}
        self.respond_async = "respond-async" in wishes
        waits = [int(found[1]) for wish in wishes if (found := re.fullmatch(r"wait=(\d{1,9})", wish))]
        self._wait_s = min([self._settings.api_wait_s, *waits])
        limit = self._settings.api_job_timeout_s
        self._timeout_s = limit if body.timeout_s is None else body.timeout_s
        if self._timeout_s > limit:
            raise over_timeout(self._timeout_s, limit)
        self._once = once(request, idempotency_key, self._key, body) if idempotency_key else None
        # Asked whether a job may be queued, but not where it was before; raises Problem.
        self.before_admission: Callable[[], Awaitable[None]] | None = None

    def base(self) -> dict[str, Any]:
        """The fields that every job has. Nobody waits for an asynchronous one, so it goes behind those that wait."""
        return {
            "id": self._key.owned(new_id()) if self._key else new_id(),
            "priority": "bulk" if self.respond_async else "interactive",
            "timeout_s": self._timeout_s,
            "mailbox": None if self.respond_async else self.queue.mailbox,
            "events": self.respond_async,
            "traceparent": tracing.carried() if tracing.enabled() else None,
        }

    async def answer(self, job: AnyJob, texts: int, size: int, encoding: str = "float") -> Response:
        """Queue the job, then answer in place, or 202 if the client would not wait or has waited long enough."""
        if self.respond_async:
            made = await self._admit(job, texts, size, encoding, abandon=False)
            if made is None:
                return self._accepted(job.id, _fresh(job, encoding), "respond-async")
        else:
            with self.queue.expect(job.id) as ended:
                made = await self._admit(job, texts, size, encoding, abandon=False)
                if made is None:
                    return await self._wait(ended, job.id, _fresh(job, encoding), encoding)
        return await self._replay(made, encoding, as_stream=False)

    async def stream(self, job: AnyJob, texts: int, size: int) -> Response:
        """Queue the job, then answer with its events."""
        made = await self._admit(job, texts, size, "float", abandon=self._once is None)
        if made is None:
            return answers.EventStream(
                stream(self.queue, job.id, job.kind, "float", "0", self._asked_at), _where(job.id)
            )
        return await self._replay(made, "float", as_stream=True)

    async def _admit(self, job: AnyJob, texts: int, size: int, encoding: str, abandon: bool) -> str | None:
        """Queue the job. Returns the id of the one that its Idempotency-Key made before: then nothing is queued."""
        made = None if self._once is None else await self.queue.made(self._once)
        if made is None and self.before_admission is not None:
            await self.before_admission()
        counted_at = await self._charge(0 if made else size)
        try:
            if made is None:
                made = await self.queue.submit(job, texts, size, encoding, abandon, self._once)
                if made is not None:  # its twin came first by a moment
                    await self._refund(counted_at, size)
        except Problem:
            await self._refund(counted_at, size)
            raise
        return self._once.job_of(made) if self._once and made else None

    async def _charge(self, size: int) -> str | None:
        """Count the bytes against what the key has for the day. Raises Problem where that is used up."""
        limits: Limits | None = self.request.app.state.limits
        if self._key is None or limits is None or limits.at_door("POST"):
            return None
        return await limits.charge(self._key, size)

    async def _refund(self, counted_at: str | None, size: int) -> None:
        if counted_at is not None:
            await self.request.app.state.limits.refund(counted_at, size)

    async def _wait(
        self, ended: "asyncio.Future[Outcome | None]", job_id: str, record: Record, encoding: str
    ) -> Response:
        """Answer when the job has ended, or 202."""
        gone = asyncio.create_task(self._disconnected(ended))
        late_s = record.left_s + wire.LATE_S
        try:
            async with asyncio.timeout(min(self._wait_s, late_s)):
                outcome = await ended
        except TimeoutError:
            # Its worker should have ended it by now; perhaps none has it.
            outcome = await self.queue.expire(job_id, record.timeout_s) if late_s <= self._wait_s else None
            if outcome is None:
                return self._accepted(job_id, record, f"wait={self._wait_s:g}")
        finally:
            gone.cancel()
        if outcome is None:
            if self._once is None:  # else its client will come back for it
                await self.queue.cancel(job_id, "disconnect")
            return Response(status_code=499)  # nobody reads it; the status is for metrics
        if record.kind in _LONG:
            response = await asyncio.to_thread(answers.respond, outcome, record.kind, encoding)
        else:
            response = answers.respond(outcome, record.kind, encoding)
        response.headers["X-Job-Id"] = job_id
        return response

    async def _replay(self, job_id: str, encoding: str, as_stream: bool) -> Response:
        """The answer to a request that came before, and made this job."""
        metrics.REPLAYED.inc()
        try:
            response = await self._answer_again(job_id, encoding, as_stream)
        except Problem as problem:
            problem.headers = {**(problem.headers or {}), **REPLAYED}
            raise
        response.headers.update(REPLAYED)
        return response

    async def _answer_again(self, job_id: str, encoding: str, as_stream: bool) -> Response:
        record = await self.queue.record(job_id)
        if record is None:
            raise Problem("expired-job", f"job {job_id} ended more than a day ago")
        if as_stream:
            response = await follow(self.queue, job_id, record, "0")
            response.headers.update(_where(job_id))
            return response
        with self.queue.expect(job_id) as ended:
            outcome = await self.queue.outcome(job_id, record)
            if outcome is None and record.ended:
                raise expired(job_id, record.state)
            if self.respond_async:
                return self._accepted(job_id, record, "respond-async")
            if outcome is not None and not ended.done():
                ended.set_result(outcome)
            return await self._wait(ended, job_id, record, encoding)

    def _accepted(self, job_id: str, record: Record, applied: str) -> JSONResponse:
        content = schemas.JobResponse(
            id=job_id, kind=record.kind, state=record.state, created=record.created, error=None
        )
        headers = _where(job_id) | {"Preference-Applied": applied}
        return JSONResponse(content.model_dump(exclude_none=True), 202, headers)

    async def _disconnected(self, ended: "asyncio.Future[Outcome | None]") -> None:
        """End the wait for the outcome, with None, when the client has gone."""
        while (await self.request.receive())["type"] != "http.disconnect":
            pass
        if not ended.done():
            ended.set_result(None)


def _fresh(job: AnyJob, encoding: str) -> Record:
    """The record of a job that was queued just now."""
    return Record(job.kind, "queued", time.time(), encoding, job.timeout_s, job.timeout_s)


def _where(job_id: str) -> dict[str, str]:
    return {"Location": f"/jobs/{job_id}", "X-Job-Id": job_id}
