"""Jobs onto the Celery queue: admitted together, and several to a message, where several wait.

A round trip to Redis costs the gateway, and a Celery message costs the worker, some milliseconds whatever is in it, so
small jobs that arrive together share them. They stay jobs of their own: each has its id, deadline, cancellation and
outcome. While the gateway is idle a job leaves at once; where another left less than `api_coalesce_ms` ago, it waits
that long for company.

One script admits and queues, so nothing counts against the limits that is not on the queue. It joins messages from
ready parts; they are what Celery (message protocol 2) over Kombu's Redis transport would have sent.
"""

import asyncio
import contextlib
import json
import logging
import math
import time
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import redis.asyncio as redis

from api import metrics
from api.settings import ApiSettings
from contract import wire
from contract.jobs import AnyJob

log = logging.getLogger(__name__)

_MAX_BATCH = 256  # jobs admitted in one round trip
# A message stays small enough that one worker does not take what several could share.
_MAX_JOBS = 32
_MAX_TEXTS = 64  # unless one job alone has more


def _padded(piece: bytes) -> bytes:
    """The piece of JSON in base64, so that pieces may be joined: spaces fill it up to whole groups of three bytes."""
    return b64encode(piece + b" " * (-len(piece) % 3))


# What a message has around its jobs; `@` stands for its id, which is that of its first job, and `#` for its queue.
_HEAD, _TAIL = (
    json.dumps(
        {
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"lang": "py", "task": wire.TASK, "id": "@", "root_id": "@", "argsrepr": "", "kwargsrepr": ""},
            "properties": {
                "correlation_id": "@",
                "delivery_tag": "@",
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": "#"},
                "priority": 0,
                "body_encoding": "base64",
            },
            "body": "JOBS",
        }
    )
    .encode()
    .split(b"JOBS")
)
# The body is [positional arguments, keyword arguments, options]; the task's one argument is the list of jobs.
_MESSAGE = _HEAD + _padded(b"[[["), _padded(b","), _padded(b"]],{},{}]") + _TAIL

# KEYS: open, load, the two queues, then each job's record. ARGV: the two limits, the two sizes of a message, the time,
# the three parts of a message, then eight values of each job, the last of which is the number of its queue.
# Answers for each job whether it is admitted, and the texts and bytes that were queued before it; then the number of
# jobs in each message. A job that an attempt whose answer was lost has admitted is not counted again.
_ADMIT = """
local texts = tonumber(redis.call('HGET', KEYS[2], 'texts') or '0')
local bytes = tonumber(redis.call('HGET', KEYS[2], 'bytes') or '0')
local answers, sizes = {}, {}
local messages = {{queue = KEYS[3], texts = 0}, {queue = KEYS[4], texts = 0}}
local function send(message)
  local head = string.gsub(string.gsub(ARGV[6], '@', message.id), '#', message.queue)
  redis.call('LPUSH', message.queue, head .. table.concat(message, ARGV[7]) .. ARGV[8])
  sizes[#sizes + 1] = #message
  for job = 1, #message do message[job] = nil end
  message.texts = 0
end
for number = 1, #KEYS - 4 do
  local at = 8 + 8 * (number - 1)
  local id, more_texts, more_bytes = ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local fits = texts + more_texts <= tonumber(ARGV[1]) and bytes + more_bytes <= tonumber(ARGV[2])
  answers[number] = {fits and 1 or 0, texts, bytes}
  if fits and redis.call('HSETNX', KEYS[1], id, more_texts .. ':' .. more_bytes) == 1 then
    redis.call('HINCRBY', KEYS[2], 'texts', more_texts)
    redis.call('HINCRBY', KEYS[2], 'bytes', more_bytes)
    redis.call('HSET', KEYS[number + 4], 'state', 'queued', 'created', ARGV[5],
      'kind', ARGV[at + 4], 'encoding', ARGV[at + 5], 'abandon', ARGV[at + 6])
    texts, bytes = texts + more_texts, bytes + more_bytes
    local message = messages[tonumber(ARGV[at + 8])]
    if #message == tonumber(ARGV[3]) or #message > 0 and message.texts + more_texts > tonumber(ARGV[4]) then
      send(message)
    end
    if #message == 0 then message.id = id end
    message[#message + 1] = ARGV[at + 7]
    message.texts = message.texts + more_texts
  end
end
for _, message in ipairs(messages) do if #message > 0 then send(message) end end
return {answers, sizes}
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

    def arguments(self) -> tuple[str | int | bytes, ...]:
        packed = _padded(self.job.model_dump_json().encode())
        queue = 1 + list(wire.QUEUES).index(self.job.priority)
        return self.job.id, self.texts, self.size, self.job.kind, self.encoding, int(self.abandon), packed, queue


class Publisher:
    """One loop sends; `publish` returns when the job is on the queue, or raises QueueFull or redis.RedisError."""

    def __init__(self, settings: ApiSettings, client: redis.Redis) -> None:
        self._settings = settings
        self._redis = client
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
                await self._send(batch)
            except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it and the loop must go on
                log.warning("%d jobs could not be queued: %s", len(batch), error)
                failure = error if isinstance(error, redis.RedisError) else redis.ConnectionError(str(error))
                _settle(batch, failure)
            left_at = time.monotonic()

    async def _send(self, batch: Sequence[Submission]) -> None:
        """Queue those of the batch that fit the limits; the others hear that they do not."""
        settings = self._settings
        keys = [wire.OPEN, wire.LOAD, *wire.QUEUES.values(), *(wire.job(submission.job.id) for submission in batch)]
        limits = settings.api_max_queued_texts, settings.api_max_queued_bytes, _MAX_JOBS, _MAX_TEXTS, time.time()
        jobs = [value for submission in batch for value in submission.arguments()]
        answers, sizes = await cast(Any, self._redis.eval(_ADMIT, len(keys), *keys, *limits, *_MESSAGE, *jobs))
        for size in sizes:
            metrics.MESSAGE_JOBS.observe(size)
        for submission, (fits, texts, size) in zip(batch, answers, strict=True):
            _settle([submission], None if fits else QueueFull(texts, size))


def _settle(submissions: Sequence[Submission], error: Exception | None = None) -> None:
    """Tell those who still wait; who has an answer keeps it."""
    for submission in submissions:
        if submission.queued.done():
            continue
        if error is None:
            submission.queued.set_result(None)
        else:
            submission.queued.set_exception(error)
