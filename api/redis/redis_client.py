"""The gateway's clients of Redis: redis-py's, with a connection that also reports its end under uvloop."""

import errno
from collections.abc import Iterable
from typing import Any

import redis.asyncio as redis
from redis.asyncio import sentinel
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from api.settings import ApiSettings
from contract import redis_clients

_MAX_CONNECTIONS = 10_000  # as many as Redis takes by default
_CONNECT_S = 2.0
_ANSWER_S = 3.0
BLOCK_S = 5  # how long a command on a blocking client waits for something to come


class _ReportsItsEnd:
    """Writing to a connection that was reset meanwhile raises OSError in asyncio, but RuntimeError in uvloop.

    redis-py tries again for the former alone.
    """

    async def _send_packed_command(self, command: Iterable[bytes]) -> None:
        try:
            await super()._send_packed_command(command)  # type: ignore[misc]
        except RuntimeError as error:
            raise ConnectionResetError(errno.ECONNRESET, str(error)) from error


class _Plain(_ReportsItsEnd, redis.Connection):
    pass


class _Tls(_ReportsItsEnd, redis.SSLConnection):
    pass


class _Socket(_ReportsItsEnd, redis.UnixDomainSocketConnection):
    pass


class _OfSentinels(_ReportsItsEnd, sentinel.SentinelManagedConnection):
    pass


_CLASSES: dict[type[Any], type[Any]] = {
    redis.Connection: _Plain,
    redis.SSLConnection: _Tls,
    redis.UnixDomainSocketConnection: _Socket,
    sentinel.SentinelManagedConnection: _OfSentinels,
}


def redis_client(settings: ApiSettings, blocks_s: float = 0.0) -> redis.Redis:
    """blocks_s: how long a command may wait for something to come, beside the time that its answer takes."""
    client = redis_clients.async_client(
        settings.redis_url,
        # Every open stream holds one; beyond the client's default of 100 all requests would answer 503.
        max_connections=_MAX_CONNECTIONS,
        socket_connect_timeout=_CONNECT_S,
        socket_timeout=_ANSWER_S + blocks_s,
        health_check_interval=30,
        # A broken connection is tried again at once, one that swallows everything is not: callers must get the error
        # soon, and the client's own ten attempts take long.
        retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.2), 3, (redis.ConnectionError,)),
    )
    pool = client.connection_pool
    pool.connection_class = _CLASSES.get(pool.connection_class, pool.connection_class)
    return client
