"""Jobs onto the Celery queue: admitted together, and several to a message, where several wait.

A round trip to Redis costs the gateway, and a Celery message costs both ends, some milliseconds whatever is in it, so
small jobs that arrive together share them. They stay jobs of their own: each has its id, deadline, cancellation and
outcome. While the gateway is idle a job leaves at once; where another left less than `api_coalesce_ms` ago, it waits
that long for company.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import redis.asyncio as redis
from celery import Celery

from api import metrics
from api.settings import ApiSettings
from contract import wire
from contract.jobs import AnyJob

log = logging.getLogger(__name__)

_MAX_BATCH = 256  # jobs admitted in one round trip
# A message stays small enough that one worker does not take what several could share.
_MAX_JOBS = 32
_MAX_TEXTS = 64  # unless one job alone has more

# KEYS: open, load, then each job's record. ARGV: the two limits, the time, then six values of each job.
# Answers for each job whether it is admitted, and the texts and bytes that were queued before it.
_ADMIT = """
local texts = tonumber(redis.call('HGET', KEYS[2], 'texts') or '0')
local bytes = tonumber(redis.call('HGET', KEYS[2], 'bytes') or '0')
local answers = {}
for number = 1, #KEYS - 2 do
  local at = 3 + 6 * (number - 1)
  local more_texts, more_bytes = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local fits = texts + more_texts <= tonumber(ARGV[1]) and bytes + more_bytes <= tonumber(ARGV[2])
  answers[number] = {fits and 1 or 0, texts, bytes}
  if fits then
    redis.call('HSET', KEYS[1], ARGV[at + 1], ARGV[at + 2] .. ':' .. ARGV[at + 3])
    redis.call('HINCRBY', KEYS[2], 'texts', ARGV[at + 2])
    redis.call('HINCRBY', KEYS[2], 'bytes', ARGV[at + 3])
    redis.call('HSET', KEYS[number + 2], 'state', 'queued', 'created', ARGV[3],
      'kind', ARGV[at + 4], 'encoding', ARGV[at + 5], 'abandon', ARGV[at + 6])
    texts, bytes = texts + more_texts, bytes + more_bytes
  end
end
return answers
"""

_WITHDRAW = """
if redis.call('HDEL', KEYS[1], ARGV[1]) == 1 then
  redis.call('HINCRBY', KEYS[2], 'texts', -tonumber(ARGV[2]))
  redis.call('HINCRBY', KEYS[2], 'bytes', -tonumber(ARGV[3]))
end
redis.call('DEL', KEYS[3])
"""


class QueueFull(Exception):
    """The job would pass a limit. texts, size: what is queued."""

    def __init__(self, texts: int, size: int) -> None:
        super().__init__(f"{texts} texts of {size} bytes are queued")
        self.texts = texts
        self.size = size


@dataclass(frozen=True)
class Submission:
    """A job on its way. texts, size (bytes to read or generate): what it counts against the limits."""

    job: AnyJob
    texts: int
    size: int
    encoding: str
    abandon: bool  # cancel it when nobody reads its stream any more
    queued: "asyncio.Future[None]"

    def arguments(self) -> tuple[str | int, ...]:
        return self.job.id, self.texts, self.size, self.job.kind, self.encoding, int(self.abandon)


class Publisher:
    """One loop sends; `publish` returns when the job is on the queue, or raises QueueFull or redis.RedisError."""

    def __init__(self, settings: ApiSettings, client: redis.Redis) -> None:
        self._settings = settings
        self._redis = client
        self._celery = Celery("neuron", broker=str(settings.redis_url))
        self._celery.conf.update(wire.celery_settings())
        self._waiting: list[Submission] = []
        self._arrived = asyncio.Event()

    async def publish(self, job: AnyJob, texts: int, size: int, encoding: str, abandon: bool) -> None:
        queued = asyncio.get_running_loop().create_future()
        submission = Submission(job, texts, size, encoding, abandon, queued)
        self._waiting.append(submission)
        self._arrived.set()
        try:
            await queued
        except asyncio.CancelledError:
            with contextlib.suppress(ValueError):  # it may have left already; then it ends like any other
                self._waiting.remove(submission)
            raise

    async def run(self) -> None:
        left_at, coalesce_s = -math.inf, self._settings.api_coalesce_ms / 1000
        while True:
            await self._arrived.wait()
            if time.monotonic() - left_at < coalesce_s:
                await asyncio.sleep(coalesce_s)
            batch, self._waiting = self._waiting[:_MAX_BATCH], self._waiting[_MAX_BATCH:]
            if not self._waiting:
                self._arrived.clear()
            if not batch:
                continue
            try:
                admitted = await self._admit(batch)
                await self._send(admitted)
            except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it and the loop must go on
                log.warning("%d jobs could not be queued: %s", len(batch), error)
                failure = error if isinstance(error, redis.RedisError) else redis.ConnectionError(str(error))
                _settle(batch, failure)
            left_at = time.monotonic()

    def close(self) -> None:
        self._celery.close()

    async def _admit(self, batch: list[Submission]) -> list[Submission]:
        """Those of the batch that fit the limits; the others hear that they do not."""
        keys = [wire.OPEN, wire.LOAD, *(wire.job(submission.job.id) for submission in batch)]
        limits = [self._settings.api_max_queued_texts, self._settings.api_max_queued_bytes, time.time()]
        arguments = [value for submission in batch for value in submission.arguments()]
        answers = await cast(Any, self._redis.eval(_ADMIT, len(keys), *keys, *limits, *arguments))
        admitted = []
        for submission, (fits, texts, size) in zip(batch, answers, strict=True):
            if fits:
                admitted.append(submission)
            else:
                _settle([submission], QueueFull(texts, size))
        return admitted

    async def _send(self, admitted: list[Submission]) -> None:
        messages = list(_messages(admitted))
        bodies = [[submission.job.model_dump(mode="json") for submission in message] for message in messages]
        sent, error = await asyncio.to_thread(self._send_messages, bodies)
        for message in messages[:sent]:
            metrics.MESSAGE_JOBS.observe(len(message))
            _settle(message)
        if error is not None:
            left = [submission for message in messages[sent:] for submission in message]
            await self._withdraw(left)
            raise redis.ConnectionError(f"the job could not be queued: {error}") from error

    def _send_messages(self, bodies: list[list[dict[str, Any]]]) -> tuple[int, Exception | None]:
        """How many of the messages are on the queue, and what went wrong with the next."""
        for sent, body in enumerate(bodies):
            try:
                self._celery.send_task(wire.TASK, args=[body], queue=wire.QUEUE, retry=False)
            except Exception as error:  # noqa: BLE001 - Celery, Kombu and the Redis client have no common one
                return sent, error
        return len(bodies), None

    async def _withdraw(self, submissions: list[Submission]) -> None:
        for submission in submissions:
            keys = wire.OPEN, wire.LOAD, wire.job(submission.job.id)
            await cast(Any, self._redis.eval(_WITHDRAW, len(keys), *keys, *submission.arguments()[:3]))


def _messages(submissions: Sequence[Submission]) -> Iterator[list[Submission]]:
    """Submissions in their order, as they share messages."""
    message: list[Submission] = []
    texts = 0
    for submission in submissions:
        if message and (len(message) == _MAX_JOBS or texts + submission.texts > _MAX_TEXTS):
            yield message
            message, texts = [], 0
        message.append(submission)
        texts += submission.texts
    if message:
        yield message


def _settle(submissions: Sequence[Submission], error: Exception | None = None) -> None:
    """Tell those who still wait; who has an answer keeps it."""
    for submission in submissions:
        if submission.queued.done():
            continue
        if error is None:
            submission.queued.set_result(None)
        else:
            submission.queued.set_exception(error)
