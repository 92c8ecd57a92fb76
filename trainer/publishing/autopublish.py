"""Publishing while a run trains, by a process of its own: `AutoPublisher`. What it does is in publish.py."""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Literal

Outcome = Literal["ok", "failed", "skipped"]


class AutoPublisher:
    """Publishes one snapshot at a time. Nothing that goes wrong with it reaches the training."""

    def __init__(
        self, run_directory: Path, volume: Path, evaluation: Path | None, on_end: Callable[[Path, Outcome, str], None]
    ) -> None:
        """on_end: gets the snapshot, how publishing it ended, and why if it failed."""
        self._run_directory = run_directory
        self._volume = volume
        self._evaluation = evaluation
        self._on_end = on_end
        self._running: tuple[Path, SpawnProcess] | None = None
        self.last: Path | None = None  # what was started last

    @property
    def snapshot(self) -> Path | None:
        """What is being published and must not be deleted."""
        return self._running[0] if self._running else None

    def start(self, snapshot: Path) -> None:
        self.poll()
        if self._running is not None:
            self._on_end(snapshot, "skipped", f"{self._running[0].name} is still being published")
            return
        # Spawned, for a fork would inherit the threads' locks and the GPU. A daemon, so that it cannot keep us alive.
        arguments = (self._run_directory, self._volume, snapshot, self._evaluation)
        process = multiprocessing.get_context("spawn").Process(target=_publish, args=arguments, daemon=True)
        process.start()
        self._running, self.last = (snapshot, process), snapshot

    def poll(self, patience_s: float = 0.0) -> None:
        """Take note if the process has ended; wait for that so long."""
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

    def wait(self, patience_s: float) -> None:
        """Wait for what is being published, and end it when patience does."""
        self.poll(patience_s)
        if self._running is not None:
            self._running[1].terminate()
            self._running[1].join()
            self.poll()


def _publish(run_directory: Path, volume: Path, snapshot: Path, evaluation: Path | None) -> None:
    import torch

    from trainer.publishing.publish import publish_run

    os.nice(10)  # training comes first
    torch.set_num_threads(1)
    publish_run(run_directory, volume, snapshot=snapshot, evaluation=evaluation)
