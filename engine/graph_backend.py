"""`GraphBackend`: blocks as CUDA graphs, so that between two steps the device never waits for the host.

All inputs of a step lie in the device's memory (block.py). That is why many steps are recorded as one graph and
launched together. There is a graph for each number of rows and of steps that is a power of two: a block of another
number of rows is filled up with rows that stand still, one of another number of steps runs several graphs. Graphs are
recorded by `warm_up` and, such as those for traces, when they are first needed.

`interrupted` ends no block: a graph that was launched runs to its end. The host does not wait for a block without
samples and traces, but no more than one block waits for the one that runs. So `step_seconds` follows the blocks that
sample or trace, where the one before has been waited for too.

Neighbours: up to 16 rows share graphs, so a product has the same shape whatever rows stand beside a row, and its result
does not depend on them. Graphs of more rows take the library's products, each of which adds up in an order of its
own, so between those results agree to rounding, and a sample may differ where the draw falls between two bytes.
"""

import logging
import threading
import time
from collections.abc import Callable, Hashable
from functools import cache, partial
from itertools import product

import numpy as np
import torch

from engine.backend import BlockRow, BlockRowResult
from engine.block import (
    FIRST_DRAW,
    HOLDS,
    READS,
    ROW_PARAMS,
    SAMPLES_FROM,
    SEED,
    SLOT,
    STEPS,
    SUMS,
    TEMPERATURE,
    TOP_K,
    TOP_P,
    Block,
    PlainStep,
    Trace,
)
from engine.folded import FoldedModel
from engine.torch_backend import TorchBackend

log = logging.getLogger(__name__)

_FEWEST_ROWS = 16  # of a graph: one tile of a tensor core, so fewer would be no quicker
_MOST_STEPS = 16  # of a graph
_EVERY_LENGTH = 2 * _MOST_STEPS - 1  # steps of a block that runs graphs of every length
_CAPACITY = 64  # steps of a block that need no more memory than there is at first
_FEWEST_TRACED = 64  # units of a graph that traces; the powers of two from here on

# torch records one graph of a process at a time, and a model may be loaded while another serves.
_recording = threading.Lock()

_Part = tuple[Hashable, Callable[[], None]]  # a piece of a block's work, under a name of its own


class GraphBackend(TorchBackend):
    """A folded model on a CUDA device. On a CPU the same calls are made one by one, so that tests can follow them."""

    def __init__(self, model: FoldedModel, max_rows: int) -> None:
        """max_rows: that may have a slot at once."""
        super().__init__(model, max_rows + 1)
        self._padding = self.open()  # for rows that fill a block up; its state stays zero
        self._most_rows = max_rows
        self._step = _fastest_step(model)
        self._waited = False  # whether the device had done the last block when `run` returned
        self._make_room(_CAPACITY)

    def warm_up(self, most_rows: int, scores: bool = False) -> None:
        """As TorchBackend does, after recording all that blocks of up to `most_rows` rows need unless they trace."""
        with torch.inference_mode():
            for rows in sorted({self._bucket(count) for count in range(1, most_rows + 1)}):
                for samples_from, scored in product((0, _EVERY_LENGTH), (False, True) if scores else (False,)):
                    parts = self._parts(rows, _EVERY_LENGTH, samples_from, scored, 0)
                    self._graphs.prepare(parts, self._rest, lambda: None)
        super().warm_up(most_rows, scores)

    @torch.inference_mode()
    def run(
        self,
        block: list[BlockRow],
        interrupted: Callable[[], bool] = lambda: False,
    ) -> list[BlockRowResult]:
        """As the protocol says; `interrupted` is called while graphs are recorded, but ends nothing."""
        steps = block[0].steps
        if steps > self._capacity:
            self._make_room(steps)
        samples_from = min((row.samples_from for row in block if row.samples_from < row.steps), default=steps)
        traced = [(line, unit) for line, row in enumerate(block) for unit in row.traced]
        traces = 0 if not traced else max(_FEWEST_TRACED, _power_of_two(len(traced)))
        scores = any(len(row.scored) for row in block)
        parts = self._parts(self._bucket(len(block)), steps, samples_from, scores, traces)
        self._graphs.prepare(parts, self._rest, interrupted)
        began = time.perf_counter()
        self._upload(block)
        self._hold([(line, unit, value) for line, row in enumerate(block) for unit, value in row.clamps.items()])
        if traced:
            lines, units = np.array(traced, dtype=np.int64).T
            self._traces[traces].units[: len(traced)] = torch.from_numpy(lines * self.units + units)
        for part in parts:
            self._graphs.launch(part)
        results = self._results(block, samples_from, traces)
        before, self._waited = self._waited, samples_from < steps or traces > 0
        if before and self._waited:
            self._observe(len(block), (time.perf_counter() - began) / steps)
        return results

    def _bucket(self, count: int) -> int:
        return min(self._most_rows, max(_FEWEST_ROWS, _power_of_two(count)))

    def _make_room(self, steps: int) -> None:
        """Memory for blocks of `steps` steps. What was recorded is bound to the memory before, and goes with it."""
        if self.model.device.type == "cuda":
            # Not of the whole device: another thread may be recording on it.
            torch.cuda.current_stream(self.model.device).synchronize()
        self._block = Block(self.model, self._most_rows, steps)
        self._traces: dict[int, Trace] = {}
        self._held: list[tuple[int, int, float]] | None = []
        self._graphs = _Graphs(self.model.device)
        pinned = self.model.device.type == "cuda"
        self._row_params_on_host = torch.zeros(ROW_PARAMS, self._most_rows, dtype=torch.int64, pin_memory=pinned)
        self._text_on_host = torch.zeros(steps, self._most_rows, dtype=torch.uint8, pin_memory=pinned)
        self._scored_on_host = torch.zeros(steps, self._most_rows, dtype=torch.bool, pin_memory=pinned)
        self._copied = torch.cuda.Event() if pinned else None  # type: ignore[no-untyped-call]
        self._capacity = steps  # last: what came before may find no memory

    def _parts(self, rows: int, steps: int, samples_from: int, scores: bool, traces: int) -> list[_Part]:
        """What a block does, in order. traces: units that a graph records, 0 for none."""
        if traces and traces not in self._traces:
            self._traces[traces] = Trace(traces, self._capacity, self.model.device)
        trace = self._traces.get(traces)
        parts: list[_Part] = [(("begin", rows), partial(self._begin, rows))]
        made = 0
        while made < steps:
            length = min(_MOST_STEPS, 1 << ((steps - made).bit_length() - 1))
            made += length
            samples = samples_from < made
            name = (rows, length, samples, scores, traces)
            parts.append((name, partial(self._advance, rows, length, samples, scores, trace)))
        return [*parts, (("end", rows), partial(self._end, rows))]

    def _begin(self, rows: int) -> None:
        slots, block = self._block.row_params[SLOT, :rows], self._block
        torch.index_select(self._state.cell, 0, slots, out=block.cell[:rows])
        torch.index_select(self._state.hidden, 0, slots, out=block.hidden[:rows])
        torch.index_select(self._hidden_sum, 0, slots, out=block.hidden_sum[:rows])
        torch.index_select(self._bits, 0, slots, out=block.bits[:rows])
        torch.index_select(self._last, 0, slots, out=block.last[:rows])

    def _advance(self, rows: int, steps: int, samples: bool, scores: bool, trace: Trace | None) -> None:
        for offset in range(steps):
            if scores:
                self._step.score(self._block, rows, offset)
            self._step.advance(self._block, rows, offset)
            if trace is not None:
                self._step.record(self._block, trace, offset)
            if samples:
                self._step.draw(self._block, rows, offset)
        self._block.made.add_(steps)

    def _end(self, rows: int) -> None:
        slots, block = self._block.row_params[SLOT, :rows], self._block
        self._state.cell.index_copy_(0, slots, block.cell[:rows])
        self._state.hidden.index_copy_(0, slots, block.hidden[:rows])
        self._hidden_sum.index_copy_(0, slots, block.hidden_sum[:rows])
        self._bits.index_copy_(0, slots, block.bits[:rows])
        self._last.index_copy_(0, slots, block.last[:rows])

    def _rest(self) -> None:
        """Let every row of the block stand still, so that any part can run and change nothing."""
        self._block.row_params.zero_()
        self._block.row_params[SLOT] = self._padding
        self._block.row_params[TOP_K] = 1
        self._begin(self._most_rows)

    def _upload(self, block: list[BlockRow]) -> None:
        """Copy to the device what the rows of the block do."""
        if self._copied is not None:
            self._copied.synchronize()  # the previous block has been copied from the memory that is written now
        row_params, text = self._row_params_on_host.numpy(), self._text_on_host.numpy()
        row_params[:] = 0
        row_params[SLOT] = self._padding
        row_params[TOP_K] = 1
        numbers = {
            SLOT: [row.slot for row in block],
            STEPS: [row.steps for row in block],
            READS: [len(row.text) for row in block],
            SUMS: [self._sums[row.slot] for row in block],
            HOLDS: [bool(row.clamps) for row in block],
            SAMPLES_FROM: [row.samples_from for row in block],
            FIRST_DRAW: [row.first_draw for row in block],
            SEED: [row.sampling.seed for row in block],
            TOP_K: [row.sampling.top_k for row in block],
        }
        for number, values in numbers.items():
            row_params[number, : len(block)] = values
        row_params[TEMPERATURE].view(np.float64)[: len(block)] = [row.sampling.temperature for row in block]
        row_params[TOP_P].view(np.float64)[: len(block)] = [row.sampling.top_p for row in block]
        scored = self._scored_on_host.numpy()
        scored[: block[0].steps] = False
        for line, row in enumerate(block):
            text[: len(row.text), line] = row.text
            scored[row.scored, line] = True
        self._block.row_params.copy_(self._row_params_on_host, non_blocking=True)
        steps = block[0].steps
        self._block.text[:steps].copy_(self._text_on_host[:steps], non_blocking=True)
        self._block.scored[:steps].copy_(self._scored_on_host[:steps], non_blocking=True)
        if self._copied is not None:
            self._copied.record()

    def _hold(self, clamps: list[tuple[int, int, float]]) -> None:
        """Copy clamps to the device: line of the block, unit, value. Most blocks have those of the one before."""
        if clamps == self._held:
            return
        self._held = None  # until they are: the copies may find no memory
        held = self._block.held.fill_(torch.nan)
        if clamps:
            lines, units, values = (np.array(column) for column in zip(*clamps, strict=True))
            where = torch.from_numpy(lines * self.units + units).to(held.device)
            held.view(-1)[where] = torch.from_numpy(values.astype(np.float32)).to(held.device)
        self._held = clamps

    def _results(self, block: list[BlockRow], samples_from: int, traces: int) -> list[BlockRowResult]:
        steps = block[0].steps
        sampled = np.empty((steps, len(block)), dtype=np.uint8)
        log_probability = np.empty((steps, len(block)), dtype=np.float32)
        values = np.empty((steps, 0), dtype=np.float32)
        if samples_from < steps:
            sampled = self._block.sampled[:steps].to("cpu", copy=True).numpy()
            log_probability = self._block.log_probability[:steps].to("cpu", copy=True).numpy()
        if traces:
            values = self._traces[traces].values[:steps].to("cpu", copy=True).numpy()
        results, first = [], 0
        for line, row in enumerate(block):
            drawn, own = slice(row.samples_from, row.steps), slice(first, first + len(row.traced))
            first = own.stop
            results.append(
                BlockRowResult(row.steps, sampled[drawn, line], log_probability[drawn, line], values[: row.steps, own])
            )
        return results


class _Graphs:
    """Functions of fixed memory, each recorded once and then launched as one. On a CPU they are called."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._recorded: dict[Hashable, torch.cuda.CUDAGraph] = {}

    def prepare(self, parts: list[_Part], rest: Callable[[], None], moves: Callable[[], object]) -> None:
        """Record the parts that are not recorded yet. rest: after it a call changes nothing, so that each can be tried.

        moves: called after every part, because each may take long.
        """
        missing = {name: function for name, function in parts if name not in self._recorded}
        if self._device.type != "cuda" or not missing:
            return
        with _recording:
            side = _side_stream(self._device)
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for function in missing.values():
                    rest()  # what ran before has moved the block on
                    function()  # compiles kernels and initialises the library, which a recording must not
                    moves()
            torch.cuda.current_stream().wait_stream(side)
            if not self._recorded:
                self._pool = torch.cuda.graph_pool_handle()
            for name, function in missing.items():
                graph = torch.cuda.CUDAGraph()
                # thread_local: other threads may copy meanwhile. One pool: graphs run one after the other.
                with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                    function()
                self._recorded[name] = graph
                moves()

    def launch(self, part: _Part) -> None:
        name, function = part
        if self._device.type == "cuda":
            self._recorded[name].replay()
        else:
            function()


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all recordings: torch keeps a workspace of cuBLAS (32 MiB on Hopper) for every stream that used it."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _power_of_two(count: int) -> int:
    """The least from `count` on."""
    return 1 << (count - 1).bit_length()


def _fastest_step(model: FoldedModel) -> PlainStep:
    if model.device.type == "cuda":
        try:
            from engine.kernels import MANY_ROWS, TritonStep  # noqa: PLC0415 - Triton comes with CUDA builds of torch

            step = TritonStep(model)
            with torch.inference_mode():
                for rows in (1, MANY_ROWS):  # no row runs, but the kernels for few rows and for many are compiled
                    step.advance(Block(model, rows=rows, steps=1), rows=rows, offset=0)
        except Exception:  # Triton may be missing, or the C compiler that it needs, or room on a small device
            log.exception("steps are not fused, which makes them slower")
        else:
            return step
    return PlainStep(model)
