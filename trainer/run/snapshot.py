"""Snapshots: all that a training run needs to continue exactly where it was, as safetensors and JSON.

A snapshot is a directory `step-N` with `tensors.safetensors` and `progress.json`, which holds the SHA-256 of the
former. It appears whole or not at all. The tensors are

    model.NAME             every parameter
    read_out.NAME          those of the read-outs of labels, if the run has labels
    optimizer.KEY.NAME     whatever the optimizer keeps for that parameter
    state.cell, .hidden    (lanes, units), the carried state of all lanes in their order
    random.cpu, .cuda      states of torch's generators

Nothing in it depends on the number of processes that wrote it.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.checkpoints.durable import new_directory, sweep
from model.checkpoints.untrusted import NOT_SAFETENSORS, brief, open_plain, parse_json, read_plain
from model.network.cells import State
from model.network.language_model import Architecture, LanguageModel
from model.network.objective import Objective
from trainer.run.lanes import Cursor

TENSORS = "tensors.safetensors"
PROGRESS = "progress.json"

_MAX_PROGRESS_BYTES = 16 * 2**20  # 300,000 lanes

_Count = Annotated[int, Field(strict=True, ge=0, lt=10**15)]
_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class SnapshotError(Exception):
    """A snapshot is missing or damaged; the message names the file and the fault."""


@dataclass
class Progress:
    """How far a run is. bytes_seen counts predicted bytes over all lanes."""

    step: _Count = 0
    bytes_seen: _Count = 0
    skipped_steps: _Count = 0
    seconds: _Number = 0.0
    validation_bits_per_byte: _Number | None = None  # of the last validation
    validation_step: _Count | None = None  # the step after which that was measured
    best_validation_bits_per_byte: _Number | None = None
    validation_label_accuracy: _Number | None = None  # of labels, at that step, by all units
    validation_unit_accuracy: _Number | None = None  # and by the sentiment unit alone


@dataclass(frozen=True)
class _Record:
    """What `progress.json` holds."""

    progress: Progress
    cursors: list[Cursor]
    sha256: dict[str, str]


@dataclass(frozen=True)
class Snapshot:
    """A snapshot in memory. cursors: one for each of all lanes."""

    tensors: dict[str, Tensor]
    cursors: list[Cursor]
    progress: Progress


def gathered(objective: Objective, optimizers: Iterable[torch.optim.Optimizer], state: State) -> dict[str, Tensor]:
    """The tensors of a snapshot, not copied: a GRU's hidden is its cell. state: of all lanes."""
    tensors = {"state.cell": state.cell, "state.hidden": state.hidden, "random.cpu": torch.get_rng_state()}
    if state.cell.is_cuda:
        tensors["random.cuda"] = torch.cuda.get_rng_state(state.cell.device)
    names: dict[Tensor, str] = {parameter: name for name, parameter in objective.named_parameters()}
    for parameter, name in names.items():
        tensors[name] = parameter.detach()
    for optimizer in optimizers:
        for parameter, kept in optimizer.state.items():
            for key, value in kept.items():
                tensors[f"optimizer.{key}.{names[parameter].removeprefix('model.')}"] = value
    return tensors


def write(directory: Path, snapshot: Snapshot) -> Path:
    """Write `directory/step-N`, durably. Its tensors must be on the CPU and share no memory. No other process may write
    there.

    Raises OSError.
    """
    sweep(directory)
    final = directory / f"step-{snapshot.progress.step}"
    with new_directory(final) as temporary:
        try:
            save_file({name: tensor.contiguous() for name, tensor in snapshot.tensors.items()}, temporary / TENSORS)
        except SafetensorError as error:  # what becomes of a full disk there
            raise OSError(f"{final} cannot be written: {error}") from error
        record = {
            "progress": asdict(snapshot.progress),
            "cursors": [asdict(cursor) for cursor in snapshot.cursors],
            "sha256": {TENSORS: _sha256(temporary / TENSORS)},
        }
        (temporary / PROGRESS).write_text(json.dumps(record))
    return final


def prune(directory: Path, keep: int, protected: Collection[Path] = ()) -> None:
    """Delete all but the newest `keep`, the best and the `protected`."""
    kept = {best(directory), *protected}
    for old in snapshots(directory)[:-keep]:
        if old not in kept:
            # Renamed first: half-deleted it must not pass for a snapshot. `sweep` deletes what a killed process left.
            shutil.rmtree(old.rename(old.with_name(f".{old.name}.partial")))


def snapshots(directory: Path) -> list[Path]:
    """The complete snapshots of a run, oldest first."""
    found = [path for path in directory.glob("step-*") if re.fullmatch("step-[0-9]+", path.name)]
    return sorted(found, key=step_of)


def step_of(snapshot: Path) -> int:
    return int(snapshot.name.removeprefix("step-"))


def best(directory: Path) -> Path | None:
    """Of the snapshots that were validated at their own step, the one with the fewest bits per byte."""
    values = {}
    for path in snapshots(directory):
        try:
            progress, _, _ = read_progress(path)
        except SnapshotError:  # a caller that loads it gets this error
            continue
        value = progress.validation_bits_per_byte
        if value is not None and progress.validation_step == progress.step:
            values[path] = value
    return min(values, key=values.__getitem__, default=None)


def read_progress(snapshot: Path) -> tuple[Progress, list[Cursor], dict[str, str]]:
    """Progress, the cursors of all lanes and the SHA-256 of each other file."""
    path = snapshot / PROGRESS
    try:
        record = TypeAdapter(_Record).validate_python(parse_json(read_plain(path, _MAX_PROGRESS_BYTES)))
        if any(not 0 <= count < 10**15 for cursor in record.cursors for count in vars(cursor).values()):
            raise ValueError("a cursor is outside its lane")
        return record.progress, record.cursors, record.sha256
    except OSError as error:
        raise SnapshotError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise SnapshotError(f"{path} is damaged: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except ValueError as error:
        raise SnapshotError(f"{path} is damaged: {brief(error)}") from error


def verify(snapshot: Path) -> None:
    """Raises SnapshotError unless every byte is as it was written."""
    _, _, sha256 = read_progress(snapshot)
    path = snapshot / TENSORS
    try:
        found = _sha256(path)
    except OSError as error:
        raise SnapshotError(f"{path} cannot be read: {error.strerror}") from error
    if found != sha256.get(TENSORS):
        raise SnapshotError(f"{path} is damaged: its SHA-256 is {found}, {PROGRESS} says {sha256.get(TENSORS)}")


def load(
    snapshot: Path, objective: Objective, optimizers: Iterable[torch.optim.Optimizer]
) -> tuple[State, list[Cursor], Progress]:
    """Restore `objective`, `optimizers` and torch's generators in place; state, on the CPU, and cursors: of all lanes.

    Trusts the tensors' bytes: `verify` first. Raises SnapshotError if they do not fit.
    """
    progress, cursors, _ = read_progress(snapshot)
    path, tensors = snapshot / TENSORS, _tensors(snapshot)
    _restore(snapshot, objective, tensors)
    names = {name.removeprefix("model."): parameter for name, parameter in objective.named_parameters()}
    kept: dict[Tensor, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, _, rest = key.partition(".")
        moment, _, name = rest.partition(".")
        if kind != "optimizer":
            continue
        if name not in names or value.shape not in (names[name].shape, ()) or not value.isfinite().all():
            raise SnapshotError(f"{path}: {key[:100]!r} of shape {tuple(value.shape)} belongs to no parameter")
        kept.setdefault(names[name], {})[moment] = value.to(names[name].device)
    for optimizer in optimizers:
        for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
            if parameter in kept:
                optimizer.state[parameter] = kept[parameter]
    shape = (len(cursors), objective.model.architecture.units)
    for key in ("state.cell", "state.hidden"):
        part = tensors.get(key)
        if part is None or part.shape != shape or part.dtype != torch.float32 or not part.isfinite().all():
            raise SnapshotError(f"{path}: {key} is not {shape} finite float32 values")
    device = next(objective.parameters()).device
    try:
        torch.set_rng_state(tensors["random.cpu"])
        if device.type == "cuda" and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], device)
    except (KeyError, RuntimeError, TypeError) as error:
        raise SnapshotError(
            f"{path}: random.cpu or random.cuda is not the state of a generator: {brief(error)}"
        ) from error
    return State(tensors["state.cell"], tensors["state.hidden"]), cursors, progress


def read_model(snapshot: Path, architecture: Architecture) -> LanguageModel:
    """The weights of a snapshot alone, on the CPU, verified."""
    verify(snapshot)
    with torch.device("meta"):
        model = LanguageModel(architecture)
    model.to_empty(device="cpu")
    _restore(snapshot, Objective(model), _tensors(snapshot))
    return model


def _tensors(snapshot: Path) -> dict[str, Tensor]:
    try:
        return load_file(snapshot / TENSORS)
    except OSError as error:
        raise SnapshotError(f"{snapshot / TENSORS} cannot be read: {error.strerror}") from error
    except NOT_SAFETENSORS as error:
        raise SnapshotError(f"{snapshot / TENSORS} is not a safetensors file: {brief(error)}") from error


@torch.no_grad()
def _restore(snapshot: Path, objective: Objective, tensors: dict[str, Tensor]) -> None:
    for key, parameter in objective.named_parameters():
        found, name = tensors.get(key), key.removeprefix("model.")
        if found is None or found.shape != parameter.shape:
            shape = None if found is None else tuple(found.shape)
            raise SnapshotError(
                f"{snapshot / TENSORS}: parameter {name!r} has shape {shape}, {objective.model.architecture} needs "
                f"{tuple(parameter.shape)}"
            )
        if not (found.is_floating_point() and found.isfinite().all()):
            raise SnapshotError(f"{snapshot / TENSORS}: parameter {name!r} holds values that are not finite numbers")
        parameter.copy_(found)


def _sha256(path: Path) -> str:
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
