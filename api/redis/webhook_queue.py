"""Ended jobs that wait to be posted, for the gateways of one Redis: each post is one gateway's, and one at a time."""

from dataclasses import dataclass
from typing import Any, cast

import redis.asyncio as redis

from contract import lua, wire

# For so long a gateway has a post to itself: longer than one takes.
_CLAIM_S = 60

# KEYS: the waiting ones. ARGV: how keys of records begin, the most to take, the length of a claim. Answers id, webhook
# and number of the attempt of each. What has no webhook any more has expired, or was posted.
_TAKE = (
    lua.NOW
    + """
local taken = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2])) do
  local webhook = redis.call('HGET', ARGV[1] .. id, 'webhook')
  if webhook then
    redis.call('ZADD', KEYS[1], now + ARGV[3], id)
    taken[#taken + 1] = {id, webhook, redis.call('HINCRBY', ARGV[1] .. id, 'posts', 1)}
  else
    redis.call('ZREM', KEYS[1], id)
  end
end
return taken
"""
)
# KEYS: the waiting ones, the record. ARGV: the job, seconds, attempts so far.
_LATER = (
    lua.NOW
    + """
redis.call('ZADD', KEYS[1], 'XX', now + ARGV[2], ARGV[1])
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('HSET', KEYS[2], 'posts', ARGV[3]) end
"""
)


@dataclass(frozen=True)
class Post:
    """An ended job that is to be posted now. webhook: as the admission kept it. attempt: from 1 on."""

    job_id: str
    webhook: bytes
    attempt: int


class WebhookQueue:
    """Raises redis.RedisError when Redis is away."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    async def take(self, at_most: int) -> list[Post]:
        """Those that are due. Each must be ended by `done` or `later`; otherwise it comes again after a while."""
        arguments = wire.job(""), at_most, _CLAIM_S
        taken = await cast(Any, self._redis.eval(_TAKE, 1, wire.WEBHOOKS, *arguments)) if at_most else []
        return [Post(job_id.decode(), webhook, attempt) for job_id, webhook, attempt in taken]

    async def later(self, post: Post, after_s: float, tried: bool = True) -> None:
        """tried: it was an attempt."""
        keys = wire.WEBHOOKS, wire.job(post.job_id)
        attempts = post.attempt if tried else post.attempt - 1
        await cast(Any, self._redis.eval(_LATER, len(keys), *keys, post.job_id, after_s, attempts))

    async def done(self, job_id: str) -> None:
        """It was posted, or is given up."""
        async with self._redis.pipeline() as pipeline:
            pipeline.hdel(wire.job(job_id), "webhook", "posts")
            pipeline.zrem(wire.WEBHOOKS, job_id)
            await pipeline.execute()
