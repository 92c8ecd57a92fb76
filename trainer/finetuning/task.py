"""The texts of a task, cut into batches and windows for a fine-tuning: `Task`."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.network.objective import Targets
from texts.labelled import Labelled, numbered
from texts.preparation import prepare

NOTHING = -100  # a target that torch's cross-entropy leaves out: after the last byte of a text nothing is predicted
_POOL_BATCHES = 50  # shuffled texts are sorted by length within this many batches


@dataclass(frozen=True)
class Task:
    """Texts of a task, prepared. classes: (texts,), the index of each one's label."""

    texts: list[bytes]
    classes: NDArray[np.int64]

    @classmethod
    def of(cls, labelled: Labelled, labels: list[str]) -> "Task":
        classes = np.array(numbered(labelled.labels, labels), dtype=np.int64)
        return cls([prepare(text) for text in labelled.texts], classes)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """In bytes, (texts,)."""
        return np.array([len(text) for text in self.texts])

    def part(self, most: int) -> "Task":
        """At most so many texts evenly out of all, of every label its share, but one at least."""
        if len(self.texts) <= most:
            return self
        of_labels = [np.flatnonzero(self.classes == label) for label in np.unique(self.classes)]
        counts = [max(1, most * len(rows) // len(self.texts)) for rows in of_labels]
        chosen = [
            rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)]
            for rows, count in zip(of_labels, counts, strict=True)
        ]
        rows = np.sort(np.concatenate(chosen))
        return Task([self.texts[row] for row in rows], self.classes[rows])

    def batches(self, rows: int, generator: np.random.Generator | None = None) -> list[NDArray[np.int64]]:
        """Indices of texts of about one length, in random order; without a generator the longest first."""
        lengths = self.lengths
        if generator is None:
            order = np.argsort(-lengths, kind="stable")
            return [order[begin : begin + rows] for begin in range(0, len(order), rows)]
        shuffled, found = generator.permutation(len(lengths)), []
        for begin in range(0, len(shuffled), rows * _POOL_BATCHES):
            pool = shuffled[begin : begin + rows * _POOL_BATCHES]
            pool = pool[np.argsort(-lengths[pool], kind="stable")]
            found += [pool[first : first + rows] for first in range(0, len(pool), rows)]
        return [found[number] for number in generator.permutation(len(found))]

    def windows(self, chosen: NDArray[np.int64], window: int) -> Iterator[tuple[Tensor, Targets, Tensor]]:
        """A batch, whole, in pieces of `window` bytes: bytes, targets and ends of texts, (steps, rows) each.

        Byte k of the n of a text weighs 2(k + 1)/(n(n + 1)), so that a text weighs 1; after it there is
        no target.
        """
        texts = [self.texts[index] for index in chosen]
        lengths = np.array([len(text) for text in texts])
        longest = int(lengths.max())
        begins = range(0, longest - 1, window)
        # Window by window, so that one long text takes no memory for all rows.
        for begin in begins:
            # The last byte of all has no next one: alone in a window it would have no bits per byte.
            end = longest if begin == begins[-1] else begin + window
            block = np.zeros((end - begin + 1, len(texts)), np.int64)
            for row, text in enumerate(texts):
                part = text[begin : end + 1]
                block[: len(part), row] = np.frombuffer(part, np.uint8)
            places = np.arange(begin + 1, end + 1)[:, None]
            targets = np.where(places < lengths, block[1:], NOTHING)
            weights = np.where(places <= lengths, 2 * places / (lengths * (lengths + 1)), 0).astype(np.float32)
            classes = np.tile(self.classes[chosen], (end - begin, 1))
            arrays = (block[:-1], targets, classes, weights, places == lengths)
            text_part, *labels, ends = map(torch.from_numpy, arrays)
            yield text_part, Targets(*labels), ends


def digest(*parts: Labelled) -> str:
    """SHA-256 of texts and labels, by which a fine-tuning recognizes its data."""
    found = hashlib.sha256()
    for part in parts:
        found.update(json.dumps([part.texts, part.labels]).encode())
    return found.hexdigest()
