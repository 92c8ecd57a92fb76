"""The gateway process: settings, logging and uvicorn."""

import functools
import gc
import logging
import signal
import sys
from typing import Any

import uvicorn

from api.app import create_app
from api.http.connections import HEADERS, Connection
from api.http.cors import Cors, cors_options
from api.settings import ApiSettings
from contract import logs, redis_clients, telemetry
from contract.ports import check_port
from contract.setting_error import SettingError

log = logging.getLogger(__name__)


def main() -> None:
    """Serve until SIGTERM or SIGINT; open requests may end first."""
    try:
        settings = ApiSettings()
        check_port(settings.api_host, settings.api_port, "NEURON_API_PORT")
        telemetry.set_up(settings.process)
        logs.set_up(settings.log_format)
        redis_clients.check(settings.redis_url)
    except SettingError as error:
        sys.exit(f"The gateway cannot start: {error}")
    # uvicorn has its own handlers while it serves. When all is answered it raises the signal again, for this handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    options = uvicorn_options(settings)
    # What is loaded by now stays. Frozen, it is not searched for garbage while a request waits.
    gc.collect()
    gc.freeze()
    uvicorn.run(**options)


def uvicorn_options(settings: ApiSettings) -> dict[str, Any]:
    """The application, and how uvicorn serves it: of `uvicorn.Config`."""
    app = create_app(settings)
    connection = functools.partial(
        Connection,
        max_header_bytes=settings.api_max_header_bytes,
        timeout_s=settings.api_request_timeout_s,
        cors=Cors(app, **cors_options(settings)) if settings.api_cors_origins else None,
    )
    return {
        "app": app,
        "host": settings.api_host,
        "port": settings.api_port,
        "log_config": None,
        "access_log": False,
        "timeout_graceful_shutdown": 30,
        # Longer than proxies and clients keep an idle connection, or it may be closed while a request comes on it.
        "timeout_keep_alive": 75,
        "server_header": False,
        "headers": HEADERS,
        "http": connection,
        "ws": "none",
    }
