"""Loss and gradients of one window: `Backpropagation`, run as written, or on a GPU as one CUDA graph.

A window of 256 steps is some two thousand kernels, most of them shorter than the time that the host takes to launch
one. The graph records them once, with loss and weight norm, and launches them together from then on.
"""

import torch
from torch import Tensor

from model.network.cells import State
from model.network.objective import Objective, Targets
from model.network.sequence import Window

_WARM_UPS = 2  # the first compiles kernels and allocates buffers, which a recording must not


class Backpropagation:
    """Adds a window's gradients to `.grad` of every parameter. Clear them with `zero_grad(set_to_none=False)`."""

    def __init__(self, objective: Objective, runner: Window, graph: bool = True) -> None:
        """graph: on CUDA, record the first window and replay it from then on."""
        self._objective = objective
        self._recorded = graph
        self._runner = runner
        self._graph: torch.cuda.CUDAGraph | None = None
        for parameter in objective.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def run(self, window: Tensor, targets: Targets, state: State) -> tuple[Tensor, State]:
        """The losses, (terms,), and the state after the window; arguments as for `Objective.losses`.

        In a graph every window must have the shape of the first, and what is returned holds until the next call.
        """
        if window.device.type != "cuda" or not self._recorded:
            return self._eager(window, targets, state)
        if self._graph is None:
            given = [value.clone() for value in targets if value is not None]
            self._inputs = window.clone(), Targets(*given), State(*map(torch.clone, state))
            self._graph = self._record()
        held_window, held_targets, held_state = self._inputs
        for held, value in zip((held_window, *held_targets, *held_state), (window, *targets, *state), strict=True):
            if held is not None and value is not None:
                held.copy_(value)
        self._graph.replay()
        return self._outputs

    def _eager(self, window: Tensor, targets: Targets, state: State) -> tuple[Tensor, State]:
        losses, after = self._objective.losses(window, targets, state, self._runner)
        self._objective.total(losses).backward()  # type: ignore[no-untyped-call]
        return torch.stack(losses).detach(), after

    def _record(self) -> torch.cuda.CUDAGraph:
        gradients = [parameter.grad for parameter in self._objective.parameters() if parameter.grad is not None]
        before = [gradient.clone() for gradient in gradients]
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                self._eager(*self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # thread_local: other threads of the trainer may copy snapshots and windows during the capture.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._outputs = self._eager(*self._inputs)
        self._runner.buffers.recorded = True
        for gradient, value in zip(gradients, before, strict=True):
            gradient.copy_(value)
        return graph
