"""Steps that a graph can replay give what TorchBackend gives, and nothing leaks between rows or blocks."""

import os
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.backend import BlockRow, BlockRowResult
from engine.block import PlainStep
from engine.folded import FoldedModel
from engine.graph_backend import GraphBackend
from engine.rows import Sampling
from engine.torch_backend import TorchBackend
from model.network.cells import CellName
from model.network.language_model import Architecture, LanguageModel
from tests.support.exact import mean_hidden
from tests.support.examples import examples

UNITS = 64
MAX_ROWS = 40  # not a power of two: the most rows of a graph
CELLS: tuple[CellName, ...] = get_args(CellName)


def language_model(cell: CellName) -> LanguageModel:
    model = LanguageModel(Architecture(cell, UNITS, 16))
    model.reset(torch.Generator().manual_seed(0), embedding_std=1.0)
    with torch.no_grad():
        model.output_w.mul_(40.0)
    return model


FOLDED = {cell: FoldedModel(language_model(cell), dtype=torch.float32) for cell in CELLS}

INTERPRETED = pytest.mark.skipif(
    not os.environ.get("TRITON_INTERPRET") or find_spec("triton") is None, reason="needs Triton and TRITON_INTERPRET=1"
)

SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.7, 1.0, 1.5]),
    top_k=st.sampled_from([1, 3, 256]),
    top_p=st.sampled_from([0.3, 0.9, 1.0]),
    seed=st.integers(-(2**63), 2**63 - 1),
)
CLAMPS = st.dictionaries(st.integers(0, UNITS - 1), st.floats(-2, 2, width=32), max_size=3)


@st.composite
def blocks(
    draw: st.DrawFn, most_steps: int = 37, counts: tuple[int, ...] = (1, 2, 5, 16, 17, MAX_ROWS)
) -> list[BlockRow]:
    """Rows that read, read and then generate, or generate; of many lengths, in order. Slots are still to be set."""
    count = draw(st.sampled_from(counts))
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    wishes = [(draw(SAMPLINGS), draw(CLAMPS), draw(st.lists(st.integers(0, UNITS - 1), max_size=3))) for _ in range(4)]
    rows = []
    for number in range(count):
        sampling, clamps, traced = wishes[random.integers(len(wishes))]
        steps = int(random.integers(1, most_steps + 1))
        reads = steps if random.random() < 0.5 else int(random.integers(0, steps + 1))
        samples_from = max(0, reads - 1) if reads < steps or random.random() < 0.5 else steps
        text = random.integers(0, 256, reads, dtype=np.uint8)
        scored = np.flatnonzero(random.random(reads) < random.choice([0.0, 0.5]))
        rows.append(BlockRow(number, steps, text, samples_from, 0, sampling, clamps, tuple(traced), scored))
    return sorted(rows, key=lambda row: row.steps, reverse=True)


def assert_alike(ours: list[BlockRowResult], others: list[BlockRowResult]) -> None:
    """The same to rounding; sampled bytes exactly."""
    for one, other in zip(ours, others, strict=True):
        assert one.steps == other.steps
        assert one.sampled.tobytes() == other.sampled.tobytes()
        np.testing.assert_allclose(one.log_probability, other.log_probability, rtol=0, atol=1e-4)
        np.testing.assert_allclose(one.trace, other.trace, rtol=0, atol=1e-4)


def compare(ours: TorchBackend, other: TorchBackend, run: list[list[BlockRow]]) -> None:
    """Blocks in a row, on rows that stay open: each row of a block continues where the slot of its number stands."""
    numbers = {row.slot for block in run for row in block}
    slots = {number: (ours.open(sums=number % 2 == 0), other.open(sums=number % 2 == 0)) for number in numbers}
    draws = dict.fromkeys(slots, 0)
    # A slot keeps what was sampled before it was opened, so at first every row reads a byte of its own and samples one.
    first = [BlockRow(row, 1, np.array([row], dtype=np.uint8), 0, 0, Sampling(), {}, ()) for row in slots]
    for block in (first, *run):
        block = [replace(row, first_draw=draws[row.slot]) for row in block]
        found = ours.run([replace(row, slot=slots[row.slot][0]) for row in block], lambda: True)
        assert_alike(found, other.run([replace(row, slot=slots[row.slot][1]) for row in block]))
        for row in block:
            draws[row.slot] += row.steps - row.samples_from
    for number, (one, two) in slots.items():
        if number % 2 == 0:
            np.testing.assert_allclose(ours.hidden_sum(one), other.hidden_sum(two), rtol=0, atol=1e-3)
        np.testing.assert_allclose(ours.cell(one), other.cell(two), rtol=0, atol=1e-4)
        np.testing.assert_allclose(ours.bits(one), other.bits(two), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.state(one).hidden.cpu(), other.state(two).hidden, rtol=0, atol=1e-4)
        ours.close(one)
        other.close(two)


@given(st.sampled_from(CELLS), st.lists(blocks(), min_size=1, max_size=3))
@settings(deadline=None, max_examples=examples(40))
def test_blocks_give_what_steps_of_torch_give(cell: CellName, run: list[list[BlockRow]]) -> None:
    compare(GraphBackend(FOLDED[cell], MAX_ROWS), TorchBackend(FOLDED[cell], MAX_ROWS), run)


ROW = BlockRow(0, 6, np.frombuffer(b"good", dtype=np.uint8), 3, 0, Sampling(seed=7), {4: 0.5}, (0, 4, 63))


def assert_neighbours_change_nothing(model: FoldedModel, counts: list[int]) -> None:
    """A row gives the same bits alone and beside so many others, wherever it stands among them."""
    backend = GraphBackend(model, MAX_ROWS)

    def run(block: list[BlockRow], place: int) -> tuple[bytes, bytes, bytes, bytes, bytes]:
        block = [replace(row, slot=backend.open(sums=number == place)) for number, row in enumerate(block)]
        for _ in range(2):
            result = backend.run(block)[place]
        cell, hidden_sum = backend.cell(block[place].slot), backend.hidden_sum(block[place].slot)
        for row in block:
            backend.close(row.slot)
        carried = cell.tobytes(), hidden_sum.tobytes()
        return *carried, result.sampled.tobytes(), result.log_probability.tobytes(), result.trace.tobytes()

    alone = run([ROW], 0)
    random = np.random.default_rng(0)
    for count in counts:
        text = random.integers(0, 256, (count, 6), dtype=np.uint8)
        neighbours = [replace(ROW, text=line, samples_from=6, clamps={}, traced=(1,)) for line in text]
        for place in (0, count // 2, count):
            assert run([*neighbours[:place], ROW, *neighbours[place:]], place) == alone


def test_neighbours_change_no_bit_of_a_row() -> None:
    assert_neighbours_change_nothing(FOLDED["mlstm"], [1, 15, 16, 30])


@pytest.mark.parametrize("cell", CELLS)
def test_the_sum_is_that_of_the_hidden_vector_after_every_byte(cell: CellName) -> None:
    backend = GraphBackend(FOLDED[cell], MAX_ROWS)
    slots = [backend.open(sums=True) for _ in range(2)]
    text = np.arange(40, dtype=np.uint8)
    backend.run([BlockRow(slot, n, text[:n], n, 0, Sampling(), {}, ()) for slot, n in zip(slots, (40, 7), strict=True)])
    for slot, count in zip(slots, (40, 7), strict=True):
        expected = count * mean_hidden(language_model(cell), text[:count].tobytes())
        np.testing.assert_allclose(backend.hidden_sum(slot), expected, rtol=0, atol=1e-4)


def test_a_clamp_ends_with_its_block() -> None:
    backend = GraphBackend(FOLDED["mlstm"], MAX_ROWS)
    slot = backend.open()
    (held,) = backend.run([replace(ROW, slot=slot)])
    assert (held.trace[:, 1] == 0.5).all()
    (free,) = backend.run([replace(ROW, slot=slot, clamps={})])
    assert (free.trace[:, 1] != 0.5).all()


def test_clamps_hold_after_a_block_for_whose_clamps_there_was_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = GraphBackend(FOLDED["mlstm"], MAX_ROWS)
    block = [replace(ROW, slot=backend.open())]

    def no_memory(*_: object) -> torch.Tensor:
        raise MemoryError

    for clamps in ({4: 0.5}, {4: 0.25}):  # those of the next block; and others, while the device has these
        with monkeypatch.context() as patch:
            patch.setattr(torch, "from_numpy", no_memory)
            with pytest.raises(MemoryError):
                backend.run([replace(block[0], clamps=clamps)])
        (held,) = backend.run(block)
        assert (held.trace[:, 1] == 0.5).all()


def test_what_a_step_takes_follows_the_blocks_that_are_waited_for() -> None:
    backend = GraphBackend(FOLDED["mlstm"], MAX_ROWS)
    waited, other = replace(ROW, slot=backend.open()), replace(ROW, slot=backend.open(), samples_from=6, traced=())
    backend._seconds[:] = 1e9
    for row in (other, waited, other):  # none of which shows its own time alone
        backend.run([row])
        assert backend.step_seconds(1) == 1e9
    backend.run([waited])
    backend.run([waited])
    assert backend.step_seconds(1) < 1e9


def test_every_slot_that_was_asked_for_can_be_opened_and_starts_from_zero() -> None:
    backend = GraphBackend(FOLDED["mlstm"], MAX_ROWS)
    backend.warm_up(MAX_ROWS)
    slots = [backend.open(sums=True) for _ in range(MAX_ROWS)]
    assert len(set(slots)) == MAX_ROWS
    backend.run([replace(ROW, slot=slot) for slot in slots[:3]])
    assert backend.cell(slots[0]).any()
    assert backend.hidden_sum(slots[0]).any()
    backend.close(slots[0])
    assert backend.open(sums=True) == slots[0]
    assert not backend.hidden_sum(slots[0]).any()
    assert not any(backend.cell(slot).any() for slot in slots[3:])
    with pytest.raises(IndexError):
        backend.open()  # not the slot of the rows that fill blocks up


def test_what_is_tried_before_it_is_recorded_changes_no_row() -> None:
    backend = GraphBackend(FOLDED["mlstm"], MAX_ROWS)
    slots = [backend.open(sums=True) for _ in range(MAX_ROWS)]
    backend.run([replace(ROW, slot=slot) for slot in slots])
    before = [tensor.clone() for tensor in (*backend._state, backend._hidden_sum, backend._last)]
    for _, function in backend._parts(MAX_ROWS, steps=31, samples_from=0, scores=True, traces=64):
        backend._rest()
        function()
    for tensor, was in zip((*backend._state, backend._hidden_sum, backend._last), before, strict=True):
        assert torch.equal(tensor, was)
        assert was.any()


def keep_plain_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels read a weight in its plain layout; on a CPU oneDNN would have it in its own."""
    monkeypatch.setattr("model.network.matrix._packable", lambda _: False)


@pytest.mark.slow
@INTERPRETED
@pytest.mark.parametrize("cell", CELLS)
def test_interpreted_kernels_give_what_steps_of_torch_give(cell: CellName, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.kernels import TritonStep  # noqa: PLC0415 - needs Triton, which is not everywhere

    keep_plain_layout(monkeypatch)
    monkeypatch.setattr("engine.graph_backend._fastest_step", TritonStep)
    plain = FoldedModel(language_model(cell), dtype=torch.float32)

    @given(st.lists(blocks(most_steps=4, counts=(1, 2, 3)), min_size=1, max_size=2))
    @settings(deadline=None, max_examples=examples(10))
    def few_rows(run: list[list[BlockRow]]) -> None:
        compare(GraphBackend(plain, MAX_ROWS), TorchBackend(plain, MAX_ROWS), run)

    @given(st.lists(blocks(most_steps=2, counts=(17,)), min_size=1, max_size=1))
    @settings(deadline=None, max_examples=2)
    def many_rows(run: list[list[BlockRow]]) -> None:
        compare(GraphBackend(plain, MAX_ROWS), TorchBackend(plain, MAX_ROWS), run)

    few_rows()
    many_rows()


def multiply_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter holds bfloat16 as whole numbers, and would multiply those."""
    from triton.language import bfloat16  # noqa: PLC0415 - needs Triton, which is not everywhere
    from triton.runtime import interpreter  # noqa: PLC0415

    def wide(handle: Any) -> Any:
        if handle.dtype.scalar == bfloat16:
            return (handle.data.astype(np.uint32) << 16).view(np.float32)
        return handle.data.astype(np.float32)

    def create_dot(_: Any, a: Any, b: Any, total: Any, *__: Any) -> Any:
        return interpreter.TensorHandle(wide(a) @ wide(b) + total.data, total.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


@pytest.mark.slow
@INTERPRETED
@pytest.mark.parametrize("count", [3, 17])
def test_interpreted_kernels_read_in_bfloat16_what_steps_of_torch_read(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.kernels import TritonStep  # noqa: PLC0415 - needs Triton, which is not everywhere

    multiply_bfloat16(monkeypatch)
    keep_plain_layout(monkeypatch)
    model = FoldedModel(language_model("mlstm"), dtype=torch.bfloat16)
    text = np.frombuffer(b"It was the best.", dtype=np.uint8)
    cells = []
    for step in (TritonStep, PlainStep):
        monkeypatch.setattr("engine.graph_backend._fastest_step", step)
        backend = GraphBackend(model, MAX_ROWS)
        backend.run([BlockRow(backend.open(), len(text), text, len(text), 0, Sampling(), {}, ()) for _ in range(count)])
        cells.append(backend.cell(count - 1))
    ours, plain = cells
    assert np.abs(plain).max() > 0.5
    np.testing.assert_allclose(ours, plain, rtol=0, atol=0.05)


@pytest.mark.gpu
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("fused", "warm"), [(True, False), (True, True), (False, False)])
def test_graphs_give_what_a_cpu_gives(cell: CellName, fused: bool, warm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fused:
        monkeypatch.setattr("engine.graph_backend._fastest_step", PlainStep)
    ours, other = GraphBackend(on_cuda(cell, torch.float32), MAX_ROWS), TorchBackend(FOLDED[cell], MAX_ROWS)
    if warm:
        ours.warm_up(MAX_ROWS)

    # Devices round differently, so now and then a draw would fall between two bytes: the same examples every time.
    @given(st.lists(blocks(), min_size=1, max_size=3))
    @settings(deadline=None, max_examples=examples(10), derandomize=True)
    def agree(run: list[list[BlockRow]]) -> None:
        compare(ours, other, run)

    agree()


@pytest.mark.gpu
def test_steps_are_fused_on_a_gpu() -> None:
    from engine.kernels import TritonStep  # noqa: PLC0415 - needs Triton, which is not everywhere

    assert isinstance(GraphBackend(on_cuda("mlstm", torch.bfloat16), MAX_ROWS)._step, TritonStep)


@pytest.mark.gpu
@pytest.mark.parametrize("cell", CELLS)
def test_bfloat16_on_a_gpu_reads_what_float32_reads(cell: CellName) -> None:
    text = np.frombuffer(b"It was the best of films, it was the worst.", dtype=np.uint8)
    cells = []
    for backend in (GraphBackend(on_cuda(cell, torch.bfloat16), MAX_ROWS), TorchBackend(FOLDED[cell], MAX_ROWS)):
        for count in (1, 20):
            rows = [BlockRow(backend.open(), len(text), text, len(text), 0, Sampling(), {}, ()) for _ in range(count)]
            backend.run(rows)
            cells.append(backend.cell(rows[-1].slot))
    for cell_values in cells:
        np.testing.assert_allclose(cell_values, cells[-1], rtol=0, atol=0.05)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_up_to_16_rows_change_no_bit_of_each_other(dtype: torch.dtype) -> None:
    assert_neighbours_change_nothing(on_cuda("mlstm", dtype), [1, 7, 15])


@pytest.mark.gpu
def test_a_graph_that_is_recorded_while_rows_run_leaves_them_alone() -> None:
    warm = [replace(ROW, traced=()), replace(ROW, clamps={}, traced=())]
    cells = []
    for seen in (False, True):
        backend = GraphBackend(on_cuda("mlstm", torch.float32), MAX_ROWS)
        slots = [backend.open() for _ in range(2)]
        block = [replace(row, slot=slot) for row, slot in zip(warm, slots, strict=True)]
        backend.run(block)
        if seen:  # other numbers of rows and steps, samples, traces, and more steps than there is room for
            others = [replace(ROW, slot=backend.open(), steps=70) for _ in range(20)]
            backend.run(others)
        backend.run(block)
        cells.append([backend.cell(slot).tobytes() for slot in slots])
    assert cells[0] == cells[1]


def on_cuda(cell: CellName, dtype: torch.dtype) -> FoldedModel:
    return FoldedModel(language_model(cell), "cuda", dtype)
