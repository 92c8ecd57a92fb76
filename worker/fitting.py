"""Jobs on heads: fit one on labelled texts, delete one. Each has a thread because it waits, for rows and disks.

Texts are read as bulk rows beside all others, a window of them at a time. A worker has one fit at a time, because the
features of 100,000 texts take some gigabytes; other fits wait, and can be cancelled meanwhile.

A fit that has lost its worker runs again on another one. The head's file records which job made it, so a file that was
written already is the job's result.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from contract.jobs import DeleteHeadJob, ErrorCode, FitJob, Outcome
from engine.engine import Engine
from engine.execute import Ending, Task, failure
from engine.plans import JobFailed, named
from engine.rows import DeadlineExceeded, Row, RowCancelled, RowRequest
from engine.serving import ServedModel
from model.checkpoints import head_store
from model.checkpoints.head_store import HeadExistsError, HeadStoreError, NoSuchHeadError
from model.checkpoints.stored_head import StoredHead, stored_head
from model.heads.checks import HeadError
from model.heads.l1 import Matrix
from model.heads.pooling import pool
from texts.labelled import distinct, numbered
from texts.preparation import prepare
from worker import metrics
from worker.fit_process import FitProcess, FitProcessError, FitStopped
from worker.known_heads import KnownHeads
from worker.results import Results

log = logging.getLogger(__name__)

_LOOK_S = 0.1


class Fitter:
    def __init__(self, engine: Engine, heads: KnownHeads, results: Results, window: int) -> None:
        """window: rows of a fit that the engine has at once."""
        self._engine = engine
        self._heads = heads
        self._results = results
        self._window = window
        self._turn = threading.Lock()

    def start(
        self, task: Task, job: FitJob | DeleteHeadJob, served: ServedModel, on_end: Callable[[Ending], None]
    ) -> None:
        """Do the job on a thread of its own, which calls on_end once, at the end."""

        def run() -> None:
            try:
                result = self._delete(task, job) if isinstance(job, DeleteHeadJob) else self._fit(task, job, served)
                outcome = Outcome(state="done", result=result)
            except Exception as error:  # noqa: BLE001 - whatever it is, the job must get an outcome
                outcome = failure(_as_job_failure(error), job)
            task.ended_at = time.monotonic()
            on_end(lambda: outcome)

        threading.Thread(target=run, name=job.kind, daemon=True).start()

    def _delete(self, task: Task, job: DeleteHeadJob) -> dict[str, Any]:
        try:
            self._heads.remove(job.name, self._results)
            log.info("a head was deleted")
        except NoSuchHeadError:
            if not task.again:  # otherwise an earlier delivery deleted it and lost its worker
                raise
        return {"name": job.name}

    def _fit(self, task: Task, job: FitJob, served: ServedModel) -> dict[str, Any]:
        while not self._turn.acquire(timeout=_LOOK_S):
            _check(task)
        try:
            made = self._heads.find(job.name)
            if not isinstance(made, StoredHead) or made.made_by != job.id:
                self._check_place(job, made is not None, served)
                made = self._make(task, job, served)
        finally:
            self._turn.release()
        return named(made.checkpoint, made.step) | made.report()

    def _check_place(self, job: FitJob, there: bool, served: ServedModel) -> None:
        """Check before the work what would make it fail afterwards. Raises HeadStoreError or HeadExistsError."""
        if there:
            raise HeadExistsError(f"there is a head {job.name!r} already: delete it first, or choose another name")
        if job.name in served.manifest.heads:
            raise HeadExistsError(f"{served.version} has a head {job.name!r} of its own: choose another name")
        head_store.check_name(job.name)
        head_store.check_writable(self._heads.directory)

    def _make(self, task: Task, job: FitJob, served: ServedModel) -> StoredHead:
        labels = distinct(job.labels)
        y = np.array(numbered(job.labels, labels), dtype=np.int64)
        features = self._read(task, job, served)
        began = time.monotonic()
        with FitProcess(len(labels), job.unit_only, torch.get_num_threads(), lambda: _is_over(task)) as process:
            try:
                process.send(features, y)
                del features  # gigabytes, perhaps
                fitted = process.result()
            except FitStopped:
                _check(task)
                raise
        metrics.FIT_SECONDS.observe(time.monotonic() - began)
        _check(task)  # a job that another worker has taken over must not write any more
        stored = stored_head(job.name, served.manifest, fitted, labels, job.pooling, len(y), time.time(), job.id)
        self._heads.add(stored, self._results)
        log.info("a head was fitted on %s: %d examples, %d labels", served.version, len(y), len(labels))
        return stored

    def _read(self, task: Task, job: FitJob, served: ServedModel) -> Matrix:
        """The features of the job's texts, (texts, units)."""
        features = np.empty((len(job.texts), served.backend.units), dtype=np.float32)
        mean = job.pooling == "mean"
        places = threading.Semaphore(self._window)
        errors: list[BaseException] = []

        def arrived(index: int, row: Row) -> None:
            error = row.done.exception()
            if error is None:
                read = row.done.result()
                task.left_bytes += row.read
                features[index] = pool(read.cell, read.mean, job.pooling)
            else:
                errors.append(error)
                task.cancelled.set()  # the other rows are of no use any more
            task.admitted_at = task.admitted_at or row.admitted_at
            places.release()

        for index, text in enumerate(job.texts):
            places.acquire()
            if errors:
                places.release()
                break
            request = RowRequest(prepare(text), mean=mean, priority=job.priority, deadline=task.deadline)
            (row,) = self._engine.submit(served.backend, [request], task.cancelled)
            row.done.add_done_callback(lambda _, index=index, row=row: arrived(index, row))  # type: ignore[misc]
        for _ in range(self._window):  # until all have arrived
            places.acquire()
        for error in sorted(errors, key=lambda error: isinstance(error, RowCancelled)):
            raise error  # the first cause counts, as in engine/execute.py
        return features


def _is_over(task: Task) -> bool:
    return task.cancelled.is_set() or time.monotonic() >= task.deadline


def _check(task: Task) -> None:
    """Raises RowCancelled or DeadlineExceeded where the job must not continue."""
    if task.cancelled.is_set():
        raise RowCancelled
    if time.monotonic() >= task.deadline:
        raise DeadlineExceeded


def _as_job_failure(error: Exception) -> Exception:
    """The JobFailed that the job's sender gets for an error of heads; any other error as it is."""
    match error:
        case NoSuchHeadError():
            return JobFailed(ErrorCode.UNKNOWN_HEAD, "there is no fitted head of that name")
        case HeadExistsError():
            return JobFailed(ErrorCode.HEAD_EXISTS, str(error))
        case HeadStoreError() | OSError():
            log.error("a head could not be kept or deleted: %s", error)
            return JobFailed(ErrorCode.CANNOT_KEEP_HEADS, f"{error} (NEURON_WORKER_HEADS_DIR)")
        case HeadError():
            return JobFailed(ErrorCode.CANNOT_FIT, str(error))
        case FitProcessError():
            return JobFailed(ErrorCode.ENGINE_FAILURE, str(error))
        case _:
            return error
