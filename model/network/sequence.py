"""A window of bytes through a cell, forward and backward: `Window.run`, the heart of training.

The chain of steps itself, its equations and its adjoint are in chains.py: here a window is cut into segments.

With `segment`, a window keeps the activations of one segment of its steps alone and computes those of the others again
on the way back: a third more work in the chain for a fraction of the memory (Chen et al. 2016, arXiv 1604.06174).
"""

from typing import Any

import torch
from torch import Tensor

from model.network.cells import CellName, CellWeights, State
from model.network.chains import Buffers, GRUChain, LSTMChain
from model.network.elementwise import Elementwise


class Window:
    """Runs windows, re-using its buffers: page faults of fresh ones cost more than their arithmetic.

    One window at a time: a window's backward pass must have run before the next `run` with gradients.
    """

    def __init__(
        self,
        name: CellName,
        compute_dtype: torch.dtype,
        fuse: bool,
        segment: int | None = None,
        triton: bool = True,
    ) -> None:
        """compute_dtype: of products and saved activations; the cell stays in the state's dtype.

        fuse, triton: how the element-wise functions are compiled (`Elementwise`).
        segment: steps whose activations are kept; None keeps those of the whole window.
        """
        self.name = name
        self.compute_dtype = compute_dtype
        self.elementwise = Elementwise(fuse, triton)
        self.segment = segment
        self.buffers = Buffers()

    def run(self, weights: CellWeights, window: Tensor, state: State) -> tuple[Tensor, State]:
        """window: (steps, rows) int64 bytes; state: (rows, units) each -> hidden (steps, rows, units), last state.

        hidden is in `compute_dtype`. Gradients reach the weights, and the state before the window if it asks.
        """
        hidden, _, last = self.run_with_cells(weights, window, state, cells=False)
        return hidden, last

    def run_with_cells(
        self, weights: CellWeights, window: Tensor, state: State, cells: bool = True
    ) -> tuple[Tensor, Tensor, State]:
        """As `run`, and between hidden and state the cell after every byte, (steps, rows, units) in the state's dtype.

        Gradients reach the weights through it too. Without `cells` it has no steps.
        """
        hidden, every_cell, cell, last = _Window.apply(  # type: ignore[no-untyped-call]
            self,
            cells,
            window,
            state.cell,
            state.hidden,
            weights.input_table,
            weights.recurrent,
            weights.multiplier_table,
            weights.multiplier,
        )
        return hidden, every_cell, State(cell, last)


class _Window(torch.autograd.Function):
    """The part of a window that is the same for every cell: segments, the output, gradients summed over segments."""

    @staticmethod
    def forward(
        ctx: Any,
        runner: Window,
        with_cells: bool,
        window: Tensor,
        cell: Tensor,
        hidden: Tensor,
        input_table: Tensor,
        recurrent: Tensor,
        multiplier_table: Tensor | None,
        multiplier: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        steps, rows = window.shape
        low, device, units = runner.compute_dtype, cell.device, cell.shape[1]
        length = min(runner.segment or steps, steps)
        starts = range(0, steps, length)
        weights = CellWeights(input_table, recurrent, multiplier_table, multiplier)
        chain_type = GRUChain if runner.name == "gru" else LSTMChain
        chain = chain_type(runner.buffers, runner.elementwise, low, length, weights, cell)
        hiddens = runner.buffers.get("hiddens", (steps + 1, rows, units), low, device)
        # The cell before every segment, and after the window.
        cells = runner.buffers.get("segment_cells", (len(starts) + 1, rows, units), cell.dtype, device)
        cells[0].copy_(hidden if runner.name == "gru" else cell)
        hiddens[0].copy_(hidden)
        every_cell = cell.new_empty((steps if with_cells else 0, rows, units))
        for number, start in enumerate(starts):
            part = slice(start, min(start + length, steps))
            found = chain.forward(window[part], cells[number], hiddens[part.start : part.stop + 1])
            cells[number + 1].copy_(found[-1])
            if with_cells:
                every_cell[part].copy_(found)
        ctx.chain, ctx.length = chain, length
        ctx.save_for_backward(window, hiddens, cells)
        last = cells[-1].clone()
        exact_hidden = last.clone() if runner.name == "gru" else hiddens[steps].to(cell.dtype, copy=True)
        return hiddens[1:].clone(), every_cell, last, exact_hidden

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        d_hiddens, d_cells, d_cell, d_hidden = gradients
        window, hiddens, cells = ctx.saved_tensors
        chain: LSTMChain | GRUChain = ctx.chain
        steps = window.shape[0]
        chain.begin_backward(d_cell, d_hidden)
        sums: list[Tensor] = []
        for number in reversed(range(cells.shape[0] - 1)):
            part = slice(number * ctx.length, min((number + 1) * ctx.length, steps))
            if part.stop < steps:  # the last segment's activations are still there
                chain.forward(window[part], cells[number], hiddens[part.start : part.stop + 1])
            chain.backward(window[part], d_hiddens[part], d_cells[part] if len(d_cells) else None)
            found = chain.weight_gradients(window[part], hiddens[part])
            sums = [total.add_(value) for total, value in zip(sums, found, strict=True)] if sums else found
        d_cell, d_hidden = chain.end_backward()
        return (None, None, None, d_cell, d_hidden, *sums, *[None] * (4 - len(sums)))
