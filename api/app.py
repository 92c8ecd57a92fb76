"""The gateway as an ASGI application: `create_app`."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.middleware.gzip import GZipMiddleware

from api import problems
from api.batches.desk import open_desk
from api.batches.lines import Entrance
from api.endpoints import batches, heads, inference, jobs, openai, openai_batches, status
from api.http import documentation, openapi, page
from api.http.cors import Cors, cors_options
from api.http.middleware import Authorize, BodyLimit, Failures, Head, Measure, RequestId
from api.http.openai_errors import OpenAIErrors
from api.redis.limits import Limits
from api.redis.parts import open_parts
from api.settings import ApiSettings
from api.webhooks import open_poster
from contract import telemetry

log = logging.getLogger(__name__)

# Of shorter answers packing saves less than it costs.
_PACKED_FROM_BYTES = 8192

# The span of a request is FastAPI's own, and continues the caller's trace. Its metrics and logs would be second ones.
_TELEMETRY: TelemetryConfig = {"metrics": False, "logs": False, "operation_spans": False, "auto_configure": False}

_DESCRIPTION = """Sentiment, features and controllable text from a byte-level multiplicative LSTM.

Answers come in place; `Prefer: respond-async` gives a job instead. Errors are problem documents (RFC 9457).
"""


def create_app(settings: ApiSettings) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for name, value in settings.changed().items():
            log.info("%s=%s", name, value)
        app.state.settings = settings
        app.state.limits = limits
        async with (
            open_parts(settings) as parts,
            open_desk(settings, parts.batch_leases, entrance) as desk,
            open_poster(settings, parts.webhooks, parts.records),
        ):
            app.state.parts, app.state.desk = parts, desk
            yield
        if limits is not None:
            await limits.close()

    keys = settings.keys
    limited = settings.api_key_requests_per_s or settings.api_key_bytes_per_day
    limits = Limits(settings) if limited else None

    app = FastAPI(
        title="Sentiment Neuron",
        description=_DESCRIPTION,
        version=version("sentiment-neuron"),
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own pages need a CDN
        redoc_url=None,
        telemetry=_TELEMETRY | {"tracing": telemetry.enabled()},
        generate_unique_id_function=lambda route: route.name,
    )
    # Each stands around those before it.
    app.add_middleware(BodyLimit, settings=settings)
    if keys:
        app.add_middleware(Authorize, keys=keys, limits=limits, retry_after_s=settings.api_retry_after_s)
    app.add_middleware(Failures)
    app.add_middleware(OpenAIErrors)
    entrance = Entrance(app)
    app.add_middleware(GZipMiddleware, minimum_size=_PACKED_FROM_BYTES, compresslevel=1)
    if settings.api_cors_origins:
        # Outside Authorize: a browser's preflight request carries no key.
        app.add_middleware(Cors, **cors_options(settings))
    app.add_middleware(Head)
    app.add_middleware(Measure)
    app.add_middleware(RequestId)
    routers = (
        inference.router,
        heads.router,
        jobs.router,
        batches.router,
        status.router,
        openai.router,
        openai_batches.router,
    )
    for router in routers:
        app.include_router(router)
    problems.install(app, [route for router in routers for route in router.routes], settings.api_retry_after_s)
    openapi.install(app, settings)
    documentation.install(app)
    page.install(app)
    return app
