"""Lanes: parallel streams of training bytes whose state is carried from window to window.

Lane k reads the training shards k, k + lanes, k + 2*lanes, ... in turn, and starts again after the last. Where a
lane begins a shard its state must be zeroed. The end of a shard that does not fill a window is left out. A lane is
the same stream whichever process reads it.
"""

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.corpus import Corpus, CorpusError, ShardEntry


@dataclass
class Cursor:
    """Where a lane stands: the index of its shard in its own round, and the offset of the next byte in there."""

    shard: int
    offset: int


class Lanes:
    """Cuts windows off `lanes` streams. Deterministic: the cursors are its whole state."""

    def __init__(self, corpus: Corpus, lanes: int, window: int, mine: range | None = None, skip_bytes: int = 0) -> None:
        """mine: the lanes that are read here, all by default. skip_bytes: begin where all lanes together have read as
        many, at the next beginning of a shard of each."""
        if len(corpus.training) < lanes:
            raise CorpusError(
                f"{lanes} lanes need at least as many training shards, the corpus has {len(corpus.training)}: "
                "lower --lanes or build it with more --shards"
            )
        shortest = min(corpus.training, key=lambda entry: entry.bytes)
        if shortest.bytes <= window:
            raise CorpusError(
                f"{shortest.file} holds {shortest.bytes} bytes, too few for a window of {window}: "
                "lower --window or build the corpus with fewer --shards"
            )
        self.window = window
        self._corpus = corpus
        self._rounds = [corpus.training[lane::lanes] for lane in mine or range(lanes)]
        self.restore([Cursor(_shards_of(entries, skip_bytes // lanes), 0) for entries in self._rounds])

    def restore(self, cursors: list[Cursor]) -> None:
        """Go on at `cursors`, one for each lane that is read here."""
        self._open = [
            self._corpus.read(entries[cursor.shard % len(entries)])
            for entries, cursor in zip(self._rounds, cursors, strict=True)
        ]
        self.cursors = [replace(cursor) for cursor in cursors]

    def next(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """The next window: bytes (window + 1, lanes), the last row being targets only, and where a shard begins."""
        columns, begins = [], []
        for lane, cursor in enumerate(self.cursors):
            if cursor.offset + self.window + 1 > len(self._open[lane]):
                entries = self._rounds[lane]
                cursor.shard, cursor.offset = cursor.shard + 1, 0
                self._open[lane] = self._corpus.read(entries[cursor.shard % len(entries)])
            columns.append(self._open[lane][cursor.offset : cursor.offset + self.window + 1])
            begins.append(cursor.offset == 0)
            cursor.offset += self.window
        return np.stack(columns, axis=1), np.array(begins)


def _shards_of(entries: Sequence[ShardEntry], size: int) -> int:
    """How many shards, round after round, hold the first `size` bytes."""
    rounds, rest = divmod(size, sum(entry.bytes for entry in entries))
    ends = accumulate((entry.bytes for entry in entries), initial=0)
    return rounds * len(entries) + next(number for number, end in enumerate(ends) if end >= rest)


class Ahead:
    """Windows as tensors, cut `depth` ahead of the training by a thread of their own, so that no disk is waited for."""

    def __init__(self, lanes: Lanes, device: torch.device, depth: int = 2) -> None:
        self._lanes = lanes
        self._device = device
        self._depth = depth
        # A new thread stands on GPU 0, and pinning memory would open a context there.
        on_device = (torch.cuda.set_device, (device,)) if device.type == "cuda" else (None, ())
        self._thread = ThreadPoolExecutor(1, "lanes", *on_device)
        self._waiting: deque[Future[tuple[Tensor, Tensor, list[Cursor]]]] = deque()
        self.cursors = [replace(cursor) for cursor in lanes.cursors]  # after the last window that `next` returned
        self.waited_s = 0.0  # in `next`, for windows that were not ready

    def restore(self, cursors: list[Cursor]) -> None:
        while self._waiting:
            self._waiting.popleft().exception()
        self._lanes.restore(cursors)
        self.cursors = [replace(cursor) for cursor in cursors]

    def next(self) -> tuple[Tensor, Tensor]:
        """The next window: bytes (window + 1, lanes) int64 and where a shard begins (lanes, 1), on the device."""
        while len(self._waiting) <= self._depth:
            self._waiting.append(self._thread.submit(self._cut))
        began = time.perf_counter()
        block, begins, self.cursors = self._waiting.popleft().result()
        self.waited_s += time.perf_counter() - began
        return block.to(self._device, non_blocking=True), begins.to(self._device, non_blocking=True)

    def _cut(self) -> tuple[Tensor, Tensor, list[Cursor]]:
        window, fresh = self._lanes.next()
        block, begins = torch.from_numpy(window.astype(np.int64)), torch.from_numpy(fresh)[:, None]
        if self._device.type == "cuda":  # pageable memory would be copied once more, and waited for
            block, begins = block.pin_memory(), begins.pin_memory()
        return block, begins, [replace(cursor) for cursor in self._lanes.cursors]
