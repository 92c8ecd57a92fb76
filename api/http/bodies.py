"""The JSON body of a request: its Content-Type, its parsing, and what is wrong with it."""

import json
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from api import metrics
from api.problems import Problem
from api.schemas.faults import faults
from api.schemas.requests import TextsRequest

BodyT = TypeVar("BodyT", bound=BaseModel)

JSON = "application/json"
_FAULTS_NAMED = 5
_FAULTS_LISTED = 20


def check_content_type(sent: str | None) -> None:
    """Raises Problem unless it says JSON: `application/json` or `application/...+json`, with parameters or without."""
    if sent == JSON:
        return
    media_type = (sent or "").partition(";")[0].strip().lower()
    if media_type == JSON or (media_type.startswith("application/") and media_type.endswith("+json")):
        return
    metrics.REFUSED.labels("not-json").inc()
    came = f"the Content-Type is {sent[:100]!r}" if sent else "there is no Content-Type"
    raise Problem("not-json", f"{came}: send JSON, with `Content-Type: {JSON}`", {"Accept": JSON})


def parse(model: type[BodyT], content: bytes) -> BodyT:
    """The body as a `model`. Raises Problem, which names every fault."""
    try:
        return model.model_validate_json(content)
    except ValidationError:
        pass  # JSON in UTF-16 or UTF-32, and with a byte order mark, is read here; all else is explained here
    value = _loaded(content)
    try:
        return _validated(model, value)
    except ValidationError as error:
        found = [fault | {"at": f"body.{fault['at']}".rstrip(".")} for fault in faults(error, model)]
    raise invalid(found)


def _validated(model: type[BodyT], value: object) -> BodyT:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        if isinstance(value, dict) and value.get("on_error") == "skip" and issubclass(model, TextsRequest):
            return model.skipping(value, error)
        raise


def invalid(found: list[dict[str, str]]) -> Problem:
    """The problem document of these faults (`api/schemas/faults.py`)."""
    metrics.REFUSED.labels("invalid-request").inc()
    detail = "; ".join(f"{fault['at']}: {fault['message']}" for fault in found[:_FAULTS_NAMED])
    if len(found) > _FAULTS_NAMED:
        detail += f"; and {len(found) - _FAULTS_NAMED:,} more"
    return Problem("invalid-request", detail, errors=found[:_FAULTS_LISTED])


def _loaded(content: bytes) -> object:
    try:
        return json.loads(content)
    except UnicodeDecodeError as error:
        detail = f"the body is not valid UTF-8: {error}"
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        detail = f"the body is not JSON: {error.msg} at {where}" if content.strip() else "the body is empty: send JSON"
    except RecursionError:
        detail = "the JSON of the body is nested too deeply"
    except ValueError as error:  # an integer of thousands of digits
        detail = f"the JSON of the body cannot be read: {error}"
    metrics.REFUSED.labels("invalid-request").inc()
    raise Problem("invalid-request", detail)
