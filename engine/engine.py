"""The engine: one loop on one thread that owns the device and advances active rows, one byte a step.

Rows join and leave between blocks of steps, and scheduler.py decides which rows run in a block. There is no separate
path for reading, tracing or generating: they are rows with different requests. Each row stays on the model that was
served when it was submitted, so a new model can be served while the rows of the old one finish. observer.py lists what
an engine reports while it runs.
"""

import functools
import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence

from engine.backend import Backend, BlockRow
from engine.memory import RowLimits, is_out_of_memory
from engine.niceness import be_nice
from engine.observer import Observer, RowEnd
from engine.rows import EngineFailure, Row, RowCancelled, RowRequest
from engine.scheduler import Scheduler
from engine.shared_prefixes import SharedPrefixes

log = logging.getLogger(__name__)

# The loop goes round at least this often, so that `age_s` of an idle engine stays small.
_IDLE_WAIT_S = 0.5
_LOOK_INTERVAL_S = 0.25


class Engine:
    """Start it with `start`, give it rows with `submit`, end it with `close`."""

    def __init__(
        self,
        max_rows: int = 256,
        block_steps: int = 16,
        bulk_share: float = 0.5,
        batching_delay_s: float = 0.0,
        prefix_cache_mb: float = 64.0,
        observer: Observer | None = None,
    ) -> None:
        """max_rows: rows in a block, and of each priority that hold a slot: a backend needs twice as many.

        block_steps: steps between two chances to join, leave or be cancelled.

        bulk_share, batching_delay_s: as in scheduler.py. prefix_cache_mb: MiB of states kept for every model that is
        served, in the memory of its device; with 0 every row reads its whole text. observer: without one, nothing is
        reported.
        """
        self._block_steps = block_steps
        self._scheduler: Scheduler[tuple[Backend, Row]] = Scheduler(max_rows, bulk_share, batching_delay_s)
        self._arrivals: queue.SimpleQueue[list[tuple[Backend, Row]] | None] = queue.SimpleQueue()
        self._interactive_arrived = threading.Event()
        self._active: list[tuple[Backend, Row]] = []  # in the order in which they got their place
        self._blocks = 0
        self._prefix_cache_bytes = int(prefix_cache_mb * 2**20)
        # The states of a retired model are released with it.
        self._shared: weakref.WeakKeyDictionary[Backend, SharedPrefixes] = weakref.WeakKeyDictionary()
        self._limits = RowLimits(max_rows)
        self._observer = observer or Observer()
        self._closing = False
        self._submitting = threading.Lock()  # so that no rows arrive once the loop has looked for the last time
        self._next_look = 0.0
        self._moved_at = time.monotonic()
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the loop after the current step, or block where the backend cannot interrupt one.

        Rows that have not ended fail with EngineFailure.
        """
        with self._submitting:
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

        Setting `cancelled` ends them all within a block. on_text(index of the request, whole characters) is called with
        text as it is generated, on the engine's thread: it must not block. Raises EngineFailure once the engine is
        closed, ValueError for a request that cannot be a row.
        """
        rows = [
            Row(
                request,
                cancelled,
                None if on_text is None else functools.partial(on_text, index),
                request.prefixes() if self._prefix_cache_bytes else (),
            )
            for index, request in enumerate(requests)
        ]
        with self._submitting:
            if self._closing:
                raise EngineFailure("the engine is shutting down")
            self._arrivals.put([(backend, row) for row in rows])
        if any(request.priority == "interactive" for request in requests):
            self._interactive_arrived.set()
        return rows

    def _loop(self) -> None:
        be_nice()
        while not self._closing:
            self._moved_at = time.monotonic()
            idle = not self._active and not self._scheduler.waiting
            self._take_arrivals(_IDLE_WAIT_S if idle else 0.0)
            self._wait_for_more()
            self._drop_dead()
            self._admit()
            self._observer.rows(self._scheduler.active, self._scheduler.waiting)
            self._advance_chosen()
            self._observer.prefixes_held(sum(shared.held_bytes for shared in self._shared.values()))
        self._take_arrivals(0.0)
        failure = EngineFailure("the engine was shut down")
        waiting = self._scheduler.waiting_rows()
        for _, row in [*self._active, *waiting]:
            row.done.set_exception(failure)
        self._active.clear()  # with its rows the engine would keep their models
        self._scheduler.withdraw(waiting)

    def _advance_chosen(self) -> None:
        """One block for every model that has rows to run.

        Not part of the loop: its local variables would keep a retired model alive.
        """
        self._blocks += 1
        interactive, bulk = self._runnable()
        fitting = min(map(self._limits.of, {backend for backend, _ in interactive + bulk}), default=0)
        chosen = self._scheduler.share(len(interactive), len(bulk), self._step_seconds(interactive or bulk), fitting)
        # Sorting is stable: rows that have stood still equally long keep their order of arrival.
        bulk.sort(key=lambda item: item[1].last_block)
        interactive, bulk = interactive[: chosen[0]], bulk[: chosen[1]]
        # No interactive row waits for the last steps of bulk rows.
        steps = max((row.next_steps(self._block_steps) for _, row in interactive), default=self._block_steps)
        for backend in dict.fromkeys(backend for backend, _ in interactive + bulk):
            rows = [row for owner, row in interactive + bulk if owner is backend]
            limit = self._limits.of(backend)
            for first in range(0, len(rows), limit):  # once, but where no two rows fit
                self._advance(backend, rows[first : first + limit], steps, yields=not interactive)

    def _runnable(self) -> tuple[list[tuple[Backend, Row]], list[tuple[Backend, Row]]]:
        """Active rows that do not follow another one: interactive ones together with rows that lead them, and bulk."""
        interactive: list[tuple[Backend, Row]] = []
        bulk: list[tuple[Backend, Row]] = []
        for backend, row in self._active:
            if row.follows is None:
                is_urgent = row.request.priority == "interactive" or self._shared[backend].leads_interactive(row)
                (interactive if is_urgent else bulk).append((backend, row))
        return interactive, bulk

    def _step_seconds(self, running: list[tuple[Backend, Row]]) -> Callable[[int], float]:
        return running[0][0].step_seconds if running else lambda _: 0.0

    def _take_arrivals(self, timeout_s: float) -> None:
        """Hand submitted rows to the scheduler; where there are none, wait for the first until the timeout."""
        self._interactive_arrived.clear()
        try:
            arrivals = self._arrivals.get(block=timeout_s > 0, timeout=timeout_s)
            while True:
                now = time.monotonic()
                for backend, row in arrivals or ():
                    self._scheduler.add((backend, row), row.request.priority, now)
                arrivals = self._arrivals.get_nowait()
        except queue.Empty:
            pass

    def _wait_for_more(self) -> None:
        """The batching delay before a block, as long as the scheduler decides."""
        now = time.monotonic()
        until = now + self._scheduler.batching_wait_s(now)
        while (left_s := until - time.monotonic()) > 0 and not self._closing:
            self._take_arrivals(left_s)

    def _drop_dead(self) -> None:
        now = time.monotonic()
        for backend, row in list(self._active):
            if (reason := row.reason_to_end(now)) is not None:
                self._leave(backend, row, "cancelled" if isinstance(reason, RowCancelled) else "late")
                row.done.set_exception(reason)
        # Waiting rows cost nothing, so they are not checked before every block.
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_INTERVAL_S
        waiting = self._scheduler.waiting_rows()
        dead = [(item, reason) for item in waiting if (reason := item[1].reason_to_end(now)) is not None]
        if dead:
            self._scheduler.withdraw([item for item, _ in dead])
            for (_, row), reason in dead:
                row.done.set_exception(reason)

    def _admit(self) -> None:
        """Let rows join. One that was cancelled or ran late while it waited ends here, before it costs a step."""
        now = time.monotonic()
        for backend, row in self._scheduler.admit():
            if (reason := row.reason_to_end(now)) is not None:
                self._scheduler.leave(row.request.priority)
                row.done.set_exception(reason)
                continue
            row.slot, row.admitted_at = backend.open(row.request.mean), now
            row.last_block = self._blocks  # behind rows that stand still, or short ones would overtake them for ever
            self._active.append((backend, row))
            if backend not in self._shared:
                self._shared[backend] = SharedPrefixes(self._prefix_cache_bytes, self._observer)
            self._shared[backend].join(backend, row)
            self._end_if_done(backend, row)

    def _advance(self, backend: Backend, rows: list[Row], steps: int, yields: bool) -> None:
        """One block of at most `steps` steps, fewer when the engine is closed.

        yields: whether it also ends early when interactive rows arrive.
        """

        def interrupted() -> bool:
            self._moved_at = time.monotonic()
            return self._closing or (yields and self._interactive_arrived.is_set())

        rows.sort(key=lambda row: row.next_steps(steps), reverse=True)
        block = [_block_row(row, steps) for row in rows]
        started = time.perf_counter()
        try:
            results = backend.run(block, interrupted)
        except Exception as error:  # whatever a device raises, the other jobs must continue
            if is_out_of_memory(error) and len(rows) > 1:
                limit = self._limits.reduce(backend, len(rows))
                self._observer.out_of_memory()
                log.warning("%d rows do not fit into memory: blocks have at most %d now: %s", len(rows), limit, error)
                return  # none of the rows has moved, so the next block takes the first of them
            log.exception("a block of %d rows failed", len(rows))
            for row in rows:
                self._leave(backend, row, "failed")
                row.done.set_exception(EngineFailure(f"{type(error).__name__}: {error}"))
            return
        seconds = time.perf_counter() - started
        self._limits.fitted(backend)
        made = [result.steps for result in results]
        reads = [min(len(part.text), steps) for part, steps in zip(block, made, strict=True)]
        self._observer.block(seconds, made, sum(reads), sum(len(result.sampled) for result in results))

        for row, read, result in zip(rows, reads, results, strict=True):
            row.last_block = self._blocks
            row.read += read
            if row.request.traced:
                row.take_trace(result.trace[:read])
            row.take_samples(result.sampled, result.log_probability)
            for follower in self._shared[backend].passed(backend, row):
                self._end_if_done(backend, follower)
            self._end_if_done(backend, row)

    def _end_if_done(self, backend: Backend, row: Row) -> None:
        if row.follows is None and row.steps_left == 0:
            hidden_sum = backend.hidden_sum(row.slot) if row.request.mean else None
            bits = backend.bits(row.slot) if row.request.scored else 0.0
            result = row.result(backend.cell(row.slot), hidden_sum, bits)
            self._leave(backend, row, "done")
            row.done.set_result(result)

    def _leave(self, backend: Backend, row: Row, how: RowEnd) -> None:
        self._shared[backend].leave(backend, row, failed=how == "failed")
        backend.close(row.slot)
        self._active.remove((backend, row))
        self._scheduler.leave(row.request.priority)
        self._observer.row_ended(how)


def _block_row(row: Row, limit: int) -> BlockRow:
    """What the row does in the next block, at most `limit` steps."""
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
        scored=row.next_scored(steps),
    )
