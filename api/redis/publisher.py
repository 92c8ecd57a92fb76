"""Jobs onto the Celery queue: admitted together, and several to a message, where several wait.

A round trip to Redis costs the gateway, and a Celery message costs the worker, some milliseconds whatever is in it, so
small jobs that arrive together share them. They stay jobs of their own: each has its id, deadline, cancellation and
outcome. While the gateway is idle a job leaves at once; where another left less than `api_coalesce_ms` ago, it waits
that long for company.

One script admits and queues, so nothing counts against the limits that is not on the queue. A job's JSON goes into its
record; messages hold ids alone, so whoever finds a job without a worker can queue it again (contract/wire.py).
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import redis.asyncio as redis

from api import metrics
from api.redis.idempotency import Once
from api.settings import ApiSettings
from contract import wire
from contract.jobs import AnyJob

log = logging.getLogger(__name__)

_MAX_BATCH = 256  # jobs admitted in one round trip
# A message stays small enough that one worker does not take what several could share.
_MAX_JOBS = 32
_MAX_TEXTS = 64  # unless one job alone has more


# KEYS: open, load, the two queues, the two sets of waiting jobs, then each job's record. ARGV: the two limits, the two
# sizes of a message, how long keys of idempotency are kept, then twelve values of each job: see `arguments`.
# Answers for each job {0 or 1, texts, bytes}: whether it is admitted, and what was queued before it; or {2, what its
# key of idempotency made before}. Then the number of jobs in each message. A job that an attempt whose answer was lost
# has admitted is not counted again.
_ADMIT = (
    wire.LUA_MESSAGES
    + """
local texts = tonumber(redis.call('HGET', KEYS[2], 'texts') or '0')
local bytes = tonumber(redis.call('HGET', KEYS[2], 'bytes') or '0')
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local answers, sizes = {}, {}
local messages = {{texts = 0}, {texts = 0}}
local function full(number)
  local message = messages[number]
  send(KEYS[2 + number], message, message[1], 'LPUSH')
  sizes[#sizes + 1] = #message
  messages[number] = {texts = 0}
end
for number = 1, #KEYS - 6 do
  local at = 5 + 12 * (number - 1)
  local id, more_texts, more_bytes = ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local fits = texts + more_texts <= tonumber(ARGV[1]) and bytes + more_bytes <= tonumber(ARGV[2])
  local once, before = ARGV[at + 11], false
  if once ~= '' then before = redis.call('GET', once) end
  if before and string.match(before, '^%S+') ~= id then
    answers[number] = {2, before}
  else
    answers[number] = {(fits or before) and 1 or 0, texts, bytes}
  end
  if fits and not before and redis.call('HSETNX', KEYS[1], id, more_texts .. ':' .. more_bytes) == 1 then
    local queue = tonumber(ARGV[at + 9])
    redis.call('HINCRBY', KEYS[2], 'texts', more_texts)
    redis.call('HINCRBY', KEYS[2], 'bytes', more_bytes)
    redis.call('HSET', KEYS[number + 6], 'state', 'queued', 'created', now, 'kind', ARGV[at + 4],
      'encoding', ARGV[at + 5], 'abandon', ARGV[at + 6], 'body', ARGV[at + 7], 'priority', ARGV[at + 8],
      'timeout_s', ARGV[at + 10])
    if once ~= '' then redis.call('SET', once, id .. ' ' .. ARGV[at + 12], 'EX', ARGV[5]) end
    redis.call('ZADD', KEYS[4 + queue], now, id)
    texts, bytes = texts + more_texts, bytes + more_bytes
    local waiting = messages[queue]
    if #waiting == tonumber(ARGV[3]) or #waiting > 0 and waiting.texts + more_texts > tonumber(ARGV[4]) then
      full(queue)
    end
    local message = messages[queue]
    message[#message + 1] = id
    message.texts = message.texts + more_texts
  end
end
for number, message in ipairs(messages) do if #message > 0 then full(number) end end
return {answers, sizes}
"""
)


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
    once: Once | None
    queued: "asyncio.Future[str | None]"

    def arguments(self) -> tuple[str | int | float, ...]:
        job = self.job
        return (
            job.id,
            self.texts,
            self.size,
            job.kind,
            self.encoding,
            int(self.abandon),
            job.model_dump_json(),
            job.priority,
            1 + list(wire.QUEUES).index(job.priority),
            job.timeout_s,
            self.once.name if self.once else "",
            self.once.fingerprint if self.once else "",
        )


class Publisher:
    """One loop sends; `publish` returns when that is done, or raises QueueFull or redis.RedisError."""

    def __init__(self, settings: ApiSettings, client: redis.Redis) -> None:
        self._settings = settings
        self._redis = client
        self._waiting: list[Submission] = []
        self._arrived = asyncio.Event()

    async def publish(
        self, job: AnyJob, texts: int, size: int, encoding: str, abandon: bool, once: Once | None = None
    ) -> str | None:
        """Queue the job, and return None; or return what `once` has made before, and queue nothing."""
        queued: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        submission = Submission(job, texts, size, encoding, abandon, once, queued)
        self._waiting.append(submission)
        self._arrived.set()
        try:
            return await queued
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
                await self._send(batch)
            except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it and the loop must go on
                log.warning("%d jobs could not be queued: %s", len(batch), error)
                failure = error if isinstance(error, redis.RedisError) else redis.ConnectionError(str(error))
                for submission in batch:
                    _settle(submission, failure)
            left_at = time.monotonic()

    async def _send(self, batch: Sequence[Submission]) -> None:
        """Queue those of the batch that fit the limits; the others hear that they do not."""
        settings = self._settings
        records = [wire.job(submission.job.id) for submission in batch]
        keys = [wire.OPEN, wire.LOAD, *wire.QUEUES.values(), *wire.WAITING.values(), *records]
        limits = settings.api_max_queued_texts, settings.api_max_queued_bytes, _MAX_JOBS, _MAX_TEXTS
        ttl_s = settings.api_idempotency_ttl_s
        jobs = [value for submission in batch for value in submission.arguments()]
        answers, sizes = await cast(Any, self._redis.eval(_ADMIT, len(keys), *keys, *limits, ttl_s, *jobs))
        for size in sizes:
            metrics.MESSAGE_JOBS.observe(size)
        for submission, (verdict, *told) in zip(batch, answers, strict=True):
            match verdict:
                case 0:
                    _settle(submission, QueueFull(*told))
                case 1:
                    _settle(submission, None)
                case _:
                    _settle(submission, told[0].decode())


def _settle(submission: Submission, answer: str | Exception | None) -> None:
    """Tell who still waits; who has an answer keeps it."""
    if submission.queued.done():
        return
    if isinstance(answer, Exception):
        submission.queued.set_exception(answer)
    else:
        submission.queued.set_result(answer)
