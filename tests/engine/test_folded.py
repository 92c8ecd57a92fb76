"""The fast form of a model is the plain one: alone, batched, re-ordered, in chunks, clamped; bfloat16 is close."""

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.folded import Clamps, FoldedModel
from model.network.cells import CellName, State, step
from model.network.language_model import Architecture, LanguageModel
from tests.support.examples import examples

UNITS = 24
CELLS = get_args(CellName)


def random_model(name: CellName) -> LanguageModel:
    generator = torch.Generator().manual_seed(CELLS.index(name))
    model = LanguageModel(Architecture(name, UNITS, 6))
    model.reset(generator, embedding_std=1.0)
    with torch.no_grad():
        for gain in (model.cell.gx, model.cell.gh, model.cell.b):
            gain.add_(0.5 * torch.randn(gain.shape, generator=generator))
        model.output_w.normal_(0.0, 1.0, generator=generator)
        model.output_b.normal_(0.0, 1.0, generator=generator)
    return model


MODELS = {name: random_model(name) for name in CELLS}
FOLDED = {name: FoldedModel(model, dtype=torch.float32) for name, model in MODELS.items()}
by_cell = pytest.mark.parametrize("name", CELLS)


def random_bytes(steps: int, rows: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (steps, rows), generator=torch.Generator().manual_seed(seed))


def read(model: FoldedModel, text: Tensor, state: State | None = None, clamps: Clamps | None = None) -> State:
    """text: (steps, rows)."""
    state = state or model.zero_state(text.shape[1])
    for byte in text:
        state = model.step(byte, state, clamps)
    return state


@torch.no_grad()
def read_plainly(name: CellName, text: Tensor) -> State:
    """In float64, by the reference."""
    model = LanguageModel(MODELS[name].architecture).double()
    model.load_state_dict(MODELS[name].state_dict())
    weights, state = model.cell.weights(model.embedding), model.zero_state(text.shape[1])
    for byte in text:
        state = step(name, weights, byte, state)
    return state


def assert_close(found: State, expected: State, tolerance: float = 1e-5) -> None:
    for value, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(value.double(), wanted.double(), rtol=0, atol=tolerance)


@by_cell
@pytest.mark.parametrize("rows", [1, 3, 64])
def test_float32_is_the_reference(name: CellName, rows: int) -> None:
    text = random_bytes(40, rows)
    expected = read_plainly(name, text)
    assert expected.cell.abs().max() > 0.3
    assert_close(read(FOLDED[name], text), expected)


@by_cell
@given(data=st.data())
@settings(deadline=None, max_examples=examples(25))
def test_a_row_is_the_same_beside_any_rows(name: CellName, data: st.DataObject) -> None:
    rows = data.draw(st.integers(2, 20))
    order = data.draw(st.permutations(range(rows)))
    cuts = sorted(data.draw(st.sets(st.integers(1, 15), max_size=4)))
    text, model = random_bytes(16, rows, seed=rows), FOLDED[name]
    whole = read(model, text)

    alone = read(model, text[:, order[:1]])
    assert_close(alone, State(whole.cell[order[:1]], whole.hidden[order[:1]]))

    state = model.zero_state(rows)
    for begin, end in zip([0, *cuts], [*cuts, 16], strict=True):
        # Between two chunks the rows change places, as in a running batch.
        state = State(state.cell[order], state.hidden[order])
        state = read(model, text[begin:end, order], state)
        state = State(*(value[torch.tensor(order).argsort()] for value in state))
    assert_close(state, whole)


@by_cell
def test_a_step_leaves_the_state_before_it_alone(name: CellName) -> None:
    model, text = FOLDED[name], random_bytes(6, 3)
    state = read(model, text[:5])
    copy = State(state.cell.clone(), state.hidden.clone())
    clamps = Clamps(torch.tensor([1]), torch.tensor([2]), torch.tensor([5.0]))
    model.step(text[5], state, clamps)
    assert torch.equal(state.cell, copy.cell)
    assert torch.equal(state.hidden, copy.hidden)


@by_cell
def test_clamps_hold_the_cell_and_act_on_the_next_byte(name: CellName) -> None:
    model, text = FOLDED[name], random_bytes(9, 4, seed=3)
    clamps = Clamps(torch.tensor([0, 2, 2]), torch.tensor([5, 5, 7]), torch.tensor([1.0, -1.0, 0.25]))
    state, free = model.zero_state(4), model.zero_state(4)
    for number, byte in enumerate(text):
        unclamped = model.step(byte, state)
        state, free = model.step(byte, state, clamps), model.step(byte, free)
        assert state.cell[clamps.rows, clamps.units].tolist() == [1.0, -1.0, 0.25]
        # h is computed from the clamped cell: o*tanh(c) by the same gate o.
        expected = unclamped.hidden.clone()
        for row, unit, value in zip(clamps.rows, clamps.units, clamps.values, strict=True):
            if name == "gru":
                expected[row, unit] = value
            else:
                gate = unclamped.hidden[row, unit] / torch.tanh(unclamped.cell[row, unit])
                expected[row, unit] = gate * torch.tanh(value)
        torch.testing.assert_close(state.hidden, expected, rtol=0, atol=1e-5)
        others = torch.ones(4, UNITS, dtype=torch.bool)
        others[clamps.rows, clamps.units] = False
        if number == 0:
            assert torch.equal(state.cell[others], free.cell[others])  # nothing else moved yet
        assert torch.equal(state.cell[[1, 3]], free.cell[[1, 3]])  # nor do other rows, ever
        for row in (0, 2):
            assert not torch.allclose(model.logits(state.hidden)[row], model.logits(free.hidden)[row], atol=1e-3)
    assert not torch.allclose(state.cell[others], free.cell[others], atol=1e-3)


@by_cell
def test_a_clamp_persists_in_the_state(name: CellName) -> None:
    model, text = FOLDED[name], random_bytes(2, 1)
    clamps = Clamps(torch.tensor([0]), torch.tensor([4]), torch.tensor([3.0]))
    clamped, free = read(model, text[:1], clamps=clamps), read(model, text[:1])
    after_clamped, after_free = model.step(text[1], clamped), model.step(text[1], free)
    assert abs(float(after_clamped.cell[0, 4] - after_free.cell[0, 4])) > 0.1


@by_cell
def test_logits_are_the_language_models(name: CellName) -> None:
    model, text = MODELS[name], random_bytes(12, 5)
    state = read_plainly(name, text)
    expected = state.hidden @ model.output_w.detach().double() + model.output_b.detach().double()
    found = FOLDED[name].logits(read(FOLDED[name], text).hidden)
    assert found.dtype == torch.float32
    assert found.shape == (5, 256)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)


@by_cell
def test_bfloat16_is_close(name: CellName) -> None:
    model, text = FoldedModel(MODELS[name], dtype=torch.bfloat16), random_bytes(30, 8)
    state, expected = read(model, text), read_plainly(name, text)
    assert state.cell.dtype == torch.float32
    assert state.hidden.dtype == torch.bfloat16
    difference = (state.cell.double() - expected.cell).abs()
    assert float(difference.mean()) < 0.02 * float(expected.cell.abs().mean())
    logits = model.logits(state.hidden)
    assert logits.dtype == torch.float32
    exact = expected.hidden @ MODELS[name].output_w.detach().double() + MODELS[name].output_b.detach().double()
    assert float((logits.double() - exact).abs().mean()) < 0.05


def test_a_folded_model_does_not_follow_its_source() -> None:
    source = random_model("mlstm")
    folded, text = FoldedModel(source, dtype=torch.float32), random_bytes(5, 2)
    before = folded.logits(read(folded, text).hidden)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.fill_(7.0)
    assert torch.equal(folded.logits(read(folded, text).hidden), before)


@by_cell
def test_no_rows_are_fine(name: CellName) -> None:
    model = FOLDED[name]
    state = model.step(torch.zeros(0, dtype=torch.int64), model.zero_state(0))
    assert state.cell.shape == (0, UNITS)
    assert model.logits(state.hidden).shape == (0, 256)
