"""One batch from its first line to its end: asks its lines and keeps their answers.

Answers are kept in the order of their lines, a part of them at a time, and with each how far the batch is. So a batch
whose gateway dies goes on behind the last part that was kept, and every line has one answer; lines behind it are asked
again.
"""

import asyncio
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
from api.batches.waiting import in_thread
from api.keys import Key
from api.redis.batch_leases import LEASE_S, RENEW_S, BatchLeases, Counts
from api.stopping import outlast, stop

log = logging.getLogger(__name__)

# A part of the answers: so many, or so many bytes, or all that came in this time.
_PART_LINES = 256
_PART_BYTES = 2**20
_PART_S = 5.0
_MEASURE_S = 30.0  # how often what the owner stores is measured
_PAUSE_S = 1.0  # before answers that could not be kept are tried again, and then twice as long each time
_LONGEST_PAUSE_S = 30.0

_Answering = asyncio.Task[bytes]


# What the limit of storage is on.
STORED = "bytes of your files, batches and answers in storage"


class Lost(Exception):
    """Another gateway has the batch, or may have it."""


class Run:
    """A batch whose lease this gateway has.

    key: its owner's, where keys are asked for. max_stored_bytes: what the owner may have in storage.
    """

    def __init__(
        self,
        batch: Batch,
        progress: Progress,
        ledger: Ledger,
        leases: BatchLeases,
        lines: Lines,
        key: Key | None,
        max_stored_bytes: int,
    ) -> None:
        self.batch = batch
        self._progress = progress
        self._ledger = ledger
        self._leases = leases
        self._lines = lines
        self._key = key
        self._max_stored_bytes = max_stored_bytes
        self._completed = progress.completed  # with those that are not kept yet
        self._failed = progress.failed
        # Why it ends before its last line: an end, or that it goes on elsewhere.
        self._interrupted: asyncio.Future[Ended | None] = asyncio.get_running_loop().create_future()
        self._unkept: deque[_Answering] = deque()  # of the lines behind those that are kept, in order

    @property
    def _counts(self) -> Counts:
        return Counts(self._completed, self._failed)

    def interrupt(self, how: Ended | None) -> None:
        """End it before its last line; None: it goes on elsewhere."""
        if not self._interrupted.done():
            self._interrupted.set_result(how)

    async def run(self) -> None:
        """To the end of the batch, while the lease is renewed. Raises Lost."""
        watching = asyncio.create_task(self._watch())
        try:
            await self._work()
        finally:
            await stop(watching)

    async def _work(self) -> None:
        if self._progress.state is None:
            if self._progress.began is None:
                await self._write([], self._progress.model_copy(update={"began": time.time()}))
            how = await self._to_its_end()
            await self._write([], self._progress.model_copy(update={"ended": time.time(), "state": how}))
            metrics.BATCHES.labels(how).inc()
        # Otherwise a gateway died, or looked, between the two.
        await in_thread(self._ledger.close_batch, self.batch.owner, self.batch.id)

    async def _to_its_end(self) -> Ended:
        """Keep an answer to every line. Raises Lost."""
        # Looked at before the first line as well: giving up may have been broken off.
        if time.time() > self.batch.expires:
            self.interrupt("expired")
        elif await in_thread(self._ledger.cancel_is_asked, self.batch):
            self.interrupt("cancelled")
        try:
            if not self._interrupted.done():
                asking = asyncio.create_task(self._ask())
                try:
                    await asyncio.wait((asking, self._interrupted), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    await stop(asking)
                if not asking.cancelled():
                    asking.result()
                    return "done"
            if (how := self._interrupted.result()) is None:
                raise Lost
            await self._give_up(how)
        except FileNotFoundError:
            log.warning("batch %s has failed: its file is gone", self.batch.id)
            how = "failed"
            missing = failure(None, "batch-failed", "the file of the batch is gone")
            while (left := self.batch.file.lines - self._progress.lines) > 0:
                answers = [missing] * min(left, _PART_LINES)
                await self._write(answers, self._progress.with_answers(answers))
        return how

    async def _watch(self) -> None:
        """Renew the lease, and see when the batch must stop."""
        held_at = time.monotonic()
        while True:
            try:
                if not await self._leases.renew(self.batch.id, self._counts):
                    self.interrupt(None)
                held_at = time.monotonic()
                if await in_thread(self._ledger.cancel_is_asked, self.batch):
                    self.interrupt("cancelled")
            except (redis.RedisError, OSError) as error:
                log.warning("batch %s: %s", self.batch.id, error)
                if time.monotonic() - held_at > LEASE_S:
                    self.interrupt(None)
            left_s = self.batch.expires - time.time()
            if left_s <= 0:
                self.interrupt("expired")
            await asyncio.sleep(min(RENEW_S, left_s) if left_s > 0 else RENEW_S)

    async def _ask(self) -> None:
        """Ask all lines, several at a time, and keep their answers."""
        asked: asyncio.Queue[_Answering | None] = asyncio.Queue()
        budget = Budget()
        keeping = asyncio.create_task(self._keep(asked, budget))
        try:
            number = self._progress.lines
            lines = self._ledger.lines(self.batch.file, number)
            while (line := await in_thread(next, lines, None)) is not None:
                taking = asyncio.create_task(budget.take(len(line)))
                # What cannot be kept ends it, also while it waits.
                await asyncio.wait((taking, keeping), return_when=asyncio.FIRST_COMPLETED)
                if keeping.done():
                    taking.cancel()
                    break
                answering = asyncio.create_task(self._answer(line, f"{self.batch.id}-{number}"))
                answering.add_done_callback(functools.partial(budget.give, len(line)))
                self._unkept.append(answering)
                asked.put_nowait(answering)
                number += 1
            asked.put_nowait(None)
            await keeping
        finally:
            await stop(keeping, *self._unkept)

    async def _answer(self, line: bytes, name: str) -> bytes:
        answer = await self._lines.answer(line, self.batch.url, self._key, name, self.batch.expires)
        if has_completed(answer):
            self._completed += 1
        else:
            self._failed += 1
        return answer

    async def _keep(self, asked: "asyncio.Queue[_Answering | None]", budget: Budget) -> None:
        """Keep the answers as they come, in their order, until None comes. Raises Lost.

        Those that pass what the owner may store are kept too, and end the batch.
        """
        room, measure_at = 0, 0.0
        part: list[bytes] = []
        size, keep_by = 0, 0.0
        while True:
            task = await asked.get()
            if task is not None and part:
                await asyncio.wait((task,), timeout=max(0.0, keep_by - time.monotonic()))
            full = len(part) >= _PART_LINES or size >= _PART_BYTES or time.monotonic() >= keep_by
            if part and (full or task is None):
                await self._write(part, self._progress.with_answers(part))
                budget.kept(size)
                room -= size
                if time.monotonic() >= measure_at:  # what else the owner stores changes, too
                    room = self._max_stored_bytes - await in_thread(self._ledger.stored_bytes, self.batch.owner)
                    measure_at = time.monotonic() + _MEASURE_S
                if room < 0:
                    self.interrupt("failed")
                part, size = [], 0
            if task is None:
                return
            answer = await task
            if not part:
                keep_by = time.monotonic() + _PART_S
            part.append(answer)
            size += len(answer)

    async def _give_up(self, how: Ended) -> None:
        """Keep the answers that lines have, and say of the others why they have none."""
        why = {
            "cancelled": "the batch was cancelled",
            "expired": "the batch has expired",
            "failed": f"{STORED} passed the limit of {self._max_stored_bytes:,} (setting NEURON_API_MAX_STORED_BYTES)",
        }[how]
        ended = [None if task.cancelled() or task.exception() else task.result() for task in self._unkept]
        known = itertools.chain(ended, itertools.repeat(None))
        lines = self._ledger.lines(self.batch.file, self._progress.lines)

        def part() -> list[bytes]:
            answers: list[bytes] = []
            size = 0
            while len(answers) < _PART_LINES and size < _PART_BYTES and (line := next(lines, None)) is not None:
                missing = f"{why} before this line had its answer"
                answers.append(next(known) or failure(custom_id_of(line), f"batch-{how}", missing))
                size += len(line)
            return answers

        while answers := await in_thread(part):
            await self._write(answers, self._progress.with_answers(answers))

    async def _write(self, answers: list[bytes], progress: Progress) -> None:
        """Keep the next answers, and how far the batch is with them. Raises Lost."""

        def write() -> None:
            if answers:
                self._ledger.keep_answers(self.batch, self._progress.lines, answers)
            self._ledger.put_progress(self.batch, progress)
            self._progress = progress
            for _ in answers[: len(self._unkept)]:
                self._unkept.popleft()

        pause_s = _PAUSE_S
        while True:
            try:
                # Asked again here, because a gateway that stood still may have been thought dead.
                if not await self._leases.renew(self.batch.id, self._counts):
                    raise Lost
                writing = asyncio.create_task(in_thread(write))
                try:
                    await asyncio.shield(writing)
                except asyncio.CancelledError:
                    await outlast(writing)  # a thread cannot be stopped
                    raise
            except (OSError, redis.RedisError) as error:
                metrics.BATCH_ERRORS.inc()
                log.warning("the answers of batch %s cannot be kept now: %s", self.batch.id, error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                return
