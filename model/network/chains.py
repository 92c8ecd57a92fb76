"""The chain of a cell through the steps of one segment, forward and adjoint: `LSTMChain` (mLSTM too) and `GRUChain`.

The backward pass is written by hand. Only the chain through time is sequential: its products (one a step for LSTM and
GRU, two for the mLSTM) and fused element-wise kernels (elementwise.py), each way. Everything that can wait is then done
at once for the whole window: the gradients of the recurrent matrices as one product each, and those of the byte tables
as a product with the one-hot bytes.

    mLSTM, after dz of the gates:   dm = dz·Whᵀ;   d(h·Wmh) = dm*(x·Wmx);   d(x·Wmx) = dm*(h·Wmh);   dh = d(h·Wmh)·Wmhᵀ
    window:                         dWh = mᵀ·dz;   dWmh = hᵀ·d(h·Wmh);   dTables = onehotᵀ·dz, onehotᵀ·d(x·Wmx)
"""

import math

import torch
from torch import Tensor

from model.network.cells import BYTES, GATES, CellWeights
from model.network.elementwise import Elementwise
from model.network.matrix import Matrix


class Buffers:
    """Memory that is used again by every window: page faults of fresh memory cost more than its arithmetic."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}
        self.recorded = False  # whether a CUDA graph writes to this memory, which must then stay where it is

    def __getstate__(self) -> dict[str, object]:
        """A copy of a module that has buffers brings none of their memory."""
        return {"_held": {}, "recorded": False}

    def get(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Uninitialised memory, that of the last call for `name` if it suffices."""
        size, held = math.prod(shape), self._held.get(name)
        if held is None or len(held) < size or held.dtype != dtype or held.device != device:
            if self.recorded and held is not None:
                raise RuntimeError(
                    f"a graph was recorded with {len(held):,} numbers for {name}, {size:,} are asked for: a larger "
                    "window needs a runner of its own"
                )
            held = self._held[name] = torch.empty(size, dtype=dtype, device=device)
        return held[:size].view(shape)


class LSTMChain:
    """mLSTM and LSTM through one segment: activations kept in buffers, then the adjoints."""

    def __init__(
        self, buffers: Buffers, kernels: Elementwise, low: torch.dtype, steps: int, weights: CellWeights, cell: Tensor
    ) -> None:
        """low: the dtype of products and saved activations; steps: the most of a segment; cell: (rows, units)."""
        exact, device = cell.dtype, cell.device
        rows, units = cell.shape

        def buffer(name: str, *shape: int, dtype: torch.dtype = low) -> Tensor:
            return buffers.get(name, shape, dtype, device)

        self._kernels = kernels
        self._exact = exact
        self._gates = buffer("gates", steps, rows, 4 * units)
        self._cells = buffer("cells", steps + 1, rows, units, dtype=exact)
        self._squashed = buffer("squashed", steps, rows, units)
        self._dz = buffer("dz", steps, rows, 4 * units)
        self._input_table = weights.input_table.detach().to(low)
        self._recurrent = weights.recurrent.detach().to(low)
        self._by_recurrent = Matrix(self._recurrent, rows)
        self._multiplier: Tensor | None = None
        if weights.multiplier is not None and weights.multiplier_table is not None:
            self._products = buffer("products", steps, rows, units)  # h·Wmh
            self._mixed = buffer("mixed", steps, rows, units)  # m
            self._d_products = buffer("d_products", steps, rows, units)
            self._d_table_rows = buffer("d_table_rows", steps, rows, units)
            self._multiplier_table = weights.multiplier_table.detach().to(low)
            self._multiplier = weights.multiplier.detach().to(low)
            self._by_multiplier = Matrix(self._multiplier, rows)

    def forward(self, window: Tensor, cell: Tensor, hiddens: Tensor) -> Tensor:
        """hiddens: (steps + 1, rows, units), the first given, the others written. Returns the cells after each step."""
        self._cells[0].copy_(cell)
        for t, byte in enumerate(window):
            inputs = hiddens[t]
            if self._multiplier is not None:
                product = self._by_multiplier(inputs)
                self._kernels.mix(product, self._multiplier_table, byte, self._products[t], self._mixed[t])
                inputs = self._mixed[t]
            self._kernels.lstm(
                self._by_recurrent(inputs),
                self._input_table,
                byte,
                self._cells[t],
                self._gates[t],
                self._cells[t + 1],
                self._squashed[t],
                hiddens[t + 1],
            )
        return self._cells[1 : len(window) + 1]

    def begin_backward(self, d_cell: Tensor, d_hidden: Tensor) -> None:
        rows = d_cell.shape[0]
        self._d_cell, self._d_hidden = d_cell.clone(), d_hidden.to(self._dz.dtype)
        self._by_recurrent_back = Matrix(self._recurrent.t(), rows)
        if self._multiplier is not None:
            self._by_multiplier_back = Matrix(self._multiplier.t(), rows)

    def backward(self, window: Tensor, d_hiddens: Tensor, d_cells: Tensor | None) -> None:
        for t in reversed(range(len(window))):
            if d_cells is not None:
                self._d_cell.add_(d_cells[t])
            self._kernels.lstm_adjoint(
                d_hiddens[t],
                self._d_hidden,
                self._d_cell,
                self._gates[t],
                self._cells[t],
                self._squashed[t],
                self._dz[t],
            )
            self._d_hidden = self._by_recurrent_back(self._dz[t])
            if self._multiplier is not None:
                self._kernels.mix_adjoint(
                    self._d_hidden,
                    self._products[t],
                    self._multiplier_table,
                    window[t],
                    self._d_products[t],
                    self._d_table_rows[t],
                )
                self._d_hidden = self._by_multiplier_back(self._d_products[t])

    def weight_gradients(self, window: Tensor, hiddens: Tensor) -> list[Tensor]:
        """Of input table, recurrent, multiplier table and multiplier. hiddens: those before each step."""
        steps = len(window)
        dz = self._dz[:steps].flatten(0, 1)
        rows = _Lookups(window, len(self._input_table), dz.dtype)
        if self._multiplier is None:
            gradients = [rows.table_gradient(dz), _turned(hiddens) @ dz]
        else:
            gradients = [
                rows.table_gradient(dz),
                _turned(self._mixed[:steps]) @ dz,
                rows.table_gradient(self._d_table_rows[:steps].flatten(0, 1)),
                _turned(hiddens) @ self._d_products[:steps].flatten(0, 1),
            ]
        return [gradient.to(self._exact) for gradient in gradients]

    def end_backward(self) -> tuple[Tensor, Tensor]:
        """Gradients of the cell and hidden before the window."""
        return self._d_cell, self._d_hidden.to(self._exact)


class GRUChain:
    """A GRU through one segment. Its cell is its hidden, so the state's gradient is one: that of the hidden."""

    def __init__(
        self, buffers: Buffers, kernels: Elementwise, low: torch.dtype, steps: int, weights: CellWeights, cell: Tensor
    ) -> None:
        """low: the dtype of products and saved activations; steps: the most of a segment; cell: (rows, units)."""
        exact, device = cell.dtype, cell.device
        rows, units = cell.shape
        outputs = GATES["gru"] * units
        self._kernels = kernels
        self._exact = exact
        self._gates = buffers.get("gates", (steps, rows, outputs), low, device)
        self._candidate_products = buffers.get("candidate_products", (steps, rows, units), low, device)
        self._states = buffers.get("cells", (steps + 1, rows, units), exact, device)
        self._dx = buffers.get("dx", (steps, rows, outputs), low, device)
        self._d_products = buffers.get("d_products", (steps, rows, outputs), low, device)
        self._input_table = weights.input_table.detach().to(low)
        self._recurrent = weights.recurrent.detach().to(low)
        self._by_recurrent = Matrix(self._recurrent, rows)

    def forward(self, window: Tensor, cell: Tensor, hiddens: Tensor) -> Tensor:
        self._states[0].copy_(cell)
        for t, byte in enumerate(window):
            self._kernels.gru(
                self._by_recurrent(hiddens[t]),
                self._input_table,
                byte,
                self._states[t],
                self._gates[t],
                self._candidate_products[t],
                self._states[t + 1],
                hiddens[t + 1],
            )
        return self._states[1 : len(window) + 1]

    def begin_backward(self, d_cell: Tensor, d_hidden: Tensor) -> None:
        self._d_state = d_cell + d_hidden
        self._by_recurrent_back = Matrix(self._recurrent.t(), d_cell.shape[0])

    def backward(self, window: Tensor, d_hiddens: Tensor, d_cells: Tensor | None) -> None:
        for t in reversed(range(len(window))):
            if d_cells is not None:
                self._d_state.add_(d_cells[t])
            self._kernels.gru_adjoint(
                d_hiddens[t],
                self._d_state,
                self._gates[t],
                self._candidate_products[t],
                self._states[t],
                self._dx[t],
                self._d_products[t],
            )
            self._d_state.add_(self._by_recurrent_back(self._d_products[t]))

    def weight_gradients(self, window: Tensor, hiddens: Tensor) -> list[Tensor]:
        steps = len(window)
        dx = self._dx[:steps].flatten(0, 1)
        gradients = [
            _Lookups(window, len(self._input_table), dx.dtype).table_gradient(dx),
            _turned(hiddens) @ self._d_products[:steps].flatten(0, 1),
        ]
        return [gradient.to(self._exact) for gradient in gradients]

    def end_backward(self) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(self._d_state), self._d_state


def _turned(values: Tensor) -> Tensor:
    """(steps, rows, units) -> (units, steps * rows). On a CPU copied: oneDNN multiplies such a view more slowly, by
    more than the copy costs."""
    turned = values.flatten(0, 1).t()
    return turned.contiguous() if values.device.type == "cpu" else turned


class _Lookups:
    """The adjoint of looking the bytes of a window up in a table: a product with them as a matrix of ones.

    A table larger than bytes need, of which few lines are looked up twice, has their gradients added line by line.
    """

    def __init__(self, window: Tensor, size: int, dtype: torch.dtype) -> None:
        """size: lines of the table."""
        self._flat, self._size = window.flatten(), size
        if size > BYTES:
            return
        if window.device.type == "cpu":
            self._present = torch.unique(self._flat)  # text uses a third of all bytes
        else:
            self._present = torch.arange(size, device=window.device)  # to find which, the host would have to wait
        self._columns = (self._present[:, None] == self._flat).to(dtype)  # (present, bytes)

    def table_gradient(self, gradient: Tensor) -> Tensor:
        """gradient: (bytes, outputs) of the lines that were looked up -> (size, outputs) of the table."""
        table = gradient.new_zeros(self._size, gradient.shape[1])
        if self._size > BYTES:
            return table.index_add_(0, self._flat, gradient)
        return table.index_copy_(0, self._present, self._columns @ gradient)
