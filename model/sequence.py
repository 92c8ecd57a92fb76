"""A window of bytes through a cell, forward and backward: `Window.run`, the heart of training.

For the mLSTM the backward pass is written by hand (`_MLSTMWindow`). Only the chain through time is sequential: two
products and one fused element-wise kernel a step, each way. Everything that can wait is then done at once for the
whole window: the gradients of Wh and Wmh as one product each, and those of the byte tables as a product with the
one-hot bytes. The other cells run the plain loop of `cells.step` under autograd.

Adjoints of the mLSTM step, writing d for gradients (equations in cells.py):

    do = dh*tanh(c');  dc = dc' + dh*o*(1 - tanh²c');  di = dc*u;  df = dc*c;  du = dc*i;  dc_before = dc*f
    dz = (di*i*(1-i), df*f*(1-f), do*o*(1-o), du*(1-u²));   dm = dz·Whᵀ
    d(h·Wmh) = dm*(x·Wmx);  d(x·Wmx) = dm*(h·Wmh);   dh_before = d(h·Wmh)·Wmhᵀ
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from model.cells import CellName, CellWeights, State, step
from model.matrix import Matrix


def _gates_forward(
    z: Tensor, x: Tensor, cell: Tensor, gates: Tensor, cell_out: Tensor, tanh_out: Tensor, hidden_out: Tensor
) -> None:
    """z, x, gates: (rows, 4*units); the rest (rows, units). Arithmetic in the cell's dtype."""
    i, f, o, u = (z.to(cell.dtype) + x.to(cell.dtype)).chunk(4, dim=1)
    i, f, o, u = torch.sigmoid(i), torch.sigmoid(f), torch.sigmoid(o), torch.tanh(u)
    new_cell = f * cell + i * u
    squashed = torch.tanh(new_cell)
    gates.copy_(torch.cat((i, f, o, u), dim=1))
    cell_out.copy_(new_cell)
    tanh_out.copy_(squashed)
    hidden_out.copy_(o * squashed)


def _gates_backward(
    d_hidden: Tensor,
    d_recurrent: Tensor,
    d_cell: Tensor,
    gates: Tensor,
    cell_before: Tensor,
    squashed: Tensor,
    dz: Tensor,
) -> None:
    """Writes dz and turns d_cell into the gradient of the cell before. Shapes as in `_gates_forward`."""
    exact = d_cell.dtype
    i, f, o, u = gates.to(exact).chunk(4, dim=1)
    tanh_c = squashed.to(exact)
    dh = d_hidden.to(exact) + d_recurrent.to(exact)
    dc = d_cell + dh * o * (1 - tanh_c * tanh_c)
    di = dc * u * i * (1 - i)
    df = dc * cell_before.to(exact) * f * (1 - f)
    do = dh * tanh_c * o * (1 - o)
    du = dc * i * (1 - u * u)
    dz.copy_(torch.cat((di, df, do, du), dim=1))
    d_cell.copy_(dc * f)


class Window:
    """Runs windows of one shape, re-using its buffers: page faults of fresh ones cost more than their arithmetic.

    One window at a time: a window's backward pass must have run before the next `run` with gradients.
    """

    def __init__(self, name: CellName, compute_dtype: torch.dtype, fuse: bool) -> None:
        """compute_dtype: of products and saved activations; the cell stays in the weights' dtype.

        fuse: compile the element-wise functions (needs a C++ compiler on a CPU; takes a minute, then cached).
        """
        self.name = name
        self.compute_dtype = compute_dtype
        self.forward_gates: Callable[..., None] = torch.compile(_gates_forward) if fuse else _gates_forward
        self.backward_gates: Callable[..., None] = torch.compile(_gates_backward) if fuse else _gates_backward
        self._buffers: dict[str, Tensor] = {}

    def run(self, weights: CellWeights, window: Tensor, state: State) -> tuple[Tensor, State]:
        """window: (steps, rows) int64 bytes; state: (rows, units) each -> hidden (steps, rows, units), last state.

        Gradients reach the weights, not the state before the window (truncated back-propagation) unless it asks.
        """
        if weights.multiplier is None:
            return self._plain(weights, window, state)
        hidden, cell, last = _MLSTMWindow.apply(  # type: ignore[no-untyped-call]
            weights.input_table,
            weights.multiplier_table,
            weights.recurrent,
            weights.multiplier,
            state.cell,
            state.hidden,
            window,
            self,
        )
        return hidden, State(cell, last)

    def _plain(self, weights: CellWeights, window: Tensor, state: State) -> tuple[Tensor, State]:
        hidden = []
        for byte in window:
            state = step(self.name, weights, byte, state)
            hidden.append(state.hidden)
        return torch.stack(hidden), state

    def buffer(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        held = self._buffers.get(name)
        if held is None or held.shape != shape or held.dtype != dtype or held.device != device:
            held = self._buffers[name] = torch.empty(shape, dtype=dtype, device=device)
        return held


class _MLSTMWindow(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input_table: Tensor,
        multiplier_table: Tensor,
        recurrent: Tensor,
        multiplier: Tensor,
        cell: Tensor,
        hidden: Tensor,
        window: Tensor,
        runner: Window,
    ) -> tuple[Tensor, Tensor, Tensor]:
        steps, rows = window.shape
        units = cell.shape[1]
        low, exact, device = runner.compute_dtype, cell.dtype, cell.device

        def buffer(name: str, *shape: int, dtype: torch.dtype = low) -> Tensor:
            return runner.buffer(name, shape, dtype, device)

        gates = buffer("gates", steps, rows, 4 * units)
        cells = buffer("cells", steps + 1, rows, units, dtype=exact)
        squashed = buffer("squashed", steps, rows, units)
        hiddens = buffer("hiddens", steps + 1, rows, units)
        products = buffer("products", steps, rows, units)  # h·Wmh
        mixed = buffer("mixed", steps, rows, units)  # m

        by_recurrent = Matrix(recurrent.to(low), rows)
        by_multiplier = Matrix(multiplier.to(low), rows)
        x_table, mx_table = input_table.to(low), multiplier_table.to(low)
        x, mx = x_table[window], mx_table[window]  # (steps, rows, 4*units), (steps, rows, units)
        cells[0].copy_(cell)
        hiddens[0].copy_(hidden)
        for t in range(steps):
            products[t].copy_(by_multiplier(hiddens[t]))
            torch.mul(products[t], mx[t], out=mixed[t])
            runner.forward_gates(
                by_recurrent(mixed[t]), x[t], cells[t], gates[t], cells[t + 1], squashed[t], hiddens[t + 1]
            )
        ctx.runner = runner
        ctx.save_for_backward(recurrent, multiplier, window, mx, gates, cells, squashed, hiddens, products, mixed)
        return hiddens[1:].clone(), cells[steps].clone(), hiddens[steps].to(exact, copy=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        d_hiddens, d_last_cell, d_last_hidden = gradients
        recurrent, multiplier, window, mx, gates, cells, squashed, hiddens, products, mixed = ctx.saved_tensors
        runner: Window = ctx.runner
        steps, rows = window.shape
        units, low, exact = cells.shape[2], runner.compute_dtype, cells.dtype
        dz = runner.buffer("dz", (steps, rows, 4 * units), low, cells.device)
        d_products = runner.buffer("d_products", (steps, rows, units), low, cells.device)
        d_mx = runner.buffer("d_mx", (steps, rows, units), low, cells.device)

        by_recurrent = Matrix(recurrent.t().to(low), rows)
        by_multiplier = Matrix(multiplier.t().to(low), rows)
        d_cell = d_last_cell.clone()
        d_recurrent = d_last_hidden.to(low)
        for t in reversed(range(steps)):
            runner.backward_gates(d_hiddens[t], d_recurrent, d_cell, gates[t], cells[t], squashed[t], dz[t])
            d_mixed = by_recurrent(dz[t])
            torch.mul(d_mixed, products[t], out=d_mx[t])
            torch.mul(d_mixed, mx[t], out=d_products[t])
            d_recurrent = by_multiplier(d_products[t])

        one_hot = torch.nn.functional.one_hot(window.flatten(), 256).to(low)  # (steps*rows, 256)
        flat_dz = dz.view(-1, 4 * units)
        return (
            (one_hot.t() @ flat_dz).to(exact),
            (one_hot.t() @ d_mx.view(-1, units)).to(exact),
            (mixed.view(-1, units).t() @ flat_dz).to(exact),
            (hiddens[:steps].view(-1, units).t() @ d_products.view(-1, units)).to(exact),
            d_cell,
            d_recurrent.to(exact),
            None,
            None,
        )
