"""Admission: a job is counted against the limits of the queue and queued, or refused with the limit that it passes."""

import secrets
from typing import Any, cast

import redis.asyncio as redis

from api import metrics
from api.problems import Problem
from api.redis.idempotency import IdempotentRequest
from api.redis.publisher import Publisher
from api.redis.submissions import QueueFull, Submission
from api.settings import ApiSettings


def new_id() -> str:
    """Unguessable, because whoever knows the id may read the result. Never mistaken for an option of `neuron jobs`."""
    return secrets.token_hex(16)


class Admission:
    """Raises redis.RedisError when Redis is away."""

    def __init__(self, settings: ApiSettings, client: redis.Redis, publisher: Publisher) -> None:
        self._settings = settings
        self._redis = client
        self._publisher = publisher

    async def submit(self, submission: Submission) -> str | None:
        """Queue the job and return None; or queue nothing and return what an earlier such request made.

        Raises Problem when it would pass one of the limits.
        """
        try:
            made = await self._publisher.publish(submission)
        except QueueFull as full:
            raise self._full(full.texts, full.size, submission.texts, submission.size) from full
        if made is None:
            metrics.ACCEPTED.labels(submission.job.kind).inc()
        return made

    async def made(self, idempotent: IdempotentRequest) -> str | None:
        """What an earlier such request made, if there was one: see `IdempotentRequest.job_of`."""
        raw: bytes | None = await cast(Any, self._redis.get(idempotent.redis_key))
        return None if raw is None else raw.decode()

    def _full(self, queued_texts: int, queued_bytes: int, texts: int, size: int) -> Problem:
        limits = self._settings
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
