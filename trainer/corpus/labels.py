"""What the reviews of a corpus are labelled with: values such as stars, and the classes that a model learns.

A shard `shard-N.bin` with labels has a file `shard-N.labels` beside it: a record of three bytes for each of its
reviews, in their order. `label` is 0 where nothing is known, else the number, from 1, of the value in the manifest's
list; `source` is the index of the review's file in the manifest's list of sources. A corpus without labels has neither.

Copies of a review that are labelled differently are left without a label, and counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

LABELS = np.dtype([("label", "u1"), ("source", "<u2")])
UNKNOWN = -1  # class of a review whose label is unknown, or of no class

MAX_VALUES = 255
MAX_SOURCES = 2**16
MAX_VALUE_CHARACTERS = 64
# Without a limit a review of a class that is one in fifty of its source would weigh 25 times the average.
_MAX_BALANCE = 8.0

_Count = Annotated[int, Field(strict=True, ge=0, lt=10**15)]
_Value = Annotated[str, Field(strict=True, min_length=1, max_length=MAX_VALUE_CHARACTERS)]


class LabelsError(ValueError):
    """Labels of a corpus cannot be used; the message says why."""


def check_classes(classes: Mapping[str, Sequence[str]], known: Sequence[str]) -> None:
    """Raises LabelsError unless every class has values that are known, each in no other. known: values of labels."""
    for name, values in classes.items():
        missing = [value for value in values if value not in known]
        if missing or not values:
            named = f"{missing[0]!r}, which no review is labelled with" if missing else "no value"
            raise LabelsError(f"class {name} has {named}; there are: {', '.join(known)}")
    named_values = [value for values in classes.values() for value in values]
    if twice := {value for value in named_values if named_values.count(value) > 1}:
        raise LabelsError(f"label {min(twice)!r} is in two classes")


@dataclass(frozen=True)
class Labels:
    """values: in their order of codes. classes: name -> its values. counts: (sources, values + 1), reviews in the
    shards by source and label, those without one first. disagreeing: reviews whose copies were labelled differently.
    """

    values: Annotated[list[_Value], Field(min_length=1, max_length=MAX_VALUES)]
    classes: Annotated[dict[_Value, list[_Value]], Field(min_length=2)]
    counts: list[list[_Count]]
    disagreeing: _Count

    def __post_init__(self) -> None:
        check_classes(self.classes, self.values)
        if any(len(row) != len(self.values) + 1 for row in self.counts):
            raise LabelsError(f"counts are not of {len(self.values) + 1} columns")

    @cached_property
    def class_of_code(self) -> NDArray[np.int64]:
        """The class of each code, (values + 1,); UNKNOWN for code 0 and for values of no class."""
        index = {value: number for number, values in enumerate(self.classes.values()) for value in values}
        return np.array([UNKNOWN, *(index.get(value, UNKNOWN) for value in self.values)])

    @cached_property
    def balance(self) -> NDArray[np.float32]:
        """The weight of a review by source and code, (sources, values + 1); 0 where the class is unknown."""
        known = self.class_of_code != UNKNOWN
        counts = np.array(self.counts, np.float64)
        of_classes = np.zeros((len(counts), len(self.classes)))
        np.add.at(of_classes.T, self.class_of_code[known], counts[:, known].T)
        return np.where(known, balance(of_classes)[:, self.class_of_code], 0).astype(np.float32)


def balance(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weight of a review by source and class: classes weigh the same within a source. counts: (sources, classes).

    The weights of a source's reviews sum to their number, except for a class so rare that its weight is cut. A source
    with reviews of only one class, which says more of the source than of the label, weighs nothing.
    """
    present = (counts > 0).sum(axis=1, keepdims=True)
    weights = counts.sum(axis=1, keepdims=True) / (np.maximum(present, 1) * np.maximum(counts, 1))
    return np.where((present > 1) & (counts > 0), np.minimum(weights, _MAX_BALANCE), 0.0)


@dataclass(frozen=True)
class Labelling:
    """Where the labels of a corpus' sources are, and what they mean.

    label_field: the column or key of CSV, JSON lines and Parquet. directory: has a file of the same name for each file
    of text that has labels, packed as that one or not, a line for each of its lines. classes: as in `Labels`; empty for
    a class of each value.
    """

    label_field: str | None = None
    directory: Path | None = None
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Reviews:
    """The reviews of one shard and their labels, looked up by position."""

    def __init__(self, data: NDArray[np.uint8], found: NDArray[np.void], labels: Labels, mean_bytes: float) -> None:
        """data: (bytes,) of the shard; found: (reviews,) of LABELS; mean_bytes: of a review, in the whole corpus."""
        self.starts = np.flatnonzero(data == ord("\n"))
        if len(self.starts) != len(found):
            raise LabelsError(f"there are {len(found)} labels for {len(self.starts)} reviews")
        self.ends = np.append(self.starts[1:], len(data))
        self.classes = np.maximum(labels.class_of_code[found["label"]], 0)
        self.weights = labels.balance[found["source"], found["label"]]
        self._lengths = self.ends - self.starts
        self._scales = (2 * self.weights * np.sqrt(mean_bytes / self._lengths) / self._lengths).astype(np.float32)

    def window(self, begin: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Class and weight of every byte from `begin` to `end`, (bytes,) each; 0 and 0 where the class is unknown.

        Byte k of the n of a review weighs 2(k + 1)/n, later bytes more, times sqrt(mean/n), by which long reviews weigh
        more than short ones, but less than by their bytes; times the balance of classes (Labels.balance).
        """
        first = int(np.searchsorted(self.starts, begin, side="right")) - 1
        last = int(np.searchsorted(self.starts, end, side="left"))
        inside = slice(first, last)
        lengths = np.minimum(self.ends[inside], end) - np.maximum(self.starts[inside], begin)
        places = (np.arange(begin + 1, end + 1) - np.repeat(self.starts[inside], lengths)).astype(np.float32)
        return np.repeat(self.classes[inside], lengths), np.repeat(self._scales[inside], lengths) * places
