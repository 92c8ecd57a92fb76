"""Lanes: parallel streams of training bytes whose state is carried from window to window.

Lane k reads the training shards k, k + lanes, k + 2*lanes, ... in turn, and starts again after the last. Where a
lane begins a shard its state must be zeroed. The end of a shard that does not fill a window is left out. The stream of
a lane does not depend on the process that reads it.
"""

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.network.objective import Targets
from trainer.corpus.corpus import Corpus, CorpusError, ShardEntry
from trainer.corpus.labels import Reviews


@dataclass
class Cursor:
    """Where a lane stands: the index of its shard in its own round, and the offset of the next byte in there."""

    shard: int
    offset: int


class Cut(NamedTuple):
    """A window of every lane. bytes: (window + 1, lanes), the last row being targets only; begins: (lanes,), whether
    a shard begins; labels: classes and weights, (window, lanes) each, if they are read."""

    bytes: NDArray[np.uint8]
    begins: NDArray[np.bool_]
    labels: tuple[NDArray[Any], ...] = ()


class Lanes:
    """Cuts windows off `lanes` streams. Deterministic: its whole state is the cursors."""

    def __init__(
        self,
        corpus: Corpus,
        lanes: int,
        window: int,
        mine: range | None = None,
        skip_bytes: int = 0,
        labels: bool = False,
    ) -> None:
        """mine: the lanes that are read here, all by default. skip_bytes: start where all lanes together have read as
        many bytes, each at its next start of a shard. labels: read labels too; the corpus must have some."""
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
        self._labels = labels
        self._rounds = [corpus.training[lane::lanes] for lane in mine or range(lanes)]
        self.restore([Cursor(_shards_of(entries, skip_bytes // lanes), 0) for entries in self._rounds])

    def restore(self, cursors: list[Cursor]) -> None:
        """Continue at `cursors`, one for each lane that is read here."""
        self._open = [
            self._opened(entries[cursor.shard % len(entries)])
            for entries, cursor in zip(self._rounds, cursors, strict=True)
        ]
        self.cursors = [replace(cursor) for cursor in cursors]

    def next(self) -> Cut:
        """The next window of every lane."""
        columns, begins, labels = [], [], []
        for lane, cursor in enumerate(self.cursors):
            if cursor.offset + self.window + 1 > len(self._open[lane][0]):
                entries = self._rounds[lane]
                cursor.shard, cursor.offset = cursor.shard + 1, 0
                self._open[lane] = self._opened(entries[cursor.shard % len(entries)])
            data, reviews = self._open[lane]
            columns.append(data[cursor.offset : cursor.offset + self.window + 1])
            if reviews is not None:
                labels.append(reviews.window(cursor.offset, cursor.offset + self.window))
            begins.append(cursor.offset == 0)
            cursor.offset += self.window
        block, fresh = np.stack(columns, axis=1), np.array(begins)
        return Cut(block, fresh, tuple(np.stack(part, axis=1) for part in zip(*labels, strict=True)))

    def _opened(self, entry: ShardEntry) -> tuple[NDArray[np.uint8], Reviews | None]:
        return self._corpus.read(entry), self._corpus.read_reviews(entry) if self._labels else None


def _shards_of(entries: Sequence[ShardEntry], size: int) -> int:
    """How many shards, round after round, hold the first `size` bytes."""
    rounds, rest = divmod(size, sum(entry.bytes for entry in entries))
    ends = accumulate((entry.bytes for entry in entries), initial=0)
    return rounds * len(entries) + next(number for number, end in enumerate(ends) if end >= rest)


class Ahead:
    """Windows as tensors, cut by a separate thread `depth` ahead, so that training does not wait for the disk."""

    def __init__(self, lanes: Lanes, device: torch.device, depth: int = 2) -> None:
        self._lanes = lanes
        self._device = device
        self._depth = depth
        # A new thread uses GPU 0, and pinning memory would open a context there.
        on_device = (torch.cuda.set_device, (device,)) if device.type == "cuda" else (None, ())
        self._thread = ThreadPoolExecutor(1, "lanes", *on_device)
        self._waiting: deque[Future[tuple[list[Tensor], list[Cursor]]]] = deque()
        self.cursors = [replace(cursor) for cursor in lanes.cursors]  # after the last window that `next` returned
        self.waited_s = 0.0  # in `next`, for windows that were not ready

    def restore(self, cursors: list[Cursor]) -> None:
        while self._waiting:
            self._waiting.popleft().exception()
        self._lanes.restore(cursors)
        self.cursors = [replace(cursor) for cursor in cursors]

    def next(self) -> tuple[Tensor, Targets, Tensor]:
        """The next window on the device: its bytes (window, lanes) int64, its targets, and whether a shard starts,
        (lanes, 1)."""
        while len(self._waiting) <= self._depth:
            self._waiting.append(self._thread.submit(self._cut))
        began = time.perf_counter()
        parts, self.cursors = self._waiting.popleft().result()
        self.waited_s += time.perf_counter() - began
        block, begins, *labels = (part.to(self._device, non_blocking=True) for part in parts)
        return block[:-1], Targets(block[1:], *labels), begins

    def _cut(self) -> tuple[list[Tensor], list[Cursor]]:
        cut = self._lanes.next()
        parts = [torch.from_numpy(part) for part in (cut.bytes.astype(np.int64), cut.begins[:, None], *cut.labels)]
        if self._device.type == "cuda":  # pageable memory would be copied once more, synchronously
            parts = [part.pin_memory() for part in parts]
        return parts, [replace(cursor) for cursor in self._lanes.cursors]
