"""The loop that runs batches: it looks for open ones, and begins as many as there are places for."""

import asyncio
import contextlib
import logging
import time

import redis.asyncio as redis

from api import metrics
from api.batches.ledger import Batch, Ledger
from api.batches.lines import Lines
from api.batches.run import Lost, Run
from api.batches.sweep import sweep
from api.batches.waiting import in_thread
from api.keys import Key
from api.redis.batch_leases import BatchLeases
from api.settings import ApiSettings
from api.stopping import stop

log = logging.getLogger(__name__)

_AT_ONCE = 8  # batches
_OF_OWNER = 2  # of them: one who has used up his quota must not keep all places
_LOOK_S = 5.0  # how soon a batch is found that another gateway has taken in, or has left
_SWEEP_S = 600.0


class Runner:
    """`run` is its loop, which must run while there are batches."""

    def __init__(self, ledger: Ledger, leases: BatchLeases, lines: Lines, settings: ApiSettings) -> None:
        self._ledger = ledger
        self._leases = leases
        self._lines = lines
        self._settings = settings
        self._running: dict[str, tuple[str, asyncio.Task[None]]] = {}  # owner and task, by batch
        self._waiting: dict[str, Batch | None] = {}  # what is known of those that are open
        self._runs: dict[str, Run] = {}
        self._looks_at_once = asyncio.Event()

    def wake(self) -> None:
        """There is a new batch."""
        self._looks_at_once.set()

    def cancel(self, batch_id: str) -> None:
        """It was asked to stop: if it runs here, it need not find out by itself."""
        if (run := self._runs.get(batch_id)) is not None:
            run.interrupt("cancelled")

    async def run(self) -> None:
        """The loop. It does not end by itself; when it is cancelled, its batches go on elsewhere or later."""
        sweep_at = 0.0
        try:
            while True:
                try:
                    await self._look()
                    if time.monotonic() >= sweep_at:
                        sweep_at = time.monotonic() + _SWEEP_S
                        await in_thread(sweep, self._ledger, self._settings.api_batch_ttl_s)
                except Exception as error:  # noqa: BLE001 - a loop that ends would leave every batch without its answers
                    metrics.BATCH_ERRORS.inc()
                    log.warning("open batches cannot be looked for: %s", error)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await self._looks_at_once.wait()
                self._looks_at_once.clear()
        finally:
            await stop(*(task for _, task in self._running.values()))

    async def _look(self) -> None:
        """Begin what there is a place for, and end what waits for one and must not wait any more."""
        waiting = await in_thread(self._ledger.open_batches)
        self._waiting = {batch_id: self._waiting.get(batch_id) for _, batch_id in waiting}
        for owner, batch_id in waiting:
            if batch_id in self._running:
                continue
            owners = [other for other, _ in self._running.values()]
            has_place = len(owners) < _AT_ONCE and owners.count(owner) < _OF_OWNER and self._key(owner)[1]
            if (has_place or await self._is_over(owner, batch_id)) and await self._leases.take(batch_id):
                task = asyncio.create_task(self._run(owner, batch_id))
                self._running[batch_id] = owner, task

    async def _is_over(self, owner: str, batch_id: str) -> bool:
        """Whether a batch that waits was cancelled or has expired."""
        batch = self._waiting[batch_id] or await in_thread(self._ledger.batch, owner, batch_id)
        self._waiting[batch_id] = batch
        if batch is None:
            return not self._ledger.is_being_made(batch_id)
        over = time.time() > batch.expires
        # A key that is not known here may be known to other gateways, which have newer settings.
        return over or (self._key(owner)[1] and await in_thread(self._ledger.cancel_is_asked, batch))

    async def _run(self, owner: str, batch_id: str) -> None:
        """Run a batch whose lease this gateway has."""
        try:
            batch = await in_thread(self._ledger.batch, owner, batch_id)
            if batch is None:
                if not self._ledger.is_being_made(batch_id):
                    await in_thread(self._ledger.close_batch, owner, batch_id)
                return
            progress = await in_thread(self._ledger.progress, batch)
            key, _ = self._key(owner)
            limit = self._settings.api_max_stored_bytes
            self._runs[batch_id] = run = Run(batch, progress, self._ledger, self._leases, self._lines, key, limit)
            await run.run()
            self._looks_at_once.set()  # another one has its place
        except Lost:
            log.warning("batch %s: its lease is gone, so it goes on with who takes that next", batch_id)
        except Exception:
            metrics.BATCH_ERRORS.inc()
            log.exception("batch %s stopped and will be tried again", batch_id)
        finally:
            self._runs.pop(batch_id, None)
            with contextlib.suppress(redis.RedisError):
                await self._leases.release(batch_id)
            del self._running[batch_id]

    def _key(self, owner: str) -> tuple[Key | None, bool]:
        """(the owner's key, whether there still is one)."""
        keys = self._settings.keys
        if not keys:
            return None, not owner
        key = next((key for key in keys if key.name == owner and key.allows("use")), None)
        return key, key is not None
