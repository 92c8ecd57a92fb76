"""A worker's side of Redis: jobs and their leases, outcomes, streams of generated text, cancellations, heartbeats."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from contract import endings, wire
from contract.jobs import AnyJob, ErrorCode, JobBase, JobError, Outcome, WorkerStatus
from worker import scripts
from worker.outbox import Command, Outbox, Receipt


@dataclass(frozen=True)
class Begun:
    """A job whose lease was taken. again: an earlier delivery began it, and may have written to its stream.

    age_s: since it was accepted, by Redis' clock.
    """

    id: str
    body: bytes
    again: bool
    cancelled: bool
    age_s: float


@dataclass(frozen=True)
class Reaped:
    """Jobs without a worker: how many were queued again, with a lapsed lease or lost; the ids of those given up."""

    lapsed: int
    lost: int
    dead: list[str]


@dataclass
class StreamContent:
    """What a job's stream holds: events, characters by the index of the sample, and the model that wrote them."""

    events: int = 0
    characters: dict[int, int] = field(default_factory=dict)
    model: str | None = None


class Results:
    """Methods raise redis.RedisError when Redis is away."""

    def __init__(self, client: redis.Redis, result_ttl_s: int, max_deliveries: int) -> None:
        self._redis = client
        self._ttl_s = result_ttl_s
        self._max_deliveries = max_deliveries
        self._outbox = Outbox(client)

    def close(self) -> None:
        """Write what was sent."""
        self._outbox.close()

    def begin(self, job_ids: Sequence[str], delivery: str, alone: bool) -> tuple[list[Begun], list[str]]:
        """Take leases. Returns the jobs that may run now, and the ids of jobs that must run alone.

        delivery: a name that no other delivery has. alone: whether the worker runs nothing else.
        """
        answers = self._redis.execute_command(  # type: ignore[no-untyped-call]
            *begin_command(job_ids, delivery, self._max_deliveries, alone)
        )
        begun = [
            Begun(job_id, answer[1], bool(answer[2]), bool(answer[3]), float(answer[4]))
            for job_id, answer in zip(job_ids, answers, strict=True)
            if answer[0] == 2
        ]
        return begun, [job_id for job_id, answer in zip(job_ids, answers, strict=True) if answer[0] == 1]

    def finish(self, job: JobBase, delivery: str, ending: Callable[[], Outcome], receipt: Receipt) -> None:
        """Store the outcome, send it to the gateway that waits, and give back what admission had counted.

        The ending is called by the outbox's thread.
        """
        self._outbox.send(receipt, lambda: [finish_command(job, delivery, ending(), self._ttl_s)])

    def token(
        self, job: AnyJob, delivery: str, index: int, text: str, number: int, model: str, receipt: Receipt
    ) -> None:
        """Append characters that `model` generated to the job's stream. number: of the event in it, from 1 on."""
        data, keys = {"index": index, "text": text}, (wire.job(job.id), wire.events(job.id))
        command = "EVAL", scripts.CHARACTERS, len(keys), *keys, delivery
        self._outbox.send(receipt, lambda: [(*command, json.dumps(data), self._ttl_s, number, model)])

    def stream_content(self, job_id: str) -> StreamContent:
        """What the job's stream holds."""
        characters: dict[int, int] = {}
        model = None
        entries: Any = self._redis.xrange(wire.events(job_id))
        for _, fields in entries:
            if fields[b"event"] == b"token":
                data = json.loads(fields[b"data"])
                characters[data["index"]] = characters.get(data["index"], 0) + len(data["text"])
                model = fields[b"model"].decode()
        return StreamContent(len(entries), characters, model)

    def give_back(self, job_id: str, delivery: str, receipt: Receipt) -> None:
        """Queue the job again, first in line, after all that was sent for it. This delivery does not count."""
        keys = wire.job(job_id), wire.LEASES, *wire.WAITING.values(), *wire.QUEUES.values()
        self._outbox.send(receipt, lambda: [("EVAL", scripts.GIVE_BACK, len(keys), *keys, job_id, delivery)])

    def renew(self, held: Mapping[str, tuple[str, int]]) -> list[str]:
        """Renew leases. held: (delivery, bytes done) by job. Returns the ids of jobs that another delivery has."""
        names = [name for job_id, (delivery, done) in held.items() for name in (job_id, delivery, done)]
        keys = wire.LEASES, *wire.WAITING.values()
        command = "EVAL", scripts.RENEW, len(keys), *keys, wire.job(""), wire.LEASE_S, *names
        return [job_id.decode() for job_id in self._redis.execute_command(*command)]  # type: ignore[no-untyped-call]

    def reap(self, who: str) -> Reaped:
        """Queue jobs again that lost their worker; give up those that had their last delivery.

        who: a name that no delivery has.
        """
        keys = wire.LEASES, *wire.WAITING.values(), *wire.QUEUES.values()
        arguments = wire.job(""), wire.LOST_S, wire.LEASE_S, self._max_deliveries, who
        lapsed, lost, dead = self._redis.execute_command(  # type: ignore[no-untyped-call]
            "EVAL", scripts.REAP, len(keys), *keys, *arguments
        )
        for job_id, body, attempts in dead:
            detail = f"{attempts} workers died while they ran the job"
            outcome = Outcome(state="failed", error=JobError(code=ErrorCode.WORKERS_DIED, detail=detail))
            _, _, count, *rest = finish_command(addressed(job_id.decode(), body), who, outcome, self._ttl_s)
            keys_, rest = rest[: int(count)], rest[int(count) :]
            command = "EVAL", scripts.BURY, len(keys_) + 1, *keys_, wire.DEAD, *rest, wire.DEAD_AT_MOST
            self._redis.execute_command(*command)  # type: ignore[no-untyped-call]
        return Reaped(lapsed, lost, [job_id.decode() for job_id, _, _ in dead])

    def cancelled(self, job_ids: Iterable[str]) -> list[str]:
        """Those of the jobs that somebody cancelled."""
        ids = list(job_ids)
        marks = self._redis.mget([wire.cancel(job_id) for job_id in ids]) if ids else []
        return [job_id for job_id, mark in zip(ids, marks, strict=True) if mark is not None]

    def heads(self) -> dict[str, str]:
        """The fitted heads that Redis lists: JSON by name."""
        return {name.decode(): info.decode() for name, info in self._redis.hgetall(wire.HEADS).items()}  # type: ignore[union-attr]

    def put_heads(self, infos: Mapping[str, str]) -> None:
        """Replace the list of fitted heads."""
        with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.delete(wire.HEADS)
            if infos:
                pipeline.hset(wire.HEADS, items=[part for item in infos.items() for part in item])
            pipeline.execute()

    def put_head(self, name: str, info: str) -> None:
        self._redis.hset(wire.HEADS, name, info)

    def drop_head(self, name: str) -> None:
        self._redis.hdel(wire.HEADS, name)

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


def begin_command(job_ids: Sequence[str], delivery: str, max_deliveries: int, alone: bool) -> Command:
    keys = wire.LEASES, *wire.WAITING.values()
    arguments = wire.job(""), wire.cancel(""), delivery, wire.LEASE_S, max_deliveries, int(alone)
    return "EVAL", scripts.BEGIN, len(keys), *keys, *arguments, *job_ids


def addressed(job_id: str, body: bytes) -> JobBase:
    """The address to which the end of a job is reported, even where its body is not valid."""
    try:
        fields = json.loads(body)
        return JobBase(id=job_id, timeout_s=0.0, mailbox=fields.get("mailbox"), events=fields.get("events", False))
    except (ValueError, AttributeError):
        return JobBase(id=job_id, timeout_s=0.0)


def finish_command(job: JobBase, delivery: str, outcome: Outcome, ttl_s: int) -> Command:
    keys = endings.keys(job)
    return "EVAL", scripts.FINISH, len(keys), *keys, *endings.arguments(job, outcome, ttl_s), delivery
