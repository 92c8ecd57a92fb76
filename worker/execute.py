"""A job to its result: `plan` turns it into rows, `Plan.shape` turns what they give into the result's JSON.

`run` does whole jobs, one or many side by side. It needs neither Celery nor Redis: the command line uses it
in-process, the worker from its queue.
"""

import base64
import itertools
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np

from contract.jobs import (
    AnyJob,
    ClassifyJob,
    DeleteHeadJob,
    ErrorCode,
    FeaturizeJob,
    FitJob,
    GenerateJob,
    JobError,
    Outcome,
    TraceJob,
)
from model.head_store import StoredHead
from model.heads import Head, head_probabilities
from model.pooling import pool
from model.text import align, prepare, prepare_prompt
from worker.engine import Engine
from worker.rows import DeadlineExceeded, EngineFailure, Row, RowCancelled, RowRequest, RowResult, Sampling
from worker.serving import ServedModel

log = logging.getLogger(__name__)

# Draws of the samples of one job are kept apart by this stride between their seeds (the golden ratio of 2^63).
_SEED_STRIDE = 5700357409661599241


class JobFailed(Exception):
    """The job cannot be done; carries what its sender is told."""

    def __init__(self, code: ErrorCode, detail: str) -> None:
        super().__init__(detail)
        self.error = JobError(code=code, detail=detail)


@dataclass(frozen=True)
class Plan:
    """A job as rows: what the engine shall do, and how its results become the job's."""

    requests: list[RowRequest]
    shape: Callable[[list[RowResult]], dict[str, Any]]
    stream: bool = False  # whether generated text is wanted as it comes


@dataclass
class Task:
    """A job that is to run, and the flag that cancels it. Times are by time.monotonic()."""

    job: AnyJob
    cancelled: threading.Event
    deadline: float = math.inf
    again: bool = False  # an earlier delivery began it
    admitted_at: float | None = None  # when the engine had a place for the first of its rows, if it ever had
    ended_at: float | None = None  # when the last of them ended


FindHead = Callable[[str], StoredHead | None]  # a head that a user fitted, by its name
Ending = Callable[[], Outcome]  # what ended a job becomes its outcome when this is called


def start(
    task: Task,
    served: ServedModel,
    engine: Engine,
    on_text: Callable[[int, str], None],
    on_end: Callable[[Ending], None],
    find_head: FindHead,
) -> None:
    """Put a job on the engine. on_text hears (index of the sample, whole characters), on_end, once, that it has ended.

    Both come on the engine's thread, or from here where the job cannot begin: they must not block. What takes time is
    left to whoever calls the ending.
    """
    try:
        plan_ = plan(task.job, served, find_head, task.deadline)
        rows = engine.submit(served.backend, plan_.requests, task.cancelled, on_text if plan_.stream else None)
    except Exception as error:  # noqa: BLE001 - one job's fault must not reach its neighbours
        outcome = failure(error, task.job)
        on_end(lambda: outcome)
        return
    ended = itertools.count(1)  # counts without a lock; rows may end on the engine's thread while this one is here

    def row_ended(row: "Future[RowResult]") -> None:
        if row.exception() is not None:
            task.cancelled.set()  # one row has failed, so the job's others need not go on
        if next(ended) == len(rows):
            task.admitted_at = min((row.admitted_at for row in rows if row.admitted_at is not None), default=None)
            task.ended_at = time.monotonic()
            on_end(lambda: _outcome(task.job, plan_, rows))

    for row in rows:
        row.done.add_done_callback(row_ended)


OnText = Callable[[AnyJob, int, str], None]  # (job, index of the sample, whole characters)
OnOutcome = Callable[[AnyJob, Outcome], None]


def _no_head(_name: str) -> None:
    """Where no heads are kept."""


def run(
    tasks: Sequence[Task],
    served: ServedModel,
    engine: Engine,
    on_text: OnText,
    on_outcome: OnOutcome,
    find_head: FindHead = _no_head,
) -> None:
    """Do jobs side by side. Both callbacks come on this thread; every job gets one outcome, as soon as it has ended."""
    # A queue, for the engine's thread must never wait for what the callbacks do.
    heard: queue.SimpleQueue[tuple[AnyJob, Ending | tuple[int, str]]] = queue.SimpleQueue()

    def begin(task: Task) -> None:
        job = task.job
        start(
            task,
            served,
            engine,
            lambda index, text: heard.put((job, (index, text))),
            lambda ending: heard.put((job, ending)),
            find_head,
        )

    for task in tasks:
        begin(task)
    left = len(tasks)
    while left:
        job, what = heard.get()
        if isinstance(what, tuple):
            on_text(job, *what)
        else:
            on_outcome(job, what())
            left -= 1


def execute(
    job: AnyJob,
    served: ServedModel,
    engine: Engine,
    on_text: Callable[[int, str], None] = lambda *_: None,
    find_head: FindHead = _no_head,
) -> dict[str, Any]:
    """One job's result as JSON. Raises JobFailed."""
    outcomes: list[Outcome] = []
    task = Task(job, threading.Event())
    run(
        [task],
        served,
        engine,
        lambda _, index, text: on_text(index, text),
        lambda _, outcome: outcomes.append(outcome),
        find_head,
    )
    (outcome,) = outcomes
    if outcome.error is not None:
        raise JobFailed(outcome.error.code, outcome.error.detail)
    return outcome.result or {}


def plan(job: AnyJob, served: ServedModel, find_head: FindHead = _no_head, deadline: float = math.inf) -> Plan:
    """deadline: of its rows, by time.monotonic(). Raises JobFailed where the model cannot do what the job asks."""
    match job:
        case ClassifyJob():
            return _classify(job, served, find_head, deadline)
        case FeaturizeJob():
            return _featurize(job, served, deadline)
        case TraceJob():
            return _trace(job, served, deadline)
        case GenerateJob():
            return _generate(job, served, deadline)
        case FitJob() | DeleteHeadJob():
            raise TypeError(f"{job.kind}: more than rows, see fitting.py")
        case _:
            assert_never(job)


def _outcome(job: AnyJob, plan_: Plan, rows: list[Row]) -> Outcome:
    # The first cause counts: once a row has failed, its neighbours are cancelled.
    errors = [error for row in rows if (error := row.done.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, RowCancelled)):
        return failure(error, job)
    try:
        return Outcome(state="done", result=plan_.shape([row.done.result() for row in rows]))
    except Exception as error:  # noqa: BLE001 - as above
        return failure(error, job)


def failure(error: BaseException, job: AnyJob) -> Outcome:
    """How a job ends that ran into `error`."""
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
            log.error("a job failed in a way that nobody foresaw", exc_info=error)
            detail = f"{type(error).__name__}, which was logged"
            return Outcome(state="failed", error=JobError(code=ErrorCode.ENGINE_FAILURE, detail=detail))


def named(name: str, step: int) -> dict[str, Any]:
    """What every result says of the model."""
    return {"model": {"name": name, "step": step}}


def _name(served: ServedModel) -> dict[str, Any]:
    return named(served.info.name, served.info.step)


def _readings(job: ClassifyJob | FeaturizeJob, deadline: float, mean: bool = False) -> list[RowRequest]:
    return [RowRequest(prepare(text), mean=mean, priority=job.priority, deadline=deadline) for text in job.texts]


def _head(name: str, served: ServedModel, find_head: FindHead) -> Head:
    """The checkpoint's own heads come first."""
    own = served.manifest.heads.get(name)
    if own is not None:
        return own
    stored = find_head(name)
    if stored is None:
        known = ", ".join(sorted(served.manifest.heads)) or "none"
        detail = f"the model has no head {name!r}; its heads: {known}; and none of that name was fitted"
        raise JobFailed(ErrorCode.UNKNOWN_HEAD, detail)
    if not stored.belongs_to(served.manifest):
        detail = (
            f"head {name!r} was fitted on the features of {stored.checkpoint} step {stored.step}, and {served.version} "
            "is served: delete it (DELETE /heads/NAME) and fit it again (POST /heads), or serve that checkpoint again"
        )
        raise JobFailed(ErrorCode.HEAD_OF_OTHER_CHECKPOINT, detail)
    return stored.head


def _classify(job: ClassifyJob, served: ServedModel, find_head: FindHead, deadline: float) -> Plan:
    head = _head(job.head, served, find_head)
    calibration = served.manifest.sentiment

    def shape(rows: list[RowResult]) -> dict[str, Any]:
        features = np.stack([pool(row.cell, row.mean, head.pooling) for row in rows])
        results = []
        for row, probabilities in zip(rows, head_probabilities(head, features), strict=True):
            best = int(probabilities.argmax())
            value = None if calibration is None else float(row.cell[calibration.unit])
            results.append(
                {
                    "label": head.labels[best],
                    "score": float(probabilities[best]),
                    "probabilities": dict(zip(head.labels, probabilities.tolist(), strict=True)),
                    "sentiment": None if calibration is None or value is None else calibration.sentiment(value),
                    "unit_value": value,
                }
            )
        return _name(served) | {"head": job.head, "results": results}

    return Plan(_readings(job, deadline, mean=head.pooling == "mean"), shape)


def _featurize(job: FeaturizeJob, served: ServedModel, deadline: float) -> Plan:
    def shape(rows: list[RowResult]) -> dict[str, Any]:
        features = np.stack([pool(row.cell, row.mean, job.pooling) for row in rows]).astype("<f4")
        # Little-endian float32, a third of the size of decimal digits; the gateway gives it its final form.
        packed = base64.b64encode(features.tobytes()).decode("ascii")
        return _name(served) | {"pooling": job.pooling, "units": served.backend.units, "features": packed}

    return Plan(_readings(job, deadline, mean=job.pooling == "mean"), shape)


def _trace(job: TraceJob, served: ServedModel, deadline: float) -> Plan:
    calibration = served.manifest.sentiment
    units = job.units
    if units is None:
        if calibration is None:
            raise JobFailed(ErrorCode.NO_SENTIMENT_UNIT, "the model has no sentiment unit: name the units to trace")
        units = [calibration.unit]
    _check_units(units, served)
    sentiment_at = units.index(calibration.unit) if calibration is not None and calibration.unit in units else None

    def shape(rows: list[RowResult]) -> dict[str, Any]:
        steps = []
        for origin, values in zip(align(job.text), rows[0].trace.tolist(), strict=True):
            of_text = job.text[origin.start : origin.end]
            step = {"byte": origin.byte, "start": origin.start, "end": origin.end, "text": of_text, "values": values}
            if calibration is not None and sentiment_at is not None:
                step["sentiment"] = calibration.sentiment(values[sentiment_at])
            steps.append(step)
        return _name(served) | {"units": units, "bytes": steps}

    request = RowRequest(prepare(job.text), traced=tuple(units), priority=job.priority, deadline=deadline)
    return Plan([request], shape)


def _generate(job: GenerateJob, served: ServedModel, deadline: float) -> Plan:
    clamps = dict(job.clamp)
    _check_units(clamps, served)
    if job.sentiment is not None:
        calibration = served.manifest.sentiment
        if calibration is None:
            raise JobFailed(ErrorCode.NO_SENTIMENT_UNIT, "the model has no sentiment unit: leave sentiment out")
        clamps.setdefault(calibration.unit, calibration.value(job.sentiment))
    requests = [
        RowRequest(
            text=prepare_prompt(job.prompt),
            generate=job.length,
            sampling=Sampling(job.temperature, job.top_k, job.top_p, (job.seed + index * _SEED_STRIDE) % 2**63),
            stop=tuple(stop.encode("utf-8") for stop in job.stop),
            clamps=clamps,
            priority=job.priority,
            deadline=deadline,
        )
        for index in range(job.best_of)
    ]

    def shape(rows: list[RowResult]) -> dict[str, Any]:
        results = [
            {
                "index": index,
                "text": row.text,
                "mean_log_probability": row.log_probability / max(1, row.generated),
                "finish_reason": row.finish_reason,
            }
            for index, row in enumerate(rows)
        ]
        results.sort(key=lambda result: -float(str(result["mean_log_probability"])))
        return _name(served) | {"seed": job.seed, "results": results[: job.n]}

    return Plan(requests, shape, stream=job.stream)


def _check_units(units: Iterable[int], served: ServedModel) -> None:
    for unit in units:
        if not 0 <= unit < served.backend.units:
            detail = f"unit {unit} does not exist: the model has units 0 to {served.backend.units - 1}"
            raise JobFailed(ErrorCode.UNKNOWN_UNIT, detail)
