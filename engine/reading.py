"""Many texts read at once, off line: `read_features` for their feature vectors, `read_texts` for cell and mean.

Rows are sorted by length and the rows that have ended are left out of every further step, so no work is spent on
padding and a text of any length is read whole.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from engine.folded import FoldedModel
from engine.scored_bytes import MOST_BYTES, scored
from engine.scoring import bits
from model.heads.pooling import Pooling, pool
from model.network.cells import State

SCORED = scored(0, MOST_BYTES)
_ROWS, _ROWS_ON_A_GPU = 256, 512
_PART_STEPS = 2048  # whose bytes are laid out at once: 4 MiB for 256 rows, however long the longest text is
_AT = {int(place): number for number, place in enumerate(SCORED)}


def read_features(
    model: FoldedModel,
    texts: Sequence[bytes],
    pooling: Pooling = "cell",
    rows: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """The feature vector of each prepared text, (texts, units), in the order of `texts`; zeros for one of no bytes.

    rows: how many texts are read side by side, by default what suits the device. on_progress: gets the number of texts
    just finished.
    """
    features = np.empty((len(texts), model.units), dtype=np.float32)
    for chosen, cell, mean in _batches(model, texts, pooling == "mean", rows):
        features[chosen] = pool(cell, mean, pooling)
        if on_progress is not None:
            on_progress(len(chosen))
    return features


def read_texts(
    model: FoldedModel,
    texts: Sequence[bytes],
    rows: int | None = None,
    on_progress: Callable[[int], None] | None = None,
    scores: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Final cell and mean of the hidden vector, (texts, units) each: of these `pool` makes every feature vector.

    texts, rows, on_progress: as in `read_features`. scores: (texts, SCORED), gets the scores (scoring.py) of each
    text's bytes at those positions; NaN beyond its end.
    """
    cells = np.empty((len(texts), model.units), dtype=np.float32)
    means = np.empty_like(cells)
    for chosen, cell, mean in _batches(model, texts, True, rows, scores):
        cells[chosen], means[chosen] = cell, mean
        if on_progress is not None:
            on_progress(len(chosen))
    return cells, means


def _batches(
    model: FoldedModel, texts: Sequence[bytes], means: bool, rows: int | None, scores: NDArray[np.float32] | None = None
) -> Iterator[tuple[list[int], NDArray[np.float32], NDArray[np.float32] | None]]:
    """(indexes of texts, their final cells, their means), the longest texts first."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]), reverse=True)
    rows = rows or (_ROWS_ON_A_GPU if model.device.type == "cuda" else _ROWS)
    for begin in range(0, len(order), rows):
        chosen = order[begin : begin + rows]
        part = None if scores is None else np.full((len(chosen), len(SCORED)), np.nan, np.float32)
        read = _read_batch(model, [texts[index] for index in chosen], means, part)
        if scores is not None and part is not None:
            scores[chosen] = part
        yield chosen, *read


def _read_batch(
    model: FoldedModel, texts: list[bytes], means: bool, scores: NDArray[np.float32] | None
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Final cell, and mean of the hidden vector where that is asked for, (texts, units) each. texts: longest first.

    scores: (texts, SCORED), gets the scores. A column of bytes a step, for the rows that have not ended.
    """
    lengths = np.array([len(text) for text in texts])
    final = torch.empty(len(texts), model.units, device=model.device)
    hidden_sum = model.zero_sum(len(texts)) if means else None
    state = model.zero_state(len(texts))
    active = len(texts)
    for index, column in enumerate(_columns(texts, lengths, model.device)):
        now = len(column)
        if now < active:
            final[now:active] = state.cell[now:active]
            state = State(state.cell[:now], state.hidden[:now])
            active = now
        if scores is not None and index in _AT:
            scores[:active, _AT[index]] = bits(model.logits(state.hidden), column).cpu().numpy()
        state = model.step(column, state)
        if hidden_sum is not None:
            hidden_sum[:active].add_(state.hidden)
    final[:active] = state.cell
    cell: NDArray[np.float32] = final.cpu().numpy()
    if hidden_sum is None:
        return cell, None
    return cell, (hidden_sum.cpu().numpy() / np.maximum(lengths, 1)[:, None]).astype(np.float32)


def _columns(texts: list[bytes], lengths: NDArray[np.int64], device: torch.device) -> Iterator[torch.Tensor]:
    """Of every step the bytes that are read, (rows that have not ended,). texts: longest first."""
    for begin in range(0, int(lengths[0]), _PART_STEPS):
        steps = np.arange(begin, min(begin + _PART_STEPS, int(lengths[0])))
        active_at = np.searchsorted(-lengths, -steps, side="left").tolist()  # rows longer than the step's index
        padded = np.zeros((len(steps), active_at[0]), dtype=np.int64)
        for row, text in enumerate(texts[: active_at[0]]):
            part = memoryview(text)[begin : begin + len(steps)]
            padded[: len(part), row] = np.frombuffer(part, dtype=np.uint8)
        columns = torch.from_numpy(padded).to(device)
        for column, active in zip(columns, active_at, strict=True):
            yield column[:active]
