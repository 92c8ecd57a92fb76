"""POSTs that make a job: classify, featurize, trace, generate."""

import functools

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.endpoints.call import RESPONSES, Call, IdempotencyKey, Prefer
from api.endpoints.routes import JobRoute
from api.http import answers
from api.problems import over, too_large, too_many_texts
from api.schemas import requests, responses
from api.schemas.form import Form, Skipped
from api.schemas.trace import TraceRequest
from api.settings import ApiSettings
from contract.jobs import ClassifyJob, FeaturizeJob, GenerateJob, TraceJob

router = APIRouter(tags=["inference"], route_class=JobRoute)

_MAX_TEXT_BYTES = "NEURON_API_MAX_TEXT_BYTES"


@router.post("/classify", response_model=responses.ClassifyResponse, responses=RESPONSES)
async def classify(
    body: requests.ClassifyRequest, request: Request, prefer: Prefer = None, idempotency_key: IdempotencyKey = None
) -> Response:
    """Label texts by a classifier on the model's features."""
    texts, size, skipped = _usable(body, settings_of(request))
    call = Call(request, body, prefer, idempotency_key)
    job = ClassifyJob(**call.base(), texts=texts, head=body.head)
    return await call.answer(job, len(texts), size, Form(skipped=skipped))


@router.post(
    "/featurize",
    response_model=responses.FeaturizeResponse,
    responses=RESPONSES | {200: answers.MATRIX | {"description": "JSON, or a matrix by `Accept`"}},
)
async def featurize(
    body: requests.FeaturizeRequest, request: Request, prefer: Prefer = None, idempotency_key: IdempotencyKey = None
) -> Response:
    """The model's feature vector of every text: its final cell. `Accept: application/x-npy` gives a NumPy file."""
    texts, size, skipped = _usable(body, settings_of(request))
    call = Call(request, body, prefer, idempotency_key)
    job = FeaturizeJob(**call.base(), texts=texts, pooling=body.pooling)
    encoding = "npy" if answers.wants(answers.NPY, request.headers.get("accept", "")) else body.encoding
    return await call.answer(job, len(texts), size, Form(encoding, skipped))


@router.post(
    "/trace",
    response_model=responses.TraceResponse,
    responses=RESPONSES | {200: answers.PICTURE | {"description": "JSON, or a picture by `Accept`"}},
)
async def trace(
    body: TraceRequest, request: Request, prefer: Prefer = None, idempotency_key: IdempotencyKey = None
) -> Response:
    """The value of units after every byte, with the characters that the byte belongs to.

    `Accept: image/svg+xml` gives a picture: a heat map of each unit.
    """
    size, limit = len(body.text.encode()), settings_of(request).api_max_trace_bytes
    if size > limit:
        raise too_large("bytes of the text to trace", size, limit, "NEURON_API_MAX_TRACE_BYTES")
    call = Call(request, body, prefer, idempotency_key)
    pictured = answers.wants(answers.SVG, request.headers.get("accept", "")) and not call.respond_async
    if pictured and (cells := size * len(body.units or [None])) > limit:
        raise too_large("bytes of the text by units to draw", cells, limit, "NEURON_API_MAX_TRACE_BYTES")
    job = TraceJob(
        **call.base(), text=body.text, units=body.units, offsets=body.offsets, start=body.start, head=body.head
    )
    if pictured:
        call.respond = functools.partial(answers.picture, body.text)
    return await call.answer(job, 1, size)


@router.post(
    "/generate",
    response_model=responses.GenerateResponse,
    responses=RESPONSES | {200: answers.EVENTS | {"description": "JSON, or events if `stream`"}},
)
async def generate(
    body: requests.GenerateRequest, request: Request, prefer: Prefer = None, idempotency_key: IdempotencyKey = None
) -> Response:
    """Continue a prompt, with the sentiment unit held where `sentiment` asks for it."""
    call = Call(request, body, prefer, idempotency_key)
    job, samples, size = generation(call, body)
    if body.stream and not call.respond_async:
        return await call.stream(job, samples, size)
    return await call.answer(job, samples, size)


def generation(call: Call, body: requests.GenerateRequest) -> tuple[GenerateJob, int, int]:
    """The job, and what it costs: samples, and bytes to read or write. Raises Problem where a limit is passed."""
    settings, size = settings_of(call.request), len(body.prompt.encode())
    for what, actual, limit, setting in (
        ("bytes of the prompt", size, settings.api_max_text_bytes, _MAX_TEXT_BYTES),
        ("bytes to generate", body.length, settings.api_max_length, "NEURON_API_MAX_LENGTH"),
        ("samples", body.samples, settings.api_max_samples, "NEURON_API_MAX_SAMPLES"),
    ):
        if actual > limit:
            raise too_large(what, actual, limit, setting)
    base = call.base()
    if body.stream:
        base |= {"mailbox": None, "events": True}
    times = 2 if body.rank_by == "sentiment" else 1  # to be ranked, what was generated is read
    cost = body.samples * (size + body.length) * times
    return GenerateJob(**base, **body.job_fields()), body.samples, cost


def settings_of(request: Request) -> ApiSettings:
    settings: ApiSettings = request.app.state.settings
    return settings


def _usable(body: requests.TextsRequest, settings: ApiSettings) -> tuple[list[str], int, dict[int, Skipped]]:
    """The texts to read, their bytes, and by its number why each other one is skipped. Raises Problem."""
    if body.on_error == "fail":
        return body.all_texts(), check_texts(body.all_texts(), settings), {}
    skipped = {number: Skipped("invalid-request", why) for number, why in body.unusable.items()}
    count = len(body.all_texts()) + len(skipped)
    _check_count(count, settings)
    texts, total, limit = [], 0, settings.api_max_text_bytes
    numbers = (number for number in range(count) if number not in body.unusable)
    for number, text in zip(numbers, body.all_texts(), strict=True):
        size = len(text.encode())
        if size <= limit:
            texts.append(text)
            total += size
        else:
            too_long = number, size
            skipped[number] = Skipped("too-large", over(f"bytes of text {number}", size, limit, _MAX_TEXT_BYTES))
    if not texts:
        number, size = too_long
        raise too_large(f"bytes of text {number}", size, limit, _MAX_TEXT_BYTES)
    return texts, total, skipped


def check_texts(texts: list[str], settings: ApiSettings) -> int:
    """The bytes of all texts. Raises Problem where one has too many, or where they are too many."""
    _check_count(len(texts), settings)
    return check_sizes(texts, settings)


def _check_count(count: int, settings: ApiSettings) -> None:
    if count > settings.api_max_texts:
        raise too_many_texts(count, settings.api_max_texts)


def check_sizes(texts: list[str], settings: ApiSettings) -> int:
    """The bytes of all texts. Raises Problem where one has too many."""
    sizes = [len(text.encode()) for text in texts]
    for number, size in enumerate(sizes):
        if size > settings.api_max_text_bytes:
            raise too_large(f"bytes of text {number}", size, settings.api_max_text_bytes, _MAX_TEXT_BYTES)
    return sum(sizes)
