"""The four POSTs that make a job: classify, featurize, trace, generate; and how a job is answered in place or later."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse, Response

from api import answers, schemas
from api.problems import OPENAPI, too_large
from api.queue import JobQueue, new_id
from api.routes import JobRoute
from api.settings import ApiSettings
from contract.jobs import AnyJob, ClassifyJob, FeaturizeJob, GenerateJob, Outcome, TraceJob

router = APIRouter(tags=["inference"], route_class=JobRoute)

Prefer = Annotated[
    str | None,
    Header(description="`respond-async`: answer 202 with a job at once; `wait=SECONDS`: after so long (RFC 7240)."),
]
# Vectors and traces take a while to spell out; other requests go on meanwhile. For the rest a thread costs more.
_LONG = ("featurize", "trace")

RESPONSES: dict[int | str, dict[str, Any]] = {
    202: {"model": schemas.JobResponse, "description": "The job goes on; `Location` is its address"},
    413: OPENAPI | {"description": "Over a limit, which the problem names"},
    422: OPENAPI | {"description": "Not valid"},
    429: OPENAPI | {"description": "The queue is full; `Retry-After` says when to come back"},
    503: OPENAPI | {"description": "Redis does not answer"},
}


@router.post("/classify", response_model=schemas.ClassifyResponse, responses=RESPONSES)
async def classify(body: schemas.ClassifyRequest, request: Request, prefer: Prefer = None) -> Response:
    """Label texts by a classifier on the model's features."""
    texts = body.all_texts()
    size = _check_texts(texts, _settings(request))
    call = _Call(request, prefer)
    job = ClassifyJob(**call.base(), texts=texts, head=body.head)
    return await call.answer(job, len(texts), size)


@router.post(
    "/featurize",
    response_model=schemas.FeaturizeResponse,
    responses=RESPONSES | {200: {"content": {answers.NPY: {}}, "description": "JSON, or a matrix by `Accept`"}},
)
async def featurize(body: schemas.FeaturizeRequest, request: Request, prefer: Prefer = None) -> Response:
    """The model's feature vector of every text: its final cell. `Accept: application/x-npy` gives a NumPy file."""
    texts = body.all_texts()
    size = _check_texts(texts, _settings(request))
    call = _Call(request, prefer)
    job = FeaturizeJob(**call.base(), texts=texts, pooling=body.pooling)
    encoding = "npy" if answers.wants_npy(request.headers.get("accept", "")) else body.encoding
    return await call.answer(job, len(texts), size, encoding)


@router.post("/trace", response_model=schemas.TraceResponse, responses=RESPONSES)
async def trace(body: schemas.TraceRequest, request: Request, prefer: Prefer = None) -> Response:
    """The value of units after every byte, with the characters that the byte belongs to."""
    size, limit = len(body.text.encode()), _settings(request).api_max_trace_bytes
    if size > limit:
        raise too_large("bytes of the text to trace", size, limit, "NEURON_API_MAX_TRACE_BYTES")
    call = _Call(request, prefer)
    job = TraceJob(**call.base(), text=body.text, units=body.units)
    return await call.answer(job, 1, size)


@router.post(
    "/generate",
    response_model=schemas.GenerateResponse,
    responses=RESPONSES | {200: {"content": {"text/event-stream": {}}, "description": "JSON, or events if `stream`"}},
)
async def generate(body: schemas.GenerateRequest, request: Request, prefer: Prefer = None) -> Response:
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
    call = _Call(request, prefer)
    base = call.base()
    if body.stream:
        base |= {"mailbox": None, "events": True}
    job = GenerateJob(**base, **body.job_fields())
    cost = body.samples, body.samples * (size + body.length)
    if not body.stream or call.respond_async:
        return await call.answer(job, *cost)
    await call.queue.submit(job, *cost, abandon=True)
    return answers.EventStream(stream(call.queue, job.id, "generate", "float", "0"), call.where(job.id))


async def stream(queue: JobQueue, job_id: str, kind: str, encoding: str, after: str) -> AsyncGenerator[bytes]:
    """The events of a job as server-sent events, after the event `after`."""
    async with contextlib.aclosing(queue.events(job_id, after)) as events:
        async for item in events:
            if item is None:
                # A job that keeps no events, or a client that has seen them all, still gets its end.
                outcome = await queue.outcome(job_id)
                if outcome is not None:
                    yield answers.sse(None, *answers.final_event(outcome, kind, encoding))
                    return
                yield b": nothing yet\n\n"
                continue
            event_id, event, data = item
            if event != "token":
                event, data = answers.final_event(Outcome.model_validate_json(data), kind, encoding)
            yield answers.sse(event_id, event, data)


def _settings(request: Request) -> ApiSettings:
    settings: ApiSettings = request.app.state.settings
    return settings


def _check_texts(texts: list[str], settings: ApiSettings) -> int:
    """The bytes of all texts. Raises Problem where a limit is passed."""
    if len(texts) > settings.api_max_texts:
        raise too_large("texts in the request", len(texts), settings.api_max_texts, "NEURON_API_MAX_TEXTS")
    sizes = [len(text.encode()) for text in texts]
    for number, size in enumerate(sizes):
        if size > settings.api_max_text_bytes:
            what = f"bytes of text {number}"
            raise too_large(what, size, settings.api_max_text_bytes, "NEURON_API_MAX_TEXT_BYTES")
    return sum(sizes)


class _Call:
    """One request that makes a job: how its client wants to be answered, and the answering."""

    def __init__(self, request: Request, prefer: str | None) -> None:
        self.request = request
        self.queue: JobQueue = request.app.state.queue
        self._settings = _settings(request)
        wishes = {wish.strip().lower() for wish in (prefer or "").split(",")}
        self.respond_async = "respond-async" in wishes
        waits = [int(found[1]) for wish in wishes if (found := re.fullmatch(r"wait=(\d{1,9})", wish))]
        self._wait_s = min([self._settings.api_wait_s, *waits])

    def base(self) -> dict[str, Any]:
        """The fields that every job has. Nobody waits for an asynchronous one, so it goes behind those that wait."""
        return {
            "id": new_id(),
            "priority": "bulk" if self.respond_async else "interactive",
            "deadline": time.time() + self._settings.api_job_timeout_s,
            "mailbox": None if self.respond_async else self.queue.mailbox,
            "events": self.respond_async,
        }

    def where(self, job_id: str) -> dict[str, str]:
        return {"Location": f"/jobs/{job_id}", "X-Job-Id": job_id}

    async def answer(self, job: AnyJob, texts: int, size: int, encoding: str = "float") -> Response:
        """Queue the job, then answer in place, or 202 if the client would not wait or has waited long enough."""
        if self.respond_async:
            await self.queue.submit(job, texts, size, encoding)
            return self._accepted(job, "respond-async")
        with self.queue.expect(job.id) as ended:
            await self.queue.submit(job, texts, size, encoding)
            gone = asyncio.create_task(self._disconnected(ended))
            try:
                async with asyncio.timeout(self._wait_s):
                    outcome = await ended
            except TimeoutError:
                return self._accepted(job, f"wait={self._wait_s:g}")
            finally:
                gone.cancel()
        if outcome is None:
            await self.queue.cancel(job.id, "disconnect")
            return Response(status_code=499)  # nobody reads it; the status is for metrics
        if job.kind in _LONG:
            return await asyncio.to_thread(answers.respond, outcome, job.kind, encoding)
        return answers.respond(outcome, job.kind, encoding)

    def _accepted(self, job: AnyJob, applied: str) -> JSONResponse:
        content = schemas.JobResponse(id=job.id, kind=job.kind, state="queued", created=time.time(), error=None)
        headers = self.where(job.id) | {"Preference-Applied": applied}
        return JSONResponse(content.model_dump(exclude_none=True), 202, headers)

    async def _disconnected(self, ended: "asyncio.Future[Outcome | None]") -> None:
        """End the wait for the outcome, with None, when the client has gone."""
        while (await self.request.receive())["type"] != "http.disconnect":
            pass
        if not ended.done():
            ended.set_result(None)
