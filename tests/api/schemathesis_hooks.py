"""For schemathesis (test_schemathesis.py): what JSON Schema cannot say of valid bodies."""

import re
import uuid
from typing import Any

import schemathesis
from pydantic import BaseModel, ValidationError

from api.redis.idempotency import HEADER, PATTERN
from api.schemas.openai import CompletionRequest, EmbeddingsRequest
from api.schemas.requests import ClassifyRequest, Example, FeaturizeRequest, GenerateRequest
from api.schemas.trace import TraceRequest

MODELS: dict[str, type[BaseModel]] = {
    "/classify": ClassifyRequest,
    "/featurize": FeaturizeRequest,
    "/trace": TraceRequest,
    "/generate": GenerateRequest,
    "/v1/embeddings": EmbeddingsRequest,
    "/v1/completions": CompletionRequest,
}


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Leave out bodies that are answered with an error, rightly.

    422 and 400: its fields contradict each other; no head can be fitted on such examples. 504: `timeout_s` is less than
    a job takes.
    """
    body = case.body
    if case.operation.path == "/batches" and case.operation.method == "post":
        return isinstance(body, str | bytes) and bool(body.strip())  # what is neither is written as a string
    if not isinstance(body, dict) or case.operation.path == "/v1/batches":
        return True
    if case.operation.path == "/v1/files":
        return body.keys() <= {"file", "purpose"}  # others are refused, and not all can be written in a form
    if isinstance(body.get("timeout_s"), int | float) and 0 < body["timeout_s"] < 30:
        return False
    if isinstance(body.get("webhook"), dict):
        return False  # what JSON Schema allows is not base64, nor of a host that may be posted to
    if isinstance(body.get("examples"), list):
        return _tell_apart(body["examples"], body.get("unit_only"))
    try:
        MODELS[case.operation.path].model_validate(body)
    except ValidationError as error:
        # Of the whole body, and not of one of its fields: they contradict each other.
        return any(fault["loc"] for fault in error.errors())
    return True


def _tell_apart(examples: list[Any], unit_only: Any) -> bool:
    """Whether labels are two or more and have different texts; true where an example is none."""
    texts: dict[str, list[str]] = {}
    for example in examples:
        try:
            valid = Example.model_validate(example)
        except ValidationError:
            return True  # refused in any case
        texts.setdefault(valid.label, []).append(valid.text.strip())
    differ = any(sorted(found) != sorted(next(iter(texts.values()))) for found in texts.values())
    return differ and (len(texts) == 2 or unit_only is not True)


@schemathesis.serializer("application/x-ndjson")
def lines(context: Any, value: Any) -> bytes:
    return str(value).encode("utf-8", "surrogatepass")


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Make every key that is valid another one: with another body it is refused with 422, rightly."""
    key = (case.headers or {}).get(HEADER)
    if isinstance(key, str) and re.fullmatch(PATTERN, key):
        case.headers[HEADER] = str(uuid.uuid4())
