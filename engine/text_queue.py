"""Texts for recurrent classifiers: `TextQueue`, one thread that reads those of many jobs together, in batches.

They are not rows of the engine: a text is read whole, by torch's own cells, beside texts of about its length. A batch
is what cannot be interrupted: up to `ROWS` texts, or one longer text. Interactive texts and those of bulk jobs take
turns where both wait, the oldest of each first.
"""

import os
import queue
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contract.jobs import Priority
from engine.observer import RowEnd
from engine.openmp import on_passing_thread
from engine.rows import DeadlineExceeded, EngineFailure, RowCancelled
from recurrent import targets
from recurrent.batches import batches
from recurrent.learning import read
from recurrent.published import Published
from recurrent.tokens import Ids, Ragged

ROWS = 64  # texts of a batch
_NICENESS = 5  # as of the engine's thread


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
        if self.cancelled.is_set():
            return RowCancelled()
        if self.deadline < now:
            return DeadlineExceeded(f"not ended by its deadline, {now - self.deadline:.1f} s ago")
        return None


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
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = False

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    def submit(self, rows: Sequence[TextRow]) -> None:
        """Raises EngineFailure once the queue is closed."""
        with self._starting:
            if self._closing:
                raise EngineFailure("the queue of texts is shutting down")
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="texts", daemon=True)
                self._thread.start()
            self._arrivals.put(rows)

    def close(self) -> None:
        """After the current batch. Texts that were not read fail with EngineFailure."""
        with self._starting:
            self._closing = True
            self._arrivals.put(None)
        if self._thread is not None:
            self._thread.join()

    def _loop(self) -> None:
        if sys.platform == "linux":  # elsewhere niceness belongs to the whole process
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while not self._closing:
            self._take_arrivals()
            self._drop_dead()
            if chosen := self._choose():
                self._answer(chosen)
        self._take_arrivals()
        for rows in self._waiting.values():
            for row in rows:
                row.done.set_exception(EngineFailure("the queue of texts was shut down"))
            rows.clear()

    def _take_arrivals(self) -> None:
        """All that have come; waits for some where none wait."""
        wait = not self.waiting and not self._closing
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
            dead = [(row, reason) for row in rows if (reason := row.reason_to_end(now)) is not None]
            if not dead:
                continue
            gone = {id(row) for row, _ in dead}
            rows[:] = [row for row in rows if id(row) not in gone]
            for row, reason in dead:
                self._observer.row_ended("cancelled" if isinstance(reason, RowCancelled) else "late")
                row.done.set_exception(reason)

    def _choose(self) -> list[TextRow]:
        """The next batch: texts for the classifier of the oldest, as many as are read together."""
        other: Priority = "bulk" if self._turn == "interactive" else "interactive"
        rows = self._waiting[self._turn] or self._waiting[other]
        self._turn = other
        if not rows:
            return []
        same = [row for row in rows if row.head is rows[0].head][: 4 * ROWS]  # enough to find some of one length
        lengths = np.array([len(row.tokens) for row in same])
        first = next(chosen for chosen in batches(lengths, ROWS) if 0 in chosen)
        chosen = [same[number] for number in first]
        taken = {id(row) for row in chosen}
        rows[:] = [row for row in rows if id(row) not in taken]
        return chosen

    def _answer(self, rows: list[TextRow]) -> None:
        began = time.monotonic()
        for row in rows:
            row.admitted_at = began
        try:
            # Only the engine's thread may keep a team of OpenMP threads (openmp.py).
            found = on_passing_thread(_probabilities, rows[0].head, [row.tokens for row in rows])
        except Exception as error:  # noqa: BLE001 - these texts' fault must not reach those that wait
            for row in rows:
                self._observer.row_ended("failed")
                row.done.set_exception(EngineFailure(f"{type(error).__name__}: {error}"))
            return
        self._observer.batch(time.monotonic() - began, len(rows))
        for row, probabilities in zip(rows, found, strict=True):
            row.read = row.size
            self._observer.row_ended("done")
            row.done.set_result(probabilities)


def _probabilities(head: Published, texts: list[Ids]) -> NDArray[np.float64]:
    model = head.model
    outputs = read(model.network, Ragged.joined(texts), len(texts))
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
