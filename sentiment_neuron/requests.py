"""Arguments to requests and jobs, by the rules of the service: what it refuses is refused here, in the same words.

Each function raises InvalidRequestError. The limits of a gateway (`NEURON_API_MAX_...`) do not hold here. No torch.
"""

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict, TypeVar

from pydantic import BaseModel, ValidationError

from api.schemas.faults import faults
from api.schemas.requests import ClassifyRequest, FeaturizeRequest, FitRequest, GenerateRequest
from api.schemas.trace import TraceRequest
from contract.jobs import ClassifyJob, FeaturizeJob, GenerateJob, Pooling, TraceJob
from sentiment_neuron.columns import column
from sentiment_neuron.errors import InvalidRequestError

LocalJob = ClassifyJob | FeaturizeJob | TraceJob | GenerateJob  # what needs no more than a model
Texts = str | Iterable[str]  # one, or several in order
BodyT = TypeVar("BodyT", bound=BaseModel)

_BASE: dict[str, Any] = {"id": "sentiment-neuron", "timeout_s": math.inf}


class StreamOptions(TypedDict, total=False):
    """How one sample is drawn. Those left out have the defaults of `POST /generate`."""

    sentiment: float | None  # from -1 to 1: hold the sentiment unit there
    clamp: Mapping[int, float]  # unit -> raw value to hold it at; wins over sentiment
    length: int  # bytes at most
    temperature: float  # 0 takes the likeliest byte
    top_k: int
    top_p: float
    seed: int | None  # the same seed gives the same text; drawn if None
    stop: Sequence[str]  # the text ends before any of these


class GenerateOptions(StreamOptions, total=False):
    """And how the samples to return are chosen."""

    n: int  # samples to return
    best_of: int | None  # samples to draw
    rank_by: Literal["likelihood", "sentiment"]
    log_probabilities: bool  # whether samples have their bytes, each with its log-probability


class FitOptions(TypedDict, total=False):
    """How a head is fitted. Those left out have the defaults of `POST /heads`."""

    unit_only: bool  # take the one unit that tells two labels apart best
    pooling: Pooling | None  # the features to fit on


def valid(body: type[BodyT], /, **fields: Any) -> BodyT:
    """The request that a client of the service would have sent."""
    try:
        return body(**fields)
    except ValidationError as error:
        first = faults(error, body)[0]
        where = first["at"].replace(".", " ")
        raise InvalidRequestError(f"{where}: {first['message']}" if where else first["message"]) from error


def classify_body(texts: Texts, head: str | None) -> ClassifyRequest:
    """head: the default of `POST /classify` if None."""
    return valid(ClassifyRequest, texts=listed_texts(texts), **({} if head is None else {"head": head}))


def featurize_body(texts: Texts, pooling: Pooling) -> FeaturizeRequest:
    return valid(FeaturizeRequest, texts=listed_texts(texts), pooling=pooling)


def trace_body(text: str, units: Iterable[int] | None, head: str | None) -> TraceRequest:
    """A unit that is named twice is traced once."""
    named = None if units is None else list(dict.fromkeys(_whole(unit) for unit in _listed("units", units)))
    return valid(TraceRequest, text=_text("text", text), units=named, head=head)


def generate_body(prompt: str, options: Mapping[str, Any], stream: bool = False) -> GenerateRequest:
    """options: those of `GenerateOptions`, or of `StreamOptions` with `stream`."""
    known = (StreamOptions if stream else GenerateOptions).__annotations__
    for name in options:
        if name not in known:
            raise InvalidRequestError(f"{name} is not an option here; these are: {', '.join(known)}")
    return valid(GenerateRequest, prompt=_text("prompt", prompt), stream=stream, **options)


def fit_body(name: str, texts: Iterable[str], labels: Iterable[str | float], options: FitOptions) -> FitRequest:
    """labels: one for each text."""
    try:
        pairs = list(zip(listed_texts(texts), _listed("labels", labels), strict=True))
    except ValueError as error:
        raise InvalidRequestError(f"there is not one label for each text: {error}") from error
    return valid(FitRequest, name=name, examples=[{"text": text, "label": label} for text, label in pairs], **options)


def classify_job(texts: Texts, head: str | None = None) -> ClassifyJob:
    body = classify_body(texts, head)
    return ClassifyJob(**_BASE, texts=body.all_texts(), head=body.head)


def featurize_job(texts: Texts, pooling: Pooling) -> FeaturizeJob:
    body = featurize_body(texts, pooling)
    return FeaturizeJob(**_BASE, texts=body.all_texts(), pooling=body.pooling)


def trace_job(text: str, units: Iterable[int] | None, head: str | None = None) -> TraceJob:
    body = trace_body(text, units, head)
    return TraceJob(**_BASE, text=body.text, units=body.units, head=body.head)


def generate_job(prompt: str, options: Mapping[str, Any], stream: bool = False) -> GenerateJob:
    return GenerateJob(**_BASE, **generate_body(prompt, options, stream).job_fields())


def listed_texts(texts: Texts) -> list[str]:
    listed = [texts] if isinstance(texts, str) else _listed("texts", texts)
    return [_text(f"text {number}", text) for number, text in enumerate(listed)]


def _text(name: str, value: object) -> str:
    """As it is: bytes are not decoded, because their encoding is not known."""
    if not isinstance(value, str):
        raise InvalidRequestError(f"{name} is {type(value).__name__}, not str")
    return value


def _listed(name: str, values: Any) -> list[Any]:
    """Only what has an order: results come in the order of what was given."""
    try:
        return column(values)
    except TypeError as error:
        raise InvalidRequestError(f"{name} is {error}") from error


def _whole(unit: object) -> int:
    try:
        return operator.index(unit)  # type: ignore[arg-type]
    except TypeError as error:
        raise InvalidRequestError(f"unit {unit!r} is not a whole number") from error
