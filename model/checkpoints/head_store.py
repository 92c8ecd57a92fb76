"""Heads that users fitted: a directory with a file `NAME.json` for each, beside the checkpoints they belong to.

A head's weights mean something only on the features of one checkpoint, so the file names it, with the SHA-256 of its
weights. A file appears whole or not at all and is never changed: to replace a head, delete it first. Anybody may
have written it, so it is read with a bounded size, as strict JSON, checked field by field (stored_head.py); no link is
followed.

A directory `NAME.rnn` beside them is a recurrent classifier: listed and deleted here, read by recurrent/published.py.
"""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from model.checkpoints.durable import exclusively, make, replace_file, sweep
from model.checkpoints.manifest import NAME
from model.checkpoints.stored_head import FORMAT_VERSION, StoredHead, parse
from model.checkpoints.untrusted import brief, parse_json, read_plain

MAX_HEADS = 1000  # every worker reads all of them at every poll, and reports all of them

# 100 labels on all of 16,384 units take some 22 MB, and ten times as much while they are parsed.
_MAX_FILE_BYTES = 32 * 2**20
_SUFFIX = ".json"
RECURRENT = ".rnn"  # ends the name of a directory
_LOCK = ".lock"
_PATIENCE_S = 60.0  # that another writer may hold the lock: milliseconds, for a recurrent classifier seconds

Fingerprint = tuple[int, int, int, int]  # device, inode, size and time of change


class HeadStoreError(Exception):
    """A head is missing, damaged or cannot be kept; the message names the file and the fault."""


class NoSuchHeadError(HeadStoreError):
    """There is no head of that name."""


class HeadExistsError(HeadStoreError):
    """There is one already, which is never overwritten."""


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
                known = dot + suffix == (RECURRENT if entry.is_dir(follow_symlinks=False) else _SUFFIX)
                if known and NAME.fullmatch(name):
                    found[name] = _fingerprint(Path(entry.path))
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
        return _fingerprint(path)
    except FileNotFoundError as error:
        raise NoSuchHeadError(f"{directory} holds no head {name!r}") from error
    except OSError as error:
        raise HeadStoreError(f"{path} cannot be read: {error.strerror}") from error


def is_recurrent(directory: Path, name: str) -> bool:
    """Whether the head of that name is a recurrent classifier, which `read` does not read. Raises NoSuchHeadError."""
    return _place(directory, name).name.endswith(RECURRENT)


def _place(directory: Path, name: str) -> Path:
    """The head's directory where it has one, else its file, which need not be there.

    Raises NoSuchHeadError for a name that no head can have.
    """
    if not NAME.fullmatch(name):
        raise NoSuchHeadError(f"{directory} holds no head {name!r}")
    place = directory / (name + RECURRENT)
    return place if place.is_dir() and not place.is_symlink() else directory / (name + _SUFFIX)


def read(directory: Path, name: str) -> StoredHead:
    """The head of that name. Raises NoSuchHeadError, or HeadStoreError for a file that does not hold it."""
    path = _place(directory, name).with_name(name + _SUFFIX)
    try:
        _check_directory(directory)
        content = read_plain(path, _MAX_FILE_BYTES)
    except FileNotFoundError as error:
        raise NoSuchHeadError(f"{directory} holds no head {name!r}") from error
    except OSError as error:
        raise HeadStoreError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return parse(name, parse_json(content))
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
    parse(stored.name, parse_json(content.encode()))  # it must be readable
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
        if not place.is_dir():
            place.unlink()
            return
        # Under its name it is there whole or not at all; what is left of it when this is killed is swept later.
        going = directory / f".{name}.{uuid.uuid4().hex}.partial"
        place.rename(going)
        shutil.rmtree(going)
    except FileNotFoundError as error:
        raise NoSuchHeadError(f"{directory} holds no head {name!r}") from error


def _fingerprint(path: Path) -> Fingerprint:
    """Of a directory its files count too: one that is copied by hand is there before they are whole."""
    found = path.lstat()
    files: list[os.stat_result] = []
    if path.is_dir():
        with suppress(PermissionError):  # whoever reads it is told
            files = [entry.stat(follow_symlinks=False) for entry in os.scandir(path)]
    sizes, changes = ([getattr(one, name) for one in (found, *files)] for name in ("st_size", "st_mtime_ns"))
    return found.st_dev, found.st_ino, sum(sizes), max(changes)


def _check_directory(directory: Path) -> None:
    if directory.is_symlink():
        raise HeadStoreError(f"{directory} is a link to {directory.readlink()}: name the directory itself")
