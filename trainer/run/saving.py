"""Saving a run while it continues: `Saver` copies at once and writes in the background, one snapshot at a time."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.run.snapshot import Snapshot, prune, write

Then = Callable[[Path], None]


class Written(NamedTuple):
    path: Path
    seconds: float


class Saver:
    """Training pauses only for the copy to host memory, unless the previous snapshot is still being written."""

    def __init__(self, directory: Path, keep: int) -> None:
        self.protected: frozenset[Path] = frozenset()  # snapshots that are not deleted, however old
        self._directory = directory
        self._keep = keep
        self._thread = ThreadPoolExecutor(1, "snapshot")
        self._writing: tuple[Future[Written], Then | None] | None = None
        self._host: dict[str, Tensor] = {}

    def save(self, snapshot: Snapshot, then: Then | None = None) -> None:
        """Start to write `snapshot`, whose tensors may change once this returns; the previous must have been collected.

        then: gets the path in `collect`, once it is written.
        """
        if self._writing is not None:
            raise RuntimeError("the previous snapshot was not collected")
        copy = replace(snapshot, tensors=self._copied(snapshot.tensors), progress=replace(snapshot.progress))
        self._writing = self._thread.submit(self._write, copy, self.protected), then

    @property
    def idle(self) -> bool:
        """Whether no snapshot is being written."""
        return self._writing is None or self._writing[0].done()

    def collect(self, wait: bool = False) -> Written | None:
        """The snapshot that has been written since the last call, or None. Raises what went wrong with it."""
        if self._writing is None or not (wait or self._writing[0].done()):
            return None
        (future, then), self._writing = self._writing, None
        written = future.result()
        if then is not None:
            then(written.path)
        return written

    def _copied(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Into the same memory each time: pinned pages are costly to get, others cost page faults when fresh."""
        for name, tensor in tensors.items():
            held = self._host.get(name)
            if held is None or held.shape != tensor.shape:
                self._host[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._host[name].copy_(tensor, non_blocking=tensor.is_cuda)
        if any(tensor.is_cuda for tensor in tensors.values()):
            torch.cuda.current_stream().synchronize()
        return {name: self._host[name] for name in tensors}

    def _write(self, snapshot: Snapshot, protected: frozenset[Path]) -> Written:
        began = time.perf_counter()
        path = write(self._directory, snapshot)
        prune(self._directory, self._keep, protected)
        return Written(path, time.perf_counter() - began)
