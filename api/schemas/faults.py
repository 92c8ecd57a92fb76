"""What is wrong with a body, in words for whoever sent it: `faults`."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from contract.names import did_you_mean

_DICTIONARY = re.compile("a valid dictionary( or (object to extract fields from|instance of .*))?$")
_NAME = 64  # characters of a field's name that are shown; it may be of any length


def faults(error: ValidationError, model: type[BaseModel]) -> list[dict[str, str]]:
    """Each fault of a body of this model: `at`, a path as `texts.1`; `message`; `kind`, what pydantic calls it."""
    return [
        {
            # Without what names a way of reading a value, such as `list[str]`, and no field.
            "at": ".".join(str(part)[:_NAME] for part in item["loc"] if "[" not in str(part)),
            "message": _message(item, model),
            "kind": item["type"],
        }
        for item in error.errors(include_url=False, include_input=False)
    ]


def _message(item: Any, model: type[BaseModel]) -> str:
    """Pydantic's message. What our own validators say stands without its prefix, "Value error"."""
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    if item["type"] == "extra_forbidden":
        *within, name = item["loc"]
        known = _fields(model, within)
        return f"there is no such field{did_you_mean(str(name), known)} (known: {', '.join(known)})"
    return _DICTIONARY.sub("an object", str(item["msg"]))


def _fields(model: type[BaseModel], within: Sequence[str | int]) -> list[str]:
    """The fields of the model that is at `within` in a body of `model`."""
    for name in within:
        if isinstance(name, str) and name in model.model_fields:
            model = next(_models(model.model_fields[name].annotation), model)
    return list(model.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
