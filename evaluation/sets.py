"""Labelled sets of any number of classes: `read_sets` from CSV files, `find_sets` in a directory, and their splits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.texts.labelled import Labelled, LabelledError, read_labelled

Rows = NDArray[np.int64]
Split = tuple[Rows, Rows]

_FOLDS = 5

# Part -> file names in a directory, without .csv and .gz or .xz; *_binary_sent are those of the paper's repository.
SST = {
    "train": ("sst_binary_train", "train_binary_sent", "train"),
    "valid": ("sst_binary_dev", "dev_binary_sent", "valid"),
    "test": ("sst_binary_test", "test_binary_sent", "test"),
}
IMDB = {"train": ("imdb_train", "train"), "test": ("imdb_test", "test")}


@dataclass(frozen=True)
class Sets:
    """Labelled texts in parts. The labels are those of the training part, numbers in their order, others by name."""

    train: Labelled
    valid: Labelled | None
    test: Labelled

    def __post_init__(self) -> None:
        if len(self.labels) < 2:
            raise LabelledError(f"train: all rows have the label {self.labels[0]!r}: at least two are needed")
        for name, part in (("valid", self.valid), ("test", self.test)):
            unknown = sorted(set(part.labels if part else ()) - set(self.labels))
            if unknown:
                raise LabelledError(f"{name}: labels {unknown[:10]} are not among the training part's: {self.labels}")

    @property
    def labels(self) -> list[str]:
        found = sorted(set(self.train.labels))
        return sorted(found, key=int) if all(label.isdecimal() for label in found) else found

    @property
    def fitting(self) -> Labelled:
        """Train and valid, in this order: all that may be chosen and fitted on."""
        parts = [self.train] + ([self.valid] if self.valid else [])
        return Labelled([t for part in parts for t in part.texts], [label for part in parts for label in part.labels])

    def numbers(self, part: Labelled) -> Rows:
        """The labels of a part as their index in `labels`, (rows,)."""
        index = {label: number for number, label in enumerate(self.labels)}
        return np.array([index[label] for label in part.labels], dtype=np.int64)

    def splits(self, folds: int, seed: int = 0) -> list[Split]:
        """(rows to fit on, rows to choose on) of `fitting`.

        With a validation part there is one split, and `folds` is ignored. Without one the training part is cut into
        five, of equal shares of every label, and the first `folds` of them are held out in turn.
        """
        train = np.arange(len(self.train.texts))
        if self.valid is not None:
            return [(train, np.arange(len(train), len(train) + len(self.valid.texts)))]
        from sklearn.model_selection import StratifiedKFold  # noqa: PLC0415 - takes a second to load

        y = self.numbers(self.train)
        rarest = int(np.bincount(y).min())
        if rarest < _FOLDS:
            raise LabelledError(
                f"train: a label has {rarest} rows; without a validation part every label needs {_FOLDS}: "
                "give --valid or more rows"
            )
        parts = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed).split(y, y)
        return [(fit.astype(np.int64), valid.astype(np.int64)) for fit, valid in list(parts)[:folds]]

    def described(self) -> dict[str, Any]:
        return {
            "labels": self.labels,
            "rows": {
                "train": len(self.train.texts),
                "valid": len(self.valid.texts) if self.valid else 0,
                "test": len(self.test.texts),
            },
        }


def read_sets(train: Path, valid: Path | None, test: Path, text: str | None = None, label: str = "label") -> Sets:
    """text, label: columns; None takes the one that is not the label. Raises LabelledError."""
    return Sets(
        read_labelled(train, text, label),
        read_labelled(valid, text, label) if valid else None,
        read_labelled(test, text, label),
    )


def find_sets(directory: Path, names: Mapping[str, Sequence[str]]) -> Sets:
    """The parts that lie in `directory` under any of their names (SST, IMDB), also as .csv.gz and .csv.xz."""
    parts = find_files(directory, names)
    return read_sets(parts["train"], parts.get("valid"), parts["test"])


def find_files(directory: Path, names: Mapping[str, Sequence[str]]) -> dict[str, Path]:
    """As `find_sets`, by part, without reading them. Raises LabelledError for a part that is not there, or twice."""
    parts = {}
    for part, stems in names.items():
        known = [f"{stem}.csv{packed}" for stem in stems for packed in ("", ".gz", ".xz")]
        found = [directory / name for name in known if (directory / name).exists()]
        if len(found) != 1:
            there = " and ".join(path.name for path in found) or "none of them"
            raise LabelledError(f"{directory} must hold one of {', '.join(known)}; it holds {there}")
        parts[part] = found[0]
    return parts
