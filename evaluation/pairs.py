"""Pairs of texts: paraphrase or not, and how related (Radford et al. 2017, tables 3 and 4).

The features of a pair are |u - v| and u * v of the texts' features u and v (Tai et al. 2015, Kiros et al. 2015).
Paraphrase is L2 logistic regression. Relatedness, as in those papers, predicts a distribution over the whole scores: a
score of 3.6 is 3 with 0.4 and 4 with 0.6, and what is predicted is the mean of the distribution.
C is chosen on the validation part or, without one, on folds of the training part.
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.area import ranks
from evaluation.classify import choice_figure
from evaluation.features import EvaluationError, Reader
from evaluation.logistic import choose, recipes
from evaluation.report import COLOURS, Report, Table, percent, plot
from evaluation.sets import FOLDS, Sets, Split
from model.heads.standardization import Standardization
from texts.dialect import AS_IT_IS, Dialect
from texts.faults import Faults, shown
from texts.labelled import Labelled, read_columns

GRID = tuple(2.0**exponent for exponent in range(-12, 3, 2))

_MOST_SCORES = 21  # whole scores from the lowest to the highest

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pairs:
    first: list[str]
    second: list[str]
    labels: list[str]


def read_pairs(path: Path, first: str, second: str, label: str, faults: Faults, dialect: Dialect = AS_IT_IS) -> Pairs:
    """A file with these columns. faults: gets the records that cannot be used. Raises TextsError."""
    (one, other), labels = read_columns(path, faults, [first, second], label, dialect)
    return Pairs(one, other, labels)


def paraphrase(reader: Reader, train: Pairs, valid: Pairs | None, test: Pairs, folds: int) -> Report:
    """Labels are two; the second in order, such as 1, is that of paraphrases."""
    sets = Sets(_one(train), _one(valid) if valid else None, _one(test))
    if len(sets.labels) != 2:
        raise EvaluationError(
            f"paraphrase has two labels, these are {shown(sets.labels)}: give --score-field for scores"
        )
    splits = sets.splits(folds)
    x = np.concatenate([_features(reader, part) for part in (train, valid) if part is not None])
    y, rows = sets.numbers(sets.fitting), len(train.first)
    candidates = recipes(GRID)
    reader.progress.begin("choosing C", len(candidates) * len(splits))
    chosen = choose(x, y, splits, candidates, reader.progress.advance, l1=False)
    fitted = chosen.recipe.fit_l2(x[:rows], y[:rows])
    test_x, test_y = _features(reader, test), sets.numbers(sets.test)
    predicted = fitted.predict(test_x)
    hits = int(((predicted == 1) & (test_y == 1)).sum())
    named = int((predicted == 1).sum() + (test_y == 1).sum())
    values = {
        "accuracy": float((predicted == test_y).mean()),
        "f1": 2 * hits / named if named else 0.0,
        "accuracy_most_frequent": float((test_y == np.bincount(y[:rows]).argmax()).mean()),
        "C": chosen.recipe.c,
        "standardized": chosen.recipe.standardized,
        "valid_accuracy": chosen.accuracy,
        **sets.described(),
    }
    table = Table(
        f"Paraphrase, {len(test_y):,} test pairs; F1 of label {sets.labels[1]!r}.",
        ["", "accuracy", "F1"],
        [
            ["features |u - v|, u * v", percent(values["accuracy"]), percent(values["f1"])],
            ["the most frequent label", percent(values["accuracy_most_frequent"]), "-"],
        ],
    )
    return Report("pairs", values, [table], {"choice": choice_figure(chosen)})


def relatedness(reader: Reader, train: Pairs, valid: Pairs | None, test: Pairs, folds: int) -> Report:
    """Labels are scores, such as 1 to 5. r, rho and the mean squared error are of the test part. folds: as `Sets`."""
    train_y, test_y = _scores("train", train), _scores("test", test)
    lowest, highest = int(np.floor(train_y.min())), int(np.ceil(train_y.max()))
    if not 2 <= highest - lowest + 1 <= _MOST_SCORES:
        raise EvaluationError(
            f"train: scores run from {train_y.min():g} to {train_y.max():g}; they must span 2 to {_MOST_SCORES} whole "
            "scores: rescale them"
        )
    train_x = _features(reader, train)
    x, y = train_x, train_y
    if valid is not None:
        x, y = np.concatenate([x, _features(reader, valid)]), np.concatenate([y, _scores("valid", valid)])
    splits = _score_splits(len(train_y), len(y), folds)
    reader.progress.begin("choosing C", len(GRID) * len(splits))
    errors = np.zeros(len(GRID))
    for (fit, held), (number, c) in product(splits, enumerate(GRID)):
        errors[number] += np.square(_fit_scores(x[fit], y[fit], lowest, highest, c)(x[held]) - y[held]).mean()
        reader.progress.advance(1)
    c = GRID[int(np.argmin(errors))]
    predicted = _fit_scores(train_x, train_y, lowest, highest, c)(_features(reader, test))
    if np.ptp(predicted) == 0 or np.ptp(test_y) == 0:
        raise EvaluationError("all test scores, or all that were predicted, are the same: no correlation is defined")
    values = {
        "r": _correlation(predicted, test_y),
        "rho": _correlation(ranks(predicted), ranks(test_y)),  # Spearman's is Pearson's of the ranks
        "mse": float(np.square(predicted - test_y).mean()),
        "mse_mean_score": float(np.square(train_y.mean() - test_y).mean()),
        "C": c,
        "rows": {"train": len(train_y), "valid": len(valid.labels) if valid else 0, "test": len(test_y)},
    }
    table = Table(
        f"Relatedness, {len(test_y):,} test pairs.",
        ["", "r", "rho", "mean squared error"],
        [
            ["features |u - v|, u * v", values["r"], values["rho"], values["mse"]],
            ["the training part's mean score", "-", "-", values["mse_mean_score"]],
        ],
    )
    figure, axes = plot("score", "predicted score", height=5)
    axes.scatter(test_y, predicted, s=6, alpha=0.4, color=COLOURS[0], linewidths=0)
    return Report("pairs", values, [table], {"relatedness": figure})


def _score_splits(train: int, rows: int, folds: int) -> list[Split]:
    """(rows to fit on, rows to choose on): those after the first `train` are a validation part."""
    if rows > train:
        return [(np.arange(train), np.arange(train, rows))]
    if train < FOLDS:
        raise EvaluationError(f"train: {train} pairs are too few to hold out one in {FOLDS}: give --valid or more")
    parts = np.array_split(np.random.default_rng(0).permutation(train), FOLDS)
    return [(np.setdiff1d(np.arange(train), part), part) for part in parts[:folds]]


def _fit_scores(x: NDArray[np.float32], y: Floats, lowest: int, highest: int, c: float) -> Any:
    """A function from features to expected scores. A row counts for the whole scores below and above it, in shares."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - takes a second to load

    below = np.clip(np.floor(y), lowest, highest - 1)
    share = np.clip(y - below, 0.0, 1.0)  # of the score above
    weights = np.concatenate([1 - share, share])
    used = weights > 0
    classes = np.concatenate([below, below + 1]).astype(np.int64)[used]
    if classes.min() == classes.max():
        raise EvaluationError(f"train: all scores are {classes[0]}: nothing can be learned from them")
    rows = np.concatenate([np.arange(len(y)), np.arange(len(y))])[used]
    standard = Standardization.of(x)
    fitted = LogisticRegression(C=c, max_iter=1000).fit(standard.scaled(x)[rows], classes, sample_weight=weights[used])
    return lambda other: fitted.predict_proba(standard.scaled(other)) @ fitted.classes_


def _features(reader: Reader, pairs: Pairs) -> NDArray[np.float32]:
    u, v = reader.features(pairs.first), reader.features(pairs.second)
    return np.concatenate([np.abs(u - v), u * v], axis=1)


def _one(pairs: Pairs) -> Labelled:
    return Labelled(pairs.first, pairs.labels)


def _scores(name: str, pairs: Pairs) -> Floats:
    try:
        scores = np.array([float(label) for label in pairs.labels])
    except ValueError as error:
        raise EvaluationError(f"{name}: scores must be numbers: {error}") from error
    if not np.isfinite(scores).all():
        raise EvaluationError(f"{name}: scores must be finite numbers")
    return scores


def _correlation(x: Floats, y: Floats) -> float:
    """Pearson's."""
    return float(np.corrcoef(x, y)[0, 1])
