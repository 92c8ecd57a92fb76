"""A checkpoint: a directory with `model.safetensors` and `manifest.json` that never change.

Weights whose SHA-256 does not match the manifest (manifest.py) are refused. Weights that pass compute finite numbers:
`_MAX_PARAMETER`.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor

from model.checkpoints.durable import new_directory
from model.checkpoints.manifest import FORMAT_VERSION, MAX_MANIFEST_BYTES, WEIGHTS, Manifest, parse_manifest
from model.checkpoints.untrusted import NOT_SAFETENSORS, brief, read_plain
from model.network.language_model import LanguageModel

MANIFEST = "manifest.json"

_MAX_HEADER_BYTES = 65_536  # of the weights; that of thirteen tensors has some 1,300
# With weight norm every column of a folded matrix is as long as its gain, and |h| <= 1. So with n units, embeddings of
# size e, parameters up to p and steepness s the largest sum, m·Wh, stays below s·e·n·p^4: 3e30 at these limits.
_MAX_PARAMETER = 1e5
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)

# By which a change of a checkpoint's files is noticed: device, inode, size and time of change of each; None: not there.
Fingerprint = tuple[tuple[int, ...] | None, ...]


class CheckpointError(Exception):
    """A checkpoint is missing, damaged or not of this format; the message names the file and the fault."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory: what its manifest says, and the model on the CPU in float32."""

    manifest: Manifest
    model: LanguageModel


def write(final: Path, weights: bytes, manifest: Manifest) -> None:
    """Write the checkpoint `final`: it appears whole and readable, or not at all. weights: the file's bytes.

    Raises CheckpointError.
    """
    with new_directory(final) as temporary:
        (temporary / WEIGHTS).write_bytes(weights)
        record = asdict(manifest) | {"format_version": FORMAT_VERSION}
        try:
            (temporary / MANIFEST).write_text(json.dumps(record, indent=1, allow_nan=False))
        except ValueError as error:
            raise CheckpointError(f"the manifest of {final} holds a number that is not finite") from error
        read(temporary)  # LATEST must never name what cannot be read


def fingerprint(directory: Path) -> Fingerprint:
    """Of a checkpoint, whose files are not read. It changes if a file is written in place or replaced."""
    return tuple(_fingerprint(directory / name) for name in (MANIFEST, WEIGHTS))


def _fingerprint(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def manifest_sha256(directory: Path) -> str:
    """Identifies a checkpoint, its heads and calibration too, in hexadecimal digits. Raises OSError."""
    return hashlib.sha256((directory / MANIFEST).read_bytes()).hexdigest()


def read_manifest(directory: Path) -> Manifest:
    """Parse and check a manifest. Raises CheckpointError."""
    path = directory / MANIFEST
    try:
        return parse_manifest(read_plain(path, MAX_MANIFEST_BYTES))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a valid manifest: {brief(error)}") from error


def read(directory: Path) -> Checkpoint:
    """Load a checkpoint, parameters in float32. Raises CheckpointError if anything does not match its manifest."""
    manifest = read_manifest(directory)
    path = directory / WEIGHTS
    with torch.device("meta"):
        model = LanguageModel(manifest.architecture)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    try:
        content = read_plain(path, 4 * parameters + _MAX_HEADER_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != manifest.sha256[WEIGHTS]:
        raise CheckpointError(
            f"{path} is damaged: its SHA-256 is {digest}, the manifest says {manifest.sha256[WEIGHTS]}"
        )
    try:
        tensors = load(content)
    except NOT_SAFETENSORS as error:
        raise CheckpointError(f"{path} is not a safetensors file: {brief(error)}") from error
    _fill(model, path, tensors)
    return Checkpoint(manifest, model)


def _fill(model: LanguageModel, path: Path, tensors: dict[str, Tensor]) -> None:
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if expected != found:
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        name = wrong[0]
        raise CheckpointError(
            f"{path}: tensor {name[:100]!r} has shape {found.get(name)}, {model.architecture} needs "
            f"{expected.get(name)}"
        )
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise CheckpointError(f"{path}: tensor {name!r} is {tensor.dtype}, not one of {_DTYPES}")
        least, most = (float(value) for value in torch.aminmax(tensor))
        if not -_MAX_PARAMETER <= least <= most <= _MAX_PARAMETER:  # False for NaN
            raise CheckpointError(
                f"{path}: tensor {name!r} holds values that are not finite or beyond {_MAX_PARAMETER:g}: "
                f"{least:g} to {most:g}"
            )
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
