"""`neuron up`: embedded Redis, a worker and the gateway as child processes, stopped together in the right order."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass

import click

_READY_TIMEOUT_S = 120
# The gateway goes first, so that nothing is accepted any more; Redis last, so that what runs can be answered.
_STOP_GRACE_S = 30
_PR_SET_PDEATHSIG = 1


@dataclass
class _Child:
    name: str
    process: subprocess.Popen[bytes]


class _Stopped(Exception):
    """SIGINT or SIGTERM came."""


@click.command()
def up() -> None:
    """Serve on this machine: embedded Redis (unless NEURON_REDIS_URL names one), a worker and the gateway."""
    from api.settings import ApiSettings

    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    settings = ApiSettings()
    children: list[_Child] = []
    failure = None
    try:
        environment = dict(os.environ)
        if "NEURON_REDIS_URL" not in environment:
            port = _free_port()
            directory = settings.data_dir / "redis"
            children.append(_spawn("redis", ["cli.embedded_redis", str(port), str(directory)], environment))
            environment["NEURON_REDIS_URL"] = f"redis://127.0.0.1:{port}/0"
            _wait_for_port(port, children)
        children.append(_spawn("worker", ["worker"], environment))
        children.append(_spawn("api", ["api"], environment))
        url = f"http://{_reachable(settings.api_host)}:{settings.api_port}"
        _wait_until_ready(url, children)
        click.echo(_greeting(url))
        while True:
            _check(children)
            time.sleep(0.5)
    except _Stopped:
        click.echo("stopping ...", err=True)
    except click.ClickException as error:
        failure = error
    finally:
        # From here on a second signal must not leave anything running.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for child in reversed(children):
            _end(child)
    if failure is not None:
        raise failure


def _stop(*_: object) -> None:
    raise _Stopped


def _spawn(name: str, arguments: list[str], environment: dict[str, str]) -> _Child:
    # A session of its own: Ctrl-C reaches `neuron up` alone, which then stops its children in order.
    process = subprocess.Popen(  # noqa: S603 - our own modules
        [sys.executable, "-m", *arguments], env=environment, start_new_session=True, preexec_fn=_die_with_parent
    )
    return _Child(name, process)


def _die_with_parent() -> None:
    """Have the kernel send SIGTERM when `neuron up` itself is killed. Linux only; elsewhere nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for_port(port: int, children: list[_Child]) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while time.monotonic() < deadline:
        _check(children)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise click.ClickException(f"the embedded Redis does not answer on port {port} after {_READY_TIMEOUT_S} s")


def _wait_until_ready(url: str, children: list[_Child]) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while time.monotonic() < deadline:
        _check(children)
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):  # noqa: S310 - an http URL of our own
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise click.ClickException(f"{url}/readyz is not 200 after {_READY_TIMEOUT_S} s")


def _check(children: list[_Child]) -> None:
    for child in children:
        code = child.process.poll()
        if code is not None:
            raise click.ClickException(f"{child.name} ended by itself with code {code}; its log is above")


def _end(child: _Child) -> None:
    child.process.terminate()
    try:
        child.process.wait(_STOP_GRACE_S)
    except subprocess.TimeoutExpired:
        click.echo(f"{child.name} did not stop within {_STOP_GRACE_S} s and is killed", err=True)
        child.process.kill()
        child.process.wait()


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104 - compared, not bound


def _greeting(url: str) -> str:
    return f"""
Sentiment Neuron is up.

  try it   curl -s {url}/classify -H 'Content-Type: application/json' -d '{{"text": "What a lovely film."}}'
  docs     {url}/docs
  metrics  {url}/metrics
  stop     Ctrl-C
"""
