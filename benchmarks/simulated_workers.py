"""`python -m benchmarks.simulated_workers REDIS_URL COUNT`: workers that compute nothing, to load gateway and Redis.

Each does what a worker does to Redis for every message, over a connection of its own: takes it off the queue as Celery
does (also into the set of unacknowledged ones), begins its jobs, stores an outcome for each and acknowledges. All are
coroutines of one process: real ones would run on other machines.
"""

import asyncio
import base64
import json
import sys
from typing import Any, cast

import numpy as np
import redis.asyncio as redis
import uvloop

from contract import wire
from contract.jobs import JOB, AnyJob, ClassifyJob, FeaturizeJob, ModelInfo, Outcome, WorkerStatus
from worker.results import begin_command, finish_command

_RESULT = {
    "label": "positive",
    "score": 0.9,
    "margin": 0.8,
    "probabilities": {"negative": 0.1, "positive": 0.9},
    "unit_sentiment": 0.8,
}
_UNITS = 1024
# Numbers of as many digits as features have.
_FEATURES = np.random.default_rng(0).standard_normal(_UNITS, dtype=np.float32).tobytes()
MODEL = "simulated"
_TTL_S = 60
_MAX_DELIVERIES = 3


async def _work(url: str) -> None:
    connection: redis.Redis = redis.Redis.from_url(url)
    while True:
        popped = await cast(Any, connection.brpop(list(wire.QUEUES.values()), 5))
        if popped is None:
            continue
        raw = popped[1]
        message = json.loads(raw)
        tag = message["properties"]["delivery_tag"]
        ((ids,), *_) = json.loads(message["body"])
        async with connection.pipeline(transaction=False) as pipeline:
            pipeline.zadd("unacked_index", {tag: 0})
            pipeline.hset("unacked", tag, raw)
            pipeline.execute_command(*begin_command(ids, tag, _MAX_DELIVERIES, alone=False))
            *_, answers = await pipeline.execute()
        jobs = [JOB.validate_json(body) for _, body, *_ in answers]
        async with connection.pipeline(transaction=False) as pipeline:
            for job in jobs:
                pipeline.execute_command(*finish_command(job, tag, _outcome(job), _TTL_S))
            pipeline.zrem("unacked_index", tag)
            pipeline.hdel("unacked", tag)
            await pipeline.execute()


def _outcome(job: AnyJob) -> Outcome:
    model = {"name": MODEL, "step": 0}
    match job:
        case ClassifyJob():
            result: dict[str, Any] = {"model": model, "head": job.head, "results": [_RESULT] * len(job.texts)}
        case FeaturizeJob():
            packed = base64.b64encode(_FEATURES * len(job.texts)).decode()
            result = {"model": model, "pooling": job.pooling, "units": _UNITS, "features": packed}
        case _:
            raise TypeError(f"a simulated worker can classify and featurize alone, not {job.kind}")
    return Outcome(state="done", result=result)


async def _heartbeat(url: str) -> None:
    connection: redis.Redis = redis.Redis.from_url(url)
    model = ModelInfo(
        name=MODEL,
        step=0,
        cell="mlstm",
        units=_UNITS,
        bytes_seen=0,
        bits_per_byte=None,
        sentiment_unit=None,
        heads={},
        dtype="float32",
        device="none",
    )
    status = WorkerStatus(
        id="simulated", ready=True, stopping=False, model=model, engine_age_s=0.0, rows_active=0, rows_waiting=0
    ).model_dump_json()
    while True:
        await cast(Any, connection.sadd(wire.WORKERS, "simulated"))
        await connection.set(wire.worker("simulated"), status, ex=wire.HEARTBEAT_TTL_S)
        await asyncio.sleep(wire.HEARTBEAT_INTERVAL_S)


async def run(url: str, count: int) -> None:
    """Until it is killed."""
    await asyncio.gather(_heartbeat(url), *(_work(url) for _ in range(count)))


if __name__ == "__main__":
    uvloop.run(run(sys.argv[1], int(sys.argv[2])))
