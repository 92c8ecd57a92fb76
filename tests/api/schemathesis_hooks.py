"""For schemathesis (test_schemathesis.py): what JSON Schema cannot say of valid bodies."""

import re
import uuid
from typing import Any

import schemathesis

from api.idempotency import HEADER, PATTERN


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Leave out bodies that are answered with an error, rightly.

    422: `n`, `best_of` and `stream` contradict each other. 504: `timeout_s` is less than a job takes.
    """
    body = case.body
    if isinstance(body, dict) and isinstance(body.get("timeout_s"), int | float) and 0 < body["timeout_s"] < 30:
        return False
    if not isinstance(body, dict) or not isinstance(body.get("best_of"), int | float):
        return True
    n = body.get("n", 1)
    if not isinstance(n, int | float):
        return True
    return bool(body["best_of"] == n or (body["best_of"] > n and body.get("stream") is not True))


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Make every key that is valid another one: with another body it is refused with 422, rightly."""
    key = (case.headers or {}).get(HEADER)
    if isinstance(key, str) and re.fullmatch(PATTERN, key):
        case.headers[HEADER] = str(uuid.uuid4())
