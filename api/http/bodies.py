"""The JSON body of a request: its Content-Type, its parsing, and what is wrong with it."""

import json
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from api.problems import Problem, too_many_texts
from api.schemas.faults import faults
from api.schemas.requests import TextsRequest

BodyT = TypeVar("BodyT", bound=BaseModel)

JSON = "application/json"
_FAULTS_NAMED = 5
_FAULTS_LISTED = 20
_FAULTS_LOOKED_AT = 100


def check_content_type(sent: str | None) -> None:
    """Raises Problem unless it says JSON: `application/json` or `application/...+json`, with parameters or without."""
    if sent == JSON:
        return
    media_type = (sent or "").partition(";")[0].strip().lower()
    if media_type == JSON or (media_type.startswith("application/") and media_type.endswith("+json")):
        return
    came = f"the Content-Type is {sent[:100]!r}" if sent else "there is no Content-Type"
    raise Problem("not-json", f"{came}: send JSON, with `Content-Type: {JSON}`", {"Accept": JSON})


def parse(model: type[BodyT], content: bytes, most_texts: int) -> BodyT:
    """The body as a `model`. Raises Problem, which says what is wrong.

    most_texts: of a body that skips those that cannot be used, for its texts are looked at one by one.
    """
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        if error.error_count() > _FAULTS_LOOKED_AT:
            raise _very_wrong(error, model) from None
    # JSON in UTF-16 or UTF-32, or with a byte order mark, is read here, and all else explained.
    value = _loaded(content)
    try:
        if isinstance(value, dict) and value.get("on_error") == "skip" and issubclass(model, TextsRequest):
            if isinstance(value.get("texts"), list) and len(value["texts"]) > most_texts:
                raise too_many_texts(len(value["texts"]), most_texts)
            return model.skipping(value)
        return model.model_validate(value)
    except ValidationError as error:
        if error.error_count() > _FAULTS_LOOKED_AT:
            raise _very_wrong(error, model) from None
        found = [fault | {"at": f"body.{fault['at']}".rstrip(".")} for fault in faults(error, model)]
    detail = "; ".join(f"{fault['at']}: {fault['message']}" for fault in found[:_FAULTS_NAMED])
    if len(found) > _FAULTS_NAMED:
        detail += f"; and {len(found) - _FAULTS_NAMED:,} more"
    raise Problem("invalid-request", detail, errors=found[:_FAULTS_LISTED])


def _very_wrong(error: ValidationError, model: type[BaseModel]) -> Problem:
    """Of so many faults none is described: that would take long."""
    known = ", ".join(model.model_fields)
    return Problem("invalid-request", f"the body has {error.error_count():,} faults; its fields are {known}")


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
    raise Problem("invalid-request", detail)
