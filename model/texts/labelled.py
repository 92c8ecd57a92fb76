"""Labelled texts from CSV files and JSON lines (also .xz and .gz): the material for units, calibration and heads.

`read_labelled` reads one file, `read_sentiment` the three parts of a set that lie in one directory.
"""

import csv
import io
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.texts.packed import PACKED, UNREADABLE, open_packed

# The second of each pair is how the paper's repository names its binary Stanford Sentiment Treebank.
_TRAIN = ("train", "sst_binary_train")
_VALID = ("valid", "sst_binary_dev")
_TEST = ("test", "sst_binary_test")


class LabelledError(Exception):
    """A labelled file cannot be used; the message names the file and the fault."""


@dataclass(frozen=True)
class Labelled:
    """texts and labels: (texts,) each."""

    texts: list[str]
    labels: list[str]

    def binary(self) -> NDArray[np.int64]:
        """Labels as 0 (negative) or 1 (positive), (texts,). Raises LabelledError for any other."""
        unknown = sorted(set(self.labels) - {"0", "1"})
        if unknown:
            raise LabelledError(f"labels {unknown[:10]} are neither 0 (negative) nor 1 (positive)")
        return np.array([int(label) for label in self.labels], dtype=np.int64)

    def first(self, limit: int | None) -> "Labelled":
        """The first `limit` rows; all for None."""
        return Labelled(self.texts[:limit], self.labels[:limit])


@dataclass(frozen=True)
class Sentiment:
    """Labelled texts, labels "0" (negative) and "1" (positive). Raises LabelledError for any other."""

    train: Labelled
    valid: Labelled
    test: Labelled | None = None

    def __post_init__(self) -> None:
        for name, part in vars(self).items():
            try:
                if part is not None:
                    part.binary()
            except LabelledError as error:
                raise LabelledError(f"{name}: {error}") from error

    def __len__(self) -> int:
        """The number of all texts."""
        return sum(len(part.texts) for part in (self.train, self.valid, self.test) if part is not None)


def read_sentiment(directory: Path) -> Sentiment:
    """What `train.csv`, `valid.csv` and, if there is one, `test.csv` in `directory` hold, each also .gz or .xz.

    `sst_binary_train.csv`, `sst_binary_dev.csv` and `sst_binary_test.csv` are taken as well.
    """
    train, valid, test = _find(directory, _TRAIN), _find(directory, _VALID), _part(directory, _TEST)
    return Sentiment(read_labelled(train), read_labelled(valid), None if test is None else read_labelled(test))


def _find(directory: Path, names: tuple[str, ...]) -> Path:
    found = _part(directory, names)
    if found is None:
        wanted = " or ".join(f"{name}.csv" for name in names)
        raise LabelledError(f"{directory} holds no {wanted} (nor the same as .csv.gz or .csv.xz)")
    return found


def _part(directory: Path, names: tuple[str, ...]) -> Path | None:
    found = [path for name in names for end in ("", ".gz", ".xz") if (path := directory / f"{name}.csv{end}").exists()]
    if len(found) > 1:
        raise LabelledError(f"{directory} holds {' and '.join(path.name for path in found)}: leave one of them there")
    return found[0] if found else None


def read_labelled(path: Path, text_column: str | None = None, label_column: str = "label") -> Labelled:
    """Read a CSV with a header, or JSON lines (.jsonl) with an object each, packed as the last suffix says.

    text_column: by default the one column that is not the label.
    """
    # A review may be longer than the csv module's 128 KiB.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    rows = []
    try:
        with io.TextIOWrapper(open_packed(path), encoding="utf-8", newline="") as handle:
            if (path.with_suffix("") if path.suffix in PACKED else path).suffix == ".jsonl":
                return _read_objects(path, handle, text_column, label_column)
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


def _read_objects(path: Path, lines: Iterable[str], text_column: str | None, label_column: str) -> Labelled:
    """Lines of JSON with the same fields each; a label may also be a whole number."""
    texts, labels = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise LabelledError(f"{path}, line {number}: it is not JSON: {error}") from error
        fields = list(row) if isinstance(row, dict) else []
        others = [field for field in fields if field != label_column]
        chosen = text_column or (others[0] if len(others) == 1 else None)
        if label_column not in fields or chosen not in fields:
            raise LabelledError(f"{path}, line {number}: its fields are {fields}; name those of the text and the label")
        text, label = row[chosen], row[label_column]
        if not isinstance(text, str) or isinstance(label, bool) or not isinstance(label, str | int):
            raise LabelledError(
                f"{path}, line {number}: the text is not a string, or the label is neither a string nor a whole number"
            )
        texts.append(text)
        labels.append(str(label))
    if not texts:
        raise LabelledError(f"{path} holds no rows")
    return Labelled(texts, labels)


def joined(parts: Iterable[Labelled]) -> Labelled:
    """The rows of all parts, in order."""
    parts = list(parts)
    return Labelled([text for part in parts for text in part.texts], [label for part in parts for label in part.labels])
