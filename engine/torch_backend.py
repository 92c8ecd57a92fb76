"""`TorchBackend`: a backend (backend.py) that steps a folded model from Python, for a CPU."""

import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from engine.backend import BlockRow, BlockRowResult, RowState
from engine.folded import Clamps, FoldedModel
from engine.rows import Sampling
from engine.sampling import Choice, sample
from engine.scoring import Scorer
from model.network.cells import State

# Numbers of rows whose steps are timed when a model is loaded, and how many steps: with few rows, a block's own cost
# must be small beside its steps; with many, a step of a wide model takes long. The fastest of some blocks counts.
_MEASURED = {1: 16, 8: 16, 32: 16, 64: 8, 128: 4, 256: 4, 512: 4}
_WARM_UP_S = 0.03  # for each number of rows, but two blocks at least
# Other work on the machine only slows steps, so the estimate follows a block that was faster at once, one that was
# slower little by little.
_SLOWER_AT_MOST = 1.02


class TorchBackend:
    """A folded model stepped from Python, for a CPU. On a GPU the calls would take longer than what they start."""

    def __init__(self, model: FoldedModel, max_rows: int) -> None:
        """max_rows: that may have a slot at once."""
        self.model = model
        self._rows, self._seconds = np.ones(1), np.ones(1)  # rows of a step, and its estimated seconds
        self._state = model.zero_state(max_rows)
        self._hidden_sum = model.zero_sum(max_rows)
        self._sums = np.zeros(max_rows, dtype=bool)  # slots that keep it
        self._bits = torch.zeros(max_rows, dtype=torch.float64, device=model.device)
        self._last = torch.zeros(max_rows, dtype=torch.int64, device=model.device)  # byte sampled last
        self._free = list(range(max_rows - 1, -1, -1))

    @property
    def units(self) -> int:
        return self.model.units

    def open(self, sums: bool = False) -> int:
        slot = self._free.pop()
        self._sums[slot] = sums
        if sums:
            self._hidden_sum[slot].zero_()
        self._bits[slot] = 0.0
        self._state.cell[slot].zero_()
        self._state.hidden[slot].zero_()
        return slot

    def close(self, slot: int) -> None:
        self._free.append(slot)

    def cell(self, slot: int) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self._state.cell[slot].cpu().numpy().copy()
        return values

    def hidden_sum(self, slot: int) -> NDArray[np.float64]:
        values: NDArray[np.float64] = self._hidden_sum[slot].cpu().numpy().copy()
        return values

    def bits(self, slot: int) -> float:
        return float(self._bits[slot])

    @torch.inference_mode()
    def state(self, slot: int) -> RowState:
        hidden_sum = self._hidden_sum[slot].clone() if self._sums[slot] else None
        cell, hidden, bits = (kept[slot].clone() for kept in (self._state.cell, self._state.hidden, self._bits))
        return RowState(cell, hidden, hidden_sum, bits)

    @torch.inference_mode()
    def restore(self, slot: int, state: RowState) -> None:
        self._state.cell[slot] = state.cell
        self._state.hidden[slot] = state.hidden
        self._bits[slot] = state.bits
        if state.hidden_sum is not None:
            self._hidden_sum[slot] = state.hidden_sum

    def warm_up(self, most_rows: int, scores: bool = False) -> None:  # noqa: ARG002 - for backends that record
        """Initialise what is lazy, and measure `step_seconds` of up to `most_rows` rows.

        scores: whether rows will be scored.
        """
        counts = {min(most_rows, rows): steps for rows, steps in _MEASURED.items()}
        slots = [self.open() for _ in range(most_rows)]
        seconds = []
        for count, steps in counts.items():
            text = np.zeros(steps, dtype=np.uint8)
            # The last step samples, so that a device which works on its own has ended when `run` returns.
            block = [BlockRow(s, len(text), text, len(text) - 1, 0, Sampling(), {}, (0,)) for s in slots[:count]]
            blocks: list[float] = []
            while len(blocks) < 2 or sum(blocks) < _WARM_UP_S:
                began = time.perf_counter()
                self.run(block)
                blocks.append(time.perf_counter() - began)
            seconds.append(min(blocks) / steps)
        for slot in reversed(slots):
            self.close(slot)
        self._rows, self._seconds = np.array(list(counts)), np.maximum.accumulate(seconds)

    def step_seconds(self, rows: float) -> float:
        return float(np.interp(rows, self._rows, self._seconds))

    def _observe(self, rows: float, seconds: float) -> None:
        """A step of `rows` rows took `seconds` on average."""
        nearest = np.abs(np.log(self._rows / rows)).argmin()
        now = self._seconds[nearest] * min(seconds / self.step_seconds(rows), _SLOWER_AT_MOST)
        self._seconds[nearest] = now
        np.minimum(self._seconds[:nearest], now, out=self._seconds[:nearest])
        np.maximum(self._seconds[nearest:], now, out=self._seconds[nearest:])

    @torch.inference_mode()
    def run(self, block: list[BlockRow], interrupted: Callable[[], bool] = lambda: False) -> list[BlockRowResult]:
        began = time.perf_counter()
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
        scorer = Scorer(block, self.model) if any(len(row.scored) for row in block) else None
        clamps = _Clamper(block, device)
        last = self._last[slots]
        # Where one row keeps a sum, all add up: that costs less than choosing, and the sums of the others are not used.
        hidden_sum = self._hidden_sum[slots] if any(self._sums[row.slot] for row in block) else None
        state = State(self._state.cell[slots], self._state.hidden[slots])
        ended: list[tuple[torch.Tensor, State]] = []  # kept at the end, so that nothing has happened if a step raises
        active = len(block)
        made = 0
        for step, now in enumerate(active_at):
            if step > 0 and interrupted():
                break
            if now < active:
                ended.append((slots[now:active], State(state.cell[now:], state.hidden[now:])))
                state = State(state.cell[:now], state.hidden[:now])
                active = now
            byte = columns[step, :active]
            if step >= first_fed:
                feeds_itself = torch.from_numpy(reads[:active] <= step).to(device)
                byte = torch.where(feeds_itself, last[:active], byte)
            if scorer is not None:
                scorer.keep(step, state.hidden)
            state = self.model.step(byte, state, clamps.at(active))
            if hidden_sum is not None:
                hidden_sum[:active].add_(state.hidden)
            tracer.record(step, active, state)
            sampler.draw(step, active, state, self.model, last)
            made = step + 1
        sums = None if scorer is None else scorer.sums(made, self._bits)
        for slots_, state_ in (*ended, (slots[:active], state)):
            self._state.cell[slots_] = state_.cell
            self._state.hidden[slots_] = state_.hidden
        if hidden_sum is not None:
            self._hidden_sum[slots] = hidden_sum
        self._last[slots] = last
        if sums is not None:
            self._bits.copy_(sums)
        self._observe(sum(active_at[:made]) / made, (time.perf_counter() - began) / made)
        return [
            BlockRowResult(row_steps, *sampler.result(column, row_steps), tracer.result(column, row_steps))
            for column, row_steps in enumerate(np.minimum(steps, made).tolist())
        ]


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
    """Collects the traced units of a block."""

    def __init__(self, block: list[BlockRow], device: torch.device) -> None:
        pairs = [(column, unit) for column, row in enumerate(block) for unit in row.traced]
        self._columns = np.array([column for column, _ in pairs], dtype=np.int64)
        self._rows = torch.from_numpy(self._columns).to(device)
        self._units = torch.tensor([unit for _, unit in pairs], dtype=torch.int64, device=device)
        self._values = torch.zeros(block[0].steps, len(pairs), device=device)

    def record(self, step: int, active: int, state: State) -> None:
        count = int(np.searchsorted(self._columns, active))
        if count:
            self._values[step, :count] = state.cell[self._rows[:count], self._units[:count]]

    def result(self, column: int, steps: int) -> NDArray[np.float32]:
        begin, end = np.searchsorted(self._columns, [column, column + 1])
        return self._values.cpu().numpy()[:steps, begin:end]


class _Sampler:
    """Draws the next byte of the rows that generate."""

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

    def draw(self, step: int, active: int, state: State, model: FoldedModel, last: torch.Tensor) -> None:
        """Sample the rows that generate at this step, and write their byte into `last`."""
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

    def result(self, column: int, steps: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        drawn = slice(self._block[column].samples_from, steps)
        return self._bytes.cpu().numpy()[drawn, column], self._log_probability.cpu().numpy()[drawn, column]
