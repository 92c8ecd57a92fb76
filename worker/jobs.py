"""A worker's jobs in progress: from a message of the queue to their stored outcomes, each held by a lease meanwhile."""

import itertools
import logging
import queue
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from contract import wire
from contract.jobs import JOB, DeleteHeadJob, ErrorCode, FitJob, JobError, Outcome
from engine import execute
from engine.engine import Engine
from engine.execute import Ending, Task
from engine.serving import ServedModel
from worker import metrics
from worker.accounting import Times, account
from worker.fitting import Fitter
from worker.known_heads import KnownHeads
from worker.outbox import Receipt
from worker.quarantine import Quarantine
from worker.results import Begun, Results, StreamContent, addressed

log = logging.getLogger(__name__)

# A job that must run alone waits so long for the others to end; after that they are given to other workers.
_PATIENCE_S = 5.0

# Kinds whose results take long to serialize. The job's own thread does that, so that other outcomes need not wait.
_LONG = ("featurize", "trace")

_ID = re.compile(r"[A-Za-z0-9_-]{16,64}")


@dataclass
class _Running:
    """A job in progress. let_go: another worker has it or will have it, so this one writes nothing more of it."""

    task: Task
    delivery: str
    receipt: Receipt
    served: ServedModel
    begun_at: float  # by time.monotonic
    queued_s: float
    written: StreamContent  # the stream when the job began; `events` also counts those that were sent since
    let_go: bool = False


class Jobs:
    """What a worker runs. `run` is called by many threads at once; the rest by a watcher each."""

    def __init__(
        self,
        worker_id: str,
        engine: Engine,
        results: Results,
        heads: KnownHeads,
        fitter: Fitter,
        served: Callable[[], ServedModel],
    ) -> None:
        """served: the model that jobs begin with now."""
        self._worker_id = worker_id
        self._engine = engine
        self._results = results
        self._heads = heads
        self._fitter = fitter
        self._served = served
        self._running: dict[str, _Running] = {}  # by job; changed under the lock
        self._changing = threading.Lock()
        self._deliveries = itertools.count(1)
        self._quarantine = Quarantine()

    def run(self, job_ids: list[Any]) -> None:
        """Do the jobs of one message of the queue, by their ids, side by side. Returns when their outcomes are stored.

        What is not an id is refused and counted.
        """
        valid = [job_id for job_id in job_ids if isinstance(job_id, str) and _ID.fullmatch(job_id)]
        for _ in range(len(job_ids) - len(valid)):
            _refuse("not the id of a job")
        with self._quarantine.beside():
            suspects = self._run(valid, alone=False)
        for job_id in suspects:
            log.warning("job %s has brought down its workers and now runs alone", job_id)
            with self._quarantine.alone(_PATIENCE_S, lambda: self.give_back("quarantine")):
                self._run([job_id], alone=True)

    def _run(self, job_ids: list[str], alone: bool) -> list[str]:
        """Returns the ids of jobs that must run alone."""
        if not job_ids:
            return []
        delivery = self._delivery()
        begun, suspects = self._results.begin(job_ids, delivery, alone)
        receipt = Receipt()
        all_running = [running for one in begun if (running := self._accept(one, delivery, receipt)) is not None]
        long: queue.SimpleQueue[tuple[_Running, Ending]] = queue.SimpleQueue()

        def finish(running: _Running, ending: Ending) -> None:
            job = running.task.job
            if not running.let_go:
                self._results.finish(job, delivery, lambda: _counted(running, ending()), receipt)
            receipt.note()

        def begin(running: _Running) -> None:
            task, job = running.task, running.task.job
            if isinstance(job, FitJob | DeleteHeadJob):
                self._fitter.start(task, job, running.served, lambda ending: finish(running, ending))
                return
            execute.start(
                task,
                running.served,
                self._engine,
                lambda index, text: self._write(running, index, text),
                lambda ending: long.put((running, ending)) if is_long(running) else finish(running, ending),
                self._heads.find,
            )

        def is_long(running: _Running) -> bool:
            return running.task.job.kind in _LONG

        try:
            for running in all_running:
                self._enter(running)
                receipt.expect()
            for running in all_running:
                begin(running)
            for _ in filter(is_long, all_running):
                running, ending = long.get()
                finish(running, _ending(ending()))
            receipt.wait()  # the message is acknowledged when this returns
        finally:
            for running in all_running:
                self._leave(running)
        return suspects

    def _enter(self, running: _Running) -> None:
        """Record a job in progress. If this worker already runs it, that delivery's lease has lapsed: it is let go."""
        with self._changing:
            before = self._running.get(running.task.job.id)
            self._running[running.task.job.id] = running
        if before is not None:
            before.let_go = True
            before.task.cancelled.set()
            metrics.LEASES_LOST.inc()

    def _leave(self, running: _Running) -> None:
        with self._changing:
            if self._running.get(running.task.job.id) is running:
                del self._running[running.task.job.id]

    def _accept(self, begun: Begun, delivery: str, receipt: Receipt) -> _Running | None:
        """None where the body is not a job, or the job cannot be continued; its outcome is then "failed"."""
        try:
            job = JOB.validate_json(begun.body)
        except ValidationError as error:
            # The fault's place, not the body: it may hold a user's text.
            _refuse(f"{error.errors()[0]['type']} at {error.errors()[0]['loc']} of {begun.id}")
            metrics.JOBS.labels("unknown", "failed").inc()
            outcome = _failed(ErrorCode.ENGINE_FAILURE, "the worker cannot read the job")
            self._results.finish(addressed(begun.id, begun.body), delivery, lambda: outcome, receipt)
            return None
        streamed_before = begun.again and job.kind == "generate" and job.stream
        written = self._results.stream_content(job.id) if streamed_before else StreamContent()
        served = self._served()
        now = time.monotonic()
        task = Task(job, threading.Event(), now + job.timeout_s - begun.age_s, begun.again)
        running = _Running(task, delivery, receipt, served, now, begun.age_s, written)
        if written.model not in (None, served.version):
            # The model served now would continue another text.
            detail = f"{written.model} had begun to write the stream, and {served.version} is served now: ask again"
            changed = _failed(ErrorCode.MODEL_CHANGED, detail)
            self._results.finish(job, delivery, lambda: _counted(running, changed), receipt)
            return None
        metrics.QUEUE_WAIT.labels(job.priority).observe(begun.age_s)
        if begun.cancelled:
            running.task.cancelled.set()
        return running

    def _write(self, running: _Running, index: int, text: str) -> None:
        """Generated characters to the job's stream, except for those that an earlier delivery wrote."""
        written = running.written
        if characters := written.characters.get(index, 0):
            written.characters[index] = max(0, characters - len(text))
            text = text[characters:]
        if text and not running.let_go:
            written.events += 1
            job, version, receipt = running.task.job, running.served.version, running.receipt
            self._results.token(job, running.delivery, index, text, written.events, version, receipt)

    def give_back(self, reason: str) -> None:
        """Give all jobs in progress to other workers."""
        for job_id, running in list(self._running.items()):
            if not running.let_go:
                running.let_go = True
                self._results.give_back(job_id, running.delivery, running.receipt)
                metrics.GIVEN_BACK.labels(reason).inc()
                log.info("job %s is given back: %s", job_id, reason)
            running.task.cancelled.set()

    def renew_leases(self) -> None:
        """Renew the leases of jobs in progress, and tell how far they are; not if the engine hangs, for others may."""
        if not self._running or self._engine.age_s >= wire.ENGINE_STALLED_S:
            return
        held = {
            job_id: (running.delivery, running.task.done_bytes)
            for job_id, running in list(self._running.items())
            if not running.let_go
        }
        for job_id in self._results.renew(held):
            running = self._running.get(job_id)
            if running is not None and running.delivery == held[job_id][0]:
                running.let_go = True
                running.task.cancelled.set()
                metrics.LEASES_LOST.inc()
                log.warning("job %s went to another worker because its lease had lapsed", job_id)

    def reap(self) -> None:
        """Queue jobs again that have lost their worker, whichever it was."""
        # One call handles a limited number; a worker that dies may leave more.
        while self._reap_some():
            pass

    def _reap_some(self) -> bool:
        """Returns whether any job had lost its worker."""
        reaped = self._results.reap(self._delivery())
        for reason, count in (("lapsed", reaped.lapsed), ("lost", reaped.lost)):
            metrics.REDELIVERIES.labels(reason).inc(count)
            if count:
                log.warning("%d jobs had lost their worker and are queued again (%s)", count, reason)
        for job_id in reaped.dead:
            metrics.DEAD_LETTERS.inc()
            log.error("job %s is given up: every worker that ran it died; see `neuron jobs dead`", job_id)
        return bool(reaped.lapsed or reaped.lost or reaped.dead)

    def watch_cancellations(self) -> None:
        """Stop jobs that their clients have cancelled."""
        for job_id in self._results.cancelled(list(self._running)):
            if (running := self._running.get(job_id)) is not None:
                running.task.cancelled.set()

    def _delivery(self) -> str:
        """The name of a lease's holder, never used before."""
        return f"{self._worker_id}:{next(self._deliveries)}"


def _ending(outcome: Outcome) -> Ending:
    return lambda: outcome


def _failed(code: ErrorCode, detail: str) -> Outcome:
    return Outcome(state="failed", error=JobError(code=code, detail=detail))


def _counted(running: _Running, outcome: Outcome) -> Outcome:
    task, begun = running.task, running.begun_at
    ended = task.ended_at or begun
    account(
        task.job,
        outcome,
        running.served.version,
        Times(begun - running.queued_s, begun, task.admitted_at or ended, ended),
    )
    return outcome


def _refuse(why: str) -> None:
    metrics.REFUSED_MESSAGES.inc()
    log.error("refused a message that is not a job: %s", why)
