"""What a run begins with: the weights, from a seed or from a checkpoint, and its optimizers."""

from pathlib import Path

import torch

from model import checkpoint
from model.checkpoint import CheckpointError
from model.language_model import LanguageModel
from trainer.options import Options, TrainingError


def initial_model(options: Options) -> LanguageModel:
    """On the CPU. Raises TrainingError if the checkpoint cannot be read or has another architecture."""
    if options.start_from is None:
        model = LanguageModel(options.architecture)
        model.reset(torch.Generator().manual_seed(options.seed), options.embedding_std)
        return model
    try:
        found = checkpoint.read(checkpoint.resolve(Path(options.start_from))).model
    except CheckpointError as error:
        raise TrainingError(f"--from: {error}") from error
    if found.architecture != options.architecture:
        raise TrainingError(f"--from {options.start_from} is {found.architecture}, the run {options.architecture}")
    return found


def bytes_before(options: Options) -> int:
    """How many bytes the weights of `initial_model` have read."""
    if options.start_from is None:
        return 0
    return checkpoint.read_manifest(checkpoint.resolve(Path(options.start_from))).bytes_seen


def make_optimizers(model: LanguageModel, options: Options) -> list[torch.optim.Optimizer]:
    """Adam, or Muon for the recurrent matrices and Adam for the rest. Each group keeps its rate as `initial_lr`.

    Muon makes every direction of a matrix' update equally large (Jordan et al. 2024), which suits hidden matrices;
    tables, gains and biases are not such.
    """
    hidden = {"cell.wh", "cell.wmh"} if options.optimizer == "muon" else set()
    named = dict(model.named_parameters())
    rest = [parameter for name, parameter in named.items() if name not in hidden]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(rest, lr=options.learning_rate, fused=True)]
    if hidden:
        matrices = [parameter for name, parameter in named.items() if name in hidden]
        optimizers.append(torch.optim.Muon(matrices, lr=options.muon_learning_rate, weight_decay=0.0))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers
