"""Labelled sets of any number of classes, and their splits: `Sets`, `find_sets` in a directory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from texts.faults import Faults, TextsError
from texts.labelled import (
    WHERE_THEY_ARE,
    Columns,
    Labelled,
    check_known,
    distinct,
    joined,
    numbered,
    read_labelled,
)
from texts.sets import find_parts

Rows = NDArray[np.int64]
Split = tuple[Rows, Rows]

FOLDS = 5


@dataclass(frozen=True)
class Sets:
    """Labelled texts in parts. The labels are those of the training part, numbers in their order, others by name."""

    train: Labelled
    valid: Labelled | None
    test: Labelled

    def __post_init__(self) -> None:
        if len(self.labels) < 2:
            raise TextsError(f"train: all rows have the label {self.labels[0]!r}: at least two are needed")
        for name, part in (("valid", self.valid), ("test", self.test)):
            check_known(name, part.labels if part else (), self.labels)

    @property
    def labels(self) -> list[str]:
        return distinct(self.train.labels)

    @property
    def fitting(self) -> Labelled:
        """Train and valid, in this order: all that may be chosen and fitted on."""
        return joined(part for part in (self.train, self.valid) if part is not None)

    def numbers(self, part: Labelled) -> Rows:
        """The labels of a part as their index in `labels`, (rows,)."""
        return np.array(numbered(part.labels, self.labels), dtype=np.int64)

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
        if rarest < FOLDS:
            raise TextsError(
                f"train: a label has {rarest} rows; without a validation part every label needs {FOLDS}: "
                "give --valid or more rows"
            )
        parts = StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(y, y)
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


def find_sets(
    directory: Path, names: Mapping[str, Sequence[str]], faults: Faults, columns: Columns = WHERE_THEY_ARE
) -> Sets:
    """The parts that lie in `directory` under any of their names (texts/sets.py). Raises TextsError.

    faults: gets the records that cannot be used.
    """
    parts = {part: read_labelled(path, faults, columns) for part, path in find_parts(directory, names).items()}
    return Sets(parts["train"], parts.get("valid"), parts["test"])
