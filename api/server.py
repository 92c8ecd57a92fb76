"""The gateway process: settings, logging and uvicorn."""

import logging

import uvicorn

from api.app import create_app
from api.settings import ApiSettings


def main() -> None:
    """Serve until SIGTERM or SIGINT; open requests may end first."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = ApiSettings()
    uvicorn.run(
        create_app(settings),
        host=settings.api_host,
        port=settings.api_port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=30,
        server_header=False,
    )
