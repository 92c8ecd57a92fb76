"""How well a model predicts the texts that it reads: a measure of how familiar they are, at little cost.

A score is -log2 P(byte | the bytes before it), in bits. scored_bytes.py says which bytes have one.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.backend import BlockRow
from engine.folded import FoldedModel


def bits(logits: Tensor, byte: Tensor) -> Tensor:
    """The score of each byte, (rows,) float32. logits: (rows, 256) before it was read; byte: (rows,) int64."""
    return torch.nn.functional.cross_entropy(logits, byte, reduction="none") / math.log(2)


class Scorer:
    """The scored bytes of a block: their hidden vectors are kept while it runs, and scored together at its end."""

    def __init__(self, block: Sequence[BlockRow], model: FoldedModel) -> None:
        counts = [len(row.scored) for row in block]
        lines = np.repeat(np.arange(len(block)), counts)
        steps = np.concatenate([row.scored for row in block])
        order = np.lexsort((lines, steps))
        slots = np.repeat([row.slot for row in block], counts)
        read = np.concatenate([row.text[row.scored] for row in block]).astype(np.int64)
        numbers = torch.from_numpy(np.stack([lines, slots, read])[:, order]).to(model.device)
        self._lines, self._slots, self._bytes = numbers
        self._until = np.searchsorted(steps[order], np.arange(block[0].steps + 1)).tolist()  # of them before each step
        self._model = model
        self._hidden = torch.empty(len(lines), model.units, dtype=model.dtype, device=model.device)

    def keep(self, step: int, hidden: Tensor) -> None:
        """Before step `step` is made. hidden: (active rows, units)."""
        begin, end = self._until[step : step + 2]
        if begin < end:
            torch.index_select(hidden, 0, self._lines[begin:end], out=self._hidden[begin:end])

    def sums(self, made: int, before: Tensor) -> Tensor:
        """The sum of scores of every slot, (slots,) float64: those of the first `made` steps added to `before`."""
        count = self._until[made]
        if count == 0:
            return before
        found = bits(self._model.logits(self._hidden[:count]), self._bytes[:count])
        return before.index_add(0, self._slots[:count], found.double())
