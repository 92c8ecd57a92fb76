"""The one script that admits jobs and queues them, so that nothing counts against the limits that is not on the queue.

A job's JSON goes into its record; messages hold ids alone, so whoever finds a job without a worker can queue it again
(`contract/wire.py`).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import redis.asyncio as redis

from api.redis.idempotency import IdempotentRequest
from api.schemas.form import AS_IT_IS, Form
from api.settings import ApiSettings
from contract import lua, wire
from contract.jobs import AnyJob

# A message stays small enough that one worker does not take what several could share.
_MAX_JOBS = 32
_MAX_TEXTS = 64  # unless one job alone has more

# KEYS: open, load, the two queues, the two sets of waiting jobs, then each job's record. ARGV: the two limits, the two
# sizes of a message, how long idempotency keys are kept, for how many jobs and how long a list of jobs is kept, then
# sixteen values of each job: see `Submission.arguments`.
# Answers for each job {0 or 1, texts, bytes}: whether it is admitted, and what was queued before it; or {2, what its
# idempotency key made before}. Then the number of jobs in each message. A job that an earlier attempt has admitted,
# whose answer was lost, is admitted, and neither counted nor queued again: it alone may fill the queue, or have ended.
_ADMIT = (
    lua.NOW
    + lua.MESSAGES
    + lua.COUNT_IN
    + """
local texts = tonumber(redis.call('HGET', KEYS[2], 'texts') or '0')
local bytes = tonumber(redis.call('HGET', KEYS[2], 'bytes') or '0')
local answers, sizes = {}, {}
local messages = {{texts = 0}, {texts = 0}}
local function full(number)
  local message = messages[number]
  send(KEYS[2 + number], message, message[1], 'LPUSH')
  sizes[#sizes + 1] = #message
  messages[number] = {texts = 0}
end
for number = 1, #KEYS - 6 do
  local at = 7 + 16 * (number - 1)
  local id, more_texts, more_bytes = ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local fits = texts + more_texts <= tonumber(ARGV[1]) and bytes + more_bytes <= tonumber(ARGV[2])
  -- A batch leaves half of the queue to requests that come alone.
  if ARGV[at + 15] == '1' then fits = fits and 2 * texts <= tonumber(ARGV[1]) and 2 * bytes <= tonumber(ARGV[2]) end
  local queue = tonumber(ARGV[at + 9])
  local again = redis.call('EXISTS', KEYS[number + 6]) == 1
  local idempotency, made = ARGV[at + 11], false
  if idempotency ~= '' then made = redis.call('GET', idempotency) end
  if made and string.match(made, '^%S+') ~= id then
    answers[number] = {2, made}
  else
    answers[number] = {(fits or again) and 1 or 0, texts, bytes}
  end
  local new = fits and not (made or again)
  if new and count_in(KEYS[1], KEYS[2], KEYS[4 + queue], id, more_texts, more_bytes, now) then
    redis.call('HSET', KEYS[number + 6], 'state', 'queued', 'created', now, 'kind', ARGV[at + 4],
      'encoding', ARGV[at + 5], 'abandon', ARGV[at + 6], 'body', ARGV[at + 7], 'priority', ARGV[at + 8],
      'timeout_s', ARGV[at + 10], 'bytes', more_bytes)
    if ARGV[at + 13] ~= '' then redis.call('HSET', KEYS[number + 6], 'skipped', ARGV[at + 13]) end
    if ARGV[at + 16] ~= '' then redis.call('HSET', KEYS[number + 6], 'webhook', ARGV[at + 16]) end
    if idempotency ~= '' then redis.call('SET', idempotency, id .. ' ' .. ARGV[at + 12], 'EX', ARGV[5]) end
    local list = ARGV[at + 14]
    if list ~= '' then
      redis.call('ZADD', list, now, id)
      redis.call('ZREMRANGEBYRANK', list, 0, -1 - ARGV[6])
      redis.call('EXPIRE', list, ARGV[7])
    end
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
    """The job would pass a limit. texts, size (bytes): what is queued."""

    def __init__(self, texts: int, size: int) -> None:
        super().__init__(f"{texts} texts of {size} bytes are queued")
        self.texts = texts
        self.size = size


def _future() -> "asyncio.Future[str | None]":
    return asyncio.get_running_loop().create_future()


@dataclass(eq=False)
class Submission:
    """A job on its way to the queue. texts, size (bytes to read or generate): what it counts against the limits."""

    job: AnyJob
    texts: int
    size: int
    form: Form = AS_IT_IS
    abandon: bool = False  # cancel it when its stream has no reader any more
    idempotent: IdempotentRequest | None = None
    listed_for: str | None = None  # the owner in whose list of jobs it stands
    webhook: str | None = None  # address and secret, as JSON
    batched: bool = False  # a line of a batch, for which half of the queue is full
    # None once it is queued, or what an earlier such request made.
    queued: "asyncio.Future[str | None]" = field(default_factory=_future)

    def arguments(self) -> tuple[str | int | float, ...]:
        """The values of this job in ARGV of the script."""
        job = self.job
        return (
            job.id,
            self.texts,
            self.size,
            job.kind,
            self.form.encoding,
            int(self.abandon),
            job.model_dump_json(),
            job.priority,
            1 + list(wire.QUEUES).index(job.priority),
            job.timeout_s,
            self.idempotent.redis_key if self.idempotent else "",
            self.idempotent.fingerprint if self.idempotent else "",
            self.form.skipped_json(),
            "" if self.listed_for is None else wire.jobs_of(self.listed_for),
            int(self.batched),
            self.webhook or "",
        )

    def settle(self, answer: str | Exception | None) -> None:
        """Answer the caller, unless it has left or has an answer already."""
        if self.queued.done():
            return
        if isinstance(answer, Exception):
            self.queued.set_exception(answer)
        else:
            self.queued.set_result(answer)


async def admit(client: redis.Redis, settings: ApiSettings, batch: Sequence[Submission]) -> list[int]:
    """Queue the jobs that fit the limits, and settle every submission. Returns the number of jobs in each message."""
    records = [wire.job(submission.job.id) for submission in batch]
    keys = [wire.OPEN, wire.LOAD, *wire.QUEUES.values(), *wire.WAITING.values(), *records]
    limits = settings.api_max_queued_texts, settings.api_max_queued_bytes, _MAX_JOBS, _MAX_TEXTS
    kept = settings.api_idempotency_ttl_s, wire.LISTED_AT_MOST, wire.LISTED_S
    jobs = [value for submission in batch for value in submission.arguments()]
    answers, sizes = await cast(Any, client.eval(_ADMIT, len(keys), *keys, *limits, *kept, *jobs))
    for submission, (verdict, *details) in zip(batch, answers, strict=True):
        match verdict:
            case 0:
                submission.settle(QueueFull(*details))
            case 1:
                submission.settle(None)
            case _:
                submission.settle(details[0].decode())
    return cast(list[int], sizes)
