"""A job to its outcome: its plan (plans.py) on the engine, and how it ends.

`start` puts a job on the engine, for a worker; `follow` and `execute` also wait for it. It needs neither Celery nor
Redis.
"""

import itertools
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from contract.jobs import AnyJob, ErrorCode, JobError, Outcome
from engine.engine import Engine
from engine.plans import FindHead, JobFailed, Plan, TextPlan, no_head, plan
from engine.rows import DeadlineExceeded, EngineFailure, Row, RowCancelled, RowResult
from engine.serving import ServedModel
from engine.text_queue import TextRow
from engine.waiting import wait_for

log = logging.getLogger(__name__)


@dataclass
class Task:
    """A job that is to run, and the flag that cancels it. Times are by time.monotonic()."""

    job: AnyJob
    cancelled: threading.Event
    deadline: float = math.inf
    again: bool = False  # an earlier delivery began it
    admitted_at: float | None = None  # when the engine had a place for the first of its rows, if it ever had
    ended_at: float | None = None  # when the last of them ended
    rows: list[Row | TextRow] = field(default_factory=list)  # on the engine or a queue of texts, or through it
    left_bytes: int = 0  # of rows that went through it and are not kept

    @property
    def done_bytes(self) -> int:
        """Read and generated so far."""
        return self.left_bytes + sum(row.read + row.sampled for row in self.rows)


Ending = Callable[[], Outcome]  # what ended a job becomes its outcome when this is called


def start(
    task: Task,
    served: ServedModel,
    engine: Engine,
    on_text: Callable[[int, str], None],
    on_end: Callable[[Ending], None],
    find_head: FindHead,
) -> None:
    """Put a job on the engine. on_text gets (index of the sample, whole characters); on_end is called once, at the end.

    on_text is called on the engine's thread, and so is on_end, unless the job cannot begin or continue: they must not
    block. The work of shaping the result is done by the caller of the ending.
    """
    try:
        plan_ = plan(task.job, served, find_head, task.deadline)
        _submit(plan_, task, served, engine, on_text, on_end)
    except Exception as error:  # noqa: BLE001 - one job's fault must not reach its neighbours
        _end_with(error, task.job, on_end)


def _submit(
    plan_: Plan | TextPlan,
    task: Task,
    served: ServedModel,
    engine: Engine,
    on_text: Callable[[int, str], None],
    on_end: Callable[[Ending], None],
) -> None:
    rows: Sequence[Row | TextRow]
    if isinstance(plan_, TextPlan):
        rows, then = plan_.submit(task.cancelled), None
    else:
        rows = engine.submit(served.backend, plan_.requests, task.cancelled, on_text if plan_.stream else None)
        then = plan_.then
    task.rows += rows
    ended = itertools.count(1)  # counts without a lock; rows may end on the engine's thread while this one is here

    def row_ended(row: "Future[Any]") -> None:
        if row.exception() is not None:
            task.cancelled.set()  # one row has failed, so the job's others need not continue
        if next(ended) < len(rows):
            return
        if task.admitted_at is None:
            task.admitted_at = min((row.admitted_at for row in rows if row.admitted_at is not None), default=None)
        if then is None or any(row.done.exception() for row in rows):
            task.ended_at = time.monotonic()
            on_end(lambda: _outcome(task.job, plan_, rows))
            return
        try:
            # Texts are prepared and hashed for as long as they are many and large: the engine's thread cannot wait.
            threading.Thread(target=proceed, args=(then,), name="then", daemon=True).start()
        except RuntimeError as error:  # the system has no more threads
            _end_with(error, task.job, on_end)

    def proceed(then: Callable[[list[RowResult]], Plan]) -> None:
        try:
            _submit(then(_results(rows)), task, served, engine, on_text, on_end)
        except Exception as error:  # noqa: BLE001 - as above
            _end_with(error, task.job, on_end)

    for row in rows:
        row.done.add_done_callback(row_ended)


def _end_with(error: Exception, job: AnyJob, on_end: Callable[[Ending], None]) -> None:
    outcome = failure(error, job)
    on_end(lambda: outcome)


def follow(
    task: Task, served: ServedModel, engine: Engine, find_head: FindHead = no_head
) -> Generator[str, None, Outcome]:
    """Put a job of one sample, or one that does not stream, on the engine at once.

    Yields generated text as it comes, whole characters, if the job streams; returns the outcome. Closing the generator
    cancels the job.
    """
    # A queue, because the engine's thread must never wait.
    events: queue.SimpleQueue[str | Ending] = queue.SimpleQueue()
    start(task, served, engine, lambda _, text: events.put(text), events.put, find_head)
    return _followed(task, engine, events)


def _followed(task: Task, engine: Engine, events: "queue.SimpleQueue[str | Ending]") -> Generator[str, None, Outcome]:
    try:
        while isinstance(event := wait_for(engine, events), str):
            yield event
    except EngineFailure as error:
        return failure(error, task.job)
    finally:
        task.cancelled.set()
    return event()


def execute(job: AnyJob, served: ServedModel, engine: Engine, find_head: FindHead = no_head) -> dict[str, Any]:
    """One job's result as JSON. Raises JobFailed."""
    following = follow(Task(job, threading.Event()), served, engine, find_head)
    while True:
        try:
            next(following)
        except StopIteration as ended:
            outcome: Outcome = ended.value
            break
    if outcome.error is not None:
        raise JobFailed(outcome.error.code, outcome.error.detail)
    return outcome.result or {}


def _outcome(job: AnyJob, plan_: Plan | TextPlan, rows: Sequence[Row | TextRow]) -> Outcome:
    # The first cause counts: once a row has failed, its neighbours are cancelled.
    errors = [error for row in rows if (error := row.done.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, RowCancelled)):
        return failure(error, job)
    try:
        return Outcome(state="done", result=plan_.shape(_results(rows)))
    except Exception as error:  # noqa: BLE001 - as above
        return failure(error, job)


def failure(error: BaseException, job: AnyJob) -> Outcome:
    """The outcome of a job that failed with `error`."""
    match error:
        case RowCancelled():
            return Outcome(state="cancelled")
        case JobFailed():
            return Outcome(state="failed", error=error.error)
        case DeadlineExceeded():
            return Outcome.late(job.timeout_s)
        case EngineFailure():
            return Outcome(state="failed", error=JobError(code=ErrorCode.ENGINE_FAILURE, detail=str(error)))
        case _:
            log.error("a job failed with an unexpected error", exc_info=error)
            detail = f"{type(error).__name__}, which was logged"
            return Outcome(state="failed", error=JobError(code=ErrorCode.ENGINE_FAILURE, detail=detail))


def _results(rows: Sequence[Row | TextRow]) -> list[Any]:
    return [row.done.result() for row in rows]
