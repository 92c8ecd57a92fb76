"""Heads from one labelled set: C by cross-validation, an honest estimate of the accuracy, a fit on all rows.

`fit_cv` fits all units with L1 (l1.py), `fit_unit_cv` a threshold on the one unit that separates the labels best.
Folds are stratified: every label is spread evenly over five folds, or over as many as the rarest label has rows. A
label of one row cannot be held out: then there is no estimate, and C is four times the least that leaves any weight.

The estimate is the mean over folds of the accuracy on the rows held out, with everything that looks at labels done
without them: the unit and its threshold are found again in every fold, and a fold is judged with the C that the *other*
folds choose, because the best of many estimates is too good. Units are scaled by mean and deviation of all rows, which
no label touches. Everything is drawn from a seed.

Features are raw, of any pooling. Only NumPy is needed, so that a process that only fits starts quickly.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from model.heads.checks import MAX_FEATURE, Floats, HeadError, Labels
from model.heads.classifier import C_GRID, Head, heaviest
from model.heads.l1 import COLUMNS, Matrix, signs_of, solve
from model.heads.pooling import Pooling
from model.heads.standardization import Standardization
from model.heads.unit import fit_threshold, separating_units, strongest

_FOLDS = 5
_Z = 1.96  # deviations of the normal distribution that hold 95 %
_LEAST_SLOPE = 0.1  # of a unit's log-odds, a deviation


@dataclass(frozen=True)
class Fitted:
    """A head's numbers and what was measured. weights: of the units that have any, (rows of the head,) each."""

    weights: dict[int, list[float]]
    bias: list[float]
    c: float | None  # None: a threshold has none
    folds: int  # 0: too few rows for an estimate
    accuracy: float | None  # mean over the folds
    accuracy_deviation: float | None  # over the folds
    top_units: list[int]  # by weight times deviation, the heaviest first
    confusion: list[list[int]] | None  # of the rows held out: how many of each label (row) were given each (column)

    def head(self, labels: list[str], pooling: Pooling) -> Head:
        """labels: their names, in the order of the classes. pooling: of the features that were fitted."""
        measured = {"accuracy": self.accuracy, "accuracy_deviation": self.accuracy_deviation}
        metrics = {name: value for name, value in measured.items() if value is not None}
        metrics |= {"folds": float(self.folds), "nonzero_units": float(len(self.weights))}
        return Head(list(labels), self.weights, self.bias, self.c, metrics, pooling)


def accuracy_interval(accuracy: float, rows: int) -> tuple[float, float]:
    """The Wilson interval (1927) of 95 % of an accuracy that was measured on `rows` texts: where the true one lies.

    Rows held out by turns count as independent ones, so it is somewhat too narrow.
    """
    spread = _Z**2 / rows
    center = (accuracy + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (accuracy * (1 - accuracy) + spread / 4)) / (1 + spread)
    return max(0.0, center - half), min(1.0, center + half)


def fit_cv(
    features: Matrix, labels: Labels, classes: int, seed: int = 0, on_step: Callable[[], None] = lambda: None
) -> Fitted:
    """L1 on all units. features: (rows, units), **scaled in place**; labels: (rows,), 0 to classes - 1, each present.

    More than two classes are fitted one against the rest, as in classifier.py. on_step is called before every look at
    the features; what it raises ends the fit. Raises HeadError where no unit differs between the labels.
    """
    _check(features, labels, classes)
    standard = Standardization.in_place(features)
    positives = [1] if classes == 2 else list(range(classes))
    everywhere = np.ones(len(labels), np.float32)
    least = 1.0 / max(strongest(features, labels == positive, everywhere) for positive in positives)
    gram = features.T @ features
    folds = _folds(labels, classes, seed)
    accuracy, spread, confusion, count = None, None, None, 0
    c = 4.0 * least
    if folds is not None:
        # The paper's grid is for thousands of rows: of a handful even its weakest penalty would leave nothing.
        grid = [*C_GRID, c] if c > C_GRID[-1] else list(C_GRID)
        given = _judge(features, gram, labels, positives, folds, grid, on_step)
        count = int(folds.max()) + 1
        right = np.array([_accuracies(row, labels, folds) for row in given])  # (grid, folds)
        c = grid[int(right.mean(axis=1).argmax())]
        # Each fold with the C that is best on the others.
        best = np.array([np.delete(right, fold, axis=1).mean(axis=1).argmax() for fold in range(count)])
        accuracy, spread, confusion = _estimate(given[best[folds], np.arange(len(labels))], labels, folds, classes)
    signs = np.stack([signs_of(labels, positive) for positive in positives], axis=1)
    weights, bias = solve(features, gram, signs, np.full_like(signs, c), on_step)
    return _fitted(weights, bias, standard, c, count, accuracy, spread, confusion)


def fit_unit_cv(features: Matrix, labels: Labels, seed: int = 0, on_step: Callable[[], None] = lambda: None) -> Fitted:
    """One unit and a threshold. features, on_step, errors: as in `fit_cv`; labels: (rows,), 0 or 1.

    The unit is the heaviest of an L1 logistic regression in which both classes weigh the same, as in
    `find_unit` (unit.py). The head predicts label 1 on one side of the threshold; its log-odds grow with the distance,
    by the difference of the classes' means over the unit's variance, as for two Gaussians.
    """
    _check(features, labels, 2)
    standard = Standardization.in_place(features)
    folds = _folds(labels, 2, seed)
    count = 0 if folds is None else int(folds.max()) + 1
    every = np.ones(len(labels), dtype=bool)
    parts = [every] if folds is None else [every, *(folds != fold for fold in range(count))]
    unit, *of_folds = separating_units(features, labels, parts, on_step)
    given = np.empty(len(labels), np.bool_)
    for part, found in zip(parts[1:], of_folds, strict=True):
        threshold, polarity, _ = fit_threshold(features[part, found], labels[part])
        given[~part] = (features[~part, found] > threshold) == (polarity > 0)
    values = features[:, unit]
    threshold, polarity, _ = fit_threshold(values, labels)
    slope = polarity * max(_LEAST_SLOPE, abs(float(values[labels == 1].mean() - values[labels == 0].mean())))
    weights = np.zeros((features.shape[1], 1), np.float32)
    weights[unit] = slope
    estimate = (None, None, None) if folds is None else _estimate(given.astype(np.int64), labels, folds, 2)
    return _fitted(weights, np.array([-slope * threshold]), standard, None, count, *estimate)


def _check(features: Matrix, labels: Labels, classes: int) -> None:
    if features.dtype != np.float32 or features.ndim != 2 or features.size == 0 or labels.shape != features.shape[:1]:
        raise HeadError(
            f"features are {features.dtype} of shape {features.shape} and labels {labels.shape}: need float32 "
            "(rows, units) and (rows,), both more than 0"
        )
    if not max(-float(features.min()), float(features.max())) <= MAX_FEATURE:  # False for NaN
        raise HeadError(f"features hold values that are not finite or beyond {MAX_FEATURE:g}")
    counts = np.bincount(labels, minlength=classes)
    if classes < 2 or len(counts) != classes or not counts.all():
        raise HeadError(f"of {classes} labels {np.count_nonzero(counts)} have rows: at least two are needed, and all")


def _folds(labels: Labels, classes: int, seed: int) -> Labels | None:
    """The fold that holds out each row, (rows,); None where a label has one row."""
    count = min(_FOLDS, int(np.bincount(labels, minlength=classes).min()))
    if count < 2:
        return None
    draw = np.random.default_rng(seed)
    order = np.concatenate([draw.permutation(np.flatnonzero(labels == label)) for label in range(classes)])
    folds = np.empty(len(labels), dtype=np.int64)
    folds[order] = np.arange(len(labels)) % count
    return folds


def _judge(
    x: Matrix,
    gram: Matrix,
    labels: Labels,
    positives: list[int],
    folds: Labels,
    grid: list[float],
    on_step: Callable[[], None],
) -> Labels:
    """The label that each C gives every row, (grid, rows), fitted without the rows of its fold."""
    count = int(folds.max()) + 1
    given = np.empty((len(grid), len(x)), np.min_scalar_type(len(positives)))
    # As many C at once as fill the columns with their problems; with many classes, one C after the other.
    at_once = max(1, COLUMNS // (count * len(positives)))
    for first in range(0, len(grid), at_once):
        some = grid[first : first + at_once]
        scores = np.empty((len(some), len(positives), len(x)), np.float32)
        problems = list(product(range(len(some)), range(len(positives)), range(count)))
        for begin in range(0, len(problems), COLUMNS):
            chunk = problems[begin : begin + COLUMNS]
            signs = np.stack([signs_of(labels, positives[row]) for _, row, _ in chunk], axis=1)
            row_weights = np.stack(
                [np.where(folds == fold, 0, some[at]).astype(np.float32) for at, _, fold in chunk], axis=1
            )
            weights, bias = solve(x, gram, signs, row_weights, on_step)
            logits = x @ weights + bias
            for column, (at, row, fold) in enumerate(chunk):
                held = folds == fold
                scores[at, row, held] = logits[held, column]
        for at in range(len(some)):
            given[first + at] = scores[at, 0] > 0 if len(positives) == 1 else scores[at].argmax(axis=0)
    return given


def _accuracies(given: Labels, labels: Labels, folds: Labels) -> Floats:
    """Accuracy on the rows that each fold holds out, (folds,). given: (rows,)."""
    return np.bincount(folds, weights=given == labels) / np.bincount(folds)


def _estimate(given: Labels, labels: Labels, folds: Labels, classes: int) -> tuple[float, float, list[list[int]]]:
    """Mean and deviation of the accuracy over the folds, confusion matrix. given: (rows,), each by its fold's head."""
    right = _accuracies(given, labels, folds)
    confusion = np.bincount(labels * classes + given, minlength=classes**2).reshape(classes, classes)
    return float(right.mean()), float(right.std(ddof=1)), confusion.tolist()


def _fitted(
    weights: Matrix,
    bias: NDArray[np.floating],
    standard: Standardization,
    c: float | None,
    folds: int,
    accuracy: float | None,
    accuracy_deviation: float | None,
    confusion: list[list[int]] | None,
) -> Fitted:
    """weights: (units, rows of the head), of scaled features."""
    raw = (weights / standard.deviation[:, None]).astype(np.float32)
    used = np.flatnonzero(raw.any(axis=1))
    return Fitted(
        # In the fewest digits that say the same float32: a head of many labels has many weights.
        weights={int(unit): [float(str(value)) for value in raw[unit]] for unit in used},
        bias=(bias - standard.mean @ raw.astype(np.float64)).tolist(),
        c=c,
        folds=folds,
        accuracy=accuracy,
        accuracy_deviation=accuracy_deviation,
        top_units=heaviest(used, weights[used]),
        confusion=confusion,
    )
