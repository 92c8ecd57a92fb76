"""Published models: `name/step-N/` with `model.safetensors` and `manifest.json`, and the file `LATEST` beside them.

A checkpoint is immutable. It appears whole or not at all, `LATEST` is swapped last, and nothing is read whose
SHA-256 does not match its manifest (manifest.py); no link leads
a reader or a publisher out of the volume. What passes computes finite numbers whatever its weights: `_MAX_PARAMETER`.
Publishers of one volume take turns by its lock file; readers need no lock.
"""

import errno
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from model.durable import exclusively, new_directory, replace_file, sweep
from model.language_model import LanguageModel
from model.manifest import FORMAT_VERSION, MAX_MANIFEST_BYTES, MAX_STEPS, NAME, WEIGHTS, Manifest, parse_manifest
from model.untrusted import NOT_SAFETENSORS, brief, is_whole, read_plain

MANIFEST = "manifest.json"
LATEST = "LATEST"
SHIPPED = Path(__file__).parent / "pretrained"

_LOCK = ".lock"
_PATIENCE_S = 600.0  # with another publisher, who needs seconds to write a checkpoint
_STEP = re.compile(r"step-[0-9]{1,15}")
_MAX_HEADER_BYTES = 65_536  # of the weights; that of thirteen tensors has some 1,300
# With weight norm every column of a folded matrix is as long as its gain, and |h| <= 1. So with n units, embeddings of
# size e, parameters up to p and steepness s the largest sum, m·Wh, stays below s·e·n·p^4: 3e30 at these limits.
_MAX_PARAMETER = 1e5
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

# What tells whether a checkpoint's files have changed: device, inode, size and time of change of each; None: not there.
Fingerprint = tuple[tuple[int, ...] | None, ...]


class CheckpointError(Exception):
    """A checkpoint is missing, damaged or not of this format; the message names the file and the fault."""


@dataclass(frozen=True)
class Checkpoint:
    manifest: Manifest
    model: LanguageModel


def check_place(volume: Path, name: str, step: int, rollback: bool = False) -> None:
    """Raise CheckpointError where `publish` would refuse the name or the step; to be asked before long preparations."""
    if not NAME.fullmatch(name):
        raise CheckpointError(f"name {name!r}: use 1 to 64 of a-z, 0-9, '.', '_', '-', first a letter or digit")
    if not (is_whole(step) and 0 <= step < MAX_STEPS):
        raise CheckpointError(f"step is {step!r}, not a whole number from 0 to {MAX_STEPS - 1}")
    try:
        now = read_manifest(latest(volume))
    except CheckpointError:
        return  # there is no LATEST that could be read, so nothing better is lost
    if now.name == name and now.step > step and not rollback:
        raise CheckpointError(
            f"{volume} serves step {now.step} of {name}, later than step {step}: publish a later step, give this one "
            "another --name, or go back on purpose with --rollback"
        )


def publish(
    volume: Path, model: LanguageModel, manifest: Manifest, dtype: torch.dtype = torch.bfloat16, rollback: bool = False
) -> Path:
    """Write `volume/name/step-N` and make it `LATEST`. The manifest's sha256 is filled in here.

    A step that is there already with the same content is only made `LATEST`: whoever wrote it may have died before
    that. Raises CheckpointError for a name outside [a-z0-9._-], a step that is there already with other content, one
    before the `LATEST` of its name, unless `rollback`, and a full disk, which leaves the volume as it was.
    """
    check_place(volume, manifest.name, manifest.step, rollback)
    weights = save({name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in model.state_dict().items()})
    manifest = replace(manifest, sha256={WEIGHTS: hashlib.sha256(weights).hexdigest()})
    final = volume / manifest.name / f"step-{manifest.step}"
    try:
        volume.mkdir(parents=True, exist_ok=True)
        with _alone_in(volume):
            check_place(volume, manifest.name, manifest.step, rollback)  # LATEST may have moved while we waited
            _check_inside(volume, final)
            sweep(volume)
            sweep(final.parent)
            if final.exists():
                _check_same(final, manifest)
            else:
                _write(final, weights, manifest)
            _swap_latest(final)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        free = shutil.disk_usage(volume).free
        raise CheckpointError(
            f"{final} is not published, for {volume} is full: the weights have {len(weights):,} bytes, {free:,} are "
            f"free ({error.strerror})"
        ) from error
    return final


def make_latest(directory: Path) -> None:
    """Verify a checkpoint that lies in a volume and swap the volume's `LATEST` to it, whatever it was.

    Raises CheckpointError if it is damaged, or not at `NAME/step-N` in the volume.
    """
    volume, name, step = directory.parent.parent, directory.parent.name, directory.name
    if not NAME.fullmatch(name) or not _STEP.fullmatch(step):
        raise CheckpointError(f"{directory} is not at NAME/step-N in a volume")
    _check_inside(volume, directory)
    read(directory)
    with _alone_in(volume):
        _swap_latest(directory)


def published(volume: Path) -> list[Path]:
    """The directories `NAME/step-N` in a volume, by name and then by step; they are not read."""
    there = [
        path for path in volume.glob("*/step-*") if NAME.fullmatch(path.parent.name) and _STEP.fullmatch(path.name)
    ]
    return sorted(there, key=lambda path: (path.parent.name, int(path.name.removeprefix("step-"))))


@contextmanager
def _alone_in(volume: Path) -> Iterator[None]:
    try:
        with exclusively(volume / _LOCK, _PATIENCE_S):
            yield
    except TimeoutError as error:
        raise CheckpointError(f"{volume} is being published to: {error}") from error


def _swap_latest(directory: Path) -> None:
    replace_file(directory.parent.parent / LATEST, f"{directory.parent.name}/{directory.name}\n")


def _write(final: Path, weights: bytes, manifest: Manifest) -> None:
    with new_directory(final) as temporary:
        (temporary / WEIGHTS).write_bytes(weights)
        record = asdict(manifest) | {"format_version": FORMAT_VERSION}
        try:
            (temporary / MANIFEST).write_text(json.dumps(record, indent=1, allow_nan=False))
        except ValueError as error:
            raise CheckpointError(f"the manifest of {final} holds a number that is not finite") from error
        read(temporary)  # LATEST must never name what cannot be read


def _check_same(final: Path, manifest: Manifest) -> None:
    there = read(final).manifest
    differing = [name for name, value in vars(manifest).items() if value != getattr(there, name)]
    if differing:
        raise CheckpointError(
            f"{final} exists already with another {', '.join(differing)}: a checkpoint is never changed, publish a "
            "later step or give this one another --name"
        )


def latest(volume: Path) -> Path:
    """The directory that `LATEST` names. Raises CheckpointError if there is none or it lies outside `volume`."""
    try:
        pointer = read_plain(volume / LATEST, 256).decode("utf-8", errors="replace").strip()
    except OSError as error:
        raise CheckpointError(
            f"{volume} holds no published model: {LATEST} cannot be read ({error.strerror})"
        ) from error
    name, _, step = pointer.partition("/")
    if not NAME.fullmatch(name) or not _STEP.fullmatch(step):
        raise CheckpointError(f"{volume / LATEST} says {pointer!r}, which is not NAME/step-N")
    _check_inside(volume, volume / name / step)
    return volume / name / step


def _check_inside(volume: Path, directory: Path) -> None:
    try:
        place = directory.resolve()
        inside = place.is_relative_to(volume.resolve())
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        raise CheckpointError(f"{directory} cannot be read: {error}") from error
    if not inside:
        raise CheckpointError(f"{directory} is a link to {place}, outside {volume}: put the checkpoint itself there")


def fingerprint(directory: Path) -> Fingerprint:
    """Of the files of a checkpoint, without reading them. A file written in place or replaced has another one."""
    return tuple(_fingerprint(directory / name) for name in (MANIFEST, WEIGHTS))


def _fingerprint(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def resolve(path: Path) -> Path:
    """`path` if it is a checkpoint itself, else what its `LATEST` names. Raises CheckpointError."""
    try:
        return path if (path / MANIFEST).exists() else latest(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


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
        if not -_MAX_PARAMETER <= least <= most <= _MAX_PARAMETER:  # nor is NaN
            raise CheckpointError(
                f"{path}: tensor {name!r} holds values that are not finite or beyond {_MAX_PARAMETER:g}: "
                f"{least:g} to {most:g}"
            )
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
