"""Jobs by their id: what is known of one, its outcome, the end of one whose time is over, and cancellation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import redis.asyncio as redis

from api import metrics
from api.schemas.form import Form
from contract import endings, lua, wire
from contract.jobs import JobBase, JobState, Outcome

# End a job whose time is over: with no worker, or behind a long queue, nobody else would. A job that has an outcome
# keeps it. KEYS: those of endings.LUA. ARGV: the same, then how late the job must be.
# Answers whether it ended the job, and the outcome that the job has.
_EXPIRE = (
    lua.NOW
    + """
local known = redis.call('HMGET', KEYS[2], 'body', 'created', 'timeout_s')
local late = known[1] and now - known[2] >= known[3] + ARGV[10]
if late then
"""
    + endings.LUA
    + """
end
return {late and 1 or 0, redis.call('GET', KEYS[1])}
"""
)


# How many jobs of each kind one look for late ones takes in.
_LOOKED_AT = 200


@dataclass(frozen=True)
class Record:
    """What is known of a job beside its outcome."""

    kind: str
    state: JobState
    created: float
    form: Form
    timeout_s: float
    left_s: float  # of its time, by Redis' clock; negative when that is over
    read_bytes: int = 0  # and generated, as of a moment ago
    total_bytes: int = 0  # to read and to generate at most

    @property
    def done_bytes(self) -> int:
        # A prepared text has a few bytes more or less than the one that came.
        return self.total_bytes if self.state == "done" else min(self.read_bytes, self.total_bytes)

    @property
    def ended(self) -> bool:
        return self.state not in ("queued", "running")

    @property
    def late(self) -> bool:
        """Whether a gateway has to end the job."""
        return not self.ended and self.left_s <= -wire.LATE_S


def _record(values: Sequence[bytes | None], now: float) -> Record | None:
    *known, skipped, done, total = values
    if None in known:
        return None
    kind, state, created, timeout_s, encoding = (value.decode() for value in known if value is not None)
    left_s = float(created) + float(timeout_s) - now
    form = Form.of(encoding, (skipped or b"").decode())
    sizes = int(done or 0), int(total or 0)
    return Record(kind, cast(JobState, state), float(created), form, float(timeout_s), left_s, *sizes)


class Records:
    """Raises redis.RedisError when Redis is away."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    async def record(self, job_id: str) -> Record | None:
        """None for a job that never was, or ended long ago."""
        return (await self._records([job_id]))[0]

    async def _records(self, job_ids: Sequence[str]) -> list[Record | None]:
        fields = ["kind", "state", "created", "timeout_s", "encoding", "skipped", "done", "bytes"]
        async with self._redis.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                pipeline.hmget(wire.job(job_id), fields)
            pipeline.time()
            *found, (seconds, microseconds) = await pipeline.execute()
        now = seconds + microseconds / 1e6
        return [_record(values, now) for values in found]

    async def listed(self, owner: str, after: str | None, count: int) -> tuple[list[str], list[Record | None]] | None:
        """(ids, records) of an owner's asynchronous jobs, the newest first, from the one behind `after` on.

        None where `after` is not in the list. A job that ended long ago has no record.
        """
        listing = wire.jobs_of(owner)
        start = 0
        if after is not None:
            rank = await cast(Any, self._redis.zrevrank(listing, after))
            if rank is None:
                return None
            start = rank + 1
        found: list[bytes] = await cast(Any, self._redis.zrevrange(listing, start, start + count - 1))
        ids = [raw.decode() for raw in found]
        return ids, await self._records(ids)

    async def outcome(self, job_id: str, record: Record) -> Outcome | None:
        """None while the job has time, and when its result has expired. Ends a job whose time is over."""
        raw = await self._redis.get(wire.result(job_id))
        if raw is not None:
            return Outcome.model_validate_json(raw)
        if record.late:
            return await self.expire(job_id, record.timeout_s, wire.LATE_S)
        return None

    async def expire_late(self) -> None:
        """End jobs whose time is over: with no worker and nobody who asks for them, they would keep their places.

        Some at a time, drawn by Redis, because each has a time limit of its own: the late ones may stand anywhere.
        """
        for jobs in (*wire.WAITING.values(), wire.LEASES):
            ids = [raw.decode() for raw in await cast(Any, self._redis.zrandmember(jobs, _LOOKED_AT))]
            for job_id, record in zip(ids, await self._records(ids), strict=True):
                if record is not None and record.late:
                    await self.expire(job_id, record.timeout_s, wire.LATE_S)

    async def expire(self, job_id: str, timeout_s: float, late_s: float = 0.0) -> Outcome | None:
        """End a job whose time was over `late_s` ago. Returns the outcome that the job now has, if any."""
        # The end goes to the job's stream even if its request asked for no events, because somebody may read it.
        job = JobBase(id=job_id, timeout_s=timeout_s, events=True)
        keys = endings.keys(job)
        arguments = endings.arguments(job, Outcome.late(timeout_s), wire.RECORD_TTL_S)
        ended, raw = await cast(Any, self._redis.eval(_EXPIRE, len(keys), *keys, *arguments, late_s))
        metrics.EXPIRED.inc(ended)
        return None if raw is None else Outcome.model_validate_json(raw)

    async def cancel(self, job_id: str, reason: str) -> None:
        """Ask the worker to stop the job, which ends soon after. reason: a label of `neuron_cancelled_jobs`."""
        # The job may begin at any time until its own is over.
        record = await self.record(job_id)
        left_s = 0 if record is None else max(0, math.ceil(record.left_s))
        await self._redis.set(wire.cancel(job_id), "1", ex=left_s + wire.CANCEL_TTL_S)
        metrics.CANCELLED.labels(reason).inc()
