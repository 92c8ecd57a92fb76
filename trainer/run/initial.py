"""What a run starts with: weights from a seed or a checkpoint, the objective and the optimizers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from model.checkpoints import checkpoint, volumes
from model.checkpoints.checkpoint import CheckpointError
from model.network.language_model import LanguageModel
from model.network.objective import Objective, ReadOut
from trainer.run.options import Options, TrainingError

_PAPERS_LANES = 128
_LANES_OF_A_GPU = {2048: 512, 4096: 256}  # up to so many units: enough rows for its matrix units
READ_OUT_RATE = 2e-3  # Adam's, for the read-outs of labels, which must follow cells that change


def initial_model(options: Options) -> LanguageModel:
    """On the CPU. Raises TrainingError if the checkpoint cannot be read or has another architecture."""
    if options.start_from is None:
        model = LanguageModel(options.architecture)
        model.reset(torch.Generator().manual_seed(options.seed), options.embedding_std)
        return model
    try:
        found = checkpoint.read(volumes.resolve(Path(options.start_from))).model
    except CheckpointError as error:
        raise TrainingError(f"--from: {error}") from error
    if found.architecture != options.architecture:
        raise TrainingError(f"--from {options.start_from} is {found.architecture}, the run {options.architecture}")
    return found


def completed(options: Options) -> Options:
    """`options` with what its checkpoint says: the bytes read before, and the unit of the labels."""
    unit, before = options.label_unit, 0
    if options.start_from is not None:
        try:
            manifest = checkpoint.read_manifest(volumes.resolve(Path(options.start_from)))
        except CheckpointError as error:
            raise TrainingError(f"--from: {error}") from error
        before = manifest.bytes_seen
        if unit is None and manifest.sentiment is not None:
            unit = manifest.sentiment.unit
    return replace(options, start_bytes=before, label_unit=(unit or 0) if options.learns_labels else None)


def suitable_lanes(units: int, shards: int, device: torch.device) -> int:
    """The paper's, or on a GPU as many as suit it and the corpus has training shards for."""
    if device.type == "cpu":
        return _PAPERS_LANES
    lanes = next((lanes for most, lanes in _LANES_OF_A_GPU.items() if units <= most), _PAPERS_LANES)
    while lanes > max(shards, _PAPERS_LANES):
        lanes //= 2
    return lanes


def make_objective(model: LanguageModel, options: Options, classes: int) -> Objective:
    """On the model's device."""
    if not options.learns_labels:
        return Objective(model)
    read_out = ReadOut(options.units, classes, options.label_unit or 0)
    return Objective(model, read_out, options.label_weight, options.unit_weight).to(model.output_b.device)


def make_optimizers(objective: Objective, options: Options) -> list[torch.optim.Optimizer]:
    """Adam, or Muon for the recurrent matrices and Adam for the rest. Each group keeps its rate as `initial_lr`.

    Muon makes every direction of a matrix' update equally large (Jordan et al. 2024), which suits hidden matrices;
    tables, gains and biases are not hidden matrices.
    """
    hidden = {"cell.wh", "cell.wmh"} if options.optimizer == "muon" else set()
    named = dict(objective.model.named_parameters())
    rest = [parameter for name, parameter in named.items() if name not in hidden]
    groups: list[dict[str, Any]] = [{"params": rest, "lr": options.learning_rate}]
    if objective.read_out is not None:
        groups.append({"params": list(objective.read_out.parameters()), "lr": READ_OUT_RATE})
    optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(groups, fused=True)]
    if hidden:
        matrices = [parameter for name, parameter in named.items() if name in hidden]
        optimizers.append(torch.optim.Muon(matrices, lr=options.muon_learning_rate, weight_decay=0.0))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers
