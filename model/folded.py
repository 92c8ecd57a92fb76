"""The fast form of a model: weight norm and embedding folded away, in the dtype and layout its device likes best.

`FoldedModel.step` advances a block of rows one byte; `logits` gives the next byte's. All inference goes through these
two, whether it featurizes a data set or serves requests.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.cells import GATES, State
from model.language_model import Architecture, LanguageModel
from model.matrix import Matrix, fast_dtype

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


class FoldedModel:
    """A constant model for inference. The cell is float32 whatever the products' dtype."""

    def __init__(
        self, model: LanguageModel, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> None:
        """dtype of the products: None takes the device's fastest, bfloat16 or float32."""
        self.device = torch.device(device)
        self.dtype = dtype or fast_dtype(self.device)
        self.architecture: Architecture = model.architecture
        with torch.no_grad():
            weights = model.cell.weights(model.embedding)
            self._input_table = weights.input_table.to(self.device, torch.float32).contiguous()
            self._recurrent = self._matrix(weights.recurrent)
            self._mixes = weights.multiplier is not None
            if weights.multiplier is not None and weights.multiplier_table is not None:
                self._multiplier_table = weights.multiplier_table.to(self.device, self.dtype).contiguous()
                self._multiplier = self._matrix(weights.multiplier)
            self._output = self._matrix(model.output_w)
            self._output_b = model.output_b.detach().to(self.device, torch.float32).clone()

    @property
    def units(self) -> int:
        return self.architecture.units

    def zero_state(self, rows: int) -> State:
        """cell in float32, hidden in the products' dtype, (rows, units) each."""
        return State(
            torch.zeros(rows, self.units, device=self.device),
            torch.zeros(rows, self.units, dtype=self.dtype, device=self.device),
        )

    @torch.inference_mode()
    def step(self, byte: Tensor, state: State, clamps: Clamps | None = None) -> State:
        """Advance every row by one byte. byte: (rows,) int64; state: (rows, units) each."""
        cell, hidden = state
        x = self._input_table.index_select(0, byte)  # (rows, gates * units)
        if self.architecture.cell == "gru":
            return self._gru_step(x, hidden, clamps)
        if self._mixes:
            hidden = self._multiplier(hidden).mul_(self._multiplier_table.index_select(0, byte))
        x += self._recurrent(hidden)
        units = self.units
        gates = x[:, : 3 * units].sigmoid_()
        update = x[:, 3 * units :].tanh_()
        cell = (gates[:, units : 2 * units] * cell).addcmul_(gates[:, :units], update)
        if clamps is not None:
            cell[clamps.rows, clamps.units] = clamps.values
        return State(cell, torch.tanh(cell).mul_(gates[:, 2 * units :]).to(self.dtype))

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: (rows, units) -> (rows, 256) float32."""
        return self._output(hidden).float().add_(self._output_b)

    def _gru_step(self, x: Tensor, hidden: Tensor, clamps: Clamps | None) -> State:
        xr, xz, xn = x.chunk(GATES["gru"], dim=1)
        hr, hz, hn = self._recurrent(hidden).float().chunk(3, dim=1)
        update = torch.sigmoid(xz + hz)
        new = (1 - update) * torch.tanh(xn + torch.sigmoid(xr + hr) * hn) + update * hidden.float()
        if clamps is not None:
            new[clamps.rows, clamps.units] = clamps.values
        return State(new, new.to(self.dtype))

    def _matrix(self, weight: Tensor) -> Matrix:
        return Matrix(weight.detach().to(self.device, self.dtype), _USUAL_ROWS)
