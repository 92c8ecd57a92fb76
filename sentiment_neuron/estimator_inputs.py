"""What scikit-learn's estimators of texts take: texts and labels, checked, and the tags that say so."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Tags, check_consistent_length, column_or_1d

from sentiment_neuron.columns import column
from texts.records import not_of_the_encoding


def of_texts(tags: Tags) -> Tags:
    """Tags that say that an estimator takes texts, not numbers."""
    tags.input_tags.string = True
    tags.input_tags.two_d_array = False
    tags.input_tags.one_d_array = True
    tags.requires_fit = True
    return tags


def labels_of(y: Any) -> Any:
    """Labels as scikit-learn takes them; a generator's as a list. Raises ValueError for one that is missing."""
    listed = list(y) if isinstance(y, Iterator) else y
    for number, label in enumerate(listed if isinstance(listed, Iterable) else ()):
        if label is None or type(label).__name__ == "NAType" or (isinstance(label, float) and label != label):
            raise ValueError(f"label {number} is missing ({label})")
    return listed


def checked(texts: Iterable[str]) -> list[str]:
    """The texts, one at least. Raises TypeError for what is no column of strings, and ValueError."""
    try:
        found = column(texts)
    except TypeError as error:
        raise TypeError(f"texts is {error}") from error
    for number, text in enumerate(found):
        if not isinstance(text, str):
            missing = " (missing?)" if text is None or (isinstance(text, float) and text != text) else ""
            raise TypeError(f"text {number} is {type(text).__name__}{missing}, not str: give a column of texts")
        if fault := not_of_the_encoding(text, None):
            raise ValueError(f"text {number} cannot be read: {fault}")
    if not found:
        raise ValueError("there are 0 texts, at least 1 is needed")
    return found


def checked_with(texts: Iterable[str], y: Iterable[object]) -> tuple[list[str], NDArray[Any]]:
    """The texts and as many labels, (texts,). Raises as `checked` and `labels_of`."""
    found = checked(texts)
    if y is None:
        raise ValueError("fit requires y to be passed, but the target y is None")
    labels = column_or_1d(labels_of(y), warn=True)
    check_consistent_length(found, labels)
    return found, labels


def plain(value: Any) -> Any:
    """A number of numpy, as a search over parameters gives them, as Python's."""
    return value.item() if isinstance(value, np.generic) else value
