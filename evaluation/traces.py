"""The value of units after every byte of texts."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.features import EvaluationError, Reader

_ROWS = 128


@torch.inference_mode()
def read_traces(reader: Reader, texts: Sequence[bytes], units: Sequence[int]) -> list[NDArray[np.float32]]:
    """(bytes, units) for each prepared text, in the order of `texts`. Raises EvaluationError for an unknown unit."""
    model = reader.model
    chosen = torch.tensor([check_unit(reader, unit) for unit in units], dtype=torch.int64, device=model.device)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]), reverse=True)
    traces: dict[int, NDArray[np.float32]] = {}
    reader.watch.begin("tracing", len(texts))
    for begin in range(0, len(order), _ROWS):
        batch = order[begin : begin + _ROWS]
        longest = len(texts[batch[0]])
        padded = np.zeros((longest, len(batch)), dtype=np.int64)
        for row, index in enumerate(batch):
            padded[: len(texts[index]), row] = np.frombuffer(texts[index], dtype=np.uint8)
        columns = torch.from_numpy(padded).to(model.device)
        values = torch.empty(longest, len(batch), len(chosen), device=model.device)
        state = model.zero_state(len(batch))
        for position in range(longest):
            state = model.step(columns[position], state)
            values[position] = state.cell[:, chosen]
        whole = values.cpu().numpy()
        for row, index in enumerate(batch):
            traces[index] = whole[: len(texts[index]), row].copy()
        reader.watch.advance(len(batch))
    return [traces[index] for index in range(len(texts))]


def check_unit(reader: Reader, unit: int) -> int:
    """The unit. Raises EvaluationError if the checkpoint has none of that number."""
    if not 0 <= unit < reader.model.units:
        raise EvaluationError(f"unit {unit} does not exist: {reader.name} has units 0 to {reader.model.units - 1}")
    return unit
