"""Labelled texts, from files of any format: `read_labelled`, `Labelled`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from texts.dialect import AS_IT_IS, Dialect
from texts.faults import Fault, Faults, TextsError, quoted, shown
from texts.preparation import clean
from texts.reader import read_file
from texts.records import LABEL, is_label, label_number

NEGATIVE = ("0", "neg", "negative")
POSITIVE = ("1", "pos", "positive")


@dataclass(frozen=True)
class Labelled:
    """texts and labels: (texts,) each."""

    texts: list[str]
    labels: list[str]

    def binary(self) -> list[int]:
        """Labels as 0 (negative) or 1 (positive), (texts,). Raises TextsError for any other."""
        unknown = sorted(set(self.labels) - {"0", "1"})
        if unknown:
            raise TextsError(f"labels {shown(unknown)} are neither 0 (negative) nor 1 (positive)")
        return [int(label) for label in self.labels]

    def sentiment(self, negative: Sequence[str] = NEGATIVE, positive: Sequence[str] = POSITIVE) -> "Labelled":
        """The same with labels 0 and 1. Raises TextsError for a label that is of neither."""
        numbers = dict.fromkeys(negative, "0") | dict.fromkeys(positive, "1")
        unknown = sorted(set(self.labels) - numbers.keys())
        if unknown:
            raise TextsError(
                f"labels {shown(unknown)} are neither negative ({', '.join(negative)}) nor positive "
                f"({', '.join(positive)}): say which are with --negative and --positive"
            )
        return Labelled(self.texts, [numbers[label] for label in self.labels])

    def first(self, limit: int | None) -> "Labelled":
        """The first `limit` rows; all for None."""
        return Labelled(self.texts[:limit], self.labels[:limit])


@dataclass(frozen=True)
class Columns:
    """Where texts and labels are, and how the file is to be read. text: None for the one beside the label."""

    text: str | None = None
    label: str = LABEL
    dialect: Dialect = AS_IT_IS


WHERE_THEY_ARE = Columns()


def read_labelled(path: Path, faults: Faults, columns: Columns = WHERE_THEY_ARE) -> Labelled:
    """The texts of a file that have a label. faults: gets the records without, and those that cannot be read.

    Raises TextsError if the file cannot be read, or nothing is left of it.
    """
    (texts,), labels = read_columns(path, faults, [columns.text], columns.label, columns.dialect)
    return Labelled(texts, labels)


def read_columns(
    path: Path, faults: Faults, texts: Sequence[str | None], label: str, dialect: Dialect = AS_IT_IS
) -> tuple[list[list[str]], list[str]]:
    """As `read_labelled`, of several texts in a record: (texts of a record, records) and the labels."""
    found: list[list[str]] = []
    count = 0
    with read_file(path, dialect) as records:
        fields = [records.text_field(name, label) for name in texts]
        for chunk in records.chunks([*fields, records.label_field(label)]):
            for place, fault, *row in zip(chunk.places, chunk.faults, *chunk.columns, strict=True):
                count += 1
                why = fault or _unusable(row)
                if why is not None:
                    faults.add(Fault(records.name, records.place(place), why))
                    continue
                found.append([value for value in row if value is not None])
    if not found:
        raise TextsError(f"{path}: none of its {count:,} records is a labelled text" if count else f"{path} is empty")
    *columns, labels = (list(column) for column in zip(*found, strict=True))
    return columns, labels


def _unusable(row: Sequence[str | None]) -> str | None:
    """Why a record without a fault is no labelled text."""
    *texts, label = row
    if label is None or not is_label(label):
        return "it has no label" if not label else f"it has no label but {quoted(label)}"
    if any(not clean(text or "") for text in texts):
        return "the text is empty"
    return None


def distinct(labels: Iterable[str]) -> list[str]:
    """Each label once, in the order of classes: numbers by their value, then all others."""

    def place(label: str) -> tuple[bool, float, str]:
        number = label_number(label)
        return number is None, number or 0.0, label

    return sorted(set(labels), key=place)


def numbered(labels: Iterable[str], classes: Sequence[str]) -> list[int]:
    """The index of every label in `classes`, (labels,)."""
    index = {label: number for number, label in enumerate(classes)}
    return [index[label] for label in labels]


def check_known(part: str, labels: Iterable[str], classes: Sequence[str]) -> None:
    """Raises TextsError, which names the part, if one of its labels is not one of `classes`, the training part's."""
    unknown = distinct(set(labels) - set(classes))
    if unknown:
        raise TextsError(f"{part}: labels {shown(unknown)} are not among the training part's: {shown(classes)}")


def joined(parts: Iterable[Labelled]) -> Labelled:
    """The rows of all parts, in order."""
    parts = list(parts)
    return Labelled([text for part in parts for text in part.texts], [label for part in parts for label in part.labels])
