"""Jobs onto the Celery queue: admitted together, and several to a message, where several wait.

A round trip to Redis costs the gateway, and a Celery message costs the worker, some milliseconds whatever it holds, so
small jobs that arrive together share them. Each stays a job of its own, with its id, deadline, cancellation and
outcome. While the gateway is idle a job leaves at once; where another left less than `api_coalesce_ms` ago, it waits
that long for others: the batching delay.
"""

import asyncio
import contextlib
import logging
import math
import time

import redis.asyncio as redis

from api import metrics
from api.redis.submissions import Submission, admit
from api.settings import ApiSettings

log = logging.getLogger(__name__)

_MAX_BATCH = 256  # jobs admitted in one round trip


class Publisher:
    """One loop sends; `publish` returns when that is done, or raises QueueFull or redis.RedisError."""

    def __init__(self, settings: ApiSettings, client: redis.Redis) -> None:
        self._settings = settings
        self._redis = client
        self._waiting: list[Submission] = []
        self._arrived = asyncio.Event()

    async def publish(self, submission: Submission) -> str | None:
        """Queue the job and return None; or queue nothing and return what an earlier such request made."""
        self._waiting.append(submission)
        self._arrived.set()
        try:
            return await submission.queued
        except asyncio.CancelledError:
            with contextlib.suppress(ValueError):  # it may have left already; then it ends like any other
                self._waiting.remove(submission)
            raise

    async def run(self) -> None:
        """The loop. It does not end by itself."""
        left_at, batching_delay_s = -math.inf, self._settings.api_coalesce_ms / 1000
        while True:
            await self._arrived.wait()
            if time.monotonic() - left_at < batching_delay_s:
                await asyncio.sleep(batching_delay_s)
            batch, self._waiting = self._waiting[:_MAX_BATCH], self._waiting[_MAX_BATCH:]
            if not self._waiting:
                self._arrived.clear()
            if not batch:
                continue
            try:
                for size in await admit(self._redis, self._settings, batch):
                    metrics.MESSAGE_JOBS.observe(size)
            except Exception as error:  # noqa: BLE001 - whatever it is, callers must get it and the loop must continue
                log.warning("%d jobs could not be queued: %s", len(batch), error)
                failure = error if isinstance(error, redis.RedisError) else redis.ConnectionError(str(error))
                for submission in batch:
                    submission.settle(failure)
            left_at = time.monotonic()
