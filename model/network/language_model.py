"""The trainable byte-level language model: embedding, one recurrent cell, an output layer over 256 bytes."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.network.cells import BYTES, Cell, CellName, State
from model.network.sequence import Window


@dataclass(frozen=True)
class Architecture:
    """What determines the shape of every parameter."""

    cell: CellName = "mlstm"
    units: int = 4096
    embedding_size: int = 64
    steepness: float = 1.0  # gates are σ(steepness * a); cells.py


class LanguageModel(nn.Module):
    """Predicts the next byte of each row (Radford et al. 2017, section 3)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.embedding = nn.Parameter(torch.empty(BYTES, architecture.embedding_size))
        self.cell = Cell(architecture.cell, architecture.units, architecture.embedding_size, architecture.steepness)
        self.output_w = nn.Parameter(torch.empty(architecture.units, BYTES))
        self.output_b = nn.Parameter(torch.zeros(BYTES))

    @torch.no_grad()
    def reset(self, generator: torch.Generator, embedding_std: float = 0.02) -> None:
        """Initialise every parameter. embedding_std: 0.02 in the published system."""
        self.embedding.normal_(0.0, embedding_std, generator=generator)
        self.cell.reset(generator)
        self.output_w.normal_(0.0, 0.02, generator=generator)
        self.output_b.zero_()

    def zero_state(self, rows: int) -> State:
        zeros = torch.zeros(rows, self.architecture.units, dtype=self.output_w.dtype, device=self.output_w.device)
        return State(zeros, zeros.clone())

    def loss(self, window: Tensor, targets: Tensor, state: State, runner: Window) -> tuple[Tensor, State]:
        """Mean bits per byte of `targets` and the state after the window.

        window, targets: (steps, rows) int64, targets being the bytes one further on.
        """
        hidden, state = runner.run(self.cell.weights(self.embedding), window, state)
        return self.bits(hidden, targets), State(state.cell.detach(), state.hidden.detach())

    def bits(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Mean bits per byte of `targets`, (steps, rows) int64, after `hidden`, (steps, rows, units)."""
        flat = hidden.reshape(-1, self.architecture.units)
        logits = (flat @ self.output_w.to(flat.dtype)).to(self.output_b.dtype) + self.output_b
        return nn.functional.cross_entropy(logits, targets.reshape(-1)) / math.log(2)
