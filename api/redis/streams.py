"""Streams of events: reading one, counting its readers, and cancelling a job whose last reader has left."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any, cast

import redis.asyncio as redis

from api import metrics
from api.redis.records import Records
from api.redis.redis_client import BLOCK_S
from contract import wire

log = logging.getLogger(__name__)

# KEYS: the record. ARGV: readers more, or fewer. Answers how many there are. A job that Redis has lost gets no record,
# which would stay for ever.
_COUNT = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
return redis.call('HINCRBY', KEYS[1], 'readers', ARGV[1])
"""


class Streams:
    """Raises redis.RedisError when Redis is away."""

    def __init__(self, client: redis.Redis, blocking: redis.Redis, records: Records, grace_s: float) -> None:
        """grace_s: how long after its last reader has left a job that nobody else wants is cancelled."""
        self._redis = client
        self._blocking = blocking
        self._records = records
        self._grace_s = grace_s
        self._partings: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        for parting in self._partings:
            parting.cancel()
        await asyncio.gather(*self._partings, return_exceptions=True)

    async def events(self, job_id: str, after: str) -> AsyncGenerator[tuple[str, str, str] | None]:
        """(id, event, data) of the job's stream after the id `after`; None now and then while nothing comes.

        Counts as a reader of the job as long as it is iterated. When the last reader of a job marked `abandon`
        leaves, the job is cancelled after the grace period.
        """
        metrics.STREAMS.inc()
        # A task of its own, which who leaves at once does not cut short: what he adds is what he takes away.
        joining = asyncio.create_task(self._count(job_id, 1))
        ended = False
        try:
            await asyncio.shield(joining)
            while not ended:
                answer = await cast(
                    Any, self._blocking.xread({wire.events(job_id): after}, count=256, block=BLOCK_S * 1000)
                )
                if not answer:
                    yield None
                for _, entries in answer:
                    for entry, fields in entries:
                        after, event = entry.decode(), fields[b"event"].decode()
                        ended = event != "token"
                        yield after, event, fields[b"data"].decode()
        finally:
            metrics.STREAMS.dec()
            # A task of its own: this generator may be closing because its request was cancelled.
            parting = asyncio.create_task(self._part(job_id, joining, ended))
            self._partings.add(parting)
            parting.add_done_callback(self._partings.discard)

    async def has_events(self, job_id: str) -> bool:
        return bool(await self._redis.exists(wire.events(job_id)))

    async def _count(self, job_id: str, change: int) -> int:
        """The number of the job's readers after the change."""
        return int(await cast(Any, self._redis.eval(_COUNT, 1, wire.job(job_id), change)))

    async def _part(self, job_id: str, joining: "asyncio.Task[int]", ended: bool) -> None:
        """A reader has left. Whether the job is now abandoned is decided after the grace period."""
        try:
            await joining
            readers = await self._count(job_id, -1)
            if ended or readers > 0:
                return
            await asyncio.sleep(self._grace_s)
            abandon, state, readers = await cast(
                Any, self._redis.hmget(wire.job(job_id), ["abandon", "state", "readers"])
            )
            if abandon == b"1" and state in (b"queued", b"running") and int(readers) <= 0:
                await self._records.cancel(job_id, "disconnect")
        except redis.RedisError as error:
            metrics.LISTENER_ERRORS.inc()
            log.warning("a reader's leaving could not be noted: %s", error)
