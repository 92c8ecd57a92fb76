"""Classifiers on the features: L1 logistic regression, the sentiment unit, its threshold and its calibration.

    binary      P(labels[1]) = σ(x·w + b)
    many        P(labels[k]) = exp(x·w_k + b_k) / sum over j of exp(x·w_j + b_j)

The protocol is the paper's (Radford et al. 2017, section 4): logistic regression with the L1 penalty (l1.py), fitted on
the training set for each C in 2^-8 ... 2^0, C chosen by accuracy on the validation set. As in the scikit-learn of that
time, more than two labels are fitted one against the rest. A softmax over those log-odds names the same label
as the highest of them; its probabilities are a normalization and somewhat more certain than those that were fitted.

Features x are (rows, units): in the paper the raw final cell, otherwise as the head's `pooling` says. NumPy alone is
needed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model import l1
from model.pooling import Pooling

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Bools = NDArray[np.bool_]

C_GRID = tuple(2.0**exponent for exponent in range(-8, 1))

_MAX_FEATURE = 1e30  # squares of larger ones may not be finite


class HeadError(ValueError):
    """A head cannot be fitted to or applied to what was given; the message names the value and what to change."""


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

    def value(self, sentiment: float) -> float:
        return self.center + self.polarity * sentiment * self.scale


@dataclass(frozen=True)
class Head:
    """A linear classifier on the features. Two labels: one row of weights, for the second label."""

    labels: list[str]
    weights: dict[int, list[float]]  # unit -> its weight for every row; units with no weight are left out
    bias: list[float]
    c: float | None = None  # inverse L1 strength it was fitted with
    metrics: dict[str, float] = field(default_factory=dict)
    pooling: Pooling = "cell"  # of the features it takes; files from before there was a choice say nothing


def fit_l1(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    valid_features: ArrayLike,
    valid_labels: ArrayLike,
    labels: list[str],
    standardize: bool = True,
) -> Head:
    """Fit on train, choose C on valid (the smallest of equals, so the sparsest), return a head for raw features.

    features: (rows, units); labels of rows: (rows,) integers, the index in `labels`. standardize: fit on features of
    mean 0 and deviation 1 over train, then fold both into weights and bias, so that one C penalizes every unit alike;
    the paper fits the raw features (False). Metrics of the head: train_accuracy, valid_accuracy, nonzero_units.
    Raises HeadError if shapes differ, a label has no training row, or a value is not finite.
    """
    if len(labels) < 2 or len(set(labels)) != len(labels):
        raise HeadError(f"labels are {labels}: at least two different names are needed")
    train, train_y = _checked("training", train_features, train_labels, len(labels))
    valid, valid_y = _checked("validation", valid_features, valid_labels, len(labels))
    if train.shape[1] != valid.shape[1]:
        raise HeadError(f"training features have {train.shape[1]} units, validation features {valid.shape[1]}")
    for index, name in enumerate(labels):
        if not (train_y == index).any():
            raise HeadError(f"label {name!r} has no training row: add some or leave the label out")

    fitted = l1.fit(train, train_y, len(labels), [(c, standardize) for c in C_GRID])
    accuracies = [_accuracy(valid @ weights.T + bias, valid_y) for weights, bias in fitted]
    best = int(np.argmax(accuracies))
    best_weights, best_bias = fitted[best]
    used = np.flatnonzero(best_weights.any(axis=0))
    return Head(
        labels=list(labels),
        weights={int(unit): best_weights[:, unit].tolist() for unit in used},
        bias=best_bias.tolist(),
        c=C_GRID[best],
        metrics={
            "train_accuracy": _accuracy(train @ best_weights.T + best_bias, train_y),
            "valid_accuracy": accuracies[best],
            "nonzero_units": float(len(used)),
        },
    )


def head_probabilities(head: Head, features: ArrayLike) -> Floats:
    """features: (rows, units), raw -> the probability of every label, (rows, labels); rows sum to 1."""
    logits = _logits(head, features)
    if len(head.labels) == 2:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)  # σ(z) is the softmax of (0, z)
    exponential = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Floats = exponential / exponential.sum(axis=1, keepdims=True)
    return probabilities


def accuracy(head: Head, features: ArrayLike, labels: ArrayLike) -> float:
    """The share of rows whose most probable label is theirs. features: (rows, units); labels: (rows,) integers."""
    x, y = _checked("test", features, labels, len(head.labels))
    return _accuracy(_logits(head, x), y)


def find_unit(features: ArrayLike, labels: ArrayLike) -> int:
    """The unit that carries a binary label: the largest absolute weight of an L1 logistic regression (the paper's way).

    features: (rows, units); labels: (rows,) 0 or 1. The features are standardized, so that weights can be compared,
    and both classes weigh the same. C is four times the least that leaves any weight: so it suits any number of
    rows, and units that say the same thing must compete. Raises HeadError if no unit varies with the label.
    """
    x, y = _checked("labelled", features, labels, 2)
    _both_classes(y)
    mean, deviation = _scaling(x)
    scaled = ((x - mean) / deviation).astype(np.float32)
    return telling_units(scaled, y, [np.ones(len(y), np.bool_)])[0]


def telling_units(
    x: l1.Matrix, labels: Labels, parts: Sequence[Bools], on_step: Callable[[], None] = lambda: None
) -> list[int]:
    """As `find_unit`, for each part of the rows.

    x: (rows, units), scaled; parts: (rows,) each; on_step: see `l1.solve`.
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
    if x.min() == x.max() or scale <= 0.0:
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


def _scaling(x: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of every unit, (units,) each; a unit that never changes gets deviation 1."""
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    return mean, np.where(deviation > np.maximum(1e-12 * np.abs(mean), 1 / _MAX_FEATURE), deviation, 1.0)


def _logits(head: Head, features: ArrayLike) -> Floats:
    """(rows, units) -> (rows, rows of the head)."""
    x = np.asarray(features)
    units = sorted(head.weights)
    if x.dtype.kind not in "fiu" or x.ndim != 2 or (units and not 0 <= units[0] <= units[-1] < x.shape[1]):
        raise HeadError(
            f"features are {x.dtype} of shape {x.shape}, the head needs numbers (rows, units) with unit "
            f"{max(units, default=0)}"
        )
    rows = 1 if len(head.labels) == 2 else len(head.labels)
    if any(len(row) != rows for row in (head.bias, *head.weights.values())):
        raise HeadError(f"the head has {len(head.labels)} labels: it needs {rows} values of bias and of every unit")
    weights = np.array([head.weights[unit] for unit in units], dtype=np.float64).reshape(len(units), len(head.bias))
    logits: Floats = x[:, units].astype(np.float64) @ weights + np.array(head.bias)
    return logits


def _accuracy(logits: Floats, y: Labels) -> float:
    chosen = logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(axis=1)
    return float((chosen == y).mean())


def _checked(what: str, features: ArrayLike, labels: ArrayLike, classes: int) -> tuple[Floats, Labels]:
    x = _numbers(what, features)
    y = _integers(what, labels, classes)
    if x.ndim != 2 or x.shape[1] == 0 or len(x) != len(y) or len(y) == 0:
        raise HeadError(
            f"{what} features have shape {x.shape} and labels {y.shape}: need (rows, units) and (rows,), rows > 0"
        )
    if not (np.abs(x) <= _MAX_FEATURE).all():  # nor is NaN
        raise HeadError(f"{what} features hold values that are not finite or beyond {_MAX_FEATURE:g}")
    return x, y


def _numbers(what: str, features: ArrayLike) -> Floats:
    try:
        return np.ascontiguousarray(features, dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise HeadError(f"{what} features are not an array of numbers: {error}") from error


def _checked_values(values: ArrayLike, labels: ArrayLike) -> tuple[Floats, Labels]:
    x = _numbers("unit", values)
    if np.ndim(values) != 1:
        raise HeadError(f"values have shape {np.shape(values)}: give those of one unit, (rows,)")
    _, y = _checked("unit", x[:, None], labels, 2)
    return x, y


def _integers(what: str, labels: ArrayLike, classes: int) -> Labels:
    try:
        y = np.asarray(labels)
    except ValueError as error:
        raise HeadError(f"{what} labels are not an array: {error}") from error
    if y.ndim != 1 or y.dtype.kind not in "biu":
        raise HeadError(f"{what} labels have shape {y.shape} and type {y.dtype}: need (rows,) integers")
    if ((y < 0) | (y >= classes)).any():
        raise HeadError(f"{what} labels run from {y.min()} to {y.max()}, outside 0 to {classes - 1}")
    return y.astype(np.int64)


def _both_classes(y: Labels) -> None:
    if y.min() == y.max():
        raise HeadError(f"all {len(y)} rows have label {y[0]}: both 0 and 1 are needed")
