"""The mailbox: one list per gateway that names the jobs that have ended, read by one loop.

So the number of waiting requests costs no connections, and what is pushed while the loop is away is still there when
it comes back.
"""

import asyncio
import itertools
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import redis.asyncio as redis

from api import metrics
from api.redis.records import Records
from api.redis.redis_client import BLOCK_S
from contract import wire
from contract.jobs import Outcome

log = logging.getLogger(__name__)

# An entry can be lost with its list (Redis restarted without it): waiting jobs are looked up this often too.
_SWEEP_S = 2.0


class Mailbox:
    """`listen` and `sweep` are loops that must run while anything waits."""

    def __init__(self, client: redis.Redis, blocking: redis.Redis, records: Records) -> None:
        self._redis = client
        self._blocking = blocking
        self._records = records
        self.name = secrets.token_hex(8)
        self._waiting: dict[str, set[asyncio.Future[Outcome | None]]] = {}
        self._admitted: set[str] = set()  # of those that are waited for

    @contextmanager
    def expect(self, job_id: str) -> Iterator["asyncio.Future[Outcome | None]"]:
        """A future for the outcome of a job that has not ended yet. Its holder may also end the wait, with None.

        The outcome of a job that does not name this mailbox comes a little later, with the next sweep.
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
                self._admitted.discard(job_id)
            metrics.WAITING.dec()

    def admitted(self, job_id: str) -> None:
        """An expected job is in Redis. If it is there no more, which takes a Redis that forgets, it fails."""
        self._admitted.add(job_id)

    async def listen(self) -> None:
        """Deliver what comes into the mailbox."""
        while True:
            try:
                popped = await cast(
                    Any, self._blocking.blmpop(BLOCK_S, 1, wire.mailbox(self.name), direction="LEFT", count=256)
                )
                if popped is not None:
                    await self._open(popped[1])
            except Exception as error:  # noqa: BLE001 - a loop that ends would leave every request without its answer
                metrics.LISTENER_ERRORS.inc()
                log.warning("the mailbox cannot be read: %s", error)
                await asyncio.sleep(0.5)

    async def sweep(self) -> None:
        """Look up the outcomes of waiting jobs, now and then, and end late ones, whoever waits for them."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            try:
                admitted = list(self._admitted)
                await self._fetch(list(self._waiting))
                await self._fail_lost([job_id for job_id in admitted if job_id in self._admitted])
                await self._records.expire_late()
            except Exception as error:  # noqa: BLE001 - as above
                metrics.LISTENER_ERRORS.inc()
                log.warning("waiting jobs cannot be looked up: %s", error)

    async def _open(self, entries: list[bytes]) -> None:
        """Deliver what the mailbox held; outcomes too long for it are fetched."""
        elsewhere = []
        for job_id, raw in map(wire.letter, entries):
            if raw is None:
                elsewhere.append(job_id)
            else:
                self._settle(job_id, raw)
        await self._fetch(elsewhere)

    async def _fetch(self, job_ids: list[str]) -> None:
        wanted = [job_id for job_id in job_ids if job_id in self._waiting]
        if not wanted:
            return
        for job_id, raw in zip(wanted, await self._redis.mget([wire.result(job_id) for job_id in wanted]), strict=True):
            if raw is not None:
                self._settle(job_id, raw)

    async def _fail_lost(self, job_ids: list[str]) -> None:
        """End the wait for jobs that Redis does not know."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                pipeline.exists(wire.job(job_id))
            known = await pipeline.execute()
        for job_id in itertools.compress(job_ids, (not found for found in known)):
            self._settle(job_id, Outcome.lost(job_id))

    def _settle(self, job_id: str, outcome: Outcome | bytes | str) -> None:
        """outcome: perhaps as JSON."""
        waiting = [future for future in self._waiting.get(job_id, ()) if not future.done()]
        if waiting:
            known = outcome if isinstance(outcome, Outcome) else Outcome.model_validate_json(outcome)
            for future in waiting:
                future.set_result(known)
