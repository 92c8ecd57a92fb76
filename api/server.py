"""The gateway process: settings, logging and uvicorn."""

import functools
import gc
import logging
import signal
import ssl
import sys
from typing import Any

import redis
import uvicorn
from redis.backoff import NoBackoff
from redis.retry import Retry

from api.app import create_app
from api.http.connections import HEADERS, Connection
from api.http.cors import Cors, cors_options
from api.settings import ApiSettings
from contract import logs, redis_clients, telemetry
from contract.ports import check_port
from contract.setting_error import SettingError

log = logging.getLogger(__name__)


def _check_redis(settings: ApiSettings) -> None:
    """Exit if Redis refuses the gateway, because that does not pass. If Redis is away, only warn: it may come."""
    try:
        options: dict[str, Any] = {"socket_connect_timeout": 2, "socket_timeout": 10, "retry": Retry(NoBackoff(), 0)}
        with redis_clients.client(settings.redis_url, **options) as client:
            client.ping()
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        sys.exit(f"The gateway cannot start: NEURON_REDIS_URL: {error}")
    except redis.RedisError as error:
        if isinstance(error.__context__, ssl.SSLCertVerificationError):
            sys.exit(f"The gateway cannot start: NEURON_REDIS_URL: {error}")
        log.warning("Redis: %s", error)


def main() -> None:
    """Serve until SIGTERM or SIGINT; open requests may end first."""
    try:
        settings = ApiSettings()
        check_port(settings.api_host, settings.api_port, "NEURON_API_PORT")
        telemetry.set_up(settings.process)
    except SettingError as error:
        sys.exit(f"The gateway cannot start: {error}")
    logs.set_up(settings.log_format)
    _check_redis(settings)
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
