"""A network to Redis that is slow, loses packets, breaks connections or lets nothing pass, under load."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import Stack, redis_server, run_stack, wait_until
from tests.faults.conftest import Accounted
from tests.faults.figures import MADE
from tests.faults.load import CALM_S, Load, mixed
from tests.faults.slow_network import Network, network

DEAD_S = 8.0 if MADE else 4.0


@contextlib.contextmanager
def distant_redis(volume: Path, directory: Path) -> Iterator[tuple[Stack, Network, str]]:
    """A stack whose gateway and worker reach Redis through a network, and Redis' own URL."""
    with redis_server(directory / "distant") as server, network(server.port) as way:
        url = f"redis://127.0.0.1:{way.port}/0"
        with run_stack(directory, NEURON_CHECKPOINT_DIR=str(volume), NEURON_REDIS_URL=url) as stack:
            yield stack, way, server.connection_url + "/0"


def test_a_slow_network_that_loses_packets_loses_no_job(
    tiny_volume: Path, tmp_path: Path, accounted: Accounted
) -> None:
    with distant_redis(tiny_volume, tmp_path) as (stack, way, redis_url):
        with Load([stack.url], mixed()) as load:
            time.sleep(CALM_S)
            way.delay_s, way.jitter_s, way.loss = 0.1, 0.05, 0.02
            moment, passed = time.monotonic(), way.passed
            time.sleep(DEAD_S)
            wait_until(lambda: load.ended_since(moment + DEAD_S / 2), what="answers over the slow network")
            assert way.passed > passed, "the load went another way"
        accounted("network to Redis with 100 ± 50 ms each way, 2 % lost", load, redis_url, moment)


def test_broken_connections_and_a_network_that_lets_nothing_pass(
    tiny_volume: Path, tmp_path: Path, accounted: Accounted
) -> None:
    with distant_redis(tiny_volume, tmp_path) as (stack, way, redis_url):
        with Load([stack.url], mixed()) as load:
            time.sleep(CALM_S)
            for _ in range(6):
                way.cut()
                time.sleep(0.5)
            moment = time.monotonic()
            way.held = True
            time.sleep(DEAD_S)
            way.held = False
            time.sleep(CALM_S)
        accounted(f"network to Redis cut 6 times, then dead for {DEAD_S:g} s", load, redis_url, moment)
