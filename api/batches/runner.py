"""The loop that runs batches: it looks for open ones, takes their lease, asks their lines and keeps the answers.

Answers are kept in the order of their lines, a part of them at a time, and with each how far the batch is. So a batch
whose gateway dies goes on behind the last part that was kept, and every line has one answer; lines behind it are asked
again.
"""

import asyncio
import contextlib
import functools
import itertools
import logging
import time
from collections import deque

import redis.asyncio as redis

from api import metrics
from api.batches.budget import Budget
from api.batches.ledger import Batch, Ended, Ledger, Progress
from api.batches.lines import Lines, custom_id_of, failure, has_completed
from api.keys import Key
from api.redis.batch_leases import LEASE_S, RENEW_S, BatchLeases, Counts
from api.settings import ApiSettings

log = logging.getLogger(__name__)

_AT_ONCE = 4  # batches
_LOOK_S = 5.0  # how soon a batch is found that another gateway has taken in, or has left
# A part of the answers: so many, or so many bytes, or all that came in this time.
_PART_LINES = 256
_PART_BYTES = 2**20
_PART_S = 5.0
_PAUSE_S = 1.0  # before answers that could not be kept are tried again, and then twice as long each time
_LONGEST_PAUSE_S = 30.0
_SWEEP_S = 600.0

_Answering = asyncio.Task[bytes]


class _Lost(Exception):
    """Another gateway has the batch, or may have it."""


class _Run:
    """A batch that this gateway runs."""

    def __init__(self, batch: Batch, progress: Progress) -> None:
        self.batch = batch
        self.progress = progress
        self.completed = progress.completed  # with those that are not kept yet
        self.failed = progress.failed
        # Why it ends before its last line: an end, or that it goes on elsewhere.
        self.interrupted: asyncio.Future[Ended | None] = asyncio.get_running_loop().create_future()
        self.unkept: deque[_Answering] = deque()  # of the lines behind those that `progress` counts, in order

    @property
    def counts(self) -> Counts:
        return Counts(self.completed, self.failed)

    def interrupt(self, how: Ended | None) -> None:
        if not self.interrupted.done():
            self.interrupted.set_result(how)


class Runner:
    """`run` is its loop, which must run while there are batches."""

    def __init__(self, ledger: Ledger, leases: BatchLeases, lines: Lines, settings: ApiSettings) -> None:
        self._ledger = ledger
        self._leases = leases
        self._lines = lines
        self._settings = settings
        self._running: dict[str, asyncio.Task[None]] = {}
        self._runs: dict[str, _Run] = {}
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
                        await asyncio.to_thread(self._ledger.sweep, self._settings.api_batch_ttl_s)
                        sweep_at = time.monotonic() + _SWEEP_S
                except Exception as error:  # noqa: BLE001 - a loop that ends would leave every batch without its answers
                    metrics.BATCH_ERRORS.inc()
                    log.warning("open batches cannot be looked for: %s", error)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await self._looks_at_once.wait()
                self._looks_at_once.clear()
        finally:
            running = list(self._running.values())
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _look(self) -> None:
        for owner, batch_id in await asyncio.to_thread(self._ledger.open_batches):
            if len(self._running) >= _AT_ONCE:
                return
            if batch_id not in self._running and await self._leases.hold(batch_id):
                self._running[batch_id] = asyncio.create_task(self._run(owner, batch_id))

    async def _run(self, owner: str, batch_id: str) -> None:
        """Run a batch whose lease this gateway has."""
        try:
            batch = await asyncio.to_thread(self._ledger.batch, owner, batch_id)
            if batch is None:  # deleted
                await asyncio.to_thread(self._ledger.close_batch, owner, batch_id)
                return
            run = self._runs[batch_id] = _Run(batch, await asyncio.to_thread(self._ledger.progress, batch))
            watching = asyncio.create_task(self._watch(run))
            try:
                await self._work(run)
            finally:
                watching.cancel()
            self.wake()  # another one has its place
        except _Lost:
            log.warning("batch %s goes on at another gateway", batch_id)
        except Exception:
            metrics.BATCH_ERRORS.inc()
            log.exception("batch %s stopped and will be tried again", batch_id)
        finally:
            self._runs.pop(batch_id, None)
            del self._running[batch_id]
            with contextlib.suppress(redis.RedisError):
                await self._leases.release(batch_id)

    async def _watch(self, run: _Run) -> None:
        """Renew the lease, and see when the batch must stop."""
        held_at = time.monotonic()
        while True:
            try:
                if not await self._leases.hold(run.batch.id, run.counts):
                    run.interrupt(None)
                held_at = time.monotonic()
                if await asyncio.to_thread(self._ledger.cancel_is_asked, run.batch):
                    run.interrupt("cancelled")
            except (redis.RedisError, OSError) as error:
                log.warning("batch %s: %s", run.batch.id, error)
                if time.monotonic() - held_at > LEASE_S:
                    run.interrupt(None)
            left_s = run.batch.expires - time.time()
            if left_s <= 0:
                run.interrupt("expired")
            await asyncio.sleep(min(RENEW_S, left_s) if left_s > 0 else RENEW_S)

    async def _work(self, run: _Run) -> None:
        """To the end of the batch. Raises _Lost."""
        if run.progress.began is None:
            await self._write(run, [], run.progress.model_copy(update={"began": time.time()}))
        key, known = self._key(run.batch.owner)
        how: Ended | None = "done"
        if known:
            asking = asyncio.create_task(self._ask(run, key))
            try:
                await asyncio.wait((asking, run.interrupted), return_when=asyncio.FIRST_COMPLETED)
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
            if asking.cancelled():
                how = run.interrupted.result()
            else:
                asking.result()
        else:
            log.warning("batch %s: its key, %r, is not known here any more", run.batch.id, run.batch.owner)
            how = "cancelled"
        if how is None:
            raise _Lost
        if how != "done":
            await self._give_up(run, how)
        await self._write(run, [], run.progress.model_copy(update={"ended": time.time(), "state": how}))
        await asyncio.to_thread(self._ledger.close_batch, run.batch.owner, run.batch.id)
        metrics.BATCHES.labels(how).inc()

    async def _ask(self, run: _Run, key: Key | None) -> None:
        """Ask all lines, several at a time, and keep their answers."""
        asked: asyncio.Queue[_Answering | None] = asyncio.Queue()
        budget = Budget()
        keeping = asyncio.create_task(self._keep(run, asked, budget))
        try:
            number = run.progress.lines
            lines = self._ledger.lines(run.batch.file, number)
            while (line := await asyncio.to_thread(next, lines, None)) is not None:
                taking = asyncio.create_task(budget.take(len(line)))
                # What cannot be kept ends it, also while it waits.
                await asyncio.wait((taking, keeping), return_when=asyncio.FIRST_COMPLETED)
                if keeping.done():
                    taking.cancel()
                    break
                answering = asyncio.create_task(self._answer(run, line, key, f"{run.batch.id}-{number}"))
                answering.add_done_callback(functools.partial(budget.give, len(line)))
                run.unkept.append(answering)
                asked.put_nowait(answering)
                number += 1
            asked.put_nowait(None)
            await keeping
        finally:
            for task in (keeping, *run.unkept):
                task.cancel()
            await asyncio.gather(keeping, *run.unkept, return_exceptions=True)

    async def _answer(self, run: _Run, line: bytes, key: Key | None, name: str) -> bytes:
        answer = await self._lines.answer(line, run.batch.url, key, name)
        if has_completed(answer):
            run.completed += 1
        else:
            run.failed += 1
        return answer

    async def _keep(self, run: _Run, asked: "asyncio.Queue[_Answering | None]", budget: Budget) -> None:
        """Keep the answers as they come, in their order, until None comes. Raises _Lost."""
        part: list[bytes] = []
        size, keep_by = 0, 0.0
        while True:
            task = await asked.get()
            if task is not None and part:
                await asyncio.wait((task,), timeout=max(0.0, keep_by - time.monotonic()))
            full = len(part) >= _PART_LINES or size >= _PART_BYTES or time.monotonic() >= keep_by
            if part and (full or task is None):
                await self._write(run, part, run.progress.with_answers(part))
                budget.kept(size)
                part, size = [], 0
            if task is None:
                return
            answer = await task
            if not part:
                keep_by = time.monotonic() + _PART_S
            part.append(answer)
            size += len(answer)

    async def _give_up(self, run: _Run, how: Ended) -> None:
        """Keep the answers that lines have, and say of the others why they have none."""
        why = "the batch was cancelled" if how == "cancelled" else "the batch has expired"
        ended = [None if task.cancelled() or task.exception() else task.result() for task in run.unkept]
        known = itertools.chain(ended, itertools.repeat(None))
        lines = self._ledger.lines(run.batch.file, run.progress.lines)
        while part := await asyncio.to_thread(lambda: list(itertools.islice(lines, _PART_LINES))):
            answers = [
                next(known) or failure(custom_id_of(line), f"batch-{how}", f"{why} before this line had its answer")
                for line in part
            ]
            await self._write(run, answers, run.progress.with_answers(answers))

    async def _write(self, run: _Run, answers: list[bytes], progress: Progress) -> None:
        """Keep the next answers, and how far the batch is with them. Raises _Lost."""

        def write() -> None:
            if answers:
                self._ledger.keep_answers(run.batch, run.progress.lines, answers)
            self._ledger.put_progress(run.batch, progress)
            run.progress = progress
            for _ in answers[: len(run.unkept)]:
                run.unkept.popleft()

        pause_s = _PAUSE_S
        while True:
            try:
                # Asked again here, because a gateway that stood still may have been thought dead.
                if not await self._leases.hold(run.batch.id, run.counts):
                    raise _Lost
                writing = asyncio.create_task(asyncio.to_thread(write))
                try:
                    await asyncio.shield(writing)
                except asyncio.CancelledError:
                    await asyncio.gather(writing, return_exceptions=True)  # a thread cannot be stopped
                    raise
            except (OSError, redis.RedisError) as error:
                metrics.BATCH_ERRORS.inc()
                log.warning("the answers of batch %s cannot be kept now: %s", run.batch.id, error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                return

    def _key(self, owner: str) -> tuple[Key | None, bool]:
        """(the owner's key, whether there still is one)."""
        keys = self._settings.keys
        if not keys:
            return None, not owner
        key = next((key for key in keys if key.name == owner and key.allows("use")), None)
        return key, key is not None
