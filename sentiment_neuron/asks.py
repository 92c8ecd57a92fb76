"""What `Client` and `AsyncClient` ask of the service, and how they read its answers. Nothing here sends or waits."""

import inspect
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from api.schemas.requests import Body, FitRequest
from api.schemas.responses import FittedHead
from contract.jobs import ErrorCode, HeadInfo, ModelInfo, Pooling
from sentiment_neuron import requests
from sentiment_neuron.errors import InvalidRequestError, NeuronError, RequestFailedError, ServiceError
from sentiment_neuron.requests import GenerateOptions, Texts
from sentiment_neuron.results import Classification, Sample

AnswerT = TypeVar("AnswerT")
KindT = TypeVar("KindT")


@dataclass(frozen=True)
class Ask(Generic[AnswerT]):
    """A request, and how the content of its answer is read. body: as JSON."""

    method: str
    path: str
    read: Callable[[bytes], AnswerT]
    body: bytes | None = None
    accept: str = "application/json"


def classify(texts: Texts, head: str | None, timeout_s: float | None) -> Ask[list[Classification]]:
    return Ask("POST", "/classify", _classifications, encoded(requests.classify_body(texts, head), timeout_s))


def classify_each(texts: Texts, head: str | None, timeout_s: float | None) -> Ask[list[Classification | NeuronError]]:
    """The texts are for the service alone to judge."""
    body = {"texts": requests.listed_texts(texts), "head": head, "timeout_s": timeout_s, "on_error": "skip"}
    given = {name: value for name, value in body.items() if value is not None}
    return Ask("POST", "/classify", _classifications, json.dumps(given).encode())


def featurize(texts: Texts, pooling: Pooling, timeout_s: float | None) -> Ask[NDArray[np.float32]]:
    body = encoded(requests.featurize_body(texts, pooling), timeout_s)
    return Ask("POST", "/featurize", _array, body, accept="application/x-npy")


def trace(text: str, units: Iterable[int] | None, head: str | None, timeout_s: float | None) -> Ask[dict[str, Any]]:
    return Ask("POST", "/trace", json.loads, encoded(requests.trace_body(text, units, head), timeout_s))


def generate(prompt: str, options: GenerateOptions, timeout_s: float | None) -> Ask[list[Sample]]:
    return Ask("POST", "/generate", _samples, encoded(requests.generate_body(prompt, options), timeout_s))


def fit_head(body: FitRequest, timeout_s: float | None) -> Ask[HeadInfo]:
    return Ask("POST", "/heads", lambda content: _known(HeadInfo, json.loads(content)), encoded(body, timeout_s))


def heads() -> Ask[list[FittedHead]]:
    return Ask("GET", "/heads", lambda content: [_known(FittedHead, head) for head in json.loads(content)["heads"]])


def delete_head(name: str) -> Ask[None]:
    return Ask("DELETE", f"/heads/{quote(name, safe='')}", lambda _: None)


def models() -> Ask[list[ModelInfo]]:
    return Ask("GET", "/models", lambda content: [_known(ModelInfo, model) for model in json.loads(content)["models"]])


def encoded(body: Body, timeout_s: float | None) -> bytes:
    """As JSON, with no other fields than were given, so that the defaults are the service's."""
    if timeout_s is not None:
        body = body.model_copy(update={"timeout_s": timeout_s})
    return body.model_dump_json(exclude_unset=True).encode()


def failure(status: int, content: bytes) -> NeuronError:
    """The exception for an answer that is no success."""
    try:
        return _problem(json.loads(content))
    except (ValueError, KeyError, TypeError):
        shown = content[:200].decode(errors="replace")
        return ServiceError(f"http-{status}", status, f"HTTP {status}, and no problem document: {shown!r}")


def _problem(document: dict[str, Any]) -> NeuronError:
    code, status, detail = document["type"].rpartition(":")[2], document["status"], document["detail"]
    if code in set(ErrorCode):
        return RequestFailedError(code, detail)
    return InvalidRequestError(detail) if status in (413, 415, 422) else ServiceError(code, status, detail)


def _known(kind: type[KindT], values: dict[str, Any]) -> KindT:
    """Without the fields that a newer service may have added."""
    names = inspect.signature(kind).parameters
    return kind(**{name: value for name, value in values.items() if name in names})


def _classifications(content: bytes) -> list[Any]:
    """Every text's result, or the error that stands in its place."""
    results = json.loads(content)["results"]
    return [_problem(one["error"]) if "error" in one else _known(Classification, one) for one in results]


def _array(content: bytes) -> NDArray[np.float32]:
    found: NDArray[np.float32] = np.load(io.BytesIO(content), allow_pickle=False)
    return found


def _samples(content: bytes) -> list[Sample]:
    answer = json.loads(content)
    return [_known(Sample, result | {"seed": answer["seed"]}) for result in answer["results"]]
