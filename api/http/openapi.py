"""What FastAPI's OpenAPI document lacks: the limits that are set, and the keys."""

from typing import Any

from fastapi import FastAPI

from api.http import openai_errors
from api.http.middleware import needed_scope
from api.problems import OPENAPI
from api.redis.idempotency import HEADER, REPLAYED
from api.settings import ApiSettings

_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "A key of the service, with the scope that the operation names; `admin` holds all scopes.",
}


_REPLAYED = {
    "description": "`true`: this is the answer to an earlier request with the same key",
    "schema": {"const": "true"},
}
_REPLAYABLE = {"200", "202", "404", "409", "410", "500", "504"}


def _limit(schema: dict[str, Any], limit: dict[str, Any]) -> None:
    """Set the limit where it is one: of an array or a number, which a field may be beside null and others."""
    kinds = ("array",) if "maxItems" in limit else ("integer", "number")
    for one in (schema, *schema.get("anyOf", ())):
        if one.get("type") in kinds:
            for name, value in limit.items():
                one.pop(name, None) if value is None else one.update({name: value})


def install(app: FastAPI, settings: ApiSettings) -> None:
    """Add the limits and keys of these settings to the document of `app`."""
    plain = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        described = plain()
        schemas = described["components"]["schemas"]
        limits: dict[str, dict[str, Any]] = {
            "texts": {"maxItems": settings.api_max_texts},
            "input": {"maxItems": settings.api_max_texts},
            "examples": {"maxItems": settings.api_max_examples},
            "prompt": {"maxItems": settings.api_max_samples},
            "timeout_s": {"maximum": settings.api_job_timeout_s},
            "length": {"maximum": settings.api_max_length},
            "max_tokens": {"maximum": settings.api_max_length},
            "n": {"maximum": settings.api_max_samples},
            "best_of": {"maximum": settings.api_max_samples},
            # As an integer: FastAPI writes the nearest double, which is another number.
            "seed": {"maximum": 2**63 - 1, "exclusiveMaximum": None},
        }
        for name, schema in schemas.items():
            if name.endswith("Request"):
                for field, limit in limits.items():
                    _limit(schema["properties"].get(field, {}), limit)
        for operations in described["paths"].values():
            for operation in operations.values():
                for parameter in operation.get("parameters", ()):
                    if parameter["name"] == "timeout_s":  # of a batch
                        _limit(parameter["schema"], {"maximum": settings.api_batch_timeout_s})
                if any(parameter["name"] == HEADER for parameter in operation.get("parameters", ())):
                    for status in operation["responses"].keys() & _REPLAYABLE:
                        operation["responses"][status]["headers"] = dict.fromkeys(REPLAYED, _REPLAYED)
        if settings.keys:
            described.setdefault("components", {})["securitySchemes"] = {"key": _SCHEME}
            for path, operations in described["paths"].items():
                for method, operation in operations.items():
                    scope = needed_scope(method.upper(), path)
                    if scope is not None:
                        operation["security"] = [{"key": [scope]}]
                        shown = openai_errors.OPENAPI if path.startswith(openai_errors.PREFIX) else OPENAPI
                        answers = operation["responses"]
                        answers["401"] = shown | {"description": "No key, or one that is not known here"}
                        answers["403"] = shown | {"description": f"The key lacks the scope `{scope}`"}
                        answers.setdefault("429", shown | {"description": "The key is over its limit"})
        return described

    app.openapi = document  # type: ignore[method-assign]
