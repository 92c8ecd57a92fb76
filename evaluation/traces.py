"""The value of units after every byte of texts."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.rows import RowRequest
from evaluation.features import EvaluationError, Reader
from evaluation.rows import run_rows


def read_traces(reader: Reader, texts: Sequence[bytes], units: Sequence[int]) -> list[NDArray[np.float32]]:
    """(bytes, units) for each prepared text, in the order of `texts`. Raises EvaluationError for an unknown unit."""
    traced = tuple(check_unit(reader, unit) for unit in units)
    reader.progress.begin("tracing", len(texts))
    rows = run_rows(reader.model, [RowRequest(text, traced=traced) for text in texts], reader.progress)
    return [row.trace for row in rows]


def check_unit(reader: Reader, unit: int) -> int:
    """`unit`. Raises EvaluationError if the checkpoint has no unit of that number."""
    if not 0 <= unit < reader.model.units:
        raise EvaluationError(f"unit {unit} does not exist: {reader.name} has units 0 to {reader.model.units - 1}")
    return unit
