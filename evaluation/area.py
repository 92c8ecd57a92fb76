"""The area under the ROC curve, `area`, and its interval."""

import math

import numpy as np
from numpy.typing import NDArray

from evaluation.sets import Rows


def area(scores: NDArray[np.float64], y: Rows) -> float:
    """How often a text of label 1 scores more than one of label 0; equal scores count half. Both: (texts,)."""
    values, ranks, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2  # rank of each value, the mean of those that are equal
    positive = int((y == 1).sum())
    above = middle[ranks][y == 1].sum() - positive * (positive + 1) / 2
    return float(above / (positive * (len(values[ranks]) - positive)))


def area_interval(found: float, positive: int, negative: int) -> tuple[float, float]:
    """Of 95 % (Hanley & McNeil 1982, Radiology 143: 29-36)."""
    of_positive, of_negative = found / (2 - found), 2 * found**2 / (1 + found)
    variance = (
        found * (1 - found) + (positive - 1) * (of_positive - found**2) + (negative - 1) * (of_negative - found**2)
    ) / (positive * negative)
    half = 1.96 * math.sqrt(max(0.0, variance))
    return max(0.0, found - half), min(1.0, found + half)
