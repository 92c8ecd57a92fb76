"""A head that a user fitted, as its file holds it: `StoredHead`, and `parse`, which trusts nothing of a file.

Where the files lie: head_store.py.
"""

from dataclasses import dataclass
from typing import Any

from model.checkpoints.manifest import MAX_UNITS, NAME, SHA256, WEIGHTS, Manifest, parse_head
from model.checkpoints.untrusted import is_finite, is_text, is_whole, require
from model.heads.classifier import Head
from model.heads.cross_validation import Fitted, accuracy_interval
from model.heads.pooling import Pooling

FORMAT_VERSION = 2
_READ = (1, 2)  # version 1 knew no confusion matrix
MAX_LABELS = 100
MAX_LABEL_CHARACTERS = 100

_MAX_COUNT = 10**15


@dataclass(frozen=True)
class StoredHead:
    """A head, the checkpoint whose features it takes, and how it was made."""

    name: str
    checkpoint: str  # its name
    step: int
    sha256: str  # of its weights
    units: int
    head: Head
    examples: int
    unit_only: bool
    top_units: list[int]  # the heaviest first
    created: float  # Unix time in seconds
    made_by: str  # the id of the job; empty: the command line
    confusion: list[list[int]] | None = None  # as in `Fitted`; None: nothing could be held out, or an older file

    def belongs_to(self, manifest: Manifest) -> bool:
        return self.sha256 == manifest.sha256[WEIGHTS]

    def report(self) -> dict[str, Any]:
        """The head as the service reports it: of its weights only those of the top units, (rows of the head,) each."""
        metrics = self.head.metrics
        accuracy = metrics.get("accuracy")
        return {
            "name": self.name,
            "kind": "linear",
            "checkpoint": {"name": self.checkpoint, "step": self.step},
            "labels": self.head.labels,
            "examples": self.examples,
            "unit_only": self.unit_only,
            "pooling": self.head.pooling,
            "accuracy": accuracy,
            "accuracy_interval": None if accuracy is None else accuracy_interval(accuracy, max(1, self.examples)),
            "accuracy_deviation": metrics.get("accuracy_deviation"),
            "confusion": self.confusion,
            "folds": int(metrics.get("folds", 0)),
            "c": self.head.c,
            "nonzero_units": len(self.head.weights),
            "top_units": [{"unit": unit, "weights": self.head.weights[unit]} for unit in self.top_units],
            "created": self.created,
        }

    def listed(self) -> dict[str, Any]:
        """As `report`, in a list of heads: without the confusion matrix, which of 100 labels has 10,000 numbers.

        Every worker compares the list of all heads with that in Redis at every poll.
        """
        return self.report() | {"confusion": None}


def stored_head(
    name: str,
    manifest: Manifest,
    fitted: Fitted,
    labels: list[str],
    pooling: Pooling,
    examples: int,
    created: float,
    made_by: str,
) -> StoredHead:
    """A head fitted on features of the manifest's checkpoint. labels: in the order of the classes."""
    return StoredHead(
        name=name,
        checkpoint=manifest.name,
        step=manifest.step,
        sha256=manifest.sha256[WEIGHTS],
        units=manifest.architecture.units,
        head=fitted.head(labels, pooling),
        examples=examples,
        unit_only=fitted.c is None,
        top_units=fitted.top_units,
        created=created,
        made_by=made_by,
        confusion=fitted.confusion,
    )


def parse(name: str, raw: Any) -> StoredHead:
    """What a file holds. Raises ValueError, TypeError, KeyError, AttributeError."""
    require(isinstance(raw, dict), "not a JSON object")
    version = raw.pop("format_version", None)
    require(
        is_whole(version) and version in _READ,
        f"format version {version!r}, this program reads {' and '.join(map(str, _READ))}",
    )
    units, head = raw["units"], raw.pop("head")
    require(is_whole(units) and 1 <= units <= MAX_UNITS, f"units is {units!r}, not 1 to {MAX_UNITS}")
    require(isinstance(head, dict), "head is not a JSON object")
    stored = StoredHead(head=parse_head(name, units, head), **raw)
    require(stored.name == name, f"it is a head {stored.name!r}")
    labels = stored.head.labels
    require(
        len(labels) <= MAX_LABELS and all(0 < len(label) <= MAX_LABEL_CHARACTERS for label in labels),
        f"not 2 to {MAX_LABELS} labels of 1 to {MAX_LABEL_CHARACTERS} characters",
    )
    require(isinstance(stored.checkpoint, str) and bool(NAME.fullmatch(stored.checkpoint)), "checkpoint is not a name")
    require(isinstance(stored.sha256, str) and bool(SHA256.fullmatch(stored.sha256)), "sha256 is not a SHA-256")
    for label, count in (("step", stored.step), ("examples", stored.examples)):
        require(is_whole(count) and 0 <= count < _MAX_COUNT, f"{label} is {count!r}")
    require(isinstance(stored.unit_only, bool), "unit_only is neither true nor false")
    metrics = stored.head.metrics
    for label, most in (("accuracy", 1), ("accuracy_deviation", 1), ("folds", 1000)):
        require(0 <= metrics.get(label, 0) <= most, f"{label} is {metrics.get(label)!r}")
    require(
        isinstance(stored.top_units, list)
        and all(is_whole(unit) and unit in stored.head.weights for unit in stored.top_units),
        "top_units are not units with weights",
    )
    _check_confusion(stored)
    require(is_finite(stored.created), "created is not a time")
    require(is_text(stored.made_by) and len(stored.made_by) <= 64, "made_by is not an id")
    return stored


def _check_confusion(stored: StoredHead) -> None:
    confusion, labels = stored.confusion, len(stored.head.labels)
    if confusion is None:
        return
    require(
        isinstance(confusion, list)
        and len(confusion) == labels
        and all(isinstance(row, list) and len(row) == labels for row in confusion),
        f"confusion is not {labels} rows of {labels}",
    )
    counts = [count for row in confusion for count in row]
    require(
        all(is_whole(count) and count >= 0 for count in counts) and sum(counts) == stored.examples,
        f"confusion does not count {stored.examples} examples",
    )
