"""A worker's side of Redis: job states, outcomes, streams of generated text, cancellations and heartbeats."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import redis

from contract import wire
from contract.jobs import AnyJob, Outcome, WorkerStatus
from worker.outbox import Command, Outbox, Receipt

_VERDICTS: tuple[Literal["run", "cancelled", "answered"], ...] = ("run", "cancelled", "answered")

# 0: run it; 1: it was cancelled; 2: it was answered before, by an earlier delivery.
# Sent whole each time: cheaper than asking whether Redis still knows it.
_BEGIN = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 2 end
if redis.call('EXISTS', KEYS[3]) == 1 then redis.call('HSET', KEYS[3], 'state', 'running') end
return redis.call('EXISTS', KEYS[2])
"""

# The first outcome of a job stays: a job that ran twice is answered once. All of it happens or none does.
_FINISH = """
local first = redis.call('SET', KEYS[1], ARGV[1], 'NX', 'EX', ARGV[2])
if first then
  redis.call('HSET', KEYS[2], 'state', ARGV[3])
  redis.call('EXPIRE', KEYS[2], ARGV[4])
  if ARGV[7] ~= '' then
    redis.call('XADD', KEYS[3], '*', 'event', ARGV[3], 'data', ARGV[7])
    redis.call('EXPIRE', KEYS[3], ARGV[2])
  end
end
local cost = redis.call('HGET', KEYS[4], ARGV[6])
if cost then
  redis.call('HDEL', KEYS[4], ARGV[6])
  local texts, bytes = string.match(cost, '(%d+):(%d+)')
  redis.call('HINCRBY', KEYS[5], 'texts', -tonumber(texts))
  redis.call('HINCRBY', KEYS[5], 'bytes', -tonumber(bytes))
end
if ARGV[5] ~= '' then
  local told = first and ARGV[1] or redis.call('GET', KEYS[1])
  if #told <= tonumber(ARGV[9]) then told = ARGV[6] .. '\\n' .. told else told = ARGV[6] end
  redis.call('RPUSH', KEYS[6], told)
  redis.call('EXPIRE', KEYS[6], ARGV[8])
end
return first and 1 or 0
"""


class Results:
    """Raises redis.RedisError when Redis is away."""

    def __init__(self, client: redis.Redis, result_ttl_s: int) -> None:
        self._redis = client
        self._ttl_s = result_ttl_s
        self._outbox = Outbox(client)

    def close(self) -> None:
        """Write what was sent."""
        self._outbox.close()

    def begin(self, jobs: Sequence[AnyJob]) -> list[Literal["run", "cancelled", "answered"]]:
        """Mark jobs as running, but for those that were cancelled, or answered by an earlier delivery."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for job in jobs:
                pipeline.execute_command(*begin_command(job))  # type: ignore[no-untyped-call]
            return [_VERDICTS[verdict] for verdict in pipeline.execute()]

    def finish(self, job: AnyJob, ending: Callable[[], Outcome], receipt: Receipt) -> None:
        """Store the outcome, tell it the gateway that waits, and give back what admission had counted.

        The ending is called by the outbox's thread.
        """
        self._outbox.send(receipt, lambda: [finish_command(job, ending(), self._ttl_s)])

    def token(self, job: AnyJob, index: int, text: str, receipt: Receipt) -> None:
        """Append generated characters to the job's stream."""
        self._outbox.send(receipt, lambda: token_commands(job, index, text, self._ttl_s))

    def cancelled(self, job_ids: Iterable[str]) -> list[str]:
        """Those of the jobs that somebody cancelled."""
        ids = list(job_ids)
        marks = self._redis.mget([wire.cancel(job_id) for job_id in ids]) if ids else []
        return [job_id for job_id, mark in zip(ids, marks, strict=True) if mark is not None]

    def heartbeat(self, status: WorkerStatus) -> None:
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.sadd(wire.WORKERS, status.id)
            pipeline.set(wire.worker(status.id), status.model_dump_json(), ex=wire.HEARTBEAT_TTL_S)
            pipeline.execute()

    def sign_off(self, worker_id: str) -> None:
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.srem(wire.WORKERS, worker_id)
            pipeline.delete(wire.worker(worker_id))
            pipeline.execute()


def begin_command(job: AnyJob) -> Command:
    return ("EVAL", _BEGIN, 3, wire.result(job.id), wire.cancel(job.id), wire.job(job.id))


def token_commands(job: AnyJob, index: int, text: str, ttl_s: int) -> list[Command]:
    key, data = wire.events(job.id), json.dumps({"index": index, "text": text})
    return [("XADD", key, "*", "event", "token", "data", data), ("EXPIRE", key, ttl_s)]


def finish_command(job: AnyJob, outcome: Outcome, ttl_s: int) -> Command:
    body = outcome.model_dump_json(exclude_none=True)
    keys = (
        wire.result(job.id),
        wire.job(job.id),
        wire.events(job.id),
        wire.OPEN,
        wire.LOAD,
        wire.mailbox(job.mailbox or ""),
    )
    return (
        "EVAL",
        _FINISH,
        len(keys),
        *keys,
        body,
        ttl_s,
        outcome.state,
        wire.RECORD_TTL_S,
        job.mailbox or "",
        job.id,
        body if job.events else "",
        wire.MAILBOX_TTL_S,
        wire.MAILBOX_MAX_BYTES,
    )
