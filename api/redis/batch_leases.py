"""Which gateway runs a batch, and how far it is: a lease in Redis, for storage has no clock that all gateways share."""

import secrets
from dataclasses import dataclass
from typing import Any, cast

import redis.asyncio as redis

from api.redis.idempotency import IdempotentRequest
from contract import wire

# A gateway renews its leases several times within this; the batches of a dead one go on elsewhere afterwards.
LEASE_S = 15
RENEW_S = 3.0

# KEYS: the batch. ARGV: holder, seconds. Answers 1 if the holder has it now.
_TAKE = """
local holder = redis.call('HGET', KEYS[1], 'holder')
if holder and holder ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'holder', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
"""
# One that has lapsed is not renewed: another gateway may have gone on with the batch, or have ended it. KEYS and ARGV
# as above, then the completed and the failed lines. Answers 1 if the holder still has it.
_RENEW = """
if redis.call('HGET', KEYS[1], 'holder') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'completed', ARGV[3], 'failed', ARGV[4])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
"""
_RELEASE = "if redis.call('HGET', KEYS[1], 'holder') == ARGV[1] then redis.call('DEL', KEYS[1]) end"


@dataclass(frozen=True)
class Counts:
    """Lines that have their answer."""

    completed: int
    failed: int


class BatchLeases:
    """Of this gateway. Raises redis.RedisError when Redis is away."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._holder = secrets.token_hex(8)

    async def take(self, batch_id: str) -> bool:
        """Whether this gateway has the lease now."""
        return bool(await cast(Any, self._redis.eval(_TAKE, 1, wire.batch(batch_id), self._holder, LEASE_S)))

    async def renew(self, batch_id: str, counts: Counts) -> bool:
        """Renew a lease that was taken, and tell how far the batch is. Whether this gateway still has it."""
        arguments = self._holder, LEASE_S, counts.completed, counts.failed
        return bool(await cast(Any, self._redis.eval(_RENEW, 1, wire.batch(batch_id), *arguments)))

    async def first(self, idempotent: IdempotentRequest, batch_id: str, ttl_s: int) -> str:
        """The id of the batch that the request makes: this one, unless it came before.

        Raises Problem if another request came with its key.
        """
        mine = f"{batch_id} {idempotent.fingerprint}"
        made = await self._redis.set(idempotent.redis_key, mine, nx=True, get=True, ex=ttl_s)
        return batch_id if made is None else idempotent.job_of(made.decode() if isinstance(made, bytes) else str(made))

    async def release(self, batch_id: str) -> None:
        await cast(Any, self._redis.eval(_RELEASE, 1, wire.batch(batch_id), self._holder))

    async def counts(self, batch_id: str) -> Counts | None:
        """None where no gateway runs it."""
        found = await cast(Any, self._redis.hmget(wire.batch(batch_id), "completed", "failed"))
        return None if None in found else Counts(int(found[0]), int(found[1]))
