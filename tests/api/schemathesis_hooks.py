"""For schemathesis (test_schemathesis.py): what JSON Schema cannot say of valid bodies."""

import re
import uuid
from typing import Any

import schemathesis
from pydantic import ValidationError

from api.redis.idempotency import HEADER, PATTERN
from api.schemas.requests import Example


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Leave out bodies that are answered with an error, rightly.

    422: there are both of `text` and `texts`, or none; `n`, `best_of`, `rank_by` and `stream` contradict each other; no
    head can be fitted on such examples. 504: `timeout_s` is less than a job takes.
    """
    body = case.body
    takes_texts = case.operation.path in ("/classify", "/featurize") and isinstance(body, dict)
    if takes_texts and (body.get("text") is None) == (body.get("texts") is None):
        return False
    if isinstance(body, dict) and isinstance(body.get("timeout_s"), int | float) and 0 < body["timeout_s"] < 30:
        return False
    if isinstance(body, dict) and isinstance(body.get("examples"), list):
        return _tell_apart(body["examples"], body.get("unit_only"))
    ranked = isinstance(body, dict) and body.get("rank_by") == "sentiment"
    if ranked and (body.get("sentiment") is None or body.get("stream") is True):
        return False
    if not isinstance(body, dict) or not isinstance(body.get("best_of"), int | float):
        return True
    n = body.get("n", 1)
    if not isinstance(n, int | float):
        return True
    return bool(body["best_of"] == n or (body["best_of"] > n and body.get("stream") is not True))


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


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Make every key that is valid another one: with another body it is refused with 422, rightly."""
    key = (case.headers or {}).get(HEADER)
    if isinstance(key, str) and re.fullmatch(PATTERN, key):
        case.headers[HEADER] = str(uuid.uuid4())
