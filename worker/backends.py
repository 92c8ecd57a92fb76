"""What advances rows on a device: the interface `Backend`, and `TorchBackend`, which serves CPU and CUDA.

A backend owns the state of every row in numbered slots. The engine hands it a `Block`: some rows, each to advance a
number of steps. Rows stand longest first, so at every step the rows that still run are a prefix and the finished
ones cost nothing.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from model.cells import State
from model.folded import Clamps, FoldedModel
from model.sampling import Choice, sample
from worker.rows import Sampling


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


@dataclass(frozen=True)
class BlockRowResult:
    sampled: NDArray[np.uint8]  # (steps - samples_from,)
    log_probability: NDArray[np.float32]  # the same shape, nats
    trace: NDArray[np.float32]  # (steps, traced units)


class Backend(Protocol):
    """One model on one device. Used by the engine's thread alone."""

    @property
    def units(self) -> int: ...

    def open(self) -> int:
        """A slot with zero state."""

    def close(self, slot: int) -> None:
        """The slot's row has ended."""

    def cell(self, slot: int) -> NDArray[np.float32]:
        """The cell of a row, (units,)."""

    def state(self, slot: int) -> State:
        """A copy of a row's cell and hidden vector, (units,) each, where the device has them."""

    def restore(self, slot: int, state: State) -> None:
        """Put a row where `state` was taken; a slot's clamps and draws are the block's affair."""

    def run(self, block: list[BlockRow]) -> list[BlockRowResult]:
        """Advance every row of `block`, which stands in order of `steps`, most first."""


class TorchBackend:
    """A folded model stepped by torch, on the CPU or a CUDA device."""

    def __init__(self, model: FoldedModel, max_rows: int) -> None:
        self.model = model
        self._state = model.zero_state(max_rows)
        self._last = torch.zeros(max_rows, dtype=torch.int64, device=model.device)  # byte sampled last
        self._free = list(range(max_rows - 1, -1, -1))

    @property
    def units(self) -> int:
        return self.model.units

    def open(self) -> int:
        slot = self._free.pop()
        self._state.cell[slot].zero_()
        self._state.hidden[slot].zero_()
        return slot

    def close(self, slot: int) -> None:
        self._free.append(slot)

    def cell(self, slot: int) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self._state.cell[slot].cpu().numpy().copy()
        return values

    @torch.inference_mode()
    def state(self, slot: int) -> State:
        return State(self._state.cell[slot].clone(), self._state.hidden[slot].clone())

    @torch.inference_mode()
    def restore(self, slot: int, state: State) -> None:
        self._state.cell[slot] = state.cell
        self._state.hidden[slot] = state.hidden

    @torch.inference_mode()
    def run(self, block: list[BlockRow]) -> list[BlockRowResult]:
        device = self.model.device
        steps = np.array([row.steps for row in block])
        reads = np.array([len(row.text) for row in block])
        slots = torch.tensor([row.slot for row in block], device=device)
        text = np.zeros((len(block), steps[0]), dtype=np.int64)
        for line, row in zip(text, block, strict=True):
            line[: len(row.text)] = row.text
        columns = torch.from_numpy(text.T.copy()).to(device)  # (steps, rows)
        active_at = np.searchsorted(-steps, -np.arange(steps[0])).tolist()  # rows with more steps than were made
        first_fed = int(np.min(reads, where=reads < steps, initial=steps[0]))  # step from which rows read own bytes

        sampler = _Sampler(block, device)
        tracer = _Tracer(block, device)
        clamps = _Clamper(block, device)
        last = self._last[slots]
        state = State(self._state.cell[slots], self._state.hidden[slots])
        active = len(block)
        for step, now in enumerate(active_at):
            if now < active:
                self._keep(slots[now:active], State(state.cell[now:], state.hidden[now:]))
                state = State(state.cell[:now], state.hidden[:now])
                active = now
            byte = columns[step, :active]
            if step >= first_fed:
                feeds_itself = torch.from_numpy(reads[:active] <= step).to(device)
                byte = torch.where(feeds_itself, last[:active], byte)
            state = self.model.step(byte, state, clamps.at(active))
            tracer.record(step, active, state)
            sampler.draw(step, active, state, self.model, last)
        self._keep(slots[:active], state)
        self._last[slots] = last
        return [BlockRowResult(*sampler.result(column), tracer.result(column)) for column in range(len(block))]

    def _keep(self, slots: torch.Tensor, state: State) -> None:
        self._state.cell[slots] = state.cell
        self._state.hidden[slots] = state.hidden


class _Clamper:
    """The clamps of a block, cut to the rows that are active."""

    def __init__(self, block: list[BlockRow], device: torch.device) -> None:
        flat = [(column, unit, value) for column, row in enumerate(block) for unit, value in row.clamps.items()]
        self._columns = np.array([column for column, _, _ in flat], dtype=np.int64)
        self._all = Clamps(
            torch.from_numpy(self._columns).to(device),
            torch.tensor([unit for _, unit, _ in flat], dtype=torch.int64, device=device),
            torch.tensor([value for _, _, value in flat], dtype=torch.float32, device=device),
        )

    def at(self, active: int) -> Clamps | None:
        count = int(np.searchsorted(self._columns, active))
        if count == 0:
            return None
        return Clamps(self._all.rows[:count], self._all.units[:count], self._all.values[:count])


class _Tracer:
    """Collects the traced units of a block; brought to the host once, at its end."""

    def __init__(self, block: list[BlockRow], device: torch.device) -> None:
        self._block = block
        pairs = [(column, unit) for column, row in enumerate(block) for unit in row.traced]
        self._columns = np.array([column for column, _ in pairs], dtype=np.int64)
        self._rows = torch.from_numpy(self._columns).to(device)
        self._units = torch.tensor([unit for _, unit in pairs], dtype=torch.int64, device=device)
        self._values = torch.zeros(block[0].steps, len(pairs), device=device)
        self._on_host: NDArray[np.float32] | None = None

    def record(self, step: int, active: int, state: State) -> None:
        count = int(np.searchsorted(self._columns, active))
        if count:
            self._values[step, :count] = state.cell[self._rows[:count], self._units[:count]]

    def result(self, column: int) -> NDArray[np.float32]:
        if self._on_host is None:
            self._on_host = self._values.cpu().numpy()
        begin, end = np.searchsorted(self._columns, [column, column + 1])
        return self._on_host[: self._block[column].steps, begin:end]


class _Sampler:
    """Draws the next byte of the rows that generate; results are brought to the host once, at the block's end."""

    def __init__(self, block: list[BlockRow], device: torch.device) -> None:
        self._block = block
        self._device = device
        self._from = np.array([row.samples_from for row in block])
        self._first = int(self._from.min())
        self._draw = np.array([row.first_draw for row in block])
        rules = [row.sampling for row in block]
        self._seed = torch.tensor([rule.seed for rule in rules], dtype=torch.int64, device=device)
        self._temperature = torch.tensor([rule.temperature for rule in rules], device=device)
        self._top_k = torch.tensor([rule.top_k for rule in rules], dtype=torch.int64, device=device)
        self._top_p = torch.tensor([rule.top_p for rule in rules], device=device)
        self._bytes = torch.zeros(block[0].steps, len(block), dtype=torch.uint8, device=device)
        self._log_probability = torch.zeros(block[0].steps, len(block), device=device)
        self._on_host: tuple[NDArray[np.uint8], NDArray[np.float32]] | None = None

    def draw(self, step: int, active: int, state: State, model: FoldedModel, last: torch.Tensor) -> None:
        """Sample the rows whose turn it is, and write their byte into `last`."""
        if step < self._first:
            return
        chosen = np.nonzero(self._from[:active] <= step)[0]
        if len(chosen) == 0:
            return
        columns = torch.from_numpy(chosen).to(self._device)
        position = torch.from_numpy(self._draw[chosen] + step - self._from[chosen]).to(self._device)
        choice = Choice(
            self._seed[columns], position, self._temperature[columns], self._top_k[columns], self._top_p[columns]
        )
        byte, log_probability = sample(model.logits(state.hidden[columns]), choice)
        last[columns] = byte
        self._bytes[step, columns] = byte.to(torch.uint8)
        self._log_probability[step, columns] = log_probability

    def result(self, column: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        if self._on_host is None:
            self._on_host = self._bytes.cpu().numpy(), self._log_probability.cpu().numpy()
        row = self._block[column]
        sampled, log_probability = self._on_host
        return (
            sampled[row.samples_from : row.steps, column],
            log_probability[row.samples_from : row.steps, column],
        )
