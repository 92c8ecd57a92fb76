"""Snapshots: all that a training run needs to go on exactly where it stood, as safetensors and JSON.

A snapshot is a directory `step-N` with `tensors.safetensors` (parameters, Adam's moments, the carried state of every
lane, the random state) and `progress.json`. It appears whole or not at all; the newest few are kept.
"""

import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.cells import State
from model.durable import new_directory
from model.language_model import LanguageModel
from trainer.lanes import Cursor


@dataclass
class Progress:
    """How far a run is. bytes_seen counts predicted bytes over all lanes."""

    step: int = 0
    bytes_seen: int = 0
    skipped_steps: int = 0
    seconds: float = 0.0


def save(
    directory: Path,
    model: LanguageModel,
    optimizer: torch.optim.Adam,
    state: State,
    cursors: list[Cursor],
    progress: Progress,
    keep: int,
) -> Path:
    """Write `directory/step-N` and delete all but the newest `keep`."""
    # A GRU's hidden is its cell; safetensors refuses tensors that share memory.
    tensors: dict[str, Tensor] = {"state.cell": state.cell, "state.hidden": state.hidden.clone()}
    tensors["random"] = torch.get_rng_state()
    for name, parameter in model.named_parameters():
        tensors[f"model.{name}"] = parameter.detach()
        for moment, value in optimizer.state.get(parameter, {}).items():
            tensors[f"adam.{moment}.{name}"] = value
    final = directory / f"step-{progress.step}"
    with new_directory(final) as temporary:
        save_file(
            {name: value.contiguous().cpu() for name, value in tensors.items()}, temporary / "tensors.safetensors"
        )
        record = {"progress": asdict(progress), "cursors": [asdict(cursor) for cursor in cursors]}
        (temporary / "progress.json").write_text(json.dumps(record))
    for old in snapshots(directory)[:-keep]:
        shutil.rmtree(old)
    return final


def snapshots(directory: Path) -> list[Path]:
    """The complete snapshots of a run, oldest first."""
    found = [path for path in directory.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def load(snapshot: Path, model: LanguageModel, optimizer: torch.optim.Adam) -> tuple[State, list[Cursor], Progress]:
    """Restore `model` and `optimizer` in place."""
    tensors = load_file(snapshot / "tensors.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
            moments = {
                moment: tensors[f"adam.{moment}.{name}"]
                for moment in ("step", "exp_avg", "exp_avg_sq")
                if f"adam.{moment}.{name}" in tensors
            }
            if moments:
                optimizer.state[parameter] = {moment: value.to(parameter.device) for moment, value in moments.items()}
    torch.set_rng_state(tensors["random"])
    record = json.loads((snapshot / "progress.json").read_text())
    device = next(model.parameters()).device
    state = State(tensors["state.cell"].to(device), tensors["state.hidden"].to(device))
    return state, [Cursor(**cursor) for cursor in record["cursors"]], Progress(**record["progress"])
