"""The fast form of a model: weight norm and embedding folded away, in the dtype and layout its device likes best.

`FoldedModel.step` advances a block of rows one byte; `logits` gives the next byte's. All inference goes through these
two, whether it featurizes a data set or serves requests.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.squash import Squashed
from model.network.cells import GATES, State
from model.network.language_model import Architecture, LanguageModel
from model.network.matrix import Matrix, fast_dtype

# Packed layouts are tuned for a number of rows; this is the batch that a busy worker runs.
_USUAL_ROWS = 64


@dataclass(frozen=True)
class Clamps:
    """Units held at a value: cell[rows, units] = values, before the hidden vector is computed from it.

    rows, units: (clamps,) int64; values: (clamps,) float32. So the clamp acts on the next byte and persists.
    """

    rows: Tensor
    units: Tensor
    values: Tensor


@dataclass(frozen=True)
class FoldedWeights:
    """What a step multiplies with and looks up. The last gate is scaled by -2, for tanh(x) = 1 - 2σ(-2x)."""

    input_table: Tensor  # (256, gates * units) float32
    recurrent: Matrix  # (units, gates * units)
    multiplier_table: Tensor | None  # (256, units), mLSTM only
    multiplier: Matrix | None  # (units, units), mLSTM only
    output: Matrix  # (units, 256)
    output_b: Tensor  # (256,) float32


class FoldedModel:
    """A constant model for inference. The cell is float32 whatever the products' dtype.

    Steps share buffers, so only one thread at a time may use a model. On a CPU, a row's cell, hidden and logits are bit
    for bit the same whatever rows stand beside it and wherever it stands among them; not so bfloat16 with AMX
    (model/network/matrix.py).
    """

    def __init__(
        self, model: LanguageModel, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> None:
        """dtype of the products: None takes the device's fastest, bfloat16 or float32."""
        self.device = torch.device(device)
        self.dtype = dtype or fast_dtype(self.device)
        self.architecture: Architecture = model.architecture
        with torch.no_grad():
            weights = model.cell.weights(model.embedding)
            # The last gate's columns are scaled for tanh(x) = 1 - 2σ(-2x); by a power of two that is exact.
            scale = torch.ones_like(weights.input_table[0])
            scale[-self.units :] = -2.0
            self._input_table = (weights.input_table * scale).to(self.device, torch.float32).contiguous()
            self._recurrent = self._matrix(weights.recurrent * scale)
            self._mixes = weights.multiplier is not None
            if weights.multiplier is not None and weights.multiplier_table is not None:
                self._multiplier_table = weights.multiplier_table.to(self.device, self.dtype).contiguous()
                self._multiplier = self._matrix(weights.multiplier)
            self._output = self._matrix(model.output_w)
            self._output_b = model.output_b.detach().to(self.device, torch.float32).clone()
        gates = GATES[self.architecture.cell]
        self._gates = Squashed((gates if self.architecture.cell != "gru" else gates - 1) * self.units, self.device)
        self._update = Squashed(self.units, self.device)

    @property
    def units(self) -> int:
        return self.architecture.units

    @property
    def weights(self) -> FoldedWeights:
        return FoldedWeights(
            self._input_table,
            self._recurrent,
            self._multiplier_table if self._mixes else None,
            self._multiplier if self._mixes else None,
            self._output,
            self._output_b,
        )

    def zero_state(self, rows: int) -> State:
        """cell in float32, hidden in the products' dtype, (rows, units) each."""
        return State(
            torch.zeros(rows, self.units, device=self.device),
            torch.zeros(rows, self.units, dtype=self.dtype, device=self.device),
        )

    def zero_sum(self, rows: int) -> Tensor:
        """For sums of hidden vectors, (rows, units) in float64.

        In float32 a sum over a few million bytes, 2^19, would move in steps of 1/16, hardly less than what a byte adds,
        and what is rounded away, byte after byte to the same side, would show in the mean.
        """
        return torch.zeros(rows, self.units, dtype=torch.float64, device=self.device)

    @torch.inference_mode()
    def step(self, byte: Tensor, state: State, clamps: Clamps | None = None) -> State:
        """Advance every row by one byte. byte: (rows,) int64; state: (rows, units) each."""
        if self.architecture.cell == "gru":
            return self._gru_step(byte, state, clamps)
        cell, hidden = state
        rows = byte.shape[0]
        if self._mixes:
            hidden = self._multiplier.times(hidden, self._multiplier_table.index_select(0, byte))
        z = self._gates.rows(rows)  # (rows, gates * units)
        torch.index_select(self._input_table, 0, byte, out=z)
        z += self._recurrent(hidden)
        self._gates.sigmoid_(rows)
        i, f, o, u = z.chunk(4, dim=1)  # 1 - 2u is the tanh
        cell = torch.addcmul(i, f, cell).addcmul_(i, u, value=-2)
        if clamps is not None:
            cell[clamps.rows, clamps.units] = clamps.values
        squashed = self._update.rows(rows)
        torch.mul(cell, -2, out=squashed)
        self._update.sigmoid_(rows)
        hidden = torch.addcmul(o, o, squashed, value=-2, out=squashed)
        return State(cell, hidden.to(self.dtype, copy=True))

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: (rows, units) -> (rows, 256) float32."""
        return self._output(hidden).float().add_(self._output_b)

    def _gru_step(self, byte: Tensor, state: State, clamps: Clamps | None) -> State:
        rows, units = byte.shape[0], self.units
        x = self._input_table.index_select(0, byte)  # (rows, 3 * units)
        product = self._recurrent(state.hidden)  # (rows, 3 * units)
        gates = torch.add(x[:, : 2 * units], product[:, : 2 * units], out=self._gates.rows(rows))
        self._gates.sigmoid_(rows)
        r, z = gates.chunk(2, dim=1)
        update = self._update.rows(rows)
        torch.addcmul(x[:, 2 * units :], r, product[:, 2 * units :].float(), out=update)
        self._update.sigmoid_(rows)
        update.mul_(-2).add_(1)  # tanh
        new = torch.lerp(update, state.cell, z)
        if clamps is not None:
            new[clamps.rows, clamps.units] = clamps.values
        return State(new, new.to(self.dtype))

    def _matrix(self, weight: Tensor) -> Matrix:
        return Matrix(weight.detach().to(self.device, self.dtype), _USUAL_ROWS)
