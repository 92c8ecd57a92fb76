"""The gateway as an ASGI application: `create_app`."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from api import inference, jobs, problems, status
from api.middleware import BodyLimit, Measure
from api.queue import JobQueue
from api.settings import ApiSettings

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
        app.state.queue = JobQueue(settings)
        app.state.queue.start()
        yield
        await app.state.queue.close()

    app = FastAPI(
        title="Sentiment Neuron", description=_DESCRIPTION, version=version("sentiment-neuron"), lifespan=lifespan
    )
    app.add_middleware(BodyLimit, limit=settings.api_max_request_bytes)
    app.add_middleware(Measure)
    problems.install(app, settings.api_retry_after_s)
    for router in (inference.router, jobs.router, status.router):
        app.include_router(router)
    return app
