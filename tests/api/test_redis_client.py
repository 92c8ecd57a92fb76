"""A connection to Redis that was reset is opened again, under uvloop as under asyncio."""

import asyncio

import pytest
import uvloop

from api.redis.redis_client import redis_client
from api.settings import ApiSettings


@pytest.mark.parametrize("loop_factory", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def test_a_connection_that_was_reset_is_opened_again(loop_factory: object, redis_url: str) -> None:
    async def ask() -> None:
        client = redis_client(ApiSettings(redis_url=redis_url))
        assert await client.ping()
        [connection] = client.connection_pool._available_connections
        connection._writer.transport.abort()
        await asyncio.sleep(0.05)
        await client.set("key", "value")
        assert await client.get("key") == b"value"
        await client.aclose()

    with asyncio.Runner(loop_factory=loop_factory) as runner:  # type: ignore[arg-type]
        runner.run(ask())
