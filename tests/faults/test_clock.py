"""Wall clocks that jump under load: those of gateway and worker by hours, and that of Redis, which counts, by less."""

import time
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import pytest
import redis

from tests.conftest import Stack, run_stack, wait_until
from tests.faults.conftest import Accounted
from tests.faults.load import CALM_S, Load, left_behind, mixed

_LIBRARY = next(iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
pytestmark = pytest.mark.skipif(_LIBRARY is None, reason="needs libfaketime (Debian: apt-get install libfaketime)")


class Clock:
    """The wall clock of processes that are started with `environment`, beside the real one. Looked at every second."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.environment = {
            "LD_PRELOAD": str(_LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",  # its older name
        }
        self.set(0)

    def set(self, ahead_s: int) -> None:
        """A reader never finds half of it."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead_s:+d}\n")
        new.replace(self._file)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "clock")


def _ahead_s(stack: Stack) -> float:
    """The gateway's clock, by its `Date`."""
    return parsedate_to_datetime(httpx.get(stack.url + "/healthz").headers["date"]).timestamp() - time.time()


def test_the_clocks_of_gateway_and_worker_jump(
    clock: Clock, tiny_volume: Path, tmp_path: Path, accounted: Accounted
) -> None:
    with run_stack(tmp_path, NEURON_CHECKPOINT_DIR=str(tiny_volume), **clock.environment) as stack:
        with Load([stack.url], mixed()) as load:
            time.sleep(CALM_S)
            moment = time.monotonic()
            for ahead_s in (7200, 0, -7200, 0):
                clock.set(ahead_s)
                wait_until(lambda ahead_s=ahead_s: abs(_ahead_s(stack) - ahead_s) < 60, what="the jump")  # type: ignore[misc]
                time.sleep(1.5)
        assert not load.account().faults
        accounted(
            "clocks of gateway and worker jump by 2 h, both ways", load, stack.environment["NEURON_REDIS_URL"], moment
        )


def test_the_clock_of_redis_jumps(
    clock: Clock, tiny_volume: Path, tmp_path: Path, accounted: Accounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By less than results are kept; every lease lapses, or seems to be long."""
    for name, value in clock.environment.items():
        monkeypatch.setenv(name, value)  # the server inherits it; the others are given the true time
    true = dict.fromkeys(clock.environment, "")
    with run_stack(tmp_path, NEURON_CHECKPOINT_DIR=str(tiny_volume), **true) as stack:
        for name in clock.environment:
            monkeypatch.delenv(name)
        url = stack.environment["NEURON_REDIS_URL"]
        with redis.Redis.from_url(url) as server, Load([stack.url], mixed()) as load:
            time.sleep(CALM_S)
            moment = time.monotonic()
            for ahead_s in (1800, 0):
                clock.set(ahead_s)
                wait_until(lambda ahead_s=ahead_s: abs(server.time()[0] - time.time() - ahead_s) < 60, what="the jump")  # type: ignore[misc]
                time.sleep(CALM_S)
        # What ended while it was queued again is still listed as waiting, until a worker looks for lost jobs.
        wait_until(lambda: left_behind(url) == {}, what="nothing left over")
        accounted("clock of Redis jumps by half an hour, both ways", load, url, moment)
