"""The worker process: Celery takes jobs, threads put their rows on one engine, watchers do the rest.

`Service` holds the parts; `main` runs them until SIGTERM or SIGINT: the queue is left, jobs in progress end, exit.
"""

import gc
import logging
import os
import queue
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
import torch
from celery import Celery
from prometheus_client import start_http_server
from pydantic import ValidationError
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from contract import wire
from contract.jobs import JOB, AnyJob, Outcome, WorkerStatus
from model import checkpoint
from worker import execute, metrics, serving
from worker.engine import Engine
from worker.execute import Ending, Task
from worker.intake import BulkIntake
from worker.outbox import Receipt
from worker.results import Results
from worker.serving import ServedModel
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

# A cancelled job stops within this plus one block of steps.
_CANCEL_POLL_S = 0.25

# Their results take long to spell out. Their own threads do that, for the outbox would keep all other outcomes waiting.
_LONG = ("featurize", "trace")

# Looks at LATEST between two attempts at a model that could not be read or did not fit: that may pass, but an attempt
# costs the rows that run some of the machine.
_RETRY_LOOKS = 10


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
        self.results = Results(client, settings.worker_result_ttl_s)
        self._volume = settings.checkpoint_dir or checkpoint.SHIPPED
        self._seen = checkpoint.latest(self._volume)
        self._attempted, self._retry_at = self._seen, 0.0
        self.served = self._load(self._seen)
        self.intake = BulkIntake(max(1, settings.worker_jobs * 3 // 4))
        self._running: dict[str, threading.Event] = {}
        self._closing = threading.Event()
        self._watchers = [
            threading.Thread(target=self._every, args=(period, act), name=name, daemon=True)
            for name, period, act in (
                ("heartbeat", wire.HEARTBEAT_INTERVAL_S, self._heartbeat),
                ("cancellations", _CANCEL_POLL_S, self._watch_cancellations),
                ("reload", settings.worker_poll_s, self._watch_latest),
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

    def run(self, messages: list[Any]) -> None:
        """Jobs that one message of the queue brought, from their JSON to their stored outcomes, side by side.

        What is no job is refused and counted.
        """
        started = time.perf_counter()
        tasks = [Task(job, self._running.setdefault(job.id, threading.Event())) for job in _valid(messages)]
        try:
            verdicts = self.results.begin([task.job for task in tasks])
            for task, verdict in zip(tasks, verdicts, strict=True):
                if verdict == "cancelled":
                    task.cancelled.set()
            wanted = [task for task, verdict in zip(tasks, verdicts, strict=True) if verdict != "answered"]
            receipt = Receipt(expected=len(wanted))
            long: queue.SimpleQueue[tuple[AnyJob, Ending]] = queue.SimpleQueue()

            def finish(job: AnyJob, ending: Ending) -> None:
                self.results.finish(job, lambda: _counted(job, ending(), started), receipt)
                receipt.note()

            def begin(task: Task) -> None:
                job = task.job
                execute.start(
                    task,
                    self.served,
                    self.engine,
                    lambda index, text: self.results.token(job, index, text, receipt),
                    lambda ending: long.put((job, ending)) if job.kind in _LONG else finish(job, ending),
                )

            for task in wanted:
                begin(task)
            for _ in [task for task in wanted if task.job.kind in _LONG]:
                job, ending = long.get()
                finish(job, _known(ending()))
            receipt.wait()  # the message is acknowledged when this returns
        finally:
            for task in tasks:
                self._running.pop(task.job.id, None)

    def _load(self, directory: Path) -> ServedModel:
        settings = self.settings
        served = serving.load(directory, settings.worker_device, settings.worker_dtype, settings.worker_max_rows)
        metrics.MODEL.clear()
        metrics.MODEL.labels(served.info.name, str(served.info.step)).set(1)
        log.info(
            "serving %s step %d (%s on %s)", served.info.name, served.info.step, served.info.dtype, served.info.device
        )
        return served

    def _watch_latest(self) -> None:
        """Swap to a newly published model. Where that fails, the old one serves on.

        What is no good is refused once. What could not be read or did not fit is tried again: a shared volume may
        show LATEST before the files that it names, and memory may be free later.
        """
        directory, now = checkpoint.latest(self._volume), time.monotonic()
        if directory == self._seen or (directory == self._attempted and now < self._retry_at):
            return
        self._attempted, self._retry_at = directory, now + _RETRY_LOOKS * self.settings.worker_poll_s
        try:
            self.served = self._load(directory)
        except checkpoint.CheckpointError as error:
            metrics.RELOADS.labels("refused").inc()
            log.error("kept %s step %d: %s", self.served.info.name, self.served.info.step, error)
            if isinstance(error.__cause__, OSError):
                return
        else:
            metrics.RELOADS.labels("served").inc()
        self._seen = directory

    def _watch_cancellations(self) -> None:
        for job_id in self.results.cancelled(list(self._running)):
            if (event := self._running.get(job_id)) is not None:
                event.set()

    def _heartbeat(self) -> None:
        age_s = self.engine.age_s
        self.results.heartbeat(
            WorkerStatus(
                id=self.id,
                ready=self.engine.alive and age_s < wire.ENGINE_STALLED_S and not self._closing.is_set(),
                model=self.served.info,
                engine_age_s=age_s,
                rows_active=self.engine.rows_active,
                rows_waiting=self.engine.rows_waiting,
            )
        )
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


def _counted(job: AnyJob, outcome: Outcome, started: float) -> Outcome:
    metrics.JOBS.labels(job.kind, outcome.state).inc()
    metrics.JOB_SECONDS.labels(job.kind).observe(time.perf_counter() - started)
    return outcome


def _valid(messages: list[Any]) -> list[AnyJob]:
    jobs: list[AnyJob] = []
    for message in messages:
        try:
            jobs.append(JOB.validate_python(message))
        except ValidationError as error:
            metrics.REFUSED_MESSAGES.inc()
            # The fault's place, not the message: it may hold a user's text.
            log.error("refused a message that is no job: %s at %s", error.errors()[0]["type"], error.errors()[0]["loc"])
    return jobs


def celery_app(settings: WorkerSettings, service: Service) -> Celery:
    app = Celery("neuron", broker=str(settings.redis_url))
    app.conf.update(
        wire.celery_settings(),
        # A job is taken off the queue when it is answered, not when it is begun: what a dead worker held runs again.
        task_acks_late=True,
        # A job that could not be answered stays on the queue.
        task_acks_on_failure_or_timeout=False,
        # Take no more than can run: waiting jobs stay in Redis, where another worker can have them.
        worker_prefetch_multiplier=1,
        # Redis may come up after the worker, and may go away and come back.
        broker_connection_retry_on_startup=True,
        # The process's logging is set up by `main`.
        worker_hijack_root_logger=False,
        # Nobody looks at Celery's own events; the metrics say more.
        worker_send_task_events=False,
        worker_enable_remote_control=False,
    )

    @app.task(name=wire.TASK, bind=True)  # type: ignore[untyped-decorator]
    def run(task: Any, messages: list[Any]) -> None:
        try:
            service.run(messages)
        finally:
            service.intake.ended(task.request.delivery_info["routing_key"])

    return app


def main() -> None:
    """Run a worker until it is told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # Lines for every message would cost more than the message.
    for name in ("celery.app.trace", "celery.worker.strategy"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # The engine's thread and the job threads share one interpreter lock. At Python's default of 5 ms a turn, every
    # product would end with a wait for it that is longer than the product.
    sys.setswitchinterval(0.0005)
    settings = WorkerSettings()
    for setting, value in settings.effective().items():
        log.info("%s=%s", setting, value)
    if settings.worker_threads:
        torch.set_num_threads(settings.worker_threads)
    # The modules that are loaded by now stay. Looking through all of them for garbage would stop every thread for some
    # 100 ms. Models are loaded after this, for they may be retired.
    gc.collect()
    gc.freeze()
    service = Service(settings)
    server, _ = start_http_server(settings.worker_metrics_port, settings.worker_metrics_host)
    log.info("metrics on http://%s:%d/metrics", settings.worker_metrics_host, server.server_port)
    service.start()
    try:
        worker = celery_app(settings, service).Worker(
            pool="threads",
            concurrency=settings.worker_jobs,
            queues=list(wire.QUEUES.values()),
            hostname=f"neuron@{service.id}",
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            loglevel="INFO",
            quiet=True,
        )
        service.intake.listen()
        worker.start()
    finally:
        service.close()
