"""The processes that `neuron bench service` drives, and the processor time that each takes."""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import click

from benchmarks.own_engine import ENVIRONMENT
from cli.stack.children import Children, free_port, workers_ready


@dataclass
class Stack:
    """A service at `url`; its processes, if they were started for it, and the environment of its workers."""

    url: str
    children: Children = field(default_factory=Children)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        if parts.scheme != "http" or parts.hostname is None:
            raise click.BadParameter(f"{self.url} is not http://HOST:PORT", param_hint="--url")
        return parts.hostname, parts.port or 80

    def add_worker(self, core: int | None = None) -> None:
        """One more worker, ready when this returns. core: keep it on that one, with one thread for its products."""
        before = workers_ready(self.url)
        if core is None:
            self.children.start("worker", self.environment, "worker")
        else:
            environment = self.environment | {"NEURON_WORKER_THREADS": "1"}
            process = self.children.start(f"worker on core {core}", environment, "worker")
            os.sched_setaffinity(process, {core})  # at once: the threads that it starts later inherit it
        self._wait_for_more_than(before)

    def add_simulated_workers(self, count: int) -> None:
        """Workers that compute nothing."""
        redis_url = self.environment["NEURON_REDIS_URL"]
        self.children.start("workers", self.environment, "benchmarks.simulated_workers", redis_url, str(count))
        self._wait_for_more_than(0)

    def _wait_for_more_than(self, workers: int) -> None:
        self.children.wait_until(lambda: workers_ready(self.url) > workers, f"no new worker is ready at {self.url}")

    @contextmanager
    def cpu_use(self) -> Iterator[dict[str, float]]:
        """Fills what it yields with the cores that each process used, at its end. Linux only; elsewhere empty."""
        use: dict[str, float] = {}
        before, began = self._cpu_seconds(), time.perf_counter()
        yield use
        elapsed = time.perf_counter() - began
        use |= {name: (seconds - before[name]) / elapsed for name, seconds in self._cpu_seconds().items()}

    def _cpu_seconds(self) -> dict[str, float]:
        if sys.platform != "linux":
            return {}
        processes = self.children.processes
        return {name: sum(map(_cpu_seconds, _family(process.pid))) for name, process in processes.items()}


@contextmanager
def start_stack() -> Iterator[Stack]:
    """Redis and a gateway, which wait for workers."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        directory, port = Path(name), free_port()
        children = Children(directory / "log")
        environment = os.environ | {
            "NEURON_API_PORT": str(port),
            "NEURON_WORKER_METRICS_PORT": "0",
            **ENVIRONMENT,
        }
        try:
            environment["NEURON_REDIS_URL"] = children.start_redis(directory / "redis", environment)
            children.start("gateway", environment, "api")
            yield Stack(f"http://127.0.0.1:{port}", children, environment)
        finally:
            children.stop()


def _family(pid: int) -> list[int]:
    """The process and its children: the embedded Redis is one of its Python process."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return [pid, *(int(child) for child in children.read_text().split())] if children.exists() else [pid]


def _cpu_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
