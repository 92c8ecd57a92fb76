"""What FastAPI's OpenAPI document lacks: the limits that are set, and the keys."""

from typing import Any

from fastapi import FastAPI

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
_REPLAYABLE = ("200", "202", "404", "409", "410", "500", "504")


def install(app: FastAPI, settings: ApiSettings) -> None:
    """Add the limits and keys of these settings to the document of `app`."""
    plain = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        described = plain()
        schemas = described["components"]["schemas"]
        for request in ("ClassifyRequest", "FeaturizeRequest"):
            schemas[request]["properties"]["texts"]["anyOf"][0]["maxItems"] = settings.api_max_texts
        schemas["FitRequest"]["properties"]["examples"]["maxItems"] = settings.api_max_examples
        for request in ("ClassifyRequest", "FeaturizeRequest", "TraceRequest", "GenerateRequest", "FitRequest"):
            schemas[request]["properties"]["timeout_s"]["anyOf"][0]["maximum"] = settings.api_job_timeout_s
        for operations in described["paths"].values():
            for operation in operations.values():
                if any(parameter["name"] == HEADER for parameter in operation.get("parameters", ())):
                    for status in _REPLAYABLE:
                        operation["responses"][status]["headers"] = dict.fromkeys(REPLAYED, _REPLAYED)
        generate = schemas["GenerateRequest"]["properties"]
        generate["length"]["maximum"] = settings.api_max_length
        generate["n"]["maximum"] = generate["best_of"]["anyOf"][0]["maximum"] = settings.api_max_samples
        # As an integer: FastAPI writes the nearest double, which is another number.
        seed = generate["seed"]["anyOf"][0]
        del seed["exclusiveMaximum"]
        seed["maximum"] = 2**63 - 1
        if settings.keys:
            described.setdefault("components", {})["securitySchemes"] = {"key": _SCHEME}
            for path, operations in described["paths"].items():
                for method, operation in operations.items():
                    scope = needed_scope(method.upper(), path)
                    if scope is not None:
                        operation["security"] = [{"key": [scope]}]
                        answers = operation["responses"]
                        answers["401"] = OPENAPI | {"description": "No key, or one that is not known here"}
                        answers["403"] = OPENAPI | {"description": f"The key lacks the scope `{scope}`"}
                        answers.setdefault("429", OPENAPI | {"description": "The key is over its limit"})
        return described

    app.openapi = document  # type: ignore[method-assign]
