"""The gateway's side of Redis: admit and queue a job, hear of its end, cancel it, follow its stream.

Ended jobs are heard of through one list per gateway, its mailbox, read by one loop; so the number of requests that
wait costs no connections, and what is pushed while the loop is away is still there when it comes back.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import redis.asyncio as redis

from api import metrics
from api.problems import Problem
from api.redis.idempotency import Once
from api.redis.publisher import Publisher, QueueFull
from api.redis.redis_client import redis_client
from api.settings import ApiSettings
from contract import endings, wire
from contract.jobs import AnyJob, HeadInfo, JobBase, JobState, ModelInfo, Outcome, WorkerStatus

log = logging.getLogger(__name__)

# A mailbox entry can be lost with its list (Redis restarted without it): waiting jobs are looked up this often too.
_SWEEP_S = 2.0
_BLOCK_S = 5

# End a job whose time is over: with no worker, or behind a long queue, nobody else would. What has an outcome keeps it.
# KEYS: those of endings.LUA. ARGV: the same, then how late it must be.
# Answers whether it ended the job, and the outcome that the job has.
_EXPIRE = (
    """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
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


@dataclass(frozen=True)
class Record:
    """What is known of a job beside its outcome."""

    kind: str
    state: JobState
    created: float
    encoding: str
    timeout_s: float
    left_s: float  # of its time, by Redis' clock; negative when that is over

    @property
    def ended(self) -> bool:
        return self.state not in ("queued", "running")


def new_id() -> str:
    """Unguessable: who knows the id may read the result. No id begins as an option of `neuron jobs` would."""
    return secrets.token_hex(16)


class JobQueue:
    """Raises redis.RedisError when Redis is away; `submit` raises Problem when the queue is full."""

    def __init__(self, settings: ApiSettings) -> None:
        self._settings = settings
        self._redis = redis_client(settings)
        self._blocking = redis_client(settings, _BLOCK_S)
        self._publisher = Publisher(settings, self._redis)
        self.mailbox = secrets.token_hex(8)
        self._waiting: dict[str, set[asyncio.Future[Outcome | None]]] = {}
        self._loops: list[asyncio.Task[None]] = []
        self._partings: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        loops = (self._listen(), self._sweep(), self._publisher.run())
        self._loops = [asyncio.create_task(loop) for loop in loops]

    async def close(self) -> None:
        for task in [*self._loops, *self._partings]:
            task.cancel()
        await asyncio.gather(*self._loops, *self._partings, return_exceptions=True)
        await self._redis.aclose()
        await self._blocking.aclose()

    async def submit(
        self,
        job: AnyJob,
        texts: int,
        size: int,
        encoding: str = "float",
        abandon: bool = False,
        once: Once | None = None,
    ) -> str | None:
        """Admit and queue `job`, and return None; or return what `once` has made before, and queue nothing.

        texts, size (bytes to read or generate): what it counts against the limits.
        """
        try:
            made = await self._publisher.publish(job, texts, size, encoding, abandon, once)
        except QueueFull as full:
            raise self._full(full.texts, full.size, texts, size) from full
        if made is None:
            metrics.ACCEPTED.labels(job.kind).inc()
        return made

    async def made(self, once: Once) -> str | None:
        """What `once` has made before, if anything: see `Once.job_of`."""
        raw: bytes | None = await cast(Any, self._redis.get(once.name))
        return None if raw is None else raw.decode()

    @contextmanager
    def expect(self, job_id: str) -> Iterator["asyncio.Future[Outcome | None]"]:
        """A future for the outcome of a job that has not ended yet. Who has it may also end the wait, with None.

        A job that does not have this gateway's mailbox is heard of a little later.
        """
        future: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(job_id, set()).add(future)
        metrics.WAITING.inc()
        try:
            yield future
        finally:
            self._waiting[job_id].discard(future)
            if not self._waiting[job_id]:
                del self._waiting[job_id]
            metrics.WAITING.dec()

    async def record(self, job_id: str) -> Record | None:
        """None for a job that never was, or ended long ago."""
        fields = ["kind", "state", "created", "encoding", "timeout_s"]
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.hmget(wire.job(job_id), fields)
            pipeline.time()
            found, (seconds, microseconds) = await pipeline.execute()
        if None in found:
            return None
        kind, state, created, encoding, timeout_s = (value.decode() for value in found)
        left_s = float(created) + float(timeout_s) - (seconds + microseconds / 1e6)
        return Record(kind, cast(JobState, state), float(created), encoding, float(timeout_s), left_s)

    async def outcome(self, job_id: str, record: Record) -> Outcome | None:
        """None while the job has time, and when its result has expired. Ends a job whose time is over."""
        raw = await self._redis.get(wire.result(job_id))
        if raw is not None:
            return Outcome.model_validate_json(raw)
        if not record.ended and record.left_s <= -wire.LATE_S:
            return await self.expire(job_id, record.timeout_s, wire.LATE_S)
        return None

    async def expire(self, job_id: str, timeout_s: float, late_s: float = 0.0) -> Outcome | None:
        """End a job whose time was over `late_s` ago. Returns its outcome, if that or something else has ended it."""
        # Told on its stream even where nobody asked for one: somebody may read it.
        job = JobBase(id=job_id, timeout_s=timeout_s, events=True)
        keys = endings.keys(job)
        arguments = endings.arguments(job, Outcome.late(timeout_s), wire.RECORD_TTL_S)
        ended, raw = await cast(Any, self._redis.eval(_EXPIRE, len(keys), *keys, *arguments, late_s))
        metrics.EXPIRED.inc(ended)
        return None if raw is None else Outcome.model_validate_json(raw)

    async def cancel(self, job_id: str, reason: str) -> None:
        """Ask the worker to stop the job. It ends soon after, wherever it stands."""
        await self._redis.set(wire.cancel(job_id), "1", ex=wire.CANCEL_TTL_S)
        metrics.CANCELLED.labels(reason).inc()

    async def events(self, job_id: str, after: str) -> AsyncGenerator[tuple[str, str, str] | None]:
        """(id, event, data) of the job's stream after the id `after`; None now and then while nothing comes.

        Counts as a reader of the job as long as it is iterated; when the last reader of a job that is to be
        abandoned leaves, the job is cancelled after the grace period.
        """
        await cast(Any, self._redis.hincrby(wire.job(job_id), "readers", 1))
        metrics.STREAMS.inc()
        ended = False
        try:
            while not ended:
                answer = await cast(
                    Any, self._blocking.xread({wire.events(job_id): after}, count=256, block=_BLOCK_S * 1000)
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
            parting = asyncio.create_task(self._part(job_id, ended))
            self._partings.add(parting)
            parting.add_done_callback(self._partings.discard)

    async def has_events(self, job_id: str) -> bool:
        return bool(await self._redis.exists(wire.events(job_id)))

    async def workers(self) -> list[WorkerStatus]:
        """The workers that sent a heartbeat lately."""
        ids = sorted(member.decode() for member in await cast(Any, self._redis.smembers(wire.WORKERS)))
        if not ids:
            return []
        found = await self._redis.mget([wire.worker(worker_id) for worker_id in ids])
        gone = [worker_id for worker_id, raw in zip(ids, found, strict=True) if raw is None]
        if gone:
            await cast(Any, self._redis.srem(wire.WORKERS, *gone))
        return [WorkerStatus.model_validate_json(raw) for raw in found if raw is not None]

    async def models(self) -> list[ModelInfo]:
        """The models that workers serve."""
        return [worker.model for worker in await self.workers() if worker.model is not None]

    async def heads(self) -> dict[str, HeadInfo]:
        """The heads that users fitted, by their names, which are in order."""
        found: dict[bytes, bytes] = await cast(Any, self._redis.hgetall(wire.HEADS))
        return {name.decode(): HeadInfo.model_validate_json(raw) for name, raw in sorted(found.items())}

    async def head(self, name: str) -> HeadInfo | None:
        raw: bytes | None = await cast(Any, self._redis.hget(wire.HEADS, name))
        return None if raw is None else HeadInfo.model_validate_json(raw)

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

    def _full(self, queued_texts: int, queued_bytes: int, texts: int, size: int) -> Problem:
        limits = self._settings
        metrics.REFUSED.labels("queue-full").inc()
        if queued_texts + texts > limits.api_max_queued_texts:
            what, queued, more, limit, setting = (
                "texts", queued_texts, texts, limits.api_max_queued_texts, "NEURON_API_MAX_QUEUED_TEXTS",
            )  # fmt: skip
        else:
            what, queued, more, limit, setting = (
                "bytes", queued_bytes, size, limits.api_max_queued_bytes, "NEURON_API_MAX_QUEUED_BYTES",
            )  # fmt: skip
        members: dict[str, Any] = {"limit": limit, "queued": queued, "setting": setting}
        if more > limit:
            detail = f"{more:,} {what} can never fit the queue's limit of {limit:,} ({setting}): send fewer at once"
            return Problem("too-large", detail, actual=more, **members)
        detail = f"{queued:,} {what} are queued and {more:,} more would pass the limit of {limit:,} ({setting})"
        return Problem("queue-full", detail, {"Retry-After": str(limits.api_retry_after_s)}, **members)

    async def _part(self, job_id: str, ended: bool) -> None:
        """A reader has left. Whether the job is now abandoned is seen after the grace period."""
        try:
            readers = await cast(Any, self._redis.hincrby(wire.job(job_id), "readers", -1))
            if ended or readers > 0:
                return
            await asyncio.sleep(self._settings.api_disconnect_grace_s)
            abandon, state, readers = await cast(
                Any, self._redis.hmget(wire.job(job_id), ["abandon", "state", "readers"])
            )
            if abandon == b"1" and state in (b"queued", b"running") and int(readers) <= 0:
                await self.cancel(job_id, "disconnect")
        except redis.RedisError as error:
            metrics.LISTENER_ERRORS.inc()
            log.warning("a reader's leaving could not be noted: %s", error)

    async def _listen(self) -> None:
        while True:
            try:
                popped = await cast(
                    Any, self._blocking.blmpop(_BLOCK_S, 1, wire.mailbox(self.mailbox), direction="LEFT", count=256)
                )
                if popped is not None:
                    await self._open(popped[1])
            except Exception as error:  # noqa: BLE001 - a loop that ends would leave every request without its answer
                metrics.LISTENER_ERRORS.inc()
                log.warning("the mailbox cannot be read: %s", error)
                await asyncio.sleep(0.5)

    async def _open(self, entries: list[bytes]) -> None:
        """Deliver what the mailbox held; outcomes too long for it are fetched."""
        elsewhere = []
        for job_id, raw in map(wire.letter, entries):
            if raw is None:
                elsewhere.append(job_id)
            else:
                self._settle(job_id, raw)
        await self._fetch(elsewhere)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            try:
                await self._fetch(list(self._waiting))
            except Exception as error:  # noqa: BLE001 - as above
                metrics.LISTENER_ERRORS.inc()
                log.warning("waiting jobs cannot be looked up: %s", error)

    async def _fetch(self, job_ids: list[str]) -> None:
        wanted = [job_id for job_id in job_ids if job_id in self._waiting]
        if not wanted:
            return
        for job_id, raw in zip(wanted, await self._redis.mget([wire.result(job_id) for job_id in wanted]), strict=True):
            if raw is not None:
                self._settle(job_id, raw)

    def _settle(self, job_id: str, raw: bytes | str) -> None:
        waiting = [future for future in self._waiting.get(job_id, ()) if not future.done()]
        if waiting:
            outcome = Outcome.model_validate_json(raw)
            for future in waiting:
                future.set_result(outcome)
