"""The heads of a checkpoint: which labels each has (`HeadSpec`), fitted, calibrated and judged on texts that were read.

A head is fitted as the paper fits one (model/heads/classifier.py), on the final cell and on the mean of the hidden
vector; C and the pooling are chosen on validation texts, where every label of a source weighs the same, and the head's
probabilities are calibrated there (model/heads/calibration.py). Test texts are used once.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from engine.folded import FoldedModel
from engine.reading import read_texts
from model.heads.calibration import calibrated, calibration_error
from model.heads.checks import HeadError
from model.heads.classifier import SENTIMENT_HEAD, SENTIMENT_LABELS, Head, accuracy, fit_l1, head_probabilities
from model.heads.pooling import Pooling, pool
from model.heads.unit import Calibration
from trainer.publishing.examples import Examples

_POOLINGS: tuple[Pooling, ...] = ("cell", "mean")  # the first of equally good ones is taken
_MAX_BALANCE = 8.0


@dataclass(frozen=True)
class HeadSpec:
    """A head to be fitted. labels: the head's labels, each with the values of a corpus that it stands for.

    A value that is the name of a label stands for that label, whether or not it is listed.
    """

    name: str
    labels: dict[str, tuple[str, ...]]

    @classmethod
    def parse(cls, text: str) -> "HeadSpec":
        """`NAME:LABEL=VALUE,VALUE LABEL=VALUE ...`, as in `sentiment:negative=1,2 positive=4,5`. Raises HeadError."""
        name, colon, rest = text.partition(":")
        pairs = [part.partition("=") for part in rest.split()]
        labels = {label: tuple(filter(None, values.split(","))) for label, _, values in pairs}
        values = [value for of_label in labels.values() for value in of_label]
        if not colon or len(labels) != len(pairs) or len(labels) < 2 or not all(labels.values()):
            raise HeadError(f"head {text!r}: write NAME:LABEL=VALUE,VALUE LABEL=VALUE ... with two labels or more")
        if len(set(values)) != len(values):
            raise HeadError(f"head {text!r}: a value stands for two labels")
        return cls(name.strip(), labels)

    @property
    def values(self) -> set[str]:
        """Values of a corpus that it uses."""
        return {value for of_label in self.labels.values() for value in of_label}

    def label_of(self, value: str) -> int | None:
        """The index of the label that a value stands for; None where it stands for none."""
        for index, (label, values) in enumerate(self.labels.items()):
            if value == label or value in values:
                return index
        return None


SENTIMENT = HeadSpec(SENTIMENT_HEAD, dict.fromkeys(SENTIMENT_LABELS, ()))


@dataclass(frozen=True)
class Read:
    """Examples that a model has read. cell, mean: (texts, units)."""

    examples: Examples
    cell: NDArray[np.float32]
    mean: NDArray[np.float32]

    @classmethod
    def by(cls, model: FoldedModel, examples: Examples, on_progress: Callable[[int], None] | None = None) -> "Read":
        return cls(examples, *read_texts(model, examples.texts, on_progress=on_progress))

    def labelled(self, spec: HeadSpec) -> "Rows":
        """Those that a label of the head is known of. Raises HeadError if there are none."""
        found = [spec.label_of(value) for value in self.examples.values]
        at = np.array([row for row, label in enumerate(found) if label is not None], dtype=np.int64)
        if len(at) == 0:
            raise HeadError(f"head {spec.name}: none of {len(found)} texts has one of its labels: give other texts")
        labels = np.array([found[row] for row in at], dtype=np.int64)
        return Rows(self.cell[at], self.mean[at], labels, np.array([self.examples.sources[row] for row in at]))


@dataclass(frozen=True)
class Rows:
    """Labelled rows for one head. cell, mean: (rows, units); labels, indexes, and sources, names: (rows,)."""

    cell: NDArray[np.float32]
    mean: NDArray[np.float32]
    labels: NDArray[np.int64]
    sources: NDArray[np.str_]

    def features(self, pooling: Pooling) -> NDArray[np.float32]:
        return pool(self.cell, self.mean, pooling)

    @cached_property
    def balance(self) -> NDArray[np.float64]:
        """The weight of each row, (rows,): the labels of a source weigh the same, but a rare one not too much.

        Rows of one source are a set by itself, as it was made: there all weigh the same.
        """
        weights = np.ones(len(self.labels))
        sources = np.unique(self.sources)
        for source in sources if len(sources) > 1 else ():
            of_source = self.sources == source
            sizes = np.bincount(self.labels[of_source])
            by_label = of_source.sum() / (np.count_nonzero(sizes) * np.maximum(sizes, 1))
            weights[of_source] = by_label[self.labels[of_source]]
        return np.minimum(weights, _MAX_BALANCE)


def fit(spec: HeadSpec, train: Read, valid: Read, calibrated_on: str) -> Head:
    """The head of `spec`. calibrated_on: what the validation texts are, in words.

    Metrics: train_accuracy and nonzero_units, and on the validation texts valid_accuracy, balanced as `Rows.balance`
    says, and valid_calibration_error, not balanced. Raises HeadError where a label has no text.
    """
    rows, held_out = train.labelled(spec), valid.labelled(spec)
    heads = [
        replace(
            fit_l1(
                rows.features(pooling),
                rows.labels,
                held_out.features(pooling),
                held_out.labels,
                list(spec.labels),
                valid_weights=held_out.balance,
            ),
            pooling=pooling,
        )
        for pooling in _POOLINGS
    ]
    head = max(heads, key=lambda head: head.metrics["valid_accuracy"])
    features = held_out.features(head.pooling)
    head = calibrated(head, features, held_out.labels, held_out.balance, calibrated_on)
    return replace(head, metrics=head.metrics | _judged("valid", head, held_out))


def judged(head: Head, spec: HeadSpec, test: Read, unit: Calibration) -> Head:
    """The head with metrics on test texts: as on the validation texts, and of two labels those of the one unit.

    test_accuracy_unit, test_unit_agreement: how often the sign of the unit is the label, and the head's label.
    """
    rows = test.labelled(spec)
    metrics = head.metrics | _judged("test", head, rows)
    if len(spec.labels) == 2:
        positive = unit.polarity * (rows.cell[:, unit.unit] - unit.center) > 0
        chosen = head_probabilities(head, rows.features(head.pooling))[:, 1] > 0.5
        metrics["test_accuracy_unit"] = float(np.average(positive == (rows.labels == 1), weights=rows.balance))
        metrics["test_unit_agreement"] = float((positive == chosen).mean())
    return replace(head, metrics=metrics)


def _judged(part: str, head: Head, rows: Rows) -> dict[str, float]:
    features = rows.features(head.pooling)
    return {
        f"{part}_accuracy": accuracy(head, features, rows.labels, rows.balance),
        f"{part}_calibration_error": calibration_error(head, features, rows.labels),
    }
