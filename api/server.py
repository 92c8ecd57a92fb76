"""The gateway process: settings, logging and uvicorn."""

import gc
import logging

import uvicorn

from api.app import create_app
from api.settings import ApiSettings


def main() -> None:
    """Serve until SIGTERM or SIGINT; open requests may end first."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = ApiSettings()
    app = create_app(settings)
    # What is loaded by now stays: no request shall wait while all of it is looked through for garbage.
    gc.collect()
    gc.freeze()
    uvicorn.run(
        app,
        host=settings.api_host,
        port=settings.api_port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=30,
        server_header=False,
    )
