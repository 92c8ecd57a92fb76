"""What serves the jobs: workers, their models, fitted heads, and the metrics of what all gateways share."""

import logging
import math
import time
from typing import Any, TypeVar, cast

import redis.asyncio as redis
from pydantic import ValidationError

from api import metrics
from contract import wire
from contract.jobs import HeadInfo, Message, ModelInfo, WorkerStatus

log = logging.getLogger(__name__)

_Record = TypeVar("_Record", bound=Message)


class Fleet:
    """Raises redis.RedisError when Redis is away."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._lately: tuple[float, list[ModelInfo]] = (-math.inf, [])

    async def workers(self) -> list[WorkerStatus]:
        """The workers that sent a heartbeat lately."""
        ids = sorted(member.decode() for member in await cast(Any, self._redis.smembers(wire.WORKERS)))
        if not ids:
            return []
        found = dict(zip(ids, await self._redis.mget([wire.worker(worker_id) for worker_id in ids]), strict=True))
        gone = [worker_id for worker_id, raw in found.items() if raw is None]
        if gone:
            await cast(Any, self._redis.srem(wire.WORKERS, *gone))
        read = [
            _readable(WorkerStatus, "worker", worker_id, raw) for worker_id, raw in found.items() if raw is not None
        ]
        return [status for status in read if status is not None]

    async def models(self) -> list[ModelInfo]:
        """The models that workers serve."""
        return [worker.model for worker in await self.workers() if worker.model is not None]

    async def models_lately(self) -> list[ModelInfo]:
        """As `models`, of now or a second ago."""
        asked_at, found = self._lately
        if not found or time.monotonic() - asked_at > wire.HEARTBEAT_INTERVAL_S:
            found = await self.models()
            self._lately = time.monotonic(), found
        return found

    async def heads(self) -> dict[str, HeadInfo]:
        """The heads that users fitted, by name, in the order of their names."""
        found: dict[bytes, bytes] = await cast(Any, self._redis.hgetall(wire.HEADS))
        read = {name.decode(): _readable(HeadInfo, "head", name.decode(), raw) for name, raw in sorted(found.items())}
        return {name: head for name, head in read.items() if head is not None}

    async def head(self, name: str) -> HeadInfo | None:
        """None where no such head was fitted, and where its record cannot be read."""
        raw: bytes | None = await cast(Any, self._redis.hget(wire.HEADS, name))
        return None if raw is None else _readable(HeadInfo, "head", name, raw)

    async def has_head(self, name: str) -> bool:
        """Whether a head of that name was fitted, even if its record cannot be read."""
        return bool(await cast(Any, self._redis.hexists(wire.HEADS, name)))

    async def observe(self) -> None:
        """Set the metrics of what all gateways share. Does not raise: that Redis is away is one of them."""
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                pipeline.time()
                pipeline.hgetall(wire.LOAD)
                pipeline.llen(wire.DEAD)
                for waiting in wire.WAITING.values():
                    pipeline.zcard(waiting)
                    pipeline.zrange(waiting, 0, 0, withscores=True)
                (seconds, microseconds), load, dead, *queues = await pipeline.execute()
            workers = await self.workers()
        except redis.RedisError:
            metrics.REDIS_UP.set(0)
            metrics.WORKERS_READY.set(0)
            return
        metrics.REDIS_UP.set(1)
        metrics.WORKERS_READY.set(sum(worker.ready for worker in workers))
        metrics.OPEN_TEXTS.set(int(load.get(b"texts", 0)))
        metrics.OPEN_BYTES.set(int(load.get(b"bytes", 0)))
        metrics.DEAD_JOBS.set(dead)
        for name, count, oldest in zip(wire.WAITING, queues[::2], queues[1::2], strict=True):
            age_s = seconds + microseconds / 1e6 - oldest[0][1] if oldest else 0.0
            metrics.QUEUE_JOBS.labels(name).set(count)
            metrics.QUEUE_AGE.labels(name).set(max(0.0, age_s))


def _readable(record: type[_Record], kind: str, name: str, raw: bytes | str) -> _Record | None:
    """None where it is of another version, or damaged: it must not hide those that can be read."""
    try:
        return record.model_validate_json(raw)
    except ValidationError as error:
        metrics.UNREADABLE.labels(kind).inc()
        log.warning("the record of %s %s in Redis cannot be read and is left out: %s", kind, name, error)
        return None
