"""Labelled texts from CSV files (also .xz and .gz): the material for units, calibration and heads."""

import csv
import io
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.packed import UNREADABLE, open_packed


class LabelledError(Exception):
    """A labelled file cannot be used; the message names the file and the fault."""


@dataclass(frozen=True)
class Labelled:
    texts: list[str]
    labels: list[str]

    def binary(self) -> NDArray[np.int64]:
        """Labels as 0 (negative) or 1 (positive), (texts,). Raises LabelledError for any other."""
        unknown = sorted(set(self.labels) - {"0", "1"})
        if unknown:
            raise LabelledError(f"labels {unknown[:10]} are neither 0 (negative) nor 1 (positive)")
        return np.array([int(label) for label in self.labels], dtype=np.int64)

    def head(self, limit: int | None) -> "Labelled":
        """The first `limit` rows; all for None."""
        return Labelled(self.texts[:limit], self.labels[:limit])


def read_labelled(path: Path, text_column: str | None = None, label_column: str = "label") -> Labelled:
    """Read a CSV with a header. text_column: by default the one column that is not the label."""
    # A review may be longer than the csv module's 128 KiB.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    rows = []
    try:
        with io.TextIOWrapper(open_packed(path), encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle)
            columns = list(reader.fieldnames or [])
            others = [column for column in columns if column != label_column]
            chosen = text_column or (others[0] if len(others) == 1 else None)
            if label_column not in columns or chosen not in columns:
                raise LabelledError(f"{path}: its columns are {columns}; name those of the text and the label")
            for row in reader:
                if row[chosen] is None or row[label_column] is None:
                    raise LabelledError(f"{path}, line {reader.line_num}: it has fewer columns than the header")
                rows.append((row[chosen], row[label_column]))
    except (*UNREADABLE, UnicodeDecodeError, csv.Error) as error:
        raise LabelledError(f"{path} cannot be read: {error}") from error
    if not rows:
        raise LabelledError(f"{path} holds no rows")
    return Labelled([text for text, _ in rows], [label for _, label in rows])


def joined(parts: Iterable[Labelled]) -> Labelled:
    parts = list(parts)
    return Labelled([text for part in parts for text in part.texts], [label for part in parts for label in part.labels])
