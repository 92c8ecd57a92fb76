"""The heads of a checkpoint: which labels each has (`HeadSpec`), fitted, calibrated and judged on texts that were read.

A head is fitted as the paper fits one (model/heads/classifier.py), on the final cell and on the mean of the hidden
vector; C and the pooling are chosen on validation texts, where every label of a corpus' source weighs the same, and the
head's probabilities are calibrated there (model/heads/calibration.py). Test texts are used once.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from engine.folded import FoldedModel
from engine.reading import SCORED, read_texts
from model.checkpoints.manifest import NAME
from model.checkpoints.untrusted import is_text
from model.heads.calibration import calibrated, calibration_error
from model.heads.checks import HeadError
from model.heads.classifier import SENTIMENT_HEAD, SENTIMENT_LABELS, Head, accuracy, fit_l1, head_probabilities
from model.heads.pooling import Pooling, pool
from model.heads.unit import Calibration
from trainer.corpus.labels import balance
from trainer.publishing.examples import Examples

_POOLINGS: tuple[Pooling, ...] = ("cell", "mean")  # the first of equally good ones is taken


@dataclass(frozen=True)
class HeadSpec:
    """A head to be fitted. labels: the head's labels, each with the values of a corpus that it stands for.

    A value that is listed nowhere and is the name of a label stands for that label.
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
        if not NAME.fullmatch(name):
            raise HeadError(f"head {text!r}: a name is 1 to 64 of a-z, 0-9, '.', '_', '-', first a letter or digit")
        if not all(label and is_text(label) for label in labels):
            raise HeadError(f"head {text!r}: a label is empty or not text")
        if len(set(values)) != len(values):
            raise HeadError(f"head {text!r}: a value stands for two labels")
        return cls(name, labels)

    @property
    def values(self) -> set[str]:
        """Values of a corpus that it uses."""
        return {value for of_label in self.labels.values() for value in of_label}

    def label_of(self, value: str) -> int | None:
        """The index of the label that a value stands for; None where it stands for none."""
        listed = [index for index, values in enumerate(self.labels.values()) if value in values]
        named = [index for index, label in enumerate(self.labels) if value == label]
        return next(iter(listed + named), None)


SENTIMENT = HeadSpec(SENTIMENT_HEAD, dict.fromkeys(SENTIMENT_LABELS, ()))


@dataclass(frozen=True)
class Read:
    """Examples that a model has read. cell, mean: (texts, units); scores: (texts, SCORED), NaN if not asked for."""

    examples: Examples
    cell: NDArray[np.float32]
    mean: NDArray[np.float32]
    scores: NDArray[np.float32]

    @classmethod
    def by(
        cls,
        model: FoldedModel,
        examples: Examples,
        on_progress: Callable[[int], None] | None = None,
        scored: bool = False,
    ) -> "Read":
        scores = np.full((len(examples), len(SCORED)), np.nan, dtype=np.float32)
        out = scores if scored else None
        return cls(examples, *read_texts(model, examples.texts, on_progress=on_progress, scores=out), scores)

    def labelled(self, spec: HeadSpec) -> "Rows":
        """Those that a label of the head is known of. Raises HeadError if there are none."""
        found = [spec.label_of(value) for value in self.examples.values]
        at = np.array([row for row, label in enumerate(found) if label is not None], dtype=np.int64)
        if len(at) == 0:
            raise HeadError(f"head {spec.name}: none of {len(found)} texts has one of its labels: give other texts")
        labels = np.array([found[row] for row in at], dtype=np.int64)
        sources = np.array([self.examples.sources[row] for row in at])
        return Rows(self.cell[at], self.mean[at], labels, sources, self.examples.of_corpus)


@dataclass(frozen=True)
class Rows:
    """Labelled rows for one head. cell, mean: (rows, units); labels, indexes, and sources, names: (rows,).

    of_corpus: as of `Examples`.
    """

    cell: NDArray[np.float32]
    mean: NDArray[np.float32]
    labels: NDArray[np.int64]
    sources: NDArray[np.str_]
    of_corpus: bool

    def features(self, pooling: Pooling) -> NDArray[np.float32]:
        return pool(self.cell, self.mean, pooling)

    @cached_property
    def balance(self) -> NDArray[np.float64]:
        """The weight of each row, (rows,), as trainer/corpus/labels.py balances labels within sources.

        A labelled file is a set by itself, as it was made: there all weigh the same. So they do where no source has two
        labels to balance.
        """
        names, source = np.unique(self.sources, return_inverse=True)
        counts = np.zeros((len(names), int(self.labels.max()) + 1))
        np.add.at(counts, (source, self.labels), 1)
        weights: NDArray[np.float64] = balance(counts)[source, self.labels].astype(np.float64)
        return weights if self.of_corpus and weights.any() else np.ones(len(self.labels))


def fit(spec: HeadSpec, train: Read, valid: Read, calibrated_on: str) -> Head:
    """The head of `spec`. calibrated_on: what the validation texts are, in words.

    Metrics: train_accuracy, nonzero_units and valid_accuracy, balanced as `Rows.balance` says. Raises HeadError where a
    label has no text.
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
    valid_accuracy = accuracy(head, features, held_out.labels, held_out.balance)
    return replace(head, metrics=head.metrics | {"valid_accuracy": valid_accuracy})


def judged(head: Head, spec: HeadSpec, test: Read, unit: Calibration) -> Head:
    """The head with metrics on test texts: accuracy, calibration error, and of `sentiment` those of the one unit.

    test_accuracy_unit, test_unit_agreement: how often the sign of the unit is the label, and the head's label.
    """
    rows = test.labelled(spec)
    features = rows.features(head.pooling)
    metrics = head.metrics | {
        "test_accuracy": accuracy(head, features, rows.labels, rows.balance),
        "test_calibration_error": calibration_error(head, features, rows.labels),
    }
    if spec.name == SENTIMENT_HEAD:
        positive = unit.positive(rows.cell)
        chosen = head_probabilities(head, features)[:, 1] > 0.5
        metrics["test_accuracy_unit"] = float(np.average(positive == (rows.labels == 1), weights=rows.balance))
        metrics["test_unit_agreement"] = float((positive == chosen).mean())
    return replace(head, metrics=metrics)
