"""A volume of published checkpoints: `NAME/step-N/` for each, and the file `LATEST` that names the one to serve.

A checkpoint appears whole or not at all, and `LATEST` is swapped last. No link leads a reader or a publisher out of the
volume. Publishers of one volume take turns by its lock file; readers need no lock.
"""

import errno
import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save

from model.checkpoints.checkpoint import MANIFEST, CheckpointError, read, read_manifest, write
from model.checkpoints.durable import exclusively, replace_file, sweep
from model.checkpoints.manifest import MAX_STEPS, NAME, WEIGHTS, Manifest
from model.checkpoints.untrusted import is_whole, read_plain
from model.network.language_model import LanguageModel

LATEST = "LATEST"
SHIPPED = Path(__file__).parent.parent / "pretrained"

_LOCK = ".lock"
_PATIENCE_S = 600.0  # that another publisher may hold the lock; it needs seconds to write a checkpoint
_STEP = re.compile(r"step-[0-9]{1,15}")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def check_place(volume: Path, name: str, step: int, rollback: bool = False) -> None:
    """Raise CheckpointError where `publish` would refuse the name or the step; call it before long preparations."""
    if not NAME.fullmatch(name):
        raise CheckpointError(f"name {name!r}: use 1 to 64 of a-z, 0-9, '.', '_', '-', first a letter or digit")
    if not (is_whole(step) and 0 <= step < MAX_STEPS):
        raise CheckpointError(f"step is {step!r}, not a whole number from 0 to {MAX_STEPS - 1}")
    try:
        now = read_manifest(latest(volume))
    except CheckpointError:
        return  # no LATEST can be read, so nothing better is replaced
    if now.name == name and now.step > step and not rollback:
        raise CheckpointError(
            f"{volume} serves step {now.step} of {name}, later than step {step}: publish a later step, give this one "
            "another --name, or go back on purpose with --rollback"
        )


def publish(
    volume: Path, model: LanguageModel, manifest: Manifest, dtype: torch.dtype = torch.bfloat16, rollback: bool = False
) -> Path:
    """Write `volume/name/step-N` and make it `LATEST`. The manifest's sha256 is filled in here.

    A step that is there already with the same content is only made `LATEST`: its publisher may have died before
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
            check_place(volume, manifest.name, manifest.step, rollback)  # LATEST may have moved during the wait
            _check_inside(volume, final)
            sweep(volume)
            sweep(final.parent)
            if final.exists():
                _check_same(final, manifest)
            else:
                write(final, weights, manifest)
            _swap_latest(final)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        free = shutil.disk_usage(volume).free
        raise CheckpointError(
            f"{final} is not published, because {volume} is full: the weights have {len(weights):,} bytes, "
            f"{free:,} are free ({error.strerror})"
        ) from error
    return final


def make_latest(directory: Path) -> None:
    """Verify a checkpoint that lies in a volume and swap the volume's `LATEST` to it, also to an earlier step.

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
    """Holds the lock of the volume: no other process publishes in it. Raises CheckpointError."""
    try:
        with exclusively(volume / _LOCK, _PATIENCE_S):
            yield
    except TimeoutError as error:
        raise CheckpointError(f"{volume} is being published to: {error}") from error


def _swap_latest(directory: Path) -> None:
    replace_file(directory.parent.parent / LATEST, f"{directory.parent.name}/{directory.name}\n")


def _check_same(final: Path, manifest: Manifest) -> None:
    """Raise CheckpointError unless the checkpoint that is there already is whole and has this manifest."""
    there = read(final).manifest
    differing = [name for name, value in vars(manifest).items() if value != getattr(there, name)]
    if differing:
        raise CheckpointError(
            f"{final} exists already with another {', '.join(differing)}: a checkpoint is never changed, publish a "
            "later step or give this one another --name"
        )


def latest(volume: Path) -> Path:
    """The directory that `LATEST` names. Raises CheckpointError if it cannot be read or lies outside `volume`."""
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


def resolve(path: Path) -> Path:
    """`path` if it is a checkpoint itself, else what its `LATEST` names. Raises CheckpointError."""
    try:
        return path if (path / MANIFEST).exists() else latest(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
