"""Texts for recurrent classifiers: `TextQueue`, one thread that reads those of many jobs together, in batches.

They are not rows of the engine: a batch of texts of about one length is read to its end, by torch's own cells, and left
early where none of its jobs wants it any more. Interactive texts and those of bulk jobs take turns where both wait, the
oldest of each first.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contract.jobs import Priority
from engine.niceness import be_nice
from engine.observer import RowEnd
from engine.openmp import on_passing_thread
from engine.rows import DeadlineExceeded, EngineFailure, RowCancelled, reason_to_end
from recurrent import targets
from recurrent.batches import batches
from recurrent.learning import ROWS, read
from recurrent.published import Published
from recurrent.tokens import Ragged

_LOOKED_AT = 4 * ROWS  # texts that wait among which some of one length are found
_OTHER: dict[Priority, Priority] = {"interactive": "bulk", "bulk": "interactive"}

log = logging.getLogger(__name__)


class TextRow:
    """A text on its way to a classifier. Its `done` gets probabilities, (labels,), or the error that a `Row`'s gets."""

    sampled = 0  # bytes: a classifier generates nothing

    def __init__(
        self, head: Published, text: str, priority: Priority, cancelled: threading.Event, deadline: float
    ) -> None:
        """deadline: by time.monotonic()."""
        self.head = head
        self.priority = priority
        self.cancelled = cancelled
        self.deadline = deadline
        self.tokens = head.model.vocabulary.encode(text)
        self.size = len(text.encode())  # bytes
        self.done: Future[NDArray[np.float64]] = Future()
        self.read = 0  # bytes
        self.admitted_at: float | None = None

    def reason_to_end(self, now: float) -> RowCancelled | DeadlineExceeded | None:
        """Why the text must not be read any more, None where it may."""
        return reason_to_end(self.cancelled, self.deadline, now)


class TextObserver:
    """What a queue reports, on its thread; does nothing."""

    def batch(self, seconds: float, rows: int) -> None:
        """A batch was read."""

    def row_ended(self, how: RowEnd) -> None:
        """A text has left the queue."""


class TextQueue:
    """The thread begins with the first text, and ends with `close`."""

    def __init__(self, observer: TextObserver | None = None) -> None:
        self._observer = observer or TextObserver()
        self._arrivals: queue.SimpleQueue[Sequence[TextRow] | None] = queue.SimpleQueue()
        self._waiting: dict[Priority, list[TextRow]] = {"interactive": [], "bulk": []}
        self._turn: Priority = "interactive"
        self._changing = threading.Lock()  # held while what follows is changed
        self._thread: threading.Thread | None = None
        self._closing = False
        self._count = 0
        self.broken = False  # whether the thread has died of an error: nothing is read any more

    @property
    def waiting(self) -> int:
        """Texts that are not being read yet."""
        return self._count

    def submit(self, rows: Sequence[TextRow]) -> None:
        """Raises EngineFailure once the queue is closed or broken."""
        with self._changing:
            if self._closing:
                raise EngineFailure("the queue of texts is broken" if self.broken else "the queue of texts is closed")
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="texts", daemon=True)
                thread.start()  # raises where the system has no more: the next text tries again
                self._thread = thread
            self._count += len(rows)
            self._arrivals.put(rows)

    def close(self) -> None:
        """Texts that are not read by now fail with EngineFailure."""
        with self._changing:
            self._closing = True
            self._arrivals.put(None)
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            be_nice()
            while not self._closing:
                self._take_arrivals()
                self._drop_dead()
                self._read_next()
        except Exception:
            log.exception("the queue of texts is broken")
            self.broken = True
        finally:
            with self._changing:
                self._closing = True
            self._take_arrivals()
            for rows in self._waiting.values():
                self._leave(rows)
                self._fail(rows, EngineFailure("the queue of texts was shut down"))
                rows.clear()

    def _take_arrivals(self) -> None:
        """All that have come; waits for some where none wait."""
        wait = not any(self._waiting.values()) and not self._closing
        while True:
            try:
                arrived = self._arrivals.get(block=wait)
            except queue.Empty:
                return
            wait = False
            for row in arrived or ():
                self._waiting[row.priority].append(row)

    def _drop_dead(self) -> None:
        now = time.monotonic()
        for rows in self._waiting.values():
            dead = [row for row in rows if row.reason_to_end(now) is not None]
            if dead:
                self._take_out(rows, dead)
                self._end_dead(dead)

    def _read_next(self) -> None:
        """One batch. Not part of the loop: its local variables would keep a network that was deleted."""
        served = self._turn if self._waiting[self._turn] else _OTHER[self._turn]
        rows = self._waiting[served]
        if not rows:
            return
        self._turn = _OTHER[served]
        # For the classifier of the oldest text, with others of about its length.
        same = [row for row in rows if row.head is rows[0].head][:_LOOKED_AT]
        lengths = np.array([len(row.tokens) for row in same])
        made = batches(lengths, ROWS, rows[0].head.model.options.most_tokens)
        chosen = [same[number] for number in next(batch for batch in made if 0 in batch)]
        self._take_out(rows, chosen)
        try:
            self._answer(chosen)
        except BaseException as error:
            self._fail(
                [row for row in chosen if not row.done.done()], EngineFailure(f"{type(error).__name__}: {error}")
            )
            raise

    def _answer(self, rows: list[TextRow]) -> None:
        began = time.monotonic()
        for row in rows:
            row.admitted_at = began
        try:
            # Only the engine's thread may keep a team of OpenMP threads (openmp.py).
            found = on_passing_thread(_probabilities, rows, lambda: self._check(rows))
        except _Stopped:
            self._end_dead(rows)
            return
        except Exception as error:  # noqa: BLE001 - these texts' fault must not reach those that wait
            self._fail(rows, EngineFailure(f"{type(error).__name__}: {error}"))
            return
        self._observer.batch(time.monotonic() - began, len(rows))
        for row, probabilities in zip(rows, found, strict=True):
            row.read = row.size
            self._observer.row_ended("done")
            row.done.set_result(probabilities)

    def _check(self, rows: list[TextRow]) -> None:
        """Before every part of a batch: stop where nobody wants it any more."""
        now = time.monotonic()
        if self._closing or all(row.reason_to_end(now) is not None for row in rows):
            raise _Stopped

    def _end_dead(self, rows: list[TextRow]) -> None:
        """Rows that were stopped, by their own reason; those that have none were stopped with the queue."""
        now = time.monotonic()
        for row in rows:
            reason = row.reason_to_end(now)
            if reason is None:
                self._fail([row], EngineFailure("the queue of texts was shut down"))
                continue
            self._observer.row_ended("cancelled" if isinstance(reason, RowCancelled) else "late")
            row.done.set_exception(reason)

    def _fail(self, rows: Sequence[TextRow], error: EngineFailure) -> None:
        for row in rows:
            self._observer.row_ended("failed")
            row.done.set_exception(error)

    def _take_out(self, rows: list[TextRow], gone: Sequence[TextRow]) -> None:
        self._leave(gone)
        numbers = {id(row) for row in gone}
        rows[:] = [row for row in rows if id(row) not in numbers]

    def _leave(self, rows: Sequence[TextRow]) -> None:
        with self._changing:
            self._count -= len(rows)


class _Stopped(Exception):
    """A batch was left before its end."""


def _probabilities(rows: Sequence[TextRow], check: Callable[[], None]) -> NDArray[np.float64]:
    """(texts, labels). Raises what `check` raises, and ValueError for a network that answers no numbers."""
    model = rows[0].head.model
    outputs = read(model.network, Ragged.joined([row.tokens for row in rows]), len(rows), check=check)
    if not np.isfinite(outputs).all():
        raise ValueError("the network's outputs are not numbers")
    return targets.probabilities(model.kind, outputs)


@dataclass(frozen=True)
class RecurrentHead:
    """A published classifier and the queue that reads texts for it."""

    published: Published
    queue: TextQueue

    def submit(
        self, texts: Sequence[str], priority: Priority, cancelled: threading.Event, deadline: float
    ) -> list[TextRow]:
        """Raises EngineFailure once the queue is closed."""
        rows = [TextRow(self.published, text, priority, cancelled, deadline) for text in texts]
        self.queue.submit(rows)
        return rows
