"""Which pages of other origins may call from a browser: of every answer, those that no application sees as well."""

from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware

from api.http.middleware import REQUEST_ID
from api.redis.idempotency import REPLAYED
from api.settings import ApiSettings

_EXPOSED = ["Location", "Preference-Applied", "Retry-After", "X-Job-Id", "X-Model", REQUEST_ID, *REPLAYED]


def cors_options(settings: ApiSettings) -> dict[str, Any]:
    """Of Starlette's CORSMiddleware."""
    return {
        "allow_origins": [origin.strip() for origin in (settings.api_cors_origins or "").split(",") if origin.strip()],
        "allow_methods": ["GET", "POST", "DELETE"],
        # Of headers none is secret or trusted: clients send those of their tracing and of their libraries.
        "allow_headers": ["*"],
        "expose_headers": _EXPOSED,
    }


class Cors(CORSMiddleware):
    """Starlette's, which also tells the headers of an answer that is written without it."""

    def headers(self, origin: str | None) -> list[tuple[str, str]]:
        """Of an answer to a page of this origin; none where it may not read it."""
        if origin is None and not self.allow_all_origins:
            return []
        if origin is not None and not self.is_allowed_origin(origin):
            return []
        headers = MutableHeaders(self.simple_headers)
        if not self.allow_all_origins:
            self.allow_explicit_origin(headers, origin or "")
        return headers.items()
