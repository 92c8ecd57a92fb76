"""What an answer of `POST /classify` says of a text: the verdict of a head, the unit, how familiar it is."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.rows import RowResult
from model.heads.familiarity import Familiarity
from model.heads.unit import Calibration


def judgement(
    labels: Sequence[str], values: NDArray[np.float64] | None, probabilities: NDArray[np.float64]
) -> dict[str, Any]:
    """What a head says of a text. values: of the labels; probabilities: (labels,)."""
    second, first = np.sort(probabilities)[-2:]
    best = int(probabilities.argmax())
    return {
        "label": labels[best],
        "score": float(first),
        "margin": float(first - second),
        "probabilities": dict(zip(labels, probabilities.tolist(), strict=True)),
        "expected_value": None if values is None else float(probabilities @ values),
    }


def unit_says(calibration: Calibration | None, row: RowResult) -> dict[str, Any]:
    """`sentiment` is the former name of `unit_sentiment`."""
    value = None if calibration is None else float(row.cell[calibration.unit])
    sentiment = None if calibration is None or value is None else calibration.sentiment(value)
    return {"unit_sentiment": sentiment, "sentiment": sentiment, "unit_value": value}


def familiar(familiarity: Familiarity | None, length: int, row: RowResult) -> dict[str, Any]:
    """How familiar a text of `length` prepared bytes is, and a warning if it is not."""
    bits, warning = row.bits_per_byte, None
    limit = None if familiarity is None else familiarity.limit(length)
    if familiarity is not None and limit is not None and bits is not None and bits > limit:
        warning = (
            f"unlike the text that the model has learnt from: {bits:.2f} bits per byte, where {familiarity.share:.0%} "
            f"of texts of this length take less than {limit:.2f}; the answer may mean nothing"
        )
    return {"bits_per_byte": bits, "warning": warning}
