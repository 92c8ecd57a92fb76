"""What advances rows on a device: the interface `Backend`, and the block of rows that it gets.

A backend owns the state of every row in numbered slots. The engine hands it a block: some rows, each to advance a
number of steps. Rows stand longest first, so at every step the rows that still run come first and the finished
ones cost nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from engine.rows import Sampling


@dataclass(frozen=True)
class BlockRow:
    """One row's part of a block. Its first `len(text)` steps read `text`, the others read what it sampled last."""

    slot: int
    steps: int
    text: NDArray[np.uint8]  # (at most steps,)
    samples_from: int  # the outputs of the steps from this one on are sampled; `steps` for none
    first_draw: int  # number of the first draw among them
    sampling: Sampling
    clamps: dict[int, float]
    traced: tuple[int, ...]
    scored: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))  # steps whose byte is, rising


@dataclass(frozen=True)
class BlockRowResult:
    """The output of the steps that were made: those that were asked for, or fewer if the block was interrupted."""

    steps: int
    sampled: NDArray[np.uint8]  # (steps - samples_from,)
    log_probability: NDArray[np.float32]  # the same shape, nats
    trace: NDArray[np.float32]  # (steps, traced units)


@dataclass(frozen=True)
class RowState:
    """A copy of what a row carries from byte to byte, (units,) each but `bits`, where the device has it."""

    cell: torch.Tensor
    hidden: torch.Tensor
    hidden_sum: torch.Tensor | None  # over the bytes read, float64; of slots that keep it
    bits: torch.Tensor  # () float64: over the bytes that were scored

    @property
    def nbytes(self) -> int:
        kept = 0 if self.hidden_sum is None else self.hidden_sum.nbytes
        return self.cell.nbytes + self.hidden.nbytes + kept + self.bits.nbytes


class Backend(Protocol):
    """One model on one device. Used by the engine's thread alone."""

    @property
    def units(self) -> int: ...

    def open(self, sums: bool = False) -> int:
        """A slot with zero state. sums: whether it also keeps the sum of the row's hidden vectors."""

    def close(self, slot: int) -> None:
        """The slot's row has ended."""

    def cell(self, slot: int) -> NDArray[np.float32]:
        """The cell of a row, (units,)."""

    def hidden_sum(self, slot: int) -> NDArray[np.float64]:
        """The sum of a row's hidden vectors after every byte, (units,), of a slot that keeps it."""

    def bits(self, slot: int) -> float:
        """The sum of the scores (scoring.py) of a row's scored bytes."""

    def state(self, slot: int) -> RowState: ...

    def restore(self, slot: int, state: RowState) -> None:
        """Set a slot to `state`, which has a sum if this slot keeps one. Clamps and draws belong to the block."""

    def step_seconds(self, rows: int) -> float:
        """Estimated seconds of a step of `rows` rows; never less than of fewer rows."""

    def run(self, block: list[BlockRow], interrupted: Callable[[], bool] = ...) -> list[BlockRowResult]:
        """Advance every row of `block`, which stands in order of `steps`, most first. If it raises, none has moved.

        Ends after the step in which `interrupted` turns true, if the device can be interrupted so often. It is called
        at least once a second, because it also shows the engine that the block makes progress.
        """
