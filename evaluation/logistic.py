"""Logistic regression on features, and the choice of how: C and whether to standardize.

As in the paper (Radford et al. 2017, section 4): L1 penalty, C in 2^-8 ... 2^0 by accuracy on validation data. All
recipes on the same rows are fitted at once (model/heads/l1.py); those with L2 by scikit-learn's liblinear. More than
two classes are fitted one against the rest (model/heads/classifier.py). Standardized features are folded back, so a
classifier always takes raw ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from evaluation.sets import Rows, Split
from model.heads.classifier import C_GRID
from model.heads.l1 import fit as fit_grid
from model.heads.standardization import Standardization

Floats = NDArray[np.float64]

_MAX_ITERATIONS = 1000


@dataclass(frozen=True)
class Linear:
    """weights: (rows, features), bias: (rows,); one row for two classes, else a row for each class."""

    weights: Floats
    bias: Floats

    def predict(self, x: NDArray[np.floating]) -> Rows:
        """x: (rows, features) -> classes, (rows,)."""
        scores = x @ self.weights.T + self.bias
        chosen = scores[:, 0] > 0 if scores.shape[1] == 1 else scores.argmax(axis=1)
        return chosen.astype(np.int64)

    def accuracy(self, x: NDArray[np.floating], y: Rows) -> float:
        return float((self.predict(x) == y).mean())

    @property
    def nonzero(self) -> int:
        """Features that any class uses."""
        return int(self.weights.any(axis=0).sum())


@dataclass(frozen=True)
class Recipe:
    """How to fit."""

    c: float
    standardized: bool

    def fit_l2(self, x: NDArray[np.floating], y: Rows) -> Linear:
        """x: (rows, features) raw; y: (rows,) classes, each present."""
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - takes a second to load

        standard = Standardization.of(x) if self.standardized else Standardization.none(x.shape[1])
        scaled = standard.scaled(x)
        count = int(y.max()) + 1
        fitted = [
            LogisticRegression(C=self.c, solver="liblinear", max_iter=_MAX_ITERATIONS).fit(scaled, y == label)
            for label in ([1] if count == 2 else range(count))
        ]
        weights, bias = (np.concatenate([getattr(one, name) for one in fitted]) for name in ("coef_", "intercept_"))
        return Linear(*standard.folded(weights, bias))


def fit(x: NDArray[np.floating], y: Rows, recipes: Sequence[Recipe], l1: bool = True) -> list[Linear]:
    """A classifier for each recipe. l1: else L2. x, y: as of `Recipe.fit_l2`."""
    if not l1:
        return [recipe.fit_l2(x, y) for recipe in recipes]
    fitted = fit_grid(x, y, int(y.max()) + 1, [(recipe.c, recipe.standardized) for recipe in recipes])
    return [Linear(weights, bias) for weights, bias in fitted]


@dataclass(frozen=True)
class Chosen:
    recipe: Recipe
    accuracy: float  # on the rows by which it was chosen, mean over the splits
    tried: list[tuple[Recipe, float]]


def recipes(grid: Sequence[float] = C_GRID) -> list[Recipe]:
    return [Recipe(c, standardized) for standardized, c in product((False, True), grid)]


def choose(
    x: NDArray[np.floating],
    y: Rows,
    splits: Sequence[Split],
    candidates: Sequence[Recipe],
    advance: Callable[[int], None] = lambda _count: None,
    l1: bool = True,
) -> Chosen:
    """The best by mean accuracy over the splits; the first of equals. l1: else L2. advance: called after every
    split with the number of candidates."""
    accuracies = np.empty((len(candidates), len(splits)))
    for split, (fit_rows, valid_rows) in enumerate(splits):
        fitted = fit(x[fit_rows], y[fit_rows], candidates, l1)
        accuracies[:, split] = [linear.accuracy(x[valid_rows], y[valid_rows]) for linear in fitted]
        advance(len(candidates))
    tried = [(recipe, float(mean)) for recipe, mean in zip(candidates, accuracies.mean(axis=1), strict=True)]
    recipe, accuracy = max(tried, key=lambda one: one[1])
    return Chosen(recipe, accuracy, tried)
