"""What a worker process loads before it can serve, and for how long it looks for Redis."""

import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import kombu.utils.functional
import pytest
from celery.worker.consumer import Consumer

from tests.conftest import free_port, publish_tiny
from worker import process
from worker.service import Service
from worker.settings import WorkerSettings


def test_a_worker_does_not_load_torchs_compiler() -> None:
    """It never compiles, and the import takes as long as all others together."""
    program = "import sys, worker.process; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_a_worker_that_cannot_go_on_says_so_by_its_status(redis_url: str, tmp_path: Path) -> None:
    program = """
from celery.worker.consumer import Consumer
from worker.process import main

def fail(*_):
    raise RuntimeError("injected")

Consumer.start = fail
main()
"""
    publish_tiny(tmp_path / "checkpoints", step=1)
    settings = {
        "NEURON_REDIS_URL": redis_url,
        "NEURON_CHECKPOINT_DIR": str(tmp_path / "checkpoints"),
        "NEURON_WORKER_METRICS_PORT": str(free_port()),
    }
    done = subprocess.run([sys.executable, "-c", program], env=os.environ | settings, capture_output=True, text=True)
    assert (done.returncode, "Unrecoverable error: RuntimeError('injected')" in done.stderr) == (1, True), done.stderr


def test_a_worker_looks_for_redis_for_as_long_as_it_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    app = process.celery_app(WorkerSettings(), cast(Service, None))
    consumer = object.__new__(Consumer)  # of a worker that has served for a while
    consumer.app, consumer.first_connection_attempt, consumer.broker_connection_retry_attempt = app, False, 0

    class Enough(Exception):
        pass

    def sleep(_: float) -> None:
        if consumer.broker_connection_retry_attempt > 200:  # Celery's own limit, 100, is reached after 46 minutes
            raise Enough

    monkeypatch.setattr(kombu.utils.functional, "sleep", sleep)
    with app.connection_for_read() as connection, pytest.raises(Enough):
        consumer.ensure_connected(connection)
