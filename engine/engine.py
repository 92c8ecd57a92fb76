"""The engine: one loop on one thread that owns the device and advances active rows, one byte a step.

Rows join and leave between blocks of steps, and scheduler.py says which run in a block. There is no separate path for
reading, tracing or generating: they are rows with different wishes. Each row stays on the model that was served when it
was submitted, so a new model can be served while the rows of the old one finish.
"""

import functools
import logging
import os
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence

import torch

from engine.backend import Backend, BlockRow
from engine.prefix_cache import Beginning, beginnings
from engine.rows import DeadlineExceeded, EngineFailure, Row, RowCancelled, RowRequest
from engine.scheduler import Scheduler
from engine.shared_prefixes import SharedReading
from worker import metrics

log = logging.getLogger(__name__)

# Below the threads that bring it rows, so that on a CPU they are not kept waiting by the rows that run already: a step
# with all of them costs little more than a step with few.
_NICENESS = 5

# The loop goes round at least this often, so that `age_s` of an idle engine stays small.
_IDLE_WAIT_S = 0.5
_LOOK_INTERVAL_S = 0.25

# After so many blocks that fitted, a model whose rows did not once tries a quarter more of them.
_BLOCKS_TO_GROW = 64


class Engine:
    """Start it with `start`, give it rows with `submit`, end it with `close`."""

    def __init__(
        self,
        max_rows: int = 256,
        block_steps: int = 16,
        bulk_share: float = 0.5,
        gather_s: float = 0.0,
        state_cache_mb: float = 64.0,
    ) -> None:
        """max_rows: rows in a block, and of each priority that hold a slot: a backend needs twice as many.

        block_steps: steps between two chances to join, leave or be cancelled.

        bulk_share, gather_s: as in scheduler.py. state_cache_mb: MiB of states kept for every model that is served, in
        the memory of its device; with 0 every row reads its whole text.
        """
        self.block_steps = block_steps
        self._scheduler: Scheduler[tuple[Backend, Row]] = Scheduler(max_rows, bulk_share, gather_s)
        self._arrivals: queue.SimpleQueue[list[tuple[Backend, Row]] | None] = queue.SimpleQueue()
        self._awaited = threading.Event()  # interactive rows have arrived
        self._active: list[tuple[Backend, Row]] = []  # in the order in which they got their place
        self._blocks = 0
        self._state_cache_bytes = int(state_cache_mb * 2**20)
        # What a retired model's rows had read goes with it.
        self._shared: weakref.WeakKeyDictionary[Backend, SharedReading] = weakref.WeakKeyDictionary()
        # Models whose blocks ran out of memory: rows that they may have now, and blocks that fitted since.
        self._budgets: weakref.WeakKeyDictionary[Backend, tuple[int, int]] = weakref.WeakKeyDictionary()
        self._max_rows = max_rows
        self._closing = False
        self._next_look = 0.0
        self._moved_at = time.monotonic()
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the loop after its step, or its block where the backend ends none; rows left fail with EngineFailure."""
        self._closing = True
        self._arrivals.put(None)
        self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def moved_at(self) -> float:
        """When, by time.monotonic, the loop last began a turn or a backend a step."""
        return self._moved_at

    @property
    def age_s(self) -> float:
        """Seconds since then."""
        return time.monotonic() - self._moved_at

    @property
    def rows_active(self) -> int:
        return self._scheduler.active

    @property
    def rows_waiting(self) -> int:
        return self._scheduler.waiting

    def submit(
        self,
        backend: Backend,
        requests: Sequence[RowRequest],
        cancelled: threading.Event,
        on_text: Callable[[int, str], None] | None = None,
    ) -> list[Row]:
        """Queue rows. Each row's `done` gets its RowResult, or RowCancelled, DeadlineExceeded or EngineFailure.

        Setting `cancelled` ends them all within a block. on_text(index of the request, whole characters) hears
        generated text as it comes, on the engine's thread: it must not block.
        """
        if self._closing:
            raise EngineFailure("the engine is shutting down")
        rows = [
            Row(
                request,
                cancelled,
                None if on_text is None else functools.partial(on_text, index),
                self._beginnings(request),
            )
            for index, request in enumerate(requests)
        ]
        self._arrivals.put([(backend, row) for row in rows])
        if any(request.priority == "interactive" for request in requests):
            self._awaited.set()
        return rows

    def _beginnings(self, request: RowRequest) -> list[Beginning]:
        if self._state_cache_bytes == 0 or request.traced:  # a trace needs the steps, not their end alone
            return []
        return beginnings(request.text, request.clamps, request.generate > 0, request.mean)

    def _loop(self) -> None:
        if sys.platform == "linux":  # elsewhere niceness belongs to the whole process
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while not self._closing:
            self._moved_at = time.monotonic()
            idle = not self._active and not self._scheduler.waiting
            self._take_arrivals(_IDLE_WAIT_S if idle else 0.0)
            self._gather()
            self._drop_dead()
            self._admit()
            metrics.ROWS_ACTIVE.set(self._scheduler.active)
            metrics.ROWS_WAITING.set(self._scheduler.waiting)
            self._advance_chosen()
            metrics.STATE_CACHE_HELD.set(sum(shared.held_bytes for shared in self._shared.values()))
        self._take_arrivals(0.0)
        failure = EngineFailure("the engine was shut down")
        for _, row in [*self._active, *self._scheduler.waiting_rows()]:
            row.done.set_exception(failure)

    def _advance_chosen(self) -> None:
        """One block for every model that has rows to run. A frame of its own: no name may keep a retired model."""
        self._blocks += 1
        interactive, bulk = self._runnable()
        chosen = self._scheduler.share(len(interactive), len(bulk), self._step_seconds(interactive or bulk))
        # Sorting is stable: rows that have stood still equally long keep the order in which they came.
        bulk.sort(key=lambda item: item[1].last_block)
        interactive, bulk = interactive[: chosen[0]], bulk[: chosen[1]]
        # No interactive row waits for the last steps of bulk rows.
        steps = max((row.next_steps(self.block_steps) for _, row in interactive), default=self.block_steps)
        for backend in dict.fromkeys(backend for backend, _ in interactive + bulk):
            rows = [row for owner, row in interactive + bulk if owner is backend]
            self._advance(backend, rows, steps, yields=not interactive)

    def _runnable(self) -> tuple[list[tuple[Backend, Row]], list[tuple[Backend, Row]]]:
        """Active rows that do not stand still behind another: interactive ones with those that lead them, and bulk."""
        interactive: list[tuple[Backend, Row]] = []
        bulk: list[tuple[Backend, Row]] = []
        for backend, row in self._active:
            if row.follows is None:
                is_awaited = row.request.priority == "interactive" or self._shared[backend].leads_interactive(row)
                (interactive if is_awaited else bulk).append((backend, row))
        return interactive, bulk

    def _step_seconds(self, running: list[tuple[Backend, Row]]) -> Callable[[int], float]:
        return running[0][0].step_seconds if running else lambda _: 0.0

    def _take_arrivals(self, timeout_s: float) -> None:
        """All that has been submitted; if nothing has, what comes first within the timeout."""
        self._awaited.clear()
        try:
            arrivals = self._arrivals.get(block=timeout_s > 0, timeout=timeout_s)
            while True:
                now = time.monotonic()
                for backend, row in arrivals or ():
                    self._scheduler.add((backend, row), row.request.priority, now)
                arrivals = self._arrivals.get_nowait()
        except queue.Empty:
            pass

    def _gather(self) -> None:
        """Wait for company where the scheduler finds it worth while, once before a block."""
        now = time.monotonic()
        until = now + self._scheduler.company_wait_s(now)
        while (left_s := until - time.monotonic()) > 0 and not self._closing:
            self._take_arrivals(left_s)

    def _drop_dead(self) -> None:
        now = time.monotonic()
        for backend, row in list(self._active):
            if (reason := _cause_of_death(row, now)) is not None:
                self._leave(backend, row, "cancelled" if isinstance(reason, RowCancelled) else "late")
                row.done.set_exception(reason)
        # Rows that wait cost nothing, so they are looked through less often than there are blocks.
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_INTERVAL_S
        waiting = self._scheduler.waiting_rows()
        dead = [(item, reason) for item in waiting if (reason := _cause_of_death(item[1], now)) is not None]
        if dead:
            self._scheduler.withdraw([item for item, _ in dead])
            for (_, row), reason in dead:
                row.done.set_exception(reason)

    def _admit(self) -> None:
        """Let rows join. One that died while it waited ends here, before it costs a step."""
        now = time.monotonic()
        for backend, row in self._scheduler.admit():
            if (reason := _cause_of_death(row, now)) is not None:
                self._scheduler.leave(row.request.priority)
                row.done.set_exception(reason)
                continue
            row.slot, row.admitted_at = backend.open(row.request.mean), now
            self._active.append((backend, row))
            if backend not in self._shared:
                self._shared[backend] = SharedReading(self._state_cache_bytes)
            self._shared[backend].join(backend, row)
            self._end_if_done(backend, row)

    def _advance(self, backend: Backend, rows: list[Row], steps: int, yields: bool) -> None:
        """One block of at most so many steps, fewer when the engine is closed.

        yields: whether it also ends early when interactive rows have arrived.
        """

        def interrupted() -> bool:
            self._moved_at = time.monotonic()
            return self._closing or (yields and self._awaited.is_set())

        budget, _ = self._budgets.get(backend, (self._max_rows, 0))
        rows = rows[:budget]  # the others stand still until a later block
        rows.sort(key=lambda row: row.next_steps(steps), reverse=True)
        block = [self._plan(row, steps) for row in rows]
        started = time.perf_counter()
        try:
            results = backend.run(block, interrupted)
        except Exception as error:  # whatever a device throws, the other jobs must go on
            if _is_out_of_memory(error) and len(rows) > 1:
                metrics.OUT_OF_MEMORY.inc()
                self._budgets[backend] = len(rows) // 2, 0
                log.warning(
                    "%d rows do not fit into memory, so no more than %d run: %s", len(rows), len(rows) // 2, error
                )
                return  # none of them has moved, so the next block takes the first of them
            log.exception("a block of %d rows failed", len(rows))
            for row in rows:
                self._leave(backend, row, "failed")
                row.done.set_exception(EngineFailure(f"{type(error).__name__}: {error}"))
            return
        self._grow(backend)
        seconds = time.perf_counter() - started
        metrics.BLOCK_SECONDS.observe(seconds)
        metrics.STEP_SECONDS.observe(seconds / results[0].steps)
        active = len(block)
        for step in range(results[0].steps):
            while results[active - 1].steps <= step:
                active -= 1
            metrics.STEP_ROWS.observe(active)
        reads = [min(len(part.text), result.steps) for part, result in zip(block, results, strict=True)]
        metrics.BYTES.labels("read").inc(sum(reads))
        metrics.BYTES.labels("generated").inc(sum(len(result.sampled) for result in results))

        for row, read, outcome in zip(rows, reads, results, strict=True):
            row.last_block = self._blocks
            row.read += read
            if row.request.traced:
                row.traces.append(outcome.trace[:read])
            row.take_samples(outcome.sampled, outcome.log_probability)
            for follower in self._shared[backend].passed(backend, row):
                self._end_if_done(backend, follower)
            self._end_if_done(backend, row)

    def _grow(self, backend: Backend) -> None:
        """A block has fitted; little by little a model that had run out of memory gets its rows back."""
        if backend not in self._budgets:
            return
        budget, blocks = self._budgets[backend]
        if blocks + 1 < _BLOCKS_TO_GROW:
            self._budgets[backend] = budget, blocks + 1
        elif (grown := budget + max(1, budget // 4)) < self._max_rows:
            self._budgets[backend] = grown, 0
        else:
            del self._budgets[backend]

    def _end_if_done(self, backend: Backend, row: Row) -> None:
        if row.follows is None and row.steps_left == 0:
            result = row.result(backend.cell(row.slot), backend.hidden_sum(row.slot) if row.request.mean else None)
            self._leave(backend, row, "done")
            row.done.set_result(result)

    def _plan(self, row: Row, limit: int) -> BlockRow:
        steps = row.next_steps(limit)
        text = row.next_bytes(steps)
        reads_all = row.read + len(text) == len(row.request.text)
        samples = row.request.generate > 0 and reads_all
        return BlockRow(
            slot=row.slot,
            steps=steps,
            text=text,
            samples_from=max(0, len(text) - 1) if samples else steps,
            first_draw=row.sampled,
            sampling=row.request.sampling,
            clamps=row.request.clamps,
            traced=row.request.traced,
        )

    def _leave(self, backend: Backend, row: Row, how: str) -> None:
        self._shared[backend].leave(backend, row)
        backend.close(row.slot)
        self._active.remove((backend, row))
        self._scheduler.leave(row.request.priority)
        metrics.ROWS_ENDED.labels(how).inc()


def _is_out_of_memory(error: Exception) -> bool:
    """On a GPU torch says so by a type of its own, on a CPU in words."""
    words = "out of memory", "can't allocate memory", "not enough memory"
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    )


def _cause_of_death(row: Row, now: float) -> RowCancelled | DeadlineExceeded | None:
    """Why the row need not run any more, if so. now: by time.monotonic()."""
    if row.cancelled.is_set():
        return RowCancelled()
    if row.request.deadline < now:
        return DeadlineExceeded(f"not ended by its deadline, {now - row.request.deadline:.1f} s ago")
    return None
