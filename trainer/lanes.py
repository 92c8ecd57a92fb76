"""Lanes: parallel streams of training bytes whose state is carried from window to window.

Lane k reads the training shards k, k + lanes, k + 2*lanes, ... in turn, and starts again after the last. Where a
lane begins a shard its state must be zeroed. The end of a shard that does not fill a window is left out.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.corpus import Corpus, CorpusError


@dataclass
class Cursor:
    """Where a lane stands: the index of its shard in its own round, and the offset of the next byte in there."""

    shard: int
    offset: int


class Lanes:
    """Cuts windows off `lanes` streams. Deterministic: the cursors are its whole state."""

    def __init__(self, corpus: Corpus, lanes: int, window: int) -> None:
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
        self._rounds = [corpus.training[lane::lanes] for lane in range(lanes)]
        self.cursors = [Cursor(0, 0) for _ in range(lanes)]
        self._open = [corpus.read(entries[0]) for entries in self._rounds]

    def restore(self, cursors: list[Cursor]) -> None:
        self.cursors = cursors
        self._open = [
            self._corpus.read(entries[cursor.shard % len(entries)])
            for entries, cursor in zip(self._rounds, cursors, strict=True)
        ]

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
