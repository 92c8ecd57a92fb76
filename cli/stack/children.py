"""Processes of this package as children: Redis, gateway and workers, waited for, watched, and stopped in order."""

import contextlib
import ctypes
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

import click

from contract import children

_PATIENCE_S = 120
_STOP_GRACE_S = 30
_SHOWN_CHARACTERS = 4000  # of a log
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Children:
    """Child processes by name, in the order in which they were started. Their faults raise click.ClickException."""

    def __init__(self, log: Path | None = None) -> None:
        """log: the file that they write to; None for this process's own standard output and error."""
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._log = log

    def start(self, name: str, environment: Mapping[str, str], module: str, *arguments: str) -> int:
        """Run a module of this package; returns its process id."""
        with contextlib.nullcontext() if self._log is None else self._log.open("ab") as out:
            # A session of its own: Ctrl-C reaches this process alone, which then stops its children in order.
            self.processes[name] = subprocess.Popen(  # noqa: S603 - our own modules
                children.command(module, *arguments),
                env=children.environment(environment),
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        return self.processes[name].pid

    def start_redis(self, directory: Path, environment: Mapping[str, str]) -> str:
        """An embedded Redis that keeps its data in `directory`; returns its URL once it listens."""
        port = free_port()
        self.start("redis", environment, "cli.stack.embedded_redis", str(port), str(directory))
        self.wait_until(lambda: _listens(port), f"the embedded Redis does not answer on port {port}")
        return f"redis://127.0.0.1:{port}/0"

    def wait_until(self, condition: Callable[[], object], otherwise: str) -> None:
        """otherwise: what the error says if it does not come true in time."""
        deadline = time.monotonic() + _PATIENCE_S
        self.check()
        while not condition():
            if time.monotonic() > deadline:
                raise self._error(f"{otherwise} after {_PATIENCE_S} s")
            time.sleep(0.1)
            self.check()

    def check(self) -> None:
        """Raises if one of them has ended."""
        for name, process in self.processes.items():
            code = process.poll()
            if code is not None:
                where = "; its log is above" if self._log is None else ""
                raise self._error(f"{name} ended by itself with code {code}{where}")

    def stop(self) -> None:
        """Stop them, the last one first, each when the one before has ended."""
        for name, process in reversed(self.processes.items()):
            process.terminate()
            try:
                process.wait(_STOP_GRACE_S)
            except subprocess.TimeoutExpired:
                click.echo(f"{name} did not stop within {_STOP_GRACE_S} s and is killed", err=True)
                process.kill()
                process.wait()

    def _error(self, what: str) -> click.ClickException:
        if self._log is None:
            return click.ClickException(what)
        end = self._log.read_text(errors="replace")[-_SHOWN_CHARACTERS:]
        return click.ClickException(f"{what}; the log ends with:\n{end}")


def free_port() -> int:
    """A TCP port on loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def workers_ready(url: str) -> int:
    """How many workers the gateway at `url` finds ready; 0 while it does not answer itself."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:  # noqa: S310 - an http URL of our own
            ready: int = json.load(answer)["workers"]
            return ready
    except OSError:  # an answer of 503 among them
        return 0


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _die_with_parent() -> None:
    """Have the kernel send SIGTERM when this process itself is killed. Linux only; elsewhere nothing happens."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
