"""A classifier on disk: a directory with `weights.safetensors` and `classifier.json`, never pickle.

It appears whole or not at all and is never changed. Anybody may have written one, so it is read with bounded sizes, as
strict JSON, checked field by field; weights whose SHA-256 is another are refused, and no link is followed.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import load, save

from model.checkpoints.durable import new_directory
from model.checkpoints.untrusted import (
    NOT_SAFETENSORS,
    brief,
    is_finite,
    is_text,
    is_whole,
    parse_json,
    read_plain,
    require,
)
from recurrent import options as options_
from recurrent.classifier import MAX_PARAMETERS, Label, Recurrent, chosen_device
from recurrent.learning import MAX_PARAMETER, Epoch
from recurrent.network import Network
from recurrent.targets import Kind, kind_of, outputs_of
from recurrent.tokens import Bytes, Words

DESCRIPTION, WEIGHTS = "classifier.json", "weights.safetensors"
FORMAT_VERSION = 1
MAX_LABELS = 1000

_MAX_DESCRIPTION_BYTES = 64 * 2**20  # a million words
_MAX_HEADER_BYTES = 65_536  # of the weights
_MAX_TEXTS = 10**15


class StorageError(Exception):
    """A stored classifier is missing, damaged or not of this format; the message names the file and the fault."""


def write(directory: Path, model: Recurrent) -> None:
    """Write the classifier. Raises FileExistsError where there is something already, StorageError and OSError."""
    check(directory, model.kind, model.labels)
    weights = save({name: value.contiguous().cpu() for name, value in model.network.state_dict().items()})
    record = {
        "format_version": FORMAT_VERSION,
        "kind": model.kind,
        "labels": model.labels,
        "options": asdict(model.options),
        "center": model.center,
        "spread": model.spread,
        "examples": model.examples,
        "held_out": model.held_out,
        "history": [asdict(epoch) for epoch in model.history],
        "created": model.created,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "words": model.vocabulary.words,
    }
    with new_directory(directory) as temporary:
        (temporary / WEIGHTS).write_bytes(weights)
        (temporary / DESCRIPTION).write_text(
            json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False), encoding="utf-8"
        )
        read(temporary, "cpu")  # what is kept can be read again


def check(directory: Path, kind: Kind, labels: list[Label]) -> None:
    """Raise StorageError where a classifier with these labels cannot be stored; call it before long work."""
    try:
        _check_labels(kind, labels)
    except ValueError as error:
        raise StorageError(f"{directory} cannot be written: {error}") from error


def read(directory: Path, device: str = "auto") -> Recurrent:
    """Raises StorageError, and ValueError for a device that is not there."""
    model, digest = _read(directory)
    _fill(model.network, directory / WEIGHTS, digest)
    model.network.to(chosen_device(device))
    return model


def describe(directory: Path) -> Recurrent:
    """Without its weights, which are not read: it answers nothing. Raises StorageError."""
    return _read(directory)[0]


def _read(directory: Path) -> tuple[Recurrent, str]:
    """The classifier with an empty network, and the SHA-256 of its weights."""
    path = directory / DESCRIPTION
    try:
        record = parse_json(read_plain(path, _MAX_DESCRIPTION_BYTES))
        return _described(record), record["sha256"]
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StorageError(f"{path} is not a recurrent classifier: {brief(error)}") from error


def sha256(directory: Path) -> str:
    """Identifies a stored classifier, in hexadecimal digits. Raises OSError."""
    return hashlib.sha256((directory / DESCRIPTION).read_bytes()).hexdigest()


def _described(record: Any) -> Recurrent:
    """The classifier with an empty network, which has no memory yet."""
    require(isinstance(record, dict), "not a JSON object")
    version = record["format_version"]
    require(version == FORMAT_VERSION, f"format version {version!r}, this program reads {FORMAT_VERSION}")
    options = options_.parse(record["options"])
    kind, labels, words = record["kind"], record["labels"], record["words"]
    _check_labels(kind, labels)
    require(
        isinstance(words, list)
        and len(words) <= options.max_features
        and all(isinstance(word, str) for word in words)
        and len(set(words)) == len(words),
        f"words are not a list of {options.max_features:,} different ones at most",
    )
    for name in ("center", "spread", "created"):
        require(is_finite(record[name]), f"{name} is {record[name]!r}, not a number")
    require(record["spread"] > 0, "spread is not above 0")
    for name in ("examples", "held_out"):
        require(is_whole(record[name]) and 0 <= record[name] < _MAX_TEXTS, f"{name} is not a number of texts")
    require(isinstance(record["sha256"], str), "sha256 is not a SHA-256")
    vocabulary = Bytes() if options.tokens == "bytes" else Words(words)
    with torch.device("meta"):
        network = Network(options, vocabulary.size, outputs_of(kind, len(labels)))
    return Recurrent(
        options,
        kind,
        labels,
        vocabulary,
        network,
        record["center"],
        record["spread"],
        record["examples"],
        record["held_out"],
        [_epoch(kind, epoch) for epoch in record["history"]],
        record["created"],
    )


def _check_labels(kind: Kind, labels: list[Label]) -> None:
    require(kind in get_args(Kind), f"kind is {kind!r}")
    require(isinstance(labels, list), "its labels are not a list")
    require(len(labels) <= MAX_LABELS, f"its labels are {len(labels):,}, more than {MAX_LABELS:,}")
    require(
        all(is_text(label) or isinstance(label, bool) or is_finite(label) for label in labels)
        and len(set(labels)) == len(labels),
        "its labels are not different words, without control characters, or numbers",
    )
    require(
        not labels if kind == "value" else len(labels) >= 2 and kind_of(len(labels)) == kind,
        "its labels are not those of its kind",
    )


def _epoch(kind: Kind, raw: dict[str, Any]) -> Epoch:
    numbers = [value for name, value in raw.items() if not (name.startswith("valid_") and value is None)]
    require(all(is_finite(value) for value in numbers), "history is not made of numbers")
    epoch = Epoch(**raw)
    score = epoch.valid_score
    require(kind == "value" or score is None or 0 <= score <= 1, "history has an accuracy that is none")
    return epoch


def _fill(network: Network, path: Path, expected_sha256: str) -> None:
    """Replace the parameters, which have no memory yet."""
    parameters = network.size
    if parameters > MAX_PARAMETERS:
        raise StorageError(f"{path} would have {parameters:,} parameters, more than the {MAX_PARAMETERS:,} allowed")
    try:
        content = read_plain(path, 4 * parameters + _MAX_HEADER_BYTES)
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected_sha256:
        raise StorageError(f"{path} is damaged: its SHA-256 is {digest}, {DESCRIPTION} says {expected_sha256}")
    try:
        tensors = load(content)
    except NOT_SAFETENSORS as error:
        raise StorageError(f"{path} is not a safetensors file: {brief(error)}") from error
    expected = {name: value.shape for name, value in network.state_dict().items()}
    if {name: value.shape for name, value in tensors.items()} != expected:
        raise StorageError(f"{path} does not hold the parameters that {DESCRIPTION} describes")
    for name, value in tensors.items():
        if value.dtype != torch.float32 or not bool((value.abs() <= MAX_PARAMETER).all()):
            raise StorageError(f"{path}: {name} is not made of float32 numbers up to {MAX_PARAMETER:g}")
    network.load_state_dict(tensors, assign=True)
    network.eval()
