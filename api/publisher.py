"""Jobs onto the Celery queue, several to a message where several wait.

One Celery message costs a worker some milliseconds whatever is in it, so small jobs that arrive together share one.
They stay jobs of their own: each has its id, deadline, cancellation and outcome. While the gateway is idle a job
leaves at once; where another left less than `api_coalesce_ms` ago, it waits that long for company.
"""

import asyncio
import contextlib
import logging
import math
import time
from dataclasses import dataclass
from typing import Any

import redis.asyncio as redis
from celery import Celery

from api import metrics
from api.settings import ApiSettings
from contract import wire
from contract.jobs import AnyJob

log = logging.getLogger(__name__)

# A message stays small enough that one worker does not take what several could share.
_MAX_JOBS = 32


@dataclass
class _Waiting:
    message: dict[str, Any]
    sent: "asyncio.Future[None]"


class Publisher:
    """One loop sends; `publish` returns when the job is on the queue, or raises redis.ConnectionError."""

    def __init__(self, settings: ApiSettings) -> None:
        self._celery = Celery("neuron", broker=str(settings.redis_url))
        self._celery.conf.update(wire.celery_settings())
        self._coalesce_s = settings.api_coalesce_ms / 1000
        self._waiting: list[_Waiting] = []
        self._arrived = asyncio.Event()

    async def publish(self, job: AnyJob) -> None:
        waiting = _Waiting(job.model_dump(mode="json"), asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._arrived.set()
        try:
            await waiting.sent
        except asyncio.CancelledError:
            with contextlib.suppress(ValueError):
                self._waiting.remove(waiting)
            raise

    async def run(self) -> None:
        left_at = -math.inf
        while True:
            await self._arrived.wait()
            if time.monotonic() - left_at < self._coalesce_s:
                await asyncio.sleep(self._coalesce_s)
            batch, self._waiting = self._waiting[:_MAX_JOBS], self._waiting[_MAX_JOBS:]
            if not self._waiting:
                self._arrived.clear()
            if not batch:
                continue
            error: Exception | None = None
            try:
                await asyncio.to_thread(self._send, [waiting.message for waiting in batch])
            except Exception as failure:  # noqa: BLE001 - whatever it is, those who wait must hear of it and the loop must go on
                log.warning("%d jobs could not be queued: %s", len(batch), failure)
                error = redis.ConnectionError(f"the job could not be queued: {failure}")
            metrics.MESSAGE_JOBS.observe(len(batch))
            for waiting in batch:
                if waiting.sent.done():
                    continue
                if error is None:
                    waiting.sent.set_result(None)
                else:
                    waiting.sent.set_exception(error)
            left_at = time.monotonic()

    def close(self) -> None:
        self._celery.close()

    def _send(self, messages: list[dict[str, Any]]) -> None:
        self._celery.send_task(wire.TASK, args=[messages], queue=wire.QUEUE, retry=False)
