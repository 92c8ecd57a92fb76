"""A row's state, trace and samples are bit for bit the same alone, beside any rows and in any place among them."""

import time
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.backend import BlockRow, BlockRowResult
from engine.folded import FoldedModel
from engine.rows import Sampling
from engine.torch_backend import TorchBackend
from model.network.cells import CellName
from model.network.language_model import Architecture, LanguageModel
from tests.support.exact import mean_hidden
from tests.support.examples import examples

# Not a multiple of a vector's length, so that whatever is left over after whole vectors would show.
UNITS = 300
MAX_ROWS = 70


def language_model(cell: CellName) -> LanguageModel:
    model = LanguageModel(Architecture(cell, UNITS, 16))
    model.reset(torch.Generator().manual_seed(0), embedding_std=1.0)
    with torch.no_grad():
        model.output_w.mul_(40.0)
    return model


LANGUAGE_MODELS = [language_model(cell) for cell in get_args(CellName)]
MODELS = [FoldedModel(model, dtype=dtype) for model in LANGUAGE_MODELS for dtype in (torch.float32, torch.bfloat16)]
STEPS = 6
ROW = BlockRow(
    slot=0,
    steps=STEPS,
    text=np.frombuffer(b"good", dtype=np.uint8),
    samples_from=3,
    first_draw=0,
    sampling=Sampling(temperature=0.9, top_p=0.95, seed=7),
    clamps={4: 0.5},
    traced=(0, 4, 299),
)


def carried(backend: TorchBackend, slot: int) -> np.ndarray:
    """A row's cell and the sum of its hidden vectors, (2, units)."""
    return np.stack([backend.cell(slot), backend.hidden_sum(slot)])


def run(model: FoldedModel, block: list[BlockRow], blocks: int = 2) -> tuple[list[BlockRowResult], list[np.ndarray]]:
    """The last of some blocks of the same rows, and what they carry."""
    backend = TorchBackend(model, MAX_ROWS)
    slots = [backend.open(sums=True) for _ in block]
    results: list[BlockRowResult] = []
    for number in range(blocks):
        results = backend.run(
            [
                replace(row, slot=slot, first_draw=number * (row.steps - row.samples_from))
                for row, slot in zip(block, slots, strict=True)
            ]
        )
    return results, [carried(backend, slot) for slot in slots]


def neighbours(count: int, seed: int) -> list[BlockRow]:
    random = np.random.default_rng(seed)
    return [
        BlockRow(0, STEPS, random.integers(0, 256, STEPS, dtype=np.uint8), STEPS, 0, Sampling(), {}, ())
        for _ in range(count)
    ]


@pytest.mark.parametrize("threads", [1, 3])
@given(st.sampled_from(MODELS), st.integers(0, MAX_ROWS - 1), st.data())
@settings(deadline=None, max_examples=examples(30))
def test_neighbours_change_no_bit(threads: int, model: FoldedModel, count: int, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, count))
    block = neighbours(count, seed=count)
    block.insert(place, ROW)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        (alone,), (cell,) = run(model, [ROW])
        results, cells = run(model, block)
    finally:
        torch.set_num_threads(before)
    assert cells[place].tobytes() == cell.tobytes()
    assert results[place].trace.tobytes() == alone.trace.tobytes()
    assert results[place].sampled.tobytes() == alone.sampled.tobytes()
    assert results[place].log_probability.tobytes() == alone.log_probability.tobytes()


def test_rows_of_different_lengths_end_where_they_would_alone() -> None:
    model = MODELS[0]
    block = [
        replace(row, steps=steps, text=row.text[:steps], samples_from=steps)
        for row, steps in zip(neighbours(5, seed=1), (6, 6, 3, 2, 1), strict=True)
    ]
    _, cells = run(model, block, blocks=1)
    for row, cell in zip(block, cells, strict=True):
        _, (alone,) = run(model, [row], blocks=1)
        assert cell.tobytes() == alone.tobytes()


def test_a_row_reads_its_text_and_then_what_it_sampled() -> None:
    model = MODELS[1]
    (found,), (cell,) = run(model, [ROW], blocks=1)
    # Six steps: four read the text, two read the first two of the three bytes sampled after steps 3, 4 and 5.
    read = np.concatenate([ROW.text, found.sampled[:2]])
    _, (expected,) = run(model, [replace(ROW, text=read, samples_from=STEPS)], blocks=1)
    assert cell.tobytes() == expected.tobytes()


def test_a_block_goes_on_from_where_it_was_interrupted() -> None:
    model = MODELS[1]
    block = [*neighbours(2, seed=3), replace(ROW, steps=5, text=ROW.text[:3], samples_from=2)]
    whole, cells = run(model, block, blocks=1)
    for made in range(1, STEPS):
        backend = TorchBackend(model, MAX_ROWS)
        block = [replace(row, slot=backend.open(sums=True)) for row in block]
        asked = iter([False] * (made - 1) + [True])
        first = backend.run(block, lambda asked=asked: next(asked))  # type: ignore[misc]
        assert [result.steps for result in first] == [min(made, row.steps) for row in block]
        rest = [
            replace(
                row,
                steps=row.steps - done.steps,
                text=row.text[done.steps :],
                samples_from=max(0, row.samples_from - done.steps),
                first_draw=len(done.sampled),
            )
            for row, done in zip(block, first, strict=True)
            if done.steps < row.steps
        ]
        second = backend.run(rest)
        for before, after, expected in zip(first, second, whole, strict=False):
            assert np.concatenate([before.sampled, after.sampled]).tobytes() == expected.sampled.tobytes()
            assert np.concatenate([before.trace, after.trace]).tobytes() == expected.trace.tobytes()
        for row, cell in zip(block, cells, strict=True):
            assert carried(backend, row.slot).tobytes() == cell.tobytes()


@pytest.mark.parametrize(
    ("model", "folded"), list(zip([model for model in LANGUAGE_MODELS for _ in range(2)], MODELS, strict=True))
)
def test_the_sum_is_that_of_the_hidden_vector_after_every_byte(model: LanguageModel, folded: FoldedModel) -> None:
    block = [
        replace(row, steps=steps, text=row.text[:steps]) for steps, row in zip((6, 2), neighbours(2, 4), strict=True)
    ]
    _, rows = run(folded, [replace(row, samples_from=row.steps) for row in block], blocks=2)
    for row, (_, hidden_sum) in zip(block, rows, strict=True):
        expected = 2 * row.steps * mean_hidden(model, 2 * row.text.tobytes())
        np.testing.assert_allclose(hidden_sum, expected, rtol=0, atol=0.2 if folded.dtype == torch.bfloat16 else 1e-4)


def test_a_row_keeps_a_sum_beside_rows_that_keep_none_and_in_a_slot_of_theirs() -> None:
    backend = TorchBackend(MODELS[1], 3)
    block = neighbours(3, seed=5)
    for sums in ([True, True, False], [False, True, True]):  # the first row's slot changes hands
        slots = [backend.open(sums=keeps) for keeps in sums]
        backend.run([replace(row, slot=slot) for row, slot in zip(block, slots, strict=True)])
        for row, slot, keeps in zip(block, slots, sums, strict=True):
            state = backend.state(slot)
            assert (state.hidden_sum is not None) == keeps
            if keeps:
                _, (alone,) = run(MODELS[1], [row], blocks=1)
                assert carried(backend, slot).tobytes() == alone.tobytes()
        for slot in slots:
            backend.close(slot)


def test_a_long_texts_sum_hears_every_byte() -> None:
    """As after a few million bytes; in float32 the sum would move in steps of 1/16."""
    backend = TorchBackend(MODELS[0], 2)
    begun, fresh = backend.open(sums=True), backend.open(sums=True)
    state = backend.state(begun)
    backend.restore(begun, replace(state, hidden_sum=torch.full((UNITS,), 2.0**19, dtype=torch.float64)))
    (row,) = neighbours(1, seed=6)
    backend.run([replace(row, slot=slot) for slot in (begun, fresh)])
    np.testing.assert_allclose(backend.hidden_sum(begun) - 2.0**19, backend.hidden_sum(fresh), rtol=0, atol=1e-8)


def test_a_step_of_more_rows_is_never_said_to_be_quicker() -> None:
    backend = TorchBackend(MODELS[0], MAX_ROWS)
    backend.warm_up(40)
    seconds = [backend.step_seconds(rows) for rows in range(1, MAX_ROWS)]
    assert seconds[0] > 0
    assert seconds == sorted(seconds)
    assert len({backend.open() for _ in range(MAX_ROWS)}) == MAX_ROWS  # warming up has taken no slot


def test_the_time_of_a_step_is_learnt_from_the_blocks_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    backend = TorchBackend(MODELS[0], MAX_ROWS)
    backend.warm_up(40)
    monkeypatch.setattr(time, "perf_counter", lambda: clock)

    def run_block(rows: int, seconds_a_step: float) -> None:
        def interrupted() -> bool:
            nonlocal clock
            clock += seconds_a_step * STEPS / (STEPS - 1)  # it is asked before all steps but the first
            return False

        backend.run([replace(row, slot=slot) for slot, row in enumerate(neighbours(rows, seed=rows))], interrupted)

    run_block(8, 1e-7)  # quicker than foretold, and so are steps of fewer rows
    assert backend.step_seconds(8) == pytest.approx(1e-7)
    assert backend.step_seconds(1) <= backend.step_seconds(8) < backend.step_seconds(32)
    run_block(8, 1e-3)  # other work may have disturbed it
    assert backend.step_seconds(8) == pytest.approx(1.02e-7)
    for _ in range(500):
        run_block(8, 1e-3)
    assert backend.step_seconds(8) == pytest.approx(1e-3, rel=0.02)
    assert backend.step_seconds(32) >= backend.step_seconds(8)
