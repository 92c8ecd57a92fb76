"""OpenAI's API, as far as this model has it: models, embeddings and completions. Each is a job like those of ours."""

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from redis.exceptions import RedisError

from api.endpoints.call import Call, IdempotencyKey
from api.endpoints.events import NOTHING_YET, Entries
from api.endpoints.inference import check_texts, generation, settings_of
from api.endpoints.routes import JobRoute
from api.http import answers
from api.http.openai_errors import error_of
from api.problems import Problem, too_large
from api.redis.parts import parts_of
from api.schemas import openai
from api.schemas.requests import GenerateRequest
from contract.jobs import FeaturizeJob, ModelInfo, Outcome

_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": openai.ErrorResponse, "description": description}
    for status, description in {
        400: "Not valid, or not what this model has",
        404: "There is no such model, or the model has no such unit or head",
        409: "The job was cancelled, or the model has no sentiment unit",
        410: "The job that the `Idempotency-Key` made has ended, and its result has expired",
        413: "Over a limit",
        415: "The body is not sent as JSON, or packed in a way that is not read",
        429: "The queue is full; `Retry-After` says when to come back",
        500: "The engine could not run the job",
        503: "Redis does not answer, or no worker is ready",
        504: "The job did not end in time",
    }.items()
}

router = APIRouter(prefix="/v1", tags=["openai"], route_class=JobRoute)


@router.get("/models", response_model=openai.ModelList, responses={503: _RESPONSES[503]})
async def list_models_v1(request: Request) -> dict[str, Any]:
    """The models that workers serve now."""
    names = sorted({model.name for model in await parts_of(request).fleet.models()})
    return {"object": "list", "data": [_model(name) for name in names]}


@router.get("/models/{name:path}", response_model=openai.Model, responses={404: _RESPONSES[404], 503: _RESPONSES[503]})
async def get_model_v1(name: str, request: Request) -> dict[str, Any]:
    return _model((await _served(request, name)).name)


@router.post("/embeddings", response_model=openai.EmbeddingsResponse, responses=_RESPONSES)
async def create_embeddings_v1(
    body: openai.EmbeddingsRequest, request: Request, idempotency_key: IdempotencyKey = None
) -> Response:
    """The vectors of `POST /featurize`: the model's final cell, which is not of length 1."""
    model = await _served(request, body.model)
    if body.dimensions not in (None, model.units):
        detail = f"dimensions: {model.name} has vectors of {model.units:,}, which cannot be shortened"
        raise Problem("invalid-request", detail, errors=[{"at": "dimensions"}])
    texts = body.texts()
    size = check_texts(texts, settings_of(request))
    call = Call(request, body, None, idempotency_key, in_place=True)

    def respond(outcome: Outcome) -> Response:
        result = answers.result(outcome)
        matrix = answers.features(result)
        if body.encoding_format == "base64":
            vectors: list[Any] = [base64.b64encode(row.tobytes()).decode("ascii") for row in matrix]
        else:
            vectors = matrix.tolist()
        data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
        usage = {"prompt_tokens": size, "total_tokens": size}
        return JSONResponse({"object": "list", "data": data, "model": result["model"]["name"], "usage": usage})

    call.respond = respond
    return await call.answer(FeaturizeJob(**call.base(), texts=texts, pooling=body.pooling), len(texts), size)


@router.post(
    "/completions",
    response_model=openai.CompletionResponse,
    responses=_RESPONSES | {200: answers.EVENTS | {"description": "JSON, or events if `stream`"}},
)
async def create_completion_v1(
    body: openai.CompletionRequest, request: Request, idempotency_key: IdempotencyKey = None
) -> Response:
    """What `POST /generate` writes. Its options `sentiment`, `clamp`, `top_k` and `rank_by` are taken here as well."""
    model = await _served(request, body.model)
    limit = settings_of(request).api_max_samples
    if body.samples > limit:
        raise too_large("samples of all prompts", body.samples, limit, "NEURON_API_MAX_SAMPLES")
    asked = body.generations()
    if body.stream:
        call = Call(request, body, None, idempotency_key, in_place=True)
        job, samples, size = generation(call, asked[0])
        return await call.stream(job, samples, size, lambda job_id, entries: _chunks(entries, body, model.name, job_id))
    return await _completed(request, body, asked, idempotency_key)


@router.post("/chat/completions", include_in_schema=False)
async def create_chat_completion_v1() -> None:
    raise Problem(
        "not-found",
        "this model continues texts and holds no conversation: use POST /v1/completions "
        "(client.completions.create; LangChain: OpenAI; LlamaIndex: OpenAILike(is_chat_model=False))",
    )


async def _served(request: Request, name: str) -> ModelInfo:
    """The model of this name. Raises Problem."""
    models = await parts_of(request).fleet.models_lately()
    found = next((model for model in models if name in (model.name, f"{model.name}/step-{model.step}")), None)
    if found is not None:
        return found
    if not models:
        retry = {"Retry-After": str(settings_of(request).api_retry_after_s)}
        raise Problem("not-ready", "no worker serves a model now", retry)
    known = ", ".join(sorted({model.name for model in models}))
    raise Problem("unknown-model", f"there is no model {name[:64]!r} here, only {known}", errors=[{"at": "model"}])


def _model(name: str) -> dict[str, Any]:
    # When it was made is not known to workers; clients want a number.
    return {"id": name, "object": "model", "created": 0, "owned_by": "sentiment-neuron"}


class _Held(Response):
    """The outcome of a job, to be answered together with others."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.result = answers.result(outcome)


async def _completed(
    request: Request, body: openai.CompletionRequest, asked: list[GenerateRequest], idempotency_key: str | None
) -> Response:
    """A job for each prompt, answered together."""
    jobs, tasks = [], []
    try:
        async with asyncio.TaskGroup() as group:
            for number, one in enumerate(asked):
                # No key that a client sends has a newline.
                key = f"{idempotency_key}\n{number}" if idempotency_key and number else idempotency_key
                call = Call(request, body, None, key, in_place=True, first=number == 0)
                call.respond = _Held
                job, samples, size = generation(call, one)
                jobs.append(job)
                tasks.append(group.create_task(call.answer(job, samples, size)))
    except* (Problem, RedisError) as failures:
        if idempotency_key is None:
            for job in jobs:
                await parts_of(request).records.cancel(job.id, "request")
        raise failures.exceptions[0] from None
    responses = [task.result() for task in tasks]
    gone = next((response for response in responses if not isinstance(response, _Held)), None)
    if gone is not None:
        return gone
    results = [response.result for response in responses if isinstance(response, _Held)]
    headers = dict(responses[0].headers)  # of the job that this one made, or an earlier such request
    choices = [
        _choice(body, prompt, sample, len(result["results"]) * number + rank)
        for number, (prompt, result) in enumerate(zip(body.prompts(), results, strict=True))
        for rank, sample in enumerate(result["results"])
    ]
    written = sum(len(sample["text"].encode()) for result in results for sample in result["results"])
    name = results[0]["model"]["name"]
    content = _head(headers["x-job-id"], name) | {"choices": choices, "usage": _usage(body, written)}
    return JSONResponse(content, headers={name: value for name, value in headers.items() if name != "content-length"})


def _choice(body: openai.CompletionRequest, prompt: str, sample: dict[str, Any], index: int) -> dict[str, Any]:
    return {
        "index": index,
        "text": (prompt if body.echo else "") + sample["text"],
        "finish_reason": sample["finish_reason"],
        "logprobs": None if body.logprobs is None else _log_probabilities(sample["bytes"]),
    }


def _log_probabilities(drawn: list[dict[str, Any]]) -> dict[str, Any]:
    offsets, at = [], -1
    for one in drawn:
        at += one["byte"] & 0xC0 != 0x80  # every byte of a character but its first begins with the bits 10
        offsets.append(max(at, 0))
    return {
        "tokens": [chr(one["byte"]) if one["byte"] < 0x80 else f"bytes:\\x{one['byte']:02x}" for one in drawn],
        "token_logprobs": [one["log_probability"] for one in drawn],
        "top_logprobs": None,
        "text_offset": offsets,
    }


async def _chunks(entries: Entries, body: openai.CompletionRequest, model: str, job_id: str) -> AsyncGenerator[bytes]:
    """The events of a job as OpenAI streams them."""
    head = _head(job_id, model)
    one = body.generations()[0]

    def chunk(index: int, text: str, finish_reason: str | None = None) -> bytes:
        choice = {"index": index, "text": text, "finish_reason": finish_reason, "logprobs": None}
        return _data(head | {"choices": [choice]})

    if body.echo and one.prompt:
        for index in range(one.n):
            yield chunk(index, one.prompt)
    async with contextlib.aclosing(entries):
        async for _, event, data in entries:
            match event:
                case "token":
                    token = json.loads(data)
                    yield chunk(token["index"], token["text"])
                case "":
                    yield NOTHING_YET
                case "done":
                    samples = json.loads(data)["results"]
                    for sample in samples:
                        yield chunk(sample["index"], "", sample["finish_reason"])
                    if body.stream_options and body.stream_options.include_usage:
                        written = sum(len(sample["text"].encode()) for sample in samples)
                        yield _data(head | {"choices": [], "usage": _usage(body, written)})
                    yield b"data: [DONE]\n\n"
                case _:
                    yield _data({"error": error_of(json.loads(data))})


def _data(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()


def _head(job_id: str, model: str) -> dict[str, Any]:
    return {"id": f"cmpl-{job_id}", "object": "text_completion", "created": int(time.time()), "model": model}


def _usage(body: openai.CompletionRequest, written: int) -> dict[str, int]:
    read = sum(len(prompt.encode()) for prompt in body.prompts())
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
