"""What training minimizes (`Objective`): bits per byte and, with labels, how well a label can be read off the cell.

    loss = L·(bits per byte) + W·(label bits of all units) + V·(label bits of one unit)

The label bits are, at every byte of a labelled review, the cross-entropy of its label, from a linear read-out of the
cell: of all its units, and of one alone, the sentiment unit. It is the auxiliary loss of semi-supervised sequence
learning (Dai & Le 2015, arXiv 1511.01432) and of the fine-tuning of Kant et al. 2018 (arXiv 1812.01207), but read in
the stream, on lanes and windows as they are. L = 1 but in a fine-tuning; with W = V = 0 that is the language model of
Radford et al. 2017.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.network.cells import State
from model.network.language_model import LanguageModel
from model.network.sequence import Window


class Targets(NamedTuple):
    """The targets of every byte of a window. (steps, rows) each.

    bytes: the next byte, int64. classes: of the label, int64; weights: how much it counts, float32, 0 where it is
    unknown and the class of no meaning. Both are None in a run without labels.
    """

    bytes: Tensor
    classes: Tensor | None = None
    weights: Tensor | None = None


class ReadOut(nn.Module):
    """Linear classifiers of the cell: of all its units, and of `unit` alone.

    They start at zero, except the unit's weights, which rise evenly over the classes: so the unit has a direction from
    the start, up for the last class.
    """

    def __init__(self, units: int, classes: int, unit: int) -> None:
        super().__init__()
        self.unit = unit
        self.weight = nn.Parameter(torch.zeros(units, classes))
        self.bias = nn.Parameter(torch.zeros(classes))
        self.unit_weight = nn.Parameter(torch.linspace(-1, 1, classes))
        self.unit_bias = nn.Parameter(torch.zeros(classes))

    def forward(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """cells: (..., units) -> logits of all units and of the one, (..., classes) each."""
        of_all = cells @ self.weight + self.bias
        return of_all, cells[..., self.unit, None] * self.unit_weight + self.unit_bias


class Objective(nn.Module):
    """A language model and, if it learns labels, its read-out."""

    def __init__(
        self,
        model: LanguageModel,
        read_out: ReadOut | None = None,
        label_weight: float = 0.0,
        unit_weight: float = 0.0,
        language_weight: float = 1.0,
    ) -> None:
        """label_weight, unit_weight, language_weight: W, V and L."""
        super().__init__()
        self.model = model
        self.read_out = read_out
        self._weights = [language_weight] + ([] if read_out is None else [label_weight, unit_weight])

    @property
    def terms(self) -> int:
        return len(self._weights)

    def losses(
        self, window: Tensor, targets: Targets, state: State, runner: Window
    ) -> tuple[tuple[Tensor, ...], State]:
        """Bits per byte and, with a read-out, label bits of all units and of the one; and the state after the window.

        window: (steps, rows) int64. Label bits are sums over the labelled bytes, by their weights, divided by the
        number of all bytes: windows that hold more labels weigh more.
        """
        hidden, cells, after = self.read(window, state, runner)
        found = [self.model.bits(hidden, targets.bytes)]
        if self.read_out is not None and targets.classes is not None and targets.weights is not None:
            found += [label_bits(logits, targets.classes, targets.weights) for logits in self.read_out(cells)]
        return tuple(found), after

    def read(self, window: Tensor, state: State, runner: Window) -> tuple[Tensor, Tensor, State]:
        """Hidden and, with a read-out, cell after every byte, (steps, rows, units) each; state after the window."""
        weights = self.model.cell.weights(self.model.embedding)
        hidden, cells, after = runner.run_with_cells(weights, window, state, cells=self.read_out is not None)
        return hidden, cells, State(after.cell.detach(), after.hidden.detach())

    def total(self, losses: tuple[Tensor, ...]) -> Tensor:
        """The sum that is minimized."""
        return sum((weight * loss for weight, loss in zip(self._weights, losses, strict=True)), losses[0].new_zeros(()))


def label_bits(logits: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
    """Weighted cross-entropy of the labels in bits, a byte. logits: (steps, rows, classes); others: (steps, rows)."""
    flat = logits.flatten(0, -2)
    nats = nn.functional.cross_entropy(flat, classes.flatten(), reduction="none")
    return (nats * weights.to(nats.dtype).flatten()).sum() / (nats.numel() * math.log(2))
