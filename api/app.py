"""The gateway as an ASGI application: `create_app`."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from api import problems
from api.endpoints import heads, inference, jobs, status
from api.http import openapi
from api.http.middleware import Authorize, BodyLimit, Measure, Trace
from api.redis.idempotency import HEADER, REPLAYED
from api.redis.limits import Limits
from api.redis.queue import JobQueue
from api.settings import ApiSettings
from contract import tracing

log = logging.getLogger(__name__)

_DESCRIPTION = """Sentiment, features and controllable text from a byte-level multiplicative LSTM.

Answers come in place; `Prefer: respond-async` gives a job instead. Errors are problem documents (RFC 9457).
"""


def create_app(settings: ApiSettings) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for name, value in settings.effective().items():
            log.info("%s=%s", name, value)
        app.state.settings = settings
        app.state.limits = limits
        app.state.queue = JobQueue(settings)
        app.state.queue.start()
        yield
        await app.state.queue.close()
        if limits is not None:
            await limits.close()

    keys = settings.keys
    limited = settings.api_key_requests_per_s or settings.api_key_bytes_per_day
    limits = Limits(settings) if limited else None

    app = FastAPI(
        title="Sentiment Neuron", description=_DESCRIPTION, version=version("sentiment-neuron"), lifespan=lifespan
    )
    app.add_middleware(BodyLimit, limit=settings.api_max_request_bytes, fit_limit=settings.api_max_fit_bytes)
    if keys:
        app.add_middleware(Authorize, keys=keys, limits=limits, retry_after_s=settings.api_retry_after_s)
    if settings.api_cors_origins:
        # Around Authorize: a browser asks first whether it may ask, and sends no key with that.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=[origin.strip() for origin in settings.api_cors_origins.split(",")],
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", HEADER, "Last-Event-ID", "Prefer"],
            expose_headers=["Location", "Preference-Applied", "Retry-After", "X-Job-Id", "X-Model", *REPLAYED],
        )
    app.add_middleware(Measure)
    if tracing.enabled():
        app.add_middleware(Trace)
    routers = (inference.router, heads.router, jobs.router, status.router)
    for router in routers:
        app.include_router(router)
    problems.install(app, [route for router in routers for route in router.routes], settings.api_retry_after_s)
    openapi.install(app, settings)
    return app
