"""Linear classifiers on the features: a `Head`, how it is fitted with L1, applied and judged.

    binary      P(labels[1]) = σ(x·w + b)
    many        P(labels[k]) = exp(x·w_k + b_k) / sum over j of exp(x·w_j + b_j)

The protocol is the paper's (Radford et al. 2017, section 4): logistic regression with the L1 penalty (l1.py), fitted on
the training set for each C in 2^-8 ... 2^0, C chosen by accuracy on the validation set. As in the scikit-learn of that
time, more than two labels are fitted one against the rest. A softmax over those log-odds names the same label
as the highest of them; its probabilities are a normalization and somewhat more certain than those that were fitted.

Features x are (rows, units): in the paper the raw final cell, otherwise as the head's `pooling` says. Only NumPy
is needed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.heads import l1
from model.heads.checks import Floats, HeadError, Labels, checked
from model.heads.pooling import Pooling
from texts.records import label_number

# A checkpoint's default head, of two labels: negative and positive.
SENTIMENT_HEAD = "sentiment"
SENTIMENT_LABELS = ["negative", "positive"]
_SENTIMENT = (["0", "1"], ["neg", "pos"], SENTIMENT_LABELS)

C_GRID = tuple(2.0**exponent for exponent in range(-8, 1))
TOP_UNITS = 10

Method = Literal["platt", "temperature+bias"]


@dataclass(frozen=True)
class Calibrated:
    """How a head's probabilities were fitted (calibration.py), and to what."""

    method: Method
    rows: int
    data: str  # what the rows were, in words


@dataclass(frozen=True)
class Head:
    """A linear classifier on the features. Two labels: one row of weights, for the second label."""

    labels: list[str]
    weights: dict[int, list[float]]  # unit -> its weight for every row; units with no weight are left out
    bias: list[float]
    c: float | None = None  # inverse L1 strength it was fitted with
    metrics: dict[str, float] = field(default_factory=dict)
    pooling: Pooling = "cell"  # of the features it takes; files written before there was a choice do not have it
    calibration: Calibrated | None = None  # None: the probabilities are those of the fit

    @cached_property
    def matrix(self) -> Floats:
        """The weights, (units with any, rising, rows of the head)."""
        return np.array([self.weights[unit] for unit in sorted(self.weights)]).reshape(
            len(self.weights), len(self.bias)
        )

    @cached_property
    def values(self) -> Floats | None:
        """The labels as numbers, (labels,), such as stars; None where one of them is not a number."""
        return numbers(self.labels)

    def top_units(self, deviations: ArrayLike | None) -> list[int]:
        """As `heaviest`. deviations: of the features that the head takes, (units,); None: its weights alone count."""
        units = np.array(list(self.weights), dtype=np.int64)
        weights = np.array(list(self.weights.values())).reshape(len(units), len(self.bias))
        return heaviest(units, weights if deviations is None else weights * np.asarray(deviations)[units, None])


def are_sentiment(labels: Sequence[str]) -> bool:
    """Whether these are two labels of sentiment, the negative one first."""
    return [label.lower() for label in labels] in _SENTIMENT


def sentiment_head(heads: Mapping[str, Head]) -> Head | None:
    """The head that tells sentiment; None also where the head of that name has other labels, such as stars."""
    head = heads.get(SENTIMENT_HEAD)
    return head if head is not None and are_sentiment(head.labels) else None


def numbers(labels: Sequence[str]) -> Floats | None:
    """Labels as numbers, (labels,), such as stars; None where one of them is not a number."""
    found = [label_number(label) for label in labels]
    return None if None in found else np.array(found, np.float64)


def heaviest(units: Labels, weights: NDArray[np.floating]) -> list[int]:
    """The units that weigh most, the heaviest first, TOP_UNITS at most; one without weight is none of them.

    units: (units,) their numbers; weights: (units, rows of the head), of features with deviation 1.
    """
    most = np.abs(weights).max(axis=1)
    found: list[int] = units[np.argsort(-most, kind="stable")[: min(TOP_UNITS, np.count_nonzero(most))]].tolist()
    return found


def fit_l1(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    valid_features: ArrayLike,
    valid_labels: ArrayLike,
    labels: list[str],
    standardize: bool = True,
    valid_weights: ArrayLike | None = None,
) -> Head:
    """Fit on train, choose C on valid (the smallest of equals, so the sparsest), return a head for raw features.

    features: (rows, units); labels of rows: (rows,) integers, the index in `labels`. standardize: fit on features of
    mean 0 and deviation 1 over train, then fold both into weights and bias, so that one C penalizes every unit equally;
    the paper fits the raw features (False). valid_weights: (rows,), how much each counts where C is chosen; None: all
    the same. Metrics of the head: train_accuracy, valid_accuracy, nonzero_units.
    Raises HeadError if shapes differ, a label has no training row, or a value is not finite.
    """
    if len(labels) < 2 or len(set(labels)) != len(labels):
        raise HeadError(f"labels are {labels}: at least two different names are needed")
    train, train_y = checked("training", train_features, train_labels, len(labels))
    valid, valid_y = checked("validation", valid_features, valid_labels, len(labels))
    if train.shape[1] != valid.shape[1]:
        raise HeadError(f"training features have {train.shape[1]} units, validation features {valid.shape[1]}")
    for index, name in enumerate(labels):
        if not (train_y == index).any():
            raise HeadError(f"label {name!r} has no training row: add some or leave the label out")

    fitted = l1.fit(train, train_y, len(labels), [(c, standardize) for c in C_GRID])
    accuracies = [_accuracy(valid @ weights.T + bias, valid_y, valid_weights) for weights, bias in fitted]
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
    return probabilities(head_log_odds(head, features))


def probabilities(log_odds: Floats) -> Floats:
    """What `head_log_odds` returns -> the probability of every label, (rows, labels); rows sum to 1."""
    logits = log_odds
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)  # σ(z) is the softmax of (0, z)
    exponential = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Floats = exponential / exponential.sum(axis=1, keepdims=True)
    return found


def accuracy(head: Head, features: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> float:
    """The share of rows whose most probable label is theirs. features: (rows, units); labels: (rows,) integers.

    weights: (rows,), how much each row counts; None: all the same.
    """
    x, y = checked("test", features, labels, len(head.labels))
    return _accuracy(head_log_odds(head, x), y, weights)


def head_log_odds(head: Head, features: ArrayLike) -> Floats:
    """(rows, units), raw -> (rows, rows of the head): of the second of two labels, or of each of more."""
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
    logits: Floats = x[:, units].astype(np.float64) @ head.matrix + np.array(head.bias)
    return logits


def _accuracy(logits: Floats, y: Labels, weights: ArrayLike | None = None) -> float:
    chosen = logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(axis=1)
    return float(np.average(chosen == y, weights=None if weights is None else np.asarray(weights)))
