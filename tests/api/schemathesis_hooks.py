"""For schemathesis (test_schemathesis.py): what JSON Schema cannot say of valid bodies."""

import re
import uuid
from typing import Any

import schemathesis

from api.redis.idempotency import HEADER, PATTERN


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Leave out bodies that are answered with an error, rightly.

    422: `n`, `best_of`, `rank_by` and `stream` contradict each other, or no head can be fitted on such examples. 504:
    `timeout_s` is less than a job takes.
    """
    body = case.body
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
    """Whether labels are two or more, or no strings at all, and have different texts."""
    texts: dict[str, list[str]] = {}
    for example in examples:
        if not isinstance(example, dict) or not all(isinstance(example.get(name), str) for name in ("text", "label")):
            return True  # refused in any case
        texts.setdefault(example["label"], []).append(example["text"].strip())
    differ = any(sorted(found) != sorted(next(iter(texts.values()))) for found in texts.values())
    return differ and (len(texts) == 2 or unit_only is not True)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Make every key that is valid another one: with another body it is refused with 422, rightly."""
    key = (case.headers or {}).get(HEADER)
    if isinstance(key, str) and re.fullmatch(PATTERN, key):
        case.headers[HEADER] = str(uuid.uuid4())
