"""The area under the ROC curve, `area`, and its interval."""

import math

import numpy as np
from numpy.typing import NDArray

from evaluation.sets import Rows

_HALVINGS = 40


def area(scores: NDArray[np.float64], y: Rows) -> float:
    """How often a text of label 1 scores more than one of label 0; equal scores count half. Both: (texts,)."""
    positive = int((y == 1).sum())
    above = ranks(scores)[y == 1].sum() - positive * (positive + 1) / 2
    return float(above / (positive * (len(scores) - positive)))


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """From 1; equal values share the mean of theirs. (values,)"""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    found: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return found


def area_interval(found: float, positive: int, negative: int) -> tuple[float, float]:
    """Of 95 %: all areas from which `found` is no more than 1.96 of their own deviations away.

    The deviation is that of Hanley & McNeil 1982 (Radiology 143: 29-36). Because it is taken at the area that is tried
    and not at the one that was found, 1 has an interval too (Newcombe 2006, Statistics in Medicine 25: 559-573).
    """

    def end(near: float, far: float) -> float:
        for _ in range(_HALVINGS):
            middle = (near + far) / 2
            if abs(middle - found) <= 1.96 * _deviation(middle, positive, negative):
                near = middle
            else:
                far = middle
        return near

    return end(found, 0.0), end(found, 1.0)


def _deviation(of: float, positive: int, negative: int) -> float:
    of_positive, of_negative = of / (2 - of), 2 * of**2 / (1 + of)
    variance = of * (1 - of) + (positive - 1) * (of_positive - of**2) + (negative - 1) * (of_negative - of**2)
    return math.sqrt(max(0.0, variance) / (positive * negative))
