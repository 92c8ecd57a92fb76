"""What a worker owns beside Celery: engine, served model, jobs, and the watchers that keep them in order."""

import faulthandler
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from contract import redis_clients, wire
from contract.jobs import WorkerStatus
from engine import serving
from engine.engine import Engine
from engine.serving import ServedModel, device_memory_bytes
from engine.text_queue import TextQueue
from model.checkpoints import checkpoint, volumes
from worker import metrics
from worker.engine_metrics import EngineMetrics, TextMetrics
from worker.fitting import Fitter
from worker.intake import BulkIntake
from worker.jobs import Jobs
from worker.known_heads import KnownHeads
from worker.latest import Latest
from worker.results import Results
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

# A cancelled job stops within this plus one block of steps.
_CANCEL_POLL_S = 0.25

# Leases are renewed this often, so that one may fail.
_RENEW_S = wire.LEASE_S / 8  # more often than leases need it: clients see how far their jobs are
# About how often each worker looks for jobs without one; not all at once.
_REAP_S = 4.0, 6.0
_DRAIN_LOOK_S = 0.1
_STALL_LOOK_S = 1.0
# A hung worker exits after a heartbeat has reported it: otherwise the last one would say "ready" until it expires.
_EXIT_S = wire.ENGINE_STALLED_S + 2 * wire.HEARTBEAT_INTERVAL_S
_HUNG = 70  # exit status: EX_SOFTWARE
# What is given back after the grace period must have ended this much later. Without Redis it would take minutes.
_LAST_S = 12.0
_UNSETTLED = 75  # exit status: EX_TEMPFAIL

# Looks at LATEST between two attempts to load a model that could not be read or did not fit: a shared volume may come
# back and memory may become free, but every attempt slows the rows that run.
_RETRY_LOOKS = 10


class Service:
    """Everything that a worker process owns beside Celery."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self.id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.engine = Engine(
            settings.worker_max_rows,
            settings.worker_block_steps,
            settings.worker_bulk_share,
            settings.worker_batching_delay_ms / 1000,
            settings.worker_prefix_cache_mb,
            EngineMetrics(),
        )
        # Every job thread may begin its jobs at once.
        client = redis_clients.client(
            settings.redis_url,
            max_connections=settings.worker_jobs + 8,
            socket_timeout=10,
            socket_connect_timeout=2,
            health_check_interval=30,
            # A job whose outcome cannot be stored is lost, so Redis gets a minute to come back.
            retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), retries=60),
        )
        self.results = Results(client, settings.worker_result_ttl_s, settings.worker_max_deliveries)
        self.texts = TextQueue(TextMetrics())
        self._heads = KnownHeads(settings.heads_dir, self.texts, settings.worker_device)
        fitter = Fitter(self.engine, self._heads, self.results, settings.worker_max_rows)
        self.jobs = Jobs(self.id, self.engine, self.results, self._heads, fitter, lambda: self.served)
        self._latest = Latest(settings.checkpoint_dir or volumes.SHIPPED, _RETRY_LOOKS * settings.worker_poll_s)
        self.served = self._load(self._latest.served)
        metrics.RECURRENT_WAITING.set_function(lambda: self.texts.waiting)
        metrics.ENGINE_AGE.set_function(lambda: self.engine.age_s)
        rows = settings.worker_max_rows
        metrics.CEILING.set_function(lambda: rows / self.served.backend.step_seconds(rows))
        metrics.DEVICE_MEMORY.set_function(lambda: device_memory_bytes(self.served.info.device))
        self.intake = BulkIntake(max(1, settings.worker_jobs * 3 // 4))
        self._stop_at: float | None = None  # by time.monotonic; set by the signal
        self._drained = False
        self._moves, self._stalled_s = -1.0, 0.0
        self._closing = threading.Event()
        self._watchers = [
            threading.Thread(target=self._every, args=(period, act), name=name, daemon=True)
            for name, period, act in (
                ("heartbeat", wire.HEARTBEAT_INTERVAL_S, self._heartbeat),
                ("cancellations", _CANCEL_POLL_S, self.jobs.watch_cancellations),
                ("leases", _RENEW_S, self.jobs.renew_leases),
                ("reaper", secrets.SystemRandom().uniform(*_REAP_S), self.jobs.reap),
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
        self.jobs.give_back("stop")  # what a second Ctrl-C has left
        self.engine.close()
        self.texts.close()
        self.results.close()
        self.results.sign_off(self.id)

    def stop(self) -> None:
        """Report not ready, and give back jobs that do not end in time. May be called by a signal handler.

        If that fails, because Redis is away, the process exits all the same, and leases lapse.
        """
        if self._stop_at is None:
            self._stop_at = time.monotonic() + self.settings.worker_grace_s
            threading.Thread(target=self._exit_at_last, name="exit", daemon=True).start()

    def _exit_at_last(self) -> None:
        time.sleep(self.settings.worker_grace_s + _LAST_S)
        log.critical(
            "the worker has not ended within NEURON_WORKER_GRACE_S=%g and %g s more: it exits, and the jobs that it "
            "still has run elsewhere when their leases lapse",
            self.settings.worker_grace_s,
            _LAST_S,
        )
        logging.shutdown()
        os._exit(_UNSETTLED)

    def _drain(self) -> None:
        """After the signal to stop: report it at once, and give back what still runs after the grace period."""
        if self._stop_at is None:
            return
        if not self._drained:
            self._heartbeat()
            self._drained = True
        if time.monotonic() >= self._stop_at:
            self.jobs.give_back("stop")

    def _watch_engine(self) -> None:
        """Exit when the engine hangs: a supervisor starts a new worker, and leases lapse meanwhile.

        Looks are counted, not seconds, so that a process that was itself stopped for a while is not mistaken.
        """
        moves = self.engine.moved_at
        stands_still = moves == self._moves or not self.engine.alive or self.texts.broken
        self._stalled_s = self._stalled_s + _STALL_LOOK_S if stands_still else 0.0
        self._moves = moves
        if self._stalled_s >= _EXIT_S:
            log.critical("the engine has not moved for %.0f s: the worker exits", self._stalled_s)
            faulthandler.dump_traceback(2)  # Celery puts a logger in the place of sys.stderr
            logging.shutdown()
            os._exit(_HUNG)

    def _load(self, directory: Path) -> ServedModel:
        settings = self.settings
        served = serving.load(
            directory,
            settings.worker_device,
            settings.worker_dtype,
            settings.worker_max_rows,
            settings.worker_bits_per_byte,
        )
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
        except Exception as error:
            damaged = isinstance(error, checkpoint.CheckpointError)
            metrics.RELOADS.labels("refused").inc()
            log.error("kept %s: %s", self.served.version, error, exc_info=not damaged)
            # What could not be read may be readable later, and what did not fit may fit.
            if directory is not None and damaged and not isinstance(error.__cause__, OSError):
                self._latest.give_up()
        else:
            metrics.RELOADS.labels("served").inc()
            self._latest.served = directory

    def _watch_heads(self) -> None:
        self._heads.reconcile(self.results)

    @property
    def moves(self) -> bool:
        """Whether the engine makes progress; otherwise the process is of no use any more."""
        return self.engine.alive and not self.texts.broken and self.engine.age_s < wire.ENGINE_STALLED_S

    def status(self) -> WorkerStatus:
        return WorkerStatus(
            id=self.id,
            ready=self.moves and self._stop_at is None,
            stopping=self._stop_at is not None,
            model=self.served.info,
            engine_age_s=self.engine.age_s,
            rows_active=self.engine.rows_active,
            rows_waiting=self.engine.rows_waiting + self.texts.waiting,
        )

    def _heartbeat(self) -> None:
        self.results.heartbeat(self.status())
        metrics.HEARTBEATS.inc()

    def _every(self, period_s: float, act: Callable[[], None]) -> None:
        while not self._closing.is_set():
            try:
                act()
            except Exception:  # nobody would notice the end of a watcher before it is needed
                metrics.WATCHER_ERRORS.labels(act.__name__.strip("_")).inc()
                log.exception("%s failed and will be tried again", act.__name__.strip("_"))
            self._closing.wait(period_s)
