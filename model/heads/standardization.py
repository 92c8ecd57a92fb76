"""Standardized features: every unit of mean 0 and standard deviation 1, and weights folded back to raw features.

A unit is constant (`is_constant`) where its deviation is no more than rounding in float32 leaves, 1e-6 of its mean, or
no more than 1e-20, because weights of raw features must stay finite. Standardized, it is 0, and so is its weight.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.heads.checks import Floats

_ROUNDING = 1e-6
_LEAST_DEVIATION = 1e-20
_ROWS = 4096  # squared in float64 at once


def mean_and_deviation(x: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Of every unit, (units,) each, in float64. x: (rows, units)."""
    return x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)


def is_constant(mean: ArrayLike, deviation: ArrayLike) -> NDArray[np.bool_]:
    """Whether a unit of this mean and deviation is constant. Any shape."""
    return ~(np.asarray(deviation) > np.maximum(_ROUNDING * np.abs(mean), _LEAST_DEVIATION))  # True for NaN


@dataclass(frozen=True)
class Standardization:
    """mean, deviation: (units,); the deviation of a constant unit is infinite."""

    mean: Floats
    deviation: Floats

    @classmethod
    def of(cls, x: NDArray[np.floating]) -> "Standardization":
        """x: (rows, units)."""
        return cls._without_constants(*mean_and_deviation(x))

    @classmethod
    def in_place(cls, x: NDArray[np.float32]) -> "Standardization":
        """As `of`, and scales x, (rows, units), in place, without a copy."""
        mean = x.mean(axis=0, dtype=np.float64)
        x -= mean.astype(np.float32)
        squares = np.zeros(x.shape[1])
        for begin in range(0, len(x), _ROWS):
            squares += np.square(x[begin : begin + _ROWS], dtype=np.float64).sum(axis=0)
        found = cls._without_constants(mean, np.sqrt(squares / len(x)))
        x /= found.deviation.astype(np.float32)
        return found

    @classmethod
    def none(cls, units: int) -> "Standardization":
        """Leaves features as they are."""
        return cls(np.zeros(units), np.ones(units))

    def scaled(self, x: NDArray[np.floating]) -> Floats:
        """(rows, units) -> the same, standardized."""
        return (x - self.mean) / self.deviation

    def folded(self, weights: NDArray[np.floating], bias: NDArray[np.floating]) -> tuple[Floats, Floats]:
        """weights (rows of a classifier, units) and bias (rows,) of standardized features -> of raw ones."""
        raw = weights / self.deviation
        return raw, bias - raw @ self.mean

    @classmethod
    def _without_constants(cls, mean: Floats, deviation: Floats) -> "Standardization":
        return cls(mean, np.where(is_constant(mean, deviation), np.inf, deviation))
