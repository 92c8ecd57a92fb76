"""The queue of texts for recurrent classifiers: batches of many jobs, turns, cancellation, errors that stay apart."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from engine import text_queue
from engine.rows import DeadlineExceeded, EngineFailure, RowCancelled
from engine.text_queue import RecurrentHead, TextObserver, TextQueue
from recurrent import network
from recurrent.classifier import fit
from recurrent.learning import ROWS
from recurrent.options import Options
from recurrent.published import Published
from tests.conftest import wait_until
from tests.recurrent.reviews import LABELS, TEXTS

NEVER = float("inf")


class Seen(TextObserver):
    def __init__(self) -> None:
        self.batches: list[int] = []
        self.ended: list[str] = []

    def batch(self, seconds: float, rows: int) -> None:
        self.batches.append(rows)

    def row_ended(self, how: Any) -> None:
        self.ended.append(how)


@pytest.fixture(scope="module")
def head() -> Published:
    options = Options(embedding=4, units=4, batch_size=16, epochs=1, min_df=1)
    y = np.array([float(label == "good") for label in LABELS])
    return Published("films", fit(options, "binary", ["bad", "good"], TEXTS, y, device="cpu"))


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def queue(seen: Seen) -> Iterator[TextQueue]:
    made = TextQueue(seen)
    yield made
    made.close()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The queue's thread reads its next batch when this is set."""
    opened, plain = threading.Event(), text_queue._probabilities

    def gated(*arguments: Any) -> Any:
        opened.wait()
        return plain(*arguments)

    monkeypatch.setattr(text_queue, "_probabilities", gated)
    return opened


def submit(queue: TextQueue, head: Published, texts: list[str], priority: Any = "interactive", **more: Any) -> Any:
    arguments = {"cancelled": threading.Event(), "deadline": NEVER} | more
    return RecurrentHead(head, queue).submit(texts, priority, **arguments)


def test_the_answers_are_those_of_the_classifier(queue: TextQueue, head: Published, seen: Seen) -> None:
    rows = submit(queue, head, TEXTS)
    found = np.stack([row.done.result(10) for row in rows])
    assert found == pytest.approx(head.model.probabilities(TEXTS), abs=1e-6)
    assert [row.read for row in rows] == [len(text.encode()) for text in TEXTS]
    assert all(row.admitted_at is not None for row in rows)
    assert seen.ended == ["done"] * len(TEXTS)


def test_texts_of_many_jobs_are_read_together(
    queue: TextQueue, head: Published, seen: Seen, gate: threading.Event
) -> None:
    first = submit(queue, head, ["Hold the thread."])
    wait_until(lambda: first[0].admitted_at is not None)
    jobs = [submit(queue, head, [text]) for text in TEXTS * 2]
    gate.set()
    for (row,) in jobs:
        row.done.result(10)
    assert seen.batches == [1, ROWS, 2 * len(TEXTS) - ROWS]


def test_interactive_and_bulk_texts_take_turns(queue: TextQueue, head: Published, gate: threading.Event) -> None:
    held = submit(queue, head, ["Hold the thread."])
    wait_until(lambda: held[0].admitted_at is not None)
    bulk = submit(queue, head, ["A film."] * 4 * ROWS, "bulk")
    urgent = submit(queue, head, ["A film."] * ROWS)
    gate.set()
    for row in [*bulk, *urgent]:
        row.done.result(10)
    assert sum(row.admitted_at < urgent[0].admitted_at for row in bulk) <= ROWS


def test_texts_for_two_classifiers_go_apart(queue: TextQueue, head: Published, seen: Seen) -> None:
    other = Published("more", head.model)
    rows = submit(queue, head, ["A film."]) + submit(queue, other, ["A film."])
    assert rows[0].done.result(10).tolist() == rows[1].done.result(10).tolist()
    assert seen.batches == [1, 1]


def test_what_waits_ends_when_it_is_cancelled_or_late(
    queue: TextQueue, head: Published, seen: Seen, gate: threading.Event
) -> None:
    held = submit(queue, head, ["Hold the thread."])
    wait_until(lambda: held[0].admitted_at is not None)
    cancelled = threading.Event()
    gone = submit(queue, head, TEXTS, cancelled=cancelled)
    late = submit(queue, head, TEXTS, deadline=time.monotonic() + 0.01)
    cancelled.set()
    time.sleep(0.02)
    gate.set()
    for rows, error in ((gone, RowCancelled), (late, DeadlineExceeded)):
        for row in rows:
            assert isinstance(row.done.exception(10), error)
    assert seen.batches == [1]
    assert sorted(set(seen.ended)) == ["cancelled", "done", "late"]


def test_a_batch_that_fails_leaves_the_next_alone(
    queue: TextQueue, head: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("sabotage")

    with monkeypatch.context() as patched:
        patched.setattr(text_queue, "_probabilities", fails)
        with pytest.raises(EngineFailure, match="RuntimeError: sabotage"):
            submit(queue, head, ["A film."])[0].done.result(10)
    assert submit(queue, head, ["A film."])[0].done.result(10).shape == (2,)


def test_what_waits_when_it_closes_fails(head: Published, gate: threading.Event) -> None:
    queue = TextQueue()
    held = submit(queue, head, ["Hold the thread."])
    wait_until(lambda: held[0].admitted_at is not None)
    waiting = submit(queue, head, TEXTS)
    closing = threading.Thread(target=queue.close)
    closing.start()
    wait_until(lambda: queue._closing)
    gate.set()
    closing.join(10)
    assert all(isinstance(row.done.exception(10), EngineFailure) for row in [*held, *waiting])
    assert queue.waiting == 0
    with pytest.raises(EngineFailure, match="is closed"):
        submit(queue, head, ["A film."])


def test_a_batch_is_left_when_nobody_wants_it_any_more(
    queue: TextQueue, head: Published, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text of many parts, of which the first is never over."""
    begun, cancelled = threading.Event(), threading.Event()
    monkeypatch.setattr(network, "PART", 10)
    plain = type(head.model.network.embedding).forward

    def slow(*arguments: Any) -> Any:
        begun.set()
        assert cancelled.wait(180)
        return plain(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(type(head.model.network.embedding), "forward", slow)
        (row,) = submit(queue, head, ["so on and " * 1000], cancelled=cancelled)
        assert begun.wait(180)
        waiting = submit(queue, head, TEXTS)
        assert queue.waiting == len(TEXTS)
        cancelled.set()
        assert isinstance(row.done.exception(10), RowCancelled)
    assert all(row.done.result(10).shape == (2,) for row in waiting)
    assert seen.ended == ["cancelled", *["done"] * len(TEXTS)]


def test_a_queue_that_breaks_fails_all_and_says_so(
    queue: TextQueue, head: Published, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = submit(queue, head, ["Hold the thread."])
    wait_until(lambda: held[0].admitted_at is not None)
    waiting = submit(queue, head, TEXTS)

    def fails(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(text_queue, "batches", fails)
    gate.set()
    assert held[0].done.result(10).shape == (2,)
    assert all(isinstance(row.done.exception(10), EngineFailure) for row in waiting)
    wait_until(lambda: queue.broken)
    with pytest.raises(EngineFailure, match="is broken"):
        submit(queue, head, ["A film."])


def test_a_thread_that_cannot_start_is_tried_again(
    queue: TextQueue, head: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", full)
        with pytest.raises(RuntimeError):
            submit(queue, head, ["A film."])
    assert queue.waiting == 0
    assert submit(queue, head, ["A film."])[0].done.result(10).shape == (2,)


def test_outputs_that_are_no_numbers_fail(queue: TextQueue, head: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_queue, "read", lambda *_, **__: np.array([[np.nan]], dtype=np.float32))
    with pytest.raises(EngineFailure, match="outputs are not numbers"):
        submit(queue, head, ["A film."])[0].done.result(10)


def test_an_interactive_text_goes_before_the_next_bulk_batch(
    queue: TextQueue, head: Published, gate: threading.Event
) -> None:
    """Also after bulk batches alone."""
    bulk = [submit(queue, head, ["A film."] * ROWS, "bulk") for _ in range(3)]
    wait_until(lambda: bulk[0][0].admitted_at is not None)
    urgent = submit(queue, head, ["A film."])
    gate.set()
    for row in [*urgent, *(row for rows in bulk for row in rows)]:
        row.done.result(10)
    assert urgent[0].admitted_at < bulk[1][0].admitted_at
