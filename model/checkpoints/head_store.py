"""Heads that users fitted: a directory with a file `NAME.json` for each, beside the checkpoints they belong to.

A head's weights mean something only on the features of one checkpoint, so the file names it, with the SHA-256 of its
weights. A file appears whole or not at all and is never changed: to replace a head, delete it first. Anybody may
have written it, so it is read with a bounded size, as strict JSON, checked field by field; no link is followed.

A directory `NAME.rnn` beside them is a recurrent classifier: listed and deleted here, read by recurrent/published.py.
"""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model.checkpoints.durable import exclusively, make, replace_file, sweep
from model.checkpoints.manifest import MAX_UNITS, NAME, SHA256, WEIGHTS, Manifest, parse_head
from model.checkpoints.untrusted import brief, is_finite, is_text, is_whole, parse_json, read_plain, require
from model.heads.classifier import Head
from model.heads.cross_validation import Fitted, accuracy_interval
from model.heads.pooling import Pooling

FORMAT_VERSION = 2
_READ = (1, 2)  # version 1 knew no confusion matrix
MAX_HEADS = 1000  # every worker reads all of them at every poll, and reports all of them
MAX_LABELS = 100
MAX_LABEL_CHARACTERS = 100

# 100 labels on all of 16,384 units take some 22 MB, and ten times as much while they are parsed.
_MAX_FILE_BYTES = 32 * 2**20
_SUFFIX = ".json"
RECURRENT = ".rnn"  # ends the name of a directory
_LOCK = ".lock"
_PATIENCE_S = 60.0  # that another writer may hold the lock; it needs milliseconds
_MAX_COUNT = 10**15

Fingerprint = tuple[int, int, int, int]  # device, inode, size and time of change of a file


class HeadStoreError(Exception):
    """A head is missing, damaged or cannot be kept; the message names the file and the fault."""


class NoSuchHeadError(HeadStoreError):
    """There is no head of that name."""


class HeadExistsError(HeadStoreError):
    """There is one already, which is never overwritten."""


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


def check_name(name: str) -> None:
    """Raises HeadStoreError."""
    if not NAME.fullmatch(name):
        raise HeadStoreError(f"name {name!r}: use 1 to 64 of a-z, 0-9, '.', '_', '-', first a letter or digit")


def names(directory: Path) -> dict[str, Fingerprint]:
    """The fingerprint of each head by name; empty where there is no directory. Raises HeadStoreError."""
    found = {}
    try:
        _check_directory(directory)
        with os.scandir(directory) as entries:
            for entry in entries:
                name, dot, suffix = entry.name.rpartition(".")
                if dot + suffix in (_SUFFIX, RECURRENT) and NAME.fullmatch(name):
                    found[name] = _fingerprint(entry.stat(follow_symlinks=False))
                    if len(found) > MAX_HEADS:
                        raise HeadStoreError(f"{directory} holds more than {MAX_HEADS} heads: delete some")
    except FileNotFoundError:
        return found  # the directory, or a file that was deleted meanwhile: the next look finds the rest
    except OSError as error:
        raise HeadStoreError(f"{directory} cannot be read: {error.strerror}") from error
    return found


def fingerprint(directory: Path, name: str) -> Fingerprint:
    """The fingerprint of a head, which is not read. Raises NoSuchHeadError, HeadStoreError."""
    path = _place(directory, name)
    try:
        return _fingerprint(path.lstat())
    except FileNotFoundError as error:
        raise NoSuchHeadError(f"{directory} holds no head {name!r}") from error
    except OSError as error:
        raise HeadStoreError(f"{path} cannot be read: {error.strerror}") from error


def is_recurrent(directory: Path, name: str) -> bool:
    """Whether the head of that name is a recurrent classifier, which `read` does not read. Raises HeadStoreError."""
    return _place(directory, name).name.endswith(RECURRENT)


def _place(directory: Path, name: str) -> Path:
    """The head's directory where it has one, else its file, which need not be there. Raises HeadStoreError."""
    check_name(name)
    place = directory / (name + RECURRENT)
    return place if place.is_dir() or place.is_symlink() else directory / (name + _SUFFIX)


def read(directory: Path, name: str) -> StoredHead:
    """The head of that name. Raises NoSuchHeadError, or HeadStoreError for a file that does not hold it."""
    check_name(name)
    path = directory / (name + _SUFFIX)
    try:
        _check_directory(directory)
        content = read_plain(path, _MAX_FILE_BYTES)
    except FileNotFoundError as error:
        raise NoSuchHeadError(f"{directory} holds no head {name!r}") from error
    except OSError as error:
        raise HeadStoreError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return _parse(name, parse_json(content))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise HeadStoreError(f"{path} is not a valid head: {brief(error)}") from error


def check_writable(directory: Path) -> None:
    """Raise HeadStoreError where this process may not `create` and `delete`; call it before long work."""
    _check_directory(directory)
    place = directory
    while not place.exists() and place != place.parent:
        place = place.parent
    if not os.access(place, os.W_OK | os.X_OK):
        raise HeadStoreError(f"{directory} cannot be written: heads need a directory of their own that can")


@contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Holds the lock of the directory: no other process creates or deletes a head. Raises HeadStoreError."""
    try:
        _check_directory(directory)
        make(directory)
        with exclusively(directory / _LOCK, _PATIENCE_S):
            yield
    except (OSError, TimeoutError) as error:
        raise HeadStoreError(f"{directory} cannot be written: {error}") from error


def create(directory: Path, stored: StoredHead) -> None:
    """Write the head's file, inside `alone_in`. Raises HeadExistsError, HeadStoreError, OSError (a full disk)."""
    check_name(stored.name)
    record = asdict(stored) | {"format_version": FORMAT_VERSION}
    del record["head"]["calibration"]  # which no head that users fit has
    content = json.dumps(record, allow_nan=False)
    if len(content) > _MAX_FILE_BYTES:
        raise HeadStoreError(
            f"head {stored.name!r} takes {len(content):,} bytes, more than the {_MAX_FILE_BYTES:,} allowed: use fewer "
            "labels"
        )
    _parse(stored.name, parse_json(content.encode()))  # it must be readable
    make_room(directory, stored.name)
    replace_file(directory / (stored.name + _SUFFIX), content)


def make_room(directory: Path, name: str) -> None:
    """For a new head, inside `alone_in`; deletes what killed writers left. Raises HeadExistsError, HeadStoreError."""
    there = names(directory)
    if name in there or _place(directory, name).exists():
        raise HeadExistsError(f"there is a head {name!r} already: delete it first, or choose another name")
    if len(there) >= MAX_HEADS:
        raise HeadStoreError(f"{directory} holds {MAX_HEADS} heads, which is the most: delete some")
    sweep(directory)


def delete(directory: Path, name: str) -> None:
    """Delete the head, inside `alone_in`. Raises NoSuchHeadError, OSError."""
    place = _place(directory, name)
    try:
        if place.is_symlink() or not place.is_dir():
            place.unlink()
            return
        # Under its name it is there whole or not at all; what is left of it when this is killed is swept later.
        going = directory / f".{name}.{uuid.uuid4().hex}.partial"
        place.rename(going)
        shutil.rmtree(going)
    except FileNotFoundError as error:
        raise NoSuchHeadError(f"{directory} holds no head {name!r}") from error


def _fingerprint(found: os.stat_result) -> Fingerprint:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _check_directory(directory: Path) -> None:
    if directory.is_symlink():
        raise HeadStoreError(f"{directory} is a link to {directory.readlink()}: name the directory itself")


def _parse(name: str, raw: Any) -> StoredHead:
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
