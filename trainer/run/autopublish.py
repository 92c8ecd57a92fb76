"""Publishing while a run trains, in a separate process: `AutoPublisher`. How a snapshot is published is handed in."""

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.context import SpawnProcess
from pathlib import Path
from threading import Event
from typing import Literal, Protocol

import torch

PublishOutcome = Literal["ok", "failed", "skipped"]

_POLL_S = 0.2  # a signal sets a flag, and ends no wait


class Publish(Protocol):
    """Publishes a snapshot in a volume, as `publish_run` in trainer/publishing/publish.py. A function of a module,
    because it is pickled for the process that calls it."""

    def __call__(self, run_directory: Path, volume: Path, *, snapshot: Path, evaluation: Path | None) -> Path: ...


class AutoPublisher:
    """Publishes one snapshot at a time. Nothing that goes wrong with it reaches the training."""

    def __init__(
        self,
        publish: Publish,
        run_directory: Path,
        volume: Path,
        evaluation: Path | None,
        on_end: Callable[[Path, PublishOutcome, str], None],
    ) -> None:
        """evaluation: directory of labelled texts. on_end: gets the snapshot, its outcome, and why it failed."""
        self._publish = publish
        self._run_directory = run_directory
        self._volume = volume
        self._evaluation = evaluation
        self._on_end = on_end
        self._running: tuple[Path, SpawnProcess] | None = None
        self.last: Path | None = None  # the snapshot that was started last

    @property
    def snapshot(self) -> Path | None:
        """The snapshot that is being published and must not be deleted."""
        return self._running[0] if self._running else None

    def start(self, snapshot: Path) -> None:
        self.poll()
        if self._running is not None:
            self._on_end(snapshot, "skipped", f"{self._running[0].name} is still being published")
            return
        # Spawned, because a fork would inherit the threads' locks and the GPU. A daemon, so that it never outlives us.
        arguments = (self._publish, self._run_directory, self._volume, snapshot, self._evaluation)
        process = multiprocessing.get_context("spawn").Process(target=_publish_alone, args=arguments, daemon=True)
        process.start()
        self._running, self.last = (snapshot, process), snapshot

    def poll(self, patience_s: float = 0.0) -> None:
        """Report the process if it has ended; wait for that at most `patience_s`."""
        if self._running is None:
            return
        snapshot, process = self._running
        process.join(patience_s)
        if process.exitcode is None:
            return
        self._running = None
        if process.exitcode == 0:
            self._on_end(snapshot, "ok", "")
        else:
            self._on_end(snapshot, "failed", f"exit code {process.exitcode}, the reason is on its standard error")
        process.close()

    def wait(self, patience_s: float, stop: Event | None = None) -> None:
        """Wait for the process, and end it after `patience_s` or once `stop` is set."""
        deadline = time.monotonic() + patience_s
        while self._running is not None and time.monotonic() < deadline and not (stop and stop.is_set()):
            self.poll(_POLL_S)
        if self._running is not None:
            self._running[1].terminate()
            self._running[1].join()
            self.poll()


def _publish_alone(
    publish: Publish, run_directory: Path, volume: Path, snapshot: Path, evaluation: Path | None
) -> None:
    os.nice(10)  # training comes first
    torch.set_num_threads(1)
    publish(run_directory, volume, snapshot=snapshot, evaluation=evaluation)
