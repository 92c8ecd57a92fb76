"""Checks of the features and labels that heads are fitted to and applied to: `checked`, and `HeadError`."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Bools = NDArray[np.bool_]

MAX_FEATURE = 1e30  # squares of larger ones may not be finite


class HeadError(ValueError):
    """A head cannot be fitted to or applied to what was given; the message names the value and what to change."""


def checked(what: str, features: ArrayLike, labels: ArrayLike, classes: int) -> tuple[Floats, Labels]:
    """Features (rows, units) in float64 and labels (rows,), 0 to classes - 1. what: their name in a HeadError."""
    x = numbers(what, features)
    y = integers(what, labels, classes)
    if x.ndim != 2 or x.shape[1] == 0 or len(x) != len(y) or len(y) == 0:
        raise HeadError(
            f"{what} features have shape {x.shape} and labels {y.shape}: need (rows, units) and (rows,), rows > 0"
        )
    if not (np.abs(x) <= MAX_FEATURE).all():  # False for NaN
        raise HeadError(f"{what} features hold values that are not finite or beyond {MAX_FEATURE:g}")
    return x, y


def numbers(what: str, features: ArrayLike) -> Floats:
    """Any shape, in float64. Raises HeadError for what is not an array of numbers."""
    try:
        return np.ascontiguousarray(features, dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise HeadError(f"{what} features are not an array of numbers: {error}") from error


def integers(what: str, labels: ArrayLike, classes: int) -> Labels:
    """(rows,), 0 to classes - 1. Raises HeadError for anything else."""
    try:
        y = np.asarray(labels)
    except ValueError as error:
        raise HeadError(f"{what} labels are not an array: {error}") from error
    if y.ndim != 1 or y.dtype.kind not in "biu":
        raise HeadError(f"{what} labels have shape {y.shape} and type {y.dtype}: need (rows,) integers")
    if ((y < 0) | (y >= classes)).any():
        raise HeadError(f"{what} labels run from {y.min()} to {y.max()}, outside 0 to {classes - 1}")
    return y.astype(np.int64)
