"""Reading many texts at once, off line: `read_features`, the final state of every text.

Rows are sorted by length and the rows that have ended are left out of every further step, so no work is spent on
padding and a text of any length is read whole.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from model.cells import State
from model.folded import FoldedModel

Pooling = Literal["cell", "tanh"]


def pool(cell: NDArray[np.float32], pooling: Pooling) -> NDArray[np.float32]:
    """The feature vector from the final cell: itself (the released code) or its tanh (the paper's text)."""
    return np.tanh(cell) if pooling == "tanh" else cell


def read_features(
    model: FoldedModel,
    texts: Sequence[bytes],
    rows: int = 128,
    on_progress: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """The final cell of each prepared text, (texts, units), in the order of `texts`.

    rows: how many texts are read side by side. on_progress is called with the number of texts just finished.
    """
    features = np.empty((len(texts), model.units), dtype=np.float32)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]), reverse=True)
    for begin in range(0, len(order), rows):
        chosen = order[begin : begin + rows]
        features[chosen] = _read_batch(model, [texts[index] for index in chosen])
        if on_progress is not None:
            on_progress(len(chosen))
    return features


def _read_batch(model: FoldedModel, texts: list[bytes]) -> NDArray[np.float32]:
    """texts: longest first. A column of bytes a step, for the rows that have not ended."""
    lengths = np.array([len(text) for text in texts])
    padded = np.zeros((lengths[0], len(texts)), dtype=np.int64)
    for row, text in enumerate(texts):
        padded[: len(text), row] = np.frombuffer(text, dtype=np.uint8)
    columns = torch.from_numpy(padded).to(model.device)
    active_at = np.searchsorted(-lengths, -np.arange(lengths[0]), side="left")  # rows longer than the step's index
    final = torch.empty(len(texts), model.units, device=model.device)
    state = model.zero_state(len(texts))
    active = len(texts)
    for index in range(int(lengths[0])):
        now = int(active_at[index])
        if now < active:
            final[now:active] = state.cell[now:active]
            state = State(state.cell[:now], state.hidden[:now])
            active = now
        state = model.step(columns[index, :active], state)
    final[:active] = state.cell
    result: NDArray[np.float32] = final.cpu().numpy()
    return result
