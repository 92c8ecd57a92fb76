"""Clients of the Redis that `NEURON_REDIS_URL` names, also of the one that its Sentinels name."""

import logging
import ssl
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from pydantic_core import MultiHostUrl
from redis.backoff import NoBackoff
from redis.retry import Retry

from contract.redis_url import RedisUrl, master, master_options, of_client, sentinel_hosts, sentinel_options
from contract.setting_error import SettingError

log = logging.getLogger(__name__)


def client(url: RedisUrl, **options: Any) -> redis.Redis:
    """options: those of redis-py."""
    if not isinstance(url, MultiHostUrl):
        return redis.Redis.from_url(of_client(url), **options)
    sentinels: Any = redis.sentinel.Sentinel
    watching = sentinels(sentinel_hosts(url), sentinel_kwargs=sentinel_options(url, options))
    found: redis.Redis = watching.master_for(master(url), **master_options(url), **options)
    return found


def async_client(url: RedisUrl, **options: Any) -> redis.asyncio.Redis:
    """As `client`, for asyncio."""
    if not isinstance(url, MultiHostUrl):
        return redis.asyncio.Redis.from_url(of_client(url), **options)
    sentinels: Any = redis.asyncio.sentinel.Sentinel  # neither has types
    watching = sentinels(sentinel_hosts(url), sentinel_kwargs=sentinel_options(url, options))
    found: redis.asyncio.Redis = watching.master_for(master(url), **master_options(url), **options)
    return found


def check(url: RedisUrl) -> None:
    """Raise SettingError if Redis refuses this process, which does not pass. If it is away, only warn: it may come."""
    options: dict[str, Any] = {"socket_connect_timeout": 2, "socket_timeout": 10, "retry": Retry(NoBackoff(), 0)}
    try:
        with client(url, **options) as asked:
            asked.ping()
    except redis.RedisError as error:
        refused = isinstance(error, redis.AuthenticationError | redis.exceptions.NoPermissionError)
        if refused or isinstance(error.__context__, ssl.SSLCertVerificationError):
            raise SettingError(f"NEURON_REDIS_URL: {error}") from error
        log.warning("Redis: %s", error)
