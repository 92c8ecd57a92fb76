"""An engine of few rows, for tests that drive it without Celery."""

from collections.abc import Iterator

import pytest

from worker.engine import Engine


@pytest.fixture
def engine() -> Iterator[Engine]:
    running = Engine(max_rows=16, block_steps=8)
    running.start()
    yield running
    running.close()
