"""What a worker owns beside Celery: an engine, jobs in progress with their leases, and watchers for all the rest."""

import faulthandler
import itertools
import logging
import os
import queue
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from pydantic import ValidationError
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from contract import wire
from contract.jobs import JOB, DeleteHeadJob, ErrorCode, FitJob, JobBase, JobError, Outcome, WorkerStatus
from model import checkpoint
from worker import execute, metrics, serving
from worker.accounting import Times, account
from worker.engine import Engine
from worker.execute import Ending, Task
from worker.fitting import Fitter
from worker.intake import BulkIntake
from worker.known_heads import KnownHeads
from worker.latest import Latest
from worker.outbox import Receipt
from worker.quarantine import Quarantine
from worker.results import Begun, Results, Told, addressed
from worker.serving import ServedModel, device_memory_bytes
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

# A cancelled job stops within this plus one block of steps.
_CANCEL_POLL_S = 0.25

# Leases are renewed this often, so that one may fail.
_RENEW_S = wire.LEASE_S / 4
# About how often each worker looks for jobs without one; not all at once.
_REAP_S = 4.0, 6.0
# A job that must run alone waits so long for the others to end; then they go to other workers.
_PATIENCE_S = 5.0
_DRAIN_LOOK_S = 0.1
_STALL_LOOK_S = 1.0
# A hung worker exits when its heartbeat has told of it: without it, the last one would pass for ready until it expires.
_EXIT_S = wire.ENGINE_STALLED_S + 2 * wire.HEARTBEAT_INTERVAL_S
_HUNG = 70  # exit status: EX_SOFTWARE

# Their results take long to spell out. Their own threads do that, for the outbox would keep all other outcomes waiting.
_LONG = ("featurize", "trace")

_ID = re.compile(r"[A-Za-z0-9_-]{16,64}")

# Looks at LATEST between two attempts at a model that could not be read or did not fit: a shared volume may come back
# and memory be free, but an attempt costs the rows that run some of the machine.
_RETRY_LOOKS = 10


@dataclass
class _Running:
    """A job in progress. let_go: it is another worker's affair, so nothing more is told of it."""

    task: Task
    delivery: str
    receipt: Receipt
    served: ServedModel
    begun_at: float  # by time.monotonic
    queued_s: float
    told: Told  # as its stream was when it began; its events also count those on their way
    let_go: bool = False


class Service:
    """Everything a worker process owns beside Celery."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self.id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.engine = Engine(
            settings.worker_max_rows,
            settings.worker_block_steps,
            settings.worker_bulk_share,
            settings.worker_gather_ms / 1000,
            settings.worker_state_cache_mb,
        )
        # Every job thread may begin its jobs at once.
        client = redis.Redis.from_url(
            str(settings.redis_url),
            max_connections=settings.worker_jobs + 8,
            socket_timeout=10,
            socket_connect_timeout=2,
            health_check_interval=30,
            # A job whose outcome cannot be stored is lost, so Redis gets a minute to come back.
            retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), retries=60),
        )
        self.results = Results(client, settings.worker_result_ttl_s, settings.worker_max_deliveries)
        self._heads = KnownHeads(settings.heads_dir)
        self._fitter = Fitter(self.engine, self._heads, self.results, settings.worker_max_rows)
        self._latest = Latest(settings.checkpoint_dir or checkpoint.SHIPPED, _RETRY_LOOKS * settings.worker_poll_s)
        self.served = self._load(self._latest.served)
        metrics.ENGINE_AGE.set_function(lambda: self.engine.age_s)
        rows = settings.worker_max_rows
        metrics.CEILING.set_function(lambda: rows / self.served.backend.step_seconds(rows))
        metrics.DEVICE_MEMORY.set_function(lambda: device_memory_bytes(self.served.info.device))
        self.intake = BulkIntake(max(1, settings.worker_jobs * 3 // 4))
        self._running: dict[str, _Running] = {}  # by job; changed under the lock
        self._changing = threading.Lock()
        self._deliveries = itertools.count(1)
        self._quarantine = Quarantine()
        self._stop_at: float | None = None  # by time.monotonic; set by the signal
        self._drained = False
        self._moves, self._stalled_s = -1.0, 0.0
        self._closing = threading.Event()
        self._watchers = [
            threading.Thread(target=self._every, args=(period, act), name=name, daemon=True)
            for name, period, act in (
                ("heartbeat", wire.HEARTBEAT_INTERVAL_S, self._heartbeat),
                ("cancellations", _CANCEL_POLL_S, self._watch_cancellations),
                ("leases", _RENEW_S, self._renew_leases),
                ("reaper", secrets.SystemRandom().uniform(*_REAP_S), self._reap),
                ("drain", _DRAIN_LOOK_S, self._drain),
                ("stall", _STALL_LOOK_S, self._watch_engine),
                ("reload", settings.worker_poll_s, self._watch_latest),
                ("heads", settings.worker_poll_s, self._watch_heads),
            )
        ]

    def start(self) -> None:
        self.engine.start()
        for watcher in self._watchers:
            watcher.start()

    def close(self) -> None:
        self._closing.set()
        for watcher in self._watchers:
            watcher.join()
        self.engine.close()
        self.results.close()
        self.results.sign_off(self.id)

    def stop(self) -> None:
        """Be ready no more, and give back in time what does not end. May be called by a signal's handler."""
        if self._stop_at is None:
            self._stop_at = time.monotonic() + self.settings.worker_grace_s

    def run(self, job_ids: list[Any]) -> None:
        """Jobs that one message of the queue brought, by their ids, to their stored outcomes, side by side.

        What is no id is refused and counted.
        """
        valid = [job_id for job_id in job_ids if isinstance(job_id, str) and _ID.fullmatch(job_id)]
        for _ in range(len(job_ids) - len(valid)):
            _refuse("no id of a job")
        with self._quarantine.beside():
            suspects = self._run(valid, alone=False)
        for job_id in suspects:
            log.warning("job %s has brought down its workers and now runs alone", job_id)
            with self._quarantine.alone(_PATIENCE_S, lambda: self._give_back("quarantine")):
                self._run([job_id], alone=True)

    def _run(self, job_ids: list[str], alone: bool) -> list[str]:
        """Returns those that must run alone."""
        if not job_ids:
            return []
        delivery = f"{self.id}:{next(self._deliveries)}"
        begun, suspects = self.results.begin(job_ids, delivery, alone)
        receipt = Receipt()
        all_running = [running for one in begun if (running := self._accept(one, delivery, receipt)) is not None]
        long: queue.SimpleQueue[tuple[_Running, Ending]] = queue.SimpleQueue()

        def finish(running: _Running, ending: Ending) -> None:
            job = running.task.job
            if not running.let_go:
                self.results.finish(job, delivery, lambda: _counted(running, ending()), receipt)
            receipt.note()

        def begin(running: _Running) -> None:
            task, job = running.task, running.task.job
            if isinstance(job, FitJob | DeleteHeadJob):
                self._fitter.start(task, job, running.served, lambda ending: finish(running, ending))
                return
            execute.start(
                task,
                running.served,
                self.engine,
                lambda index, text: self._tell(running, index, text),
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
                finish(running, _known(ending()))
            receipt.wait()  # the message is acknowledged when this returns
        finally:
            for running in all_running:
                self._leave(running)
        return suspects

    def _enter(self, running: _Running) -> None:
        """Where this worker runs the job already, the lease of that delivery has lapsed: it is let go."""
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
        """None for what is no job, or cannot be gone on with; it fails."""
        try:
            job = JOB.validate_json(begun.body)
        except ValidationError as error:
            # The fault's place, not the body: it may hold a user's text.
            _refuse(f"{error.errors()[0]['type']} at {error.errors()[0]['loc']}")
            failure = JobError(code=ErrorCode.ENGINE_FAILURE, detail="the worker cannot read the job")
            self._fail(addressed(begun.id, begun.body), failure, delivery, receipt)
            return None
        told = self.results.told(job.id) if begun.again and job.kind == "generate" and job.stream else Told()
        served = self.served
        if told.model not in (None, served.version):
            # The rest would be that of another text.
            detail = f"{told.model} had begun to write the stream, and {served.version} is served now: ask again"
            self._fail(job, JobError(code=ErrorCode.MODEL_CHANGED, detail=detail), delivery, receipt)
            return None
        metrics.QUEUE_WAIT.labels(job.priority).observe(begun.age_s)
        now = time.monotonic()
        task = Task(job, threading.Event(), now + job.timeout_s - begun.age_s, begun.again)
        running = _Running(task, delivery, receipt, served, now, begun.age_s, told)
        if begun.cancelled:
            running.task.cancelled.set()
        return running

    def _fail(self, job: JobBase, error: JobError, delivery: str, receipt: Receipt) -> None:
        outcome = Outcome(state="failed", error=error)
        self.results.finish(job, delivery, lambda: outcome, receipt)

    def _tell(self, running: _Running, index: int, text: str) -> None:
        """Generated characters to the job's stream, but for those that an earlier delivery told."""
        told = running.told
        if characters := told.characters.get(index, 0):
            told.characters[index] = max(0, characters - len(text))
            text = text[characters:]
        if text and not running.let_go:
            told.events += 1
            job, version, receipt = running.task.job, running.served.version, running.receipt
            self.results.token(job, running.delivery, index, text, told.events, version, receipt)

    def _give_back(self, reason: str) -> None:
        """Let other workers have what runs."""
        for job_id, running in list(self._running.items()):
            if not running.let_go:
                running.let_go = True
                self.results.give_back(job_id, running.delivery, running.receipt)
                metrics.GIVEN_BACK.labels(reason).inc()
                log.info("job %s is given back: %s", job_id, reason)
            running.task.cancelled.set()

    def _drain(self) -> None:
        """After the signal to stop: tell at once, and give back what runs when the grace period is over."""
        if self._stop_at is None:
            return
        if not self._drained:
            self._heartbeat()
            self._drained = True
        if time.monotonic() >= self._stop_at:
            self._give_back("stop")

    def _renew_leases(self) -> None:
        # A hung engine's jobs are left to others.
        if not self._running or self.engine.age_s >= wire.ENGINE_STALLED_S:
            return
        held = {job_id: running.delivery for job_id, running in list(self._running.items()) if not running.let_go}
        for job_id in self.results.renew(held):
            running = self._running.get(job_id)
            if running is not None and running.delivery == held[job_id]:
                running.let_go = True
                running.task.cancelled.set()
                metrics.LEASES_LOST.inc()
                log.warning("job %s went to another worker, for its lease had lapsed", job_id)

    def _reap(self) -> None:
        # Each time so many are looked at; a worker that dies may leave more.
        while self._reap_some():
            pass

    def _reap_some(self) -> bool:
        """Returns whether there were any."""
        reaped = self.results.reap(f"{self.id}:{next(self._deliveries)}")
        for reason, count in (("lapsed", reaped.lapsed), ("lost", reaped.lost)):
            metrics.REDELIVERIES.labels(reason).inc(count)
            if count:
                log.warning("%d jobs had lost their worker and are queued again (%s)", count, reason)
        for job_id in reaped.dead:
            metrics.DEAD_LETTERS.inc()
            log.error("job %s is given up: every worker that ran it died; see `neuron jobs dead`", job_id)
        return bool(reaped.lapsed or reaped.lost or reaped.dead)

    def _watch_engine(self) -> None:
        """Exit when the engine hangs: a supervisor starts a new worker, and leases lapse meanwhile.

        Looks are counted, not seconds, so that a process that was itself stopped for a while is not mistaken.
        """
        moves = self.engine.moved_at
        stands_still = moves == self._moves or not self.engine.alive
        self._stalled_s = self._stalled_s + _STALL_LOOK_S if stands_still else 0.0
        self._moves = moves
        if self._stalled_s >= _EXIT_S:
            log.critical("the engine has not moved for %.0f s: the worker exits", self._stalled_s)
            faulthandler.dump_traceback(2)  # Celery puts a logger in the place of sys.stderr
            logging.shutdown()
            os._exit(_HUNG)

    def _load(self, directory: Path) -> ServedModel:
        settings = self.settings
        served = serving.load(directory, settings.worker_device, settings.worker_dtype, settings.worker_max_rows)
        metrics.MODEL.clear()
        metrics.MODEL.labels(served.info.name, str(served.info.step)).set(1)
        log.info("serving %s (%s on %s)", served.version, served.info.dtype, served.info.device)
        return served

    def _watch_latest(self) -> None:
        """Swap to a newly published model. Where that fails, the old one serves on."""
        directory = None
        try:
            directory = self._latest.look()
            if directory is None:
                return
            self.served = self._load(directory)
        except checkpoint.CheckpointError as error:
            metrics.RELOADS.labels("refused").inc()
            log.error("kept %s: %s", self.served.version, error)
            # What could not be read may be readable later.
            if directory is not None and not isinstance(error.__cause__, OSError):
                self._latest.give_up()
        else:
            metrics.RELOADS.labels("served").inc()
            self._latest.served = directory

    def _watch_heads(self) -> None:
        self._heads.reconcile(self.results)

    def _watch_cancellations(self) -> None:
        for job_id in self.results.cancelled(list(self._running)):
            if (running := self._running.get(job_id)) is not None:
                running.task.cancelled.set()

    @property
    def moves(self) -> bool:
        """Whether the engine does; otherwise the process is of no use any more."""
        return self.engine.alive and self.engine.age_s < wire.ENGINE_STALLED_S

    def status(self) -> WorkerStatus:
        return WorkerStatus(
            id=self.id,
            ready=self.moves and self._stop_at is None,
            stopping=self._stop_at is not None,
            model=self.served.info,
            engine_age_s=self.engine.age_s,
            rows_active=self.engine.rows_active,
            rows_waiting=self.engine.rows_waiting,
        )

    def _heartbeat(self) -> None:
        self.results.heartbeat(self.status())
        metrics.HEARTBEATS.inc()

    def _every(self, period_s: float, act: Callable[[], None]) -> None:
        while not self._closing.is_set():
            try:
                act()
            except Exception:  # a watcher that ends would not be missed until it is needed
                metrics.WATCHER_ERRORS.labels(act.__name__.strip("_")).inc()
                log.exception("%s failed and will be tried again", act.__name__.strip("_"))
            self._closing.wait(period_s)


def _known(outcome: Outcome) -> Ending:
    return lambda: outcome


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
    log.error("refused what is no job: %s", why)
