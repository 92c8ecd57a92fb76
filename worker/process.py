"""The worker process: Celery takes messages off the queue, a `Service` does their jobs.

`main` runs until SIGTERM or SIGINT. Then it takes no more messages, lets jobs in progress end or, after a grace period,
gives them back to the queue, and exits.
"""

import gc
import logging
import socket
import sys
import warnings
from typing import Any

import torch
from celery import Celery, signals
from celery.exceptions import SecurityWarning

from contract import logs, redis_clients, redis_url, telemetry, wire
from contract.ports import check_port
from contract.setting_error import SettingError
from worker.remote_control import RemoteControl
from worker.service import Service
from worker.settings import WorkerSettings
from worker.status import serve

log = logging.getLogger(__name__)


def celery_app(settings: WorkerSettings, service: Service) -> Celery:
    broker, options = redis_url.broker(settings.redis_url)
    app = Celery("neuron", broker=broker)
    app.conf.update(
        wire.celery_settings(options),
        # So that a worker takes no more messages than it has threads. Jobs have leases; messages may be lost.
        task_acks_late=True,
        # Take no more than can run: waiting jobs stay in Redis, where another worker can have them.
        worker_prefetch_multiplier=1,
        # Redis may come up after the worker, and may go away and come back.
        broker_connection_retry_on_startup=True,
        # However long it takes: by default the worker would end after 46 minutes.
        broker_connection_max_retries=None,
        # And may refuse to write for a while: its disk is full, or it is still loading what it had.
        broker_channel_error_retry=True,
        # The process's logging is set up by `main`.
        worker_hijack_root_logger=False,
        # `RemoteControl` is that, and turns on the events of tasks while a tool watches.
        worker_enable_remote_control=False,
        worker_send_task_events=False,
    )

    @app.task(name=wire.TASK, bind=True)  # type: ignore[untyped-decorator]
    def run(task: Any, job_ids: list[Any]) -> None:
        try:
            service.jobs.run(job_ids)
        finally:
            service.intake.ended(task.request.delivery_info["routing_key"])

    return app


def main() -> None:
    """Run a worker until it gets a signal to stop."""
    try:
        settings = WorkerSettings()
        address = (settings.worker_metrics_host, settings.worker_metrics_port)
        check_port(*address, "NEURON_WORKER_METRICS_PORT", socket.AF_INET)
        telemetry.set_up(settings.process)
        logs.set_up(settings.log_format)
        redis_clients.check(settings.redis_url)
    except SettingError as error:
        sys.exit(f"The worker cannot start: {error}")
    # Celery warns of a superuser, because a queue of pickles could run anything as such; this one is of JSON alone.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    # Lines for every message would cost more than the message. That it is ready, our own lines say.
    for name in ("app.trace", "worker.strategy", "apps.worker", "worker.consumer.connection"):
        logging.getLogger(f"celery.{name}").setLevel(logging.WARNING)
    # The engine's thread and the job threads share one interpreter lock. At Python's default of 5 ms a turn, every
    # product would end with a wait for it that is longer than the product.
    sys.setswitchinterval(0.0005)
    for setting, value in settings.changed().items():
        log.info("%s=%s", setting, value)
    if settings.worker_threads:
        torch.set_num_threads(settings.worker_threads)
    # The modules that are loaded by now stay. Looking through all of them for garbage would stop every thread for some
    # 100 ms. Models are loaded after this, because they may be retired.
    gc.collect()
    gc.freeze()
    service = Service(settings)
    port = serve(settings.worker_metrics_host, settings.worker_metrics_port, service)
    log.info("metrics on http://%s:%d/metrics", settings.worker_metrics_host, port)
    service.start()
    try:
        app = celery_app(settings, service)
        RemoteControl(app).listen()
        worker = app.Worker(
            pool="threads",
            concurrency=settings.worker_jobs,
            queues=list(wire.QUEUES.values()),
            hostname=f"neuron@{service.id}",
            without_gossip=True,
            without_mingle=True,
            loglevel="INFO",
            quiet=True,
        )
        service.intake.listen()
        signals.worker_shutting_down.connect(lambda **_: service.stop(), weak=False)
        worker.start()
    finally:
        service.close()
    sys.exit(worker.exitcode)  # None, which is 0, unless Celery could not go on
