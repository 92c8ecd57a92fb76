"""Clients of the Redis that `NEURON_REDIS_URL` names, also of the one that its Sentinels name."""

from typing import Any

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from pydantic_core import MultiHostUrl

from contract.redis_url import RedisUrl, master, master_options, of_client, sentinel_hosts, sentinel_options


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
