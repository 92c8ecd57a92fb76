"""The processes that `neuron bench service` drives, and the processor time that each takes."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import click

from benchmarks.own_engine import ENVIRONMENT

_PATIENCE_S = 120.0


@dataclass
class Stack:
    """A service at `url`; its processes by their names, none where it was there already."""

    url: str
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        if parts.scheme != "http" or parts.hostname is None:
            raise click.BadParameter(f"{self.url} is no http://HOST:PORT", param_hint="--url")
        return parts.hostname, parts.port or 80

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
        return {name: sum(map(_cpu_seconds, _family(process.pid))) for name, process in self.processes.items()}


@contextmanager
def start_stack(url: str | None, simulated_workers: int = 0) -> Iterator[Stack]:
    """Redis, gateway and worker as `neuron up` starts them, or the service at `url`.

    With simulated_workers, that many of these stand in for the worker.
    """
    if url is not None:
        yield Stack(url)
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory, ExitStack() as children:
        redis_port, api_port = _free_port(), _free_port()
        redis_url = f"redis://127.0.0.1:{redis_port}/0"
        environment = os.environ | {
            "NEURON_REDIS_URL": redis_url,
            "NEURON_API_PORT": str(api_port),
            "NEURON_WORKER_METRICS_PORT": "0",
            **ENVIRONMENT,
        }
        log = children.enter_context((Path(directory) / "log").open("w+b"))
        stack = Stack(f"http://127.0.0.1:{api_port}")

        def spawn(name: str, *arguments: str) -> None:
            command = [sys.executable, "-m", *arguments]
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)  # noqa: S603 - our own modules
            stack.processes[name] = process
            children.callback(_end, process)

        try:
            spawn("redis", "cli.embedded_redis", str(redis_port), directory)
            _wait(stack, f"Redis on port {redis_port}", lambda: _listens(redis_port))
            spawn("gateway", "api")
            if simulated_workers:
                spawn("workers", "benchmarks.simulated_workers", redis_url, str(simulated_workers))
            else:
                spawn("worker", "worker")
            _wait(stack, f"{stack.url}/readyz", lambda: _ready(stack.url))
        except click.ClickException as error:
            log.seek(0)
            tail = log.read().decode(errors="replace")[-4000:]
            raise click.ClickException(f"{error.message}; the log ends with:\n{tail}") from error
        yield stack


def _wait(stack: Stack, what: str, there: Callable[[], bool]) -> None:
    until = time.monotonic() + _PATIENCE_S
    while not there():
        for name, process in stack.processes.items():
            if process.poll() is not None:
                raise click.ClickException(f"{name} ended with code {process.returncode}")
        if time.monotonic() > until:
            raise click.ClickException(f"{what} does not answer after {_PATIENCE_S:.0f} s")
        time.sleep(0.1)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5):  # noqa: S310 - an http URL of our own
            return True
    except (urllib.error.URLError, OSError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _family(pid: int) -> list[int]:
    """The process and its children: the embedded Redis is one of its Python process."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return [pid, *(int(child) for child in children.read_text().split())] if children.exists() else [pid]


def _cpu_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
