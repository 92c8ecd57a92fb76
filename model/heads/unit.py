"""The sentiment unit: found among all units, its threshold, and the straight line from its value to sentiment.

Features are (rows, units). The unit is found as in the paper (Radford et al. 2017, section 4): by the weights of an L1
logistic regression. Only NumPy is needed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.heads import l1
from model.heads.checks import Bools, Floats, HeadError, Labels, checked, numbers
from model.heads.standardization import Standardization, is_constant


@dataclass(frozen=True)
class Calibration:
    """The sentiment unit and the straight line between its value and sentiment in [-1, 1].

    sentiment = clip(polarity * (value - center) / scale, -1, 1); a sentiment s asks for center + polarity * s * scale.
    """

    unit: int
    polarity: int  # +1: the unit rises with positive text; -1: it falls
    center: float
    scale: float

    def sentiment(self, value: float) -> float:
        return max(-1.0, min(1.0, self.polarity * (value - self.center) / self.scale))

    def positive(self, cell: NDArray[np.floating]) -> Bools:
        """Whether the unit says that a text is positive, (rows,). cell: (rows, units)."""
        found: Bools = self.polarity * (cell[:, self.unit] - self.center) > 0
        return found

    def value(self, sentiment: float) -> float:
        return self.center + self.polarity * sentiment * self.scale


def find_unit(features: ArrayLike, labels: ArrayLike) -> int:
    """The unit that carries a binary label: the largest absolute weight of an L1 logistic regression (the paper's way).

    features: (rows, units); labels: (rows,) 0 or 1. The features are standardized, so that weights can be compared,
    and both classes weigh the same. C is four times the least that leaves any weight: so it suits any number of
    rows, and units that say the same thing must compete. Raises HeadError if no unit varies with the label.
    """
    x, y = checked("labelled", features, labels, 2)
    _both_classes(y)
    scaled = Standardization.of(x).scaled(x).astype(np.float32)
    return separating_units(scaled, y, [np.ones(len(y), np.bool_)])[0]


def separating_units(
    x: l1.Matrix, labels: Labels, parts: Sequence[Bools], on_step: Callable[[], None] = lambda: None
) -> list[int]:
    """As `find_unit`, for each part of the rows.

    x: (rows, units), standardized; parts: (rows,) each; on_step: see `l1.solve`.
    """
    signs = np.stack([l1.signs_of(labels, 1)] * len(parts), axis=1)
    columns = []
    for part in parts:
        balanced = len(labels) / np.bincount(labels[part], minlength=2)
        row_weights = np.where(part, balanced[labels], 0).astype(np.float32)
        columns.append(row_weights * np.float32(4 / strongest(x, labels == 1, row_weights)))
    weights, _ = l1.solve(x, x.T @ x, signs, np.stack(columns, axis=1), on_step)
    return [int(unit) for unit in np.abs(weights).argmax(axis=0)]


def strongest(x: l1.Matrix, positive: Bools, row_weights: l1.Matrix) -> float:
    """The largest gradient of the weighted loss by any unit's weight, at none: the first appears where C times it is 1.

    x: (rows, units), scaled; positive, row_weights: (rows,). Raises HeadError if no unit varies with the label.
    """
    prior = row_weights[positive].sum() / row_weights.sum()
    found = float(np.abs(((positive - prior) * row_weights).astype(np.float32) @ x).max())
    if found < 1e-5 * float(row_weights.sum()):
        raise HeadError(f"none of {x.shape[1]} units differs between the labels of {len(x)} rows: give other texts")
    return found


def fit_threshold(values: ArrayLike, labels: ArrayLike) -> tuple[float, int, float]:
    """The threshold on one unit with the fewest errors: (threshold, polarity, accuracy), exact, in O(n log n).

    values: (rows,) of the unit; labels: (rows,) 0 or 1. Label 1 is predicted where value > threshold if polarity is
    +1, where value <= threshold if it is -1. Of equally good thresholds the one in the widest gap is taken.
    """
    x, y = _checked_values(values, labels)
    rising, falling = _best_threshold(x, y, 1), _best_threshold(x, y, -1)
    return (rising[0], 1, rising[1]) if rising[1] >= falling[1] else (falling[0], -1, falling[1])


def calibrate(values: ArrayLike, labels: ArrayLike, unit: int) -> Calibration:
    """The line from the unit's value to sentiment. values: (rows,) of `unit`; labels: (rows,) 0 or 1.

    Polarity is +1 if label 1 has the higher mean. The center is the best threshold of that polarity. The scale is
    the mean over both classes of the distance from the center to the class's 95th percentile on its own side, so
    sentiment +-1 is as far as a clear text goes, whatever its few outliers do. Raises HeadError for a constant unit.
    """
    x, y = _checked_values(values, labels)
    _both_classes(y)
    polarity = 1 if x[y == 1].mean() >= x[y == 0].mean() else -1
    center, _ = _best_threshold(x, y, polarity)
    positive = polarity * (x[y == 1] - center)
    negative = polarity * (x[y == 0] - center)
    scale = float(abs(np.percentile(positive, 95)) + abs(np.percentile(negative, 5))) / 2
    if is_constant(x.mean(), x.std()) or scale <= 0.0:
        raise HeadError(f"unit {unit} stays at {x.mean():g} on {len(x)} rows: it cannot be calibrated, take another")
    return Calibration(unit=unit, polarity=polarity, center=center, scale=scale)


def _best_threshold(x: Floats, y: Labels, polarity: int) -> tuple[float, float]:
    """(threshold, accuracy) of one polarity. Label 1 is predicted where (x > threshold) == (polarity > 0)."""
    order = np.argsort(x, kind="stable")
    ordered = x[order]
    high = (y[order] == 1) == (polarity > 0)  # rows that want to lie above the threshold
    # correct[k]: with the k smallest values at or below the threshold.
    correct = np.concatenate([[0], np.cumsum(~high)]) + high.sum() - np.concatenate([[0], np.cumsum(high)])
    below = np.concatenate([[np.nextafter(ordered[0], -np.inf)], ordered])
    above = np.append(ordered, ordered[-1])
    cuts = np.flatnonzero((below < above) | (np.arange(len(below)) == len(ordered)))  # equal values stay together
    gap = above[cuts] - below[cuts]
    chosen = cuts[np.lexsort((-gap, -correct[cuts]))[0]]
    low, next_value = below[chosen], above[chosen]
    middle = low / 2 + next_value / 2
    threshold = middle if low <= middle < next_value else low
    return float(threshold), float(correct[chosen] / len(x))


def _checked_values(values: ArrayLike, labels: ArrayLike) -> tuple[Floats, Labels]:
    x = numbers("unit", values)
    if np.ndim(values) != 1:
        raise HeadError(f"values have shape {np.shape(values)}: give those of one unit, (rows,)")
    _, y = checked("unit", x[:, None], labels, 2)
    return x, y


def _both_classes(y: Labels) -> None:
    if y.min() == y.max():
        raise HeadError(f"all {len(y)} rows have label {y[0]}: both 0 and 1 are needed")
