"""Recurrent classifiers that are served, in the directory of heads (model/checkpoints/head_store.py)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.checkpoints import head_store
from model.checkpoints.head_store import RECURRENT, HeadStoreError, NoSuchHeadError
from model.checkpoints.stored_head import MAX_LABEL_CHARACTERS, MAX_LABELS
from model.heads.cross_validation import accuracy_interval
from recurrent import storage
from recurrent.classifier import Recurrent
from recurrent.storage import StorageError


@dataclass(frozen=True)
class Published:
    """A classifier and its name. made_by: as of a head; such a classifier comes from the command line alone."""

    name: str
    model: Recurrent
    made_by: str = ""

    @property
    def labels(self) -> list[str]:
        return [str(label) for label in self.model.labels]

    def listed(self) -> dict[str, Any]:
        """As the service lists it among heads."""
        best = self.model.best
        accuracy = None if best is None else best.valid_score
        held_out = max(1, self.model.held_out)
        return {
            "name": self.name,
            "kind": "recurrent",
            "checkpoint": None,
            "labels": self.labels,
            "examples": self.model.examples + self.model.held_out,
            "unit_only": False,
            "pooling": None,
            "accuracy": accuracy,
            "accuracy_interval": None if accuracy is None else accuracy_interval(accuracy, held_out),
            "accuracy_deviation": None,
            "confusion": None,
            "folds": 0,
            "c": None,
            "nonzero_units": 0,
            "top_units": [],
            "created": self.model.created,
        }


def publish(source: Path, heads: Path, name: str) -> Published:
    """Copy the classifier that `neuron rnn fit` wrote to a directory of heads.

    Raises StorageError, HeadExistsError, HeadStoreError for one that cannot be served, and OSError.
    """
    head_store.check_name(name)
    model = storage.read(source, "cpu")
    published = Published(name, model)
    _check(published, source)
    with head_store.alone_in(heads):
        head_store.make_room(heads, name)
        storage.write(heads / (name + RECURRENT), model)
    return published


def read(heads: Path, name: str, device: str = "auto") -> Published:
    """Raises NoSuchHeadError, HeadStoreError."""
    return _read(heads, name, lambda place: storage.read(place, device))


def describe(heads: Path, name: str) -> Published:
    """What is known of it without its weights, which are not read. Raises as `read`."""
    return _read(heads, name, storage.describe)


def _read(heads: Path, name: str, read_from: Callable[[Path], Recurrent]) -> Published:
    place = heads / (name + RECURRENT)
    if place.is_symlink() or heads.is_symlink():
        raise HeadStoreError(f"{place} is reached by a link: name the directory itself")
    try:
        published = Published(name, read_from(place))
    except (StorageError, ValueError) as error:
        if not place.exists():
            raise NoSuchHeadError(f"{heads} holds no head {name!r}") from error
        raise HeadStoreError(str(error)) from error
    _check(published, place)
    return published


def _check(published: Published, place: Path) -> None:
    """As heads are limited. Raises HeadStoreError."""
    if published.model.kind == "value":
        raise HeadStoreError(f"{place} answers a number, and the service answers labels")
    labels = published.labels
    if len(labels) > MAX_LABELS or not all(0 < len(label) <= MAX_LABEL_CHARACTERS for label in labels):
        raise HeadStoreError(
            f"{place} has {len(labels)} labels: 2 to {MAX_LABELS} of 1 to {MAX_LABEL_CHARACTERS} characters are served"
        )
    if len(set(labels)) != len(labels):
        raise HeadStoreError(f"{place} has labels that are spelt alike")
