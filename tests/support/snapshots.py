"""A run's directory with snapshots, without the training: `RunOnDisk`."""

from dataclasses import dataclass
from pathlib import Path

import torch

from model.network.language_model import Architecture, LanguageModel
from model.network.objective import Objective
from trainer.run.options import Options
from trainer.run.snapshot import Progress, Snapshot, gathered, write

UNITS = 24


def untrained(seed: int = 0) -> LanguageModel:
    model = LanguageModel(Architecture("mlstm", UNITS, 8))
    model.reset(torch.Generator().manual_seed(seed), embedding_std=1.0)
    return model


@dataclass(frozen=True)
class RunOnDisk:
    """What a run leaves in its directory, without the training."""

    directory: Path
    options: Options

    @property
    def snapshots(self) -> Path:
        return self.directory / "snapshots"

    def save(self, step: int, validation: tuple[int, float] | None = None) -> Path:
        """A snapshot of step N has the model of seed N. validation: the step that it was made at, bits per byte."""
        at, bits = validation or (None, None)
        model = untrained(step)
        progress = Progress(step, 10 * step, validation_bits_per_byte=bits, validation_step=at)
        return write(self.snapshots, Snapshot(gathered(Objective(model), [], model.zero_state(2)), [], progress))
