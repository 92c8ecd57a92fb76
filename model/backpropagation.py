"""Loss and gradients of one window: `Backpropagation`, run as written on a CPU, as one CUDA graph on a GPU.

A window of 256 steps is some two thousand kernels, most of them shorter than the time that the host takes to launch
one. The graph records them once, loss, weight norm and all, and launches them together ever after.
"""

import torch
from torch import Tensor

from model.cells import State
from model.language_model import LanguageModel
from model.sequence import Window

_WARM_UPS = 2  # the first compiles kernels and allocates buffers, which a recording must not


class Backpropagation:
    """Adds a window's gradients to `.grad` of every parameter. Clear them with `zero_grad(set_to_none=False)`."""

    def __init__(self, model: LanguageModel, runner: Window) -> None:
        self._model = model
        self._runner = runner
        self._graph: torch.cuda.CUDAGraph | None = None
        for parameter in model.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def run(self, window: Tensor, targets: Tensor, state: State) -> tuple[Tensor, State]:
        """Mean bits per byte, a scalar, and the state after the window; arguments as for `LanguageModel.loss`.

        On CUDA every window must have the shape of the first, and what is returned holds until the next call.
        """
        if window.device.type != "cuda":
            return self._eager(window, targets, state)
        if self._graph is None:
            self._inputs = [value.clone() for value in (window, targets, *state)]
            self._graph = self._record()
        for held, value in zip(self._inputs, (window, targets, *state), strict=True):
            held.copy_(value)
        self._graph.replay()
        return self._outputs

    def _eager(self, window: Tensor, targets: Tensor, state: State) -> tuple[Tensor, State]:
        loss, after = self._model.loss(window, targets, state, self._runner)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), after

    def _record(self) -> torch.cuda.CUDAGraph:
        window, targets, cell, hidden = self._inputs
        state = State(cell, hidden)
        gradients = [parameter.grad for parameter in self._model.parameters() if parameter.grad is not None]
        before = [gradient.clone() for gradient in gradients]
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                self._eager(window, targets, state)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # thread_local: the trainer's other threads may copy snapshots and windows meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._outputs = self._eager(window, targets, state)
        for gradient, value in zip(gradients, before, strict=True):
            gradient.copy_(value)
        return graph
