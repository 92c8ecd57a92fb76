"""How far a run is, by bytes and by the clock, and the validations that follow."""

import itertools

import pytest

from trainer.run import schedule
from trainer.run.options import Options
from trainer.run.snapshot import Progress


def validations(options: Options, seconds_an_update: float) -> list[int]:
    """The updates that are followed by a validation."""
    progress, found = Progress(), []
    for step in itertools.count(1):
        before = schedule.done(options, progress)
        if before >= 1:
            return found
        progress.step, progress.bytes_seen = step, step * options.update_bytes
        progress.seconds = step * seconds_an_update
        if schedule.validation_due(options, progress, before):
            progress.validation_step = step
            found.append(step)
    raise AssertionError


def test_by_bytes() -> None:
    options = Options("corpus", lanes=100, window=100, total_bytes=1_000_000_000)
    assert validations(options, 1.0) == list(range(500, 100_001, 500))
    assert validations(Options("corpus", lanes=100, window=100, total_bytes=5_000_000), 1.0) == [200, 400, 500]
    chosen = Options("corpus", lanes=100, window=100, total_bytes=100_000, validate_every_bytes=25_000)
    assert validations(chosen, 1.0) == [3, 5, 8, 10]


def test_by_the_clock() -> None:
    # 10 MB/s for 1,000 s: every 5 s. At 0.1 MB/s so seldom that 2 MB lie between them.
    options = Options("corpus", lanes=100, window=100, total_seconds=1000.0)
    found = validations(options, 0.001)
    assert len(found) == 200
    assert found[-1] == 1_000_000
    slow = validations(options, 0.1)
    assert len(slow) == 50
    assert min(b - a for a, b in itertools.pairwise(slow[:-1])) == 200  # the last is where the run ends
    chosen = Options("corpus", lanes=100, window=100, total_seconds=1000.0, validate_every_bytes=50_000_000)
    assert validations(chosen, 0.1) == [5000, 10_000]


@pytest.mark.parametrize("clock", [False, True])
def test_rates_rise_and_fall_to_zero(clock: bool) -> None:
    options = Options("corpus", lanes=1, window=1, total_bytes=100, total_seconds=200.0 * clock, warmup_steps=10)
    factors = [schedule.rate_factor(options, Progress(step, step, 0, 2.0 * step)) for step in (0, 4, 9, 50, 100, 101)]
    assert factors == pytest.approx([0.1, 0.5 * 0.96, 0.91, 0.5, 0.0, 0.0])
