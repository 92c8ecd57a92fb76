"""How well a model predicts the texts that it reads: a measure of how familiar they are, at little cost.

A score is -log2 P(byte | the bytes before it), in bits. scored_bytes.py says which bytes have one.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.backend import BlockRow
from engine.folded import FoldedModel
from engine.scored_bytes import MOST_BYTES, scored


def bits(model: FoldedModel, hidden: Tensor, byte: Tensor) -> Tensor:
    """The score of each byte, (rows,) float32. hidden: (rows, units) before it was read; byte: (rows,) int64."""
    return torch.nn.functional.cross_entropy(model.logits(hidden), byte, reduction="none") / math.log(2)


@torch.inference_mode()
def read_bits(model: FoldedModel, texts: Sequence[bytes], rows: int = 128) -> NDArray[np.float32]:
    """The scores of prepared texts at `scored(0, MOST_BYTES)`, (texts, positions); NaN beyond the end of a text."""
    positions = scored(0, MOST_BYTES)
    found = np.full((len(texts), len(positions)), np.nan, dtype=np.float32)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]), reverse=True)
    for begin in range(0, len(order), rows):
        chosen = order[begin : begin + rows]
        lengths = np.array([min(len(texts[index]), MOST_BYTES) for index in chosen])
        padded = np.zeros((int(lengths[0]), len(chosen)), dtype=np.int64)
        for column, index in enumerate(chosen):
            padded[: lengths[column], column] = np.frombuffer(texts[index][:MOST_BYTES], dtype=np.uint8)
        columns = torch.from_numpy(padded).to(model.device)
        state, at = model.zero_state(len(chosen)), 0
        for place, byte in enumerate(columns):
            if place == positions[at]:
                now = bits(model, state.hidden, byte).cpu().numpy()
                found[chosen, at] = np.where(lengths > place, now, np.nan)
                at = min(at + 1, len(positions) - 1)
            state = model.step(byte, state)
    return found


class Scorer:
    """The scored bytes of a block: their hidden vectors are kept while it runs, and scored together at its end."""

    def __init__(self, block: Sequence[BlockRow], model: FoldedModel) -> None:
        counts = [len(row.scored) for row in block]
        lines = np.repeat(np.arange(len(block)), counts)
        steps = np.concatenate([row.scored for row in block])
        order = np.lexsort((lines, steps))
        slots = np.repeat([row.slot for row in block], counts)[order]
        read = np.concatenate([row.text[row.scored] for row in block])[order].astype(np.int64)
        self._model = model
        self._steps = steps[order]
        self._lines, self._slots, self._bytes = (
            torch.from_numpy(one).to(model.device) for one in (lines[order], slots, read)
        )
        self._hidden = torch.empty(len(lines), model.units, dtype=model.dtype, device=model.device)

    def keep(self, step: int, hidden: Tensor) -> None:
        """Before step `step` is made. hidden: (active rows, units)."""
        begin, end = np.searchsorted(self._steps, [step, step + 1])
        if begin < end:
            torch.index_select(hidden, 0, self._lines[begin:end], out=self._hidden[begin:end])

    def take(self, kept: Tensor) -> None:
        """In place of `keep`: kept has the hidden vectors before every step, (steps, rows, units)."""
        self._hidden = kept[torch.from_numpy(self._steps).to(kept.device), self._lines]

    def add_to(self, sums: Tensor, made: int) -> None:
        """Add the scores of the first `made` steps to those of their slots, (slots,) float64."""
        count = int(np.searchsorted(self._steps, made))
        if count:
            found = bits(self._model, self._hidden[:count], self._bytes[:count])
            sums.index_add_(0, self._slots[:count], found.double())
