"""The cells compute their published equations: against NumPy for the mLSTM, against torch's own LSTM and GRU cells."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.network.cells import GATES, Cell, CellName, CellWeights, State, normalized, step

Floats = NDArray[np.float64]

UNITS, EMBEDDING, ROWS = 12, 5, 4


def random_cell(name: CellName, seed: int = 0) -> tuple[Cell, torch.Tensor]:
    """A cell in float64 whose every parameter, gains and biases too, is far from its initial value; its embedding."""
    generator = torch.Generator().manual_seed(seed)
    cell = Cell(name, UNITS, EMBEDDING).double()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return cell, torch.randn(256, EMBEDDING, generator=generator, dtype=torch.float64)


def random_state(seed: int = 1) -> State:
    generator = torch.Generator().manual_seed(seed)
    cell, hidden = torch.randn(2, ROWS, UNITS, generator=generator, dtype=torch.float64)
    return State(cell, hidden)


def weight_normed(v: Floats, g: Floats) -> Floats:
    out = np.empty_like(v)
    for column in range(v.shape[1]):
        out[:, column] = g[column] * v[:, column] / np.sqrt((v[:, column] ** 2).sum() + 1e-12)
    return out


def sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))


def test_mlstm_is_the_published_one() -> None:
    cell, embedding = random_cell("mlstm")
    p = {name: parameter.detach().numpy() for name, parameter in cell.named_parameters()}
    wx, wh = weight_normed(p["wx"], p["gx"]), weight_normed(p["wh"], p["gh"])
    wmx, wmh = weight_normed(p["wmx"], p["gmx"]), weight_normed(p["wmh"], p["gmh"])
    state = random_state()
    c, h = state.cell.numpy(), state.hidden.numpy()
    weights = cell.weights(embedding)
    for text in (b"\n wo", b"w\x00\xff\xc3"):
        byte = np.frombuffer(text, dtype=np.uint8).astype(np.int64)
        x = embedding.numpy()[byte]
        m = (x @ wmx) * (h @ wmh)
        z = x @ wx + m @ wh + p["b"]
        i, f, o, u = (z[:, gate * UNITS : (gate + 1) * UNITS] for gate in range(4))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(u)
        h = sigmoid(o) * np.tanh(c)
        state = step("mlstm", weights, torch.from_numpy(byte), state)
        np.testing.assert_allclose(state.cell.detach().numpy(), c, rtol=0, atol=1e-12)
        np.testing.assert_allclose(state.hidden.detach().numpy(), h, rtol=0, atol=1e-12)


def test_lstm_is_torchs_with_its_gates_in_another_order() -> None:
    cell, embedding = random_cell("lstm")
    weights = cell.weights(embedding)
    theirs = torch.nn.LSTMCell(EMBEDDING, UNITS, dtype=torch.float64)
    # Ours i, f, o, u; torch's i, f, g, o with g = u.
    order = torch.cat([torch.arange(UNITS) + gate * UNITS for gate in (0, 1, 3, 2)])
    with torch.no_grad():
        theirs.weight_ih.copy_(normalized(cell.wx, cell.gx)[:, order].t())
        theirs.weight_hh.copy_(normalized(cell.wh, cell.gh)[:, order].t())
        theirs.bias_ih.copy_(cell.b[order])
        theirs.bias_hh.zero_()
    byte, state = torch.tensor([10, 32, 0, 255]), random_state()
    ours = step("lstm", weights, byte, state)
    hidden, carried = theirs(embedding[byte], (state.hidden, state.cell))
    torch.testing.assert_close(ours.hidden, hidden, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.cell, carried, rtol=0, atol=1e-12)


def test_gru_is_torchs() -> None:
    cell, embedding = random_cell("gru")
    weights = cell.weights(embedding)
    theirs = torch.nn.GRUCell(EMBEDDING, UNITS, dtype=torch.float64)  # r, z, n; h' = (1 - z)*n + z*h
    with torch.no_grad():
        theirs.weight_ih.copy_(normalized(cell.wx, cell.gx).t())
        theirs.weight_hh.copy_(normalized(cell.wh, cell.gh).t())
        theirs.bias_ih.copy_(cell.b)
        theirs.bias_hh.zero_()
    byte, state = torch.tensor([10, 32, 0, 255]), random_state()
    ours = step("gru", weights, byte, state)
    torch.testing.assert_close(ours.hidden, theirs(embedding[byte], state.hidden), rtol=0, atol=1e-12)
    assert torch.equal(ours.cell, ours.hidden)


def test_weight_norm_is_per_output_column() -> None:
    draw = np.random.default_rng(0)
    v, g = draw.normal(size=(7, 5)) * 10.0 ** np.arange(-2, 3), draw.normal(size=5)
    w = normalized(torch.from_numpy(v), torch.from_numpy(g))
    np.testing.assert_allclose(w.numpy(), weight_normed(v, g), rtol=1e-14)
    np.testing.assert_allclose(w.norm(dim=0).numpy(), np.abs(g), rtol=1e-7)
    # The epsilon stands under the root: a column of zeros stays one, a tiny column is damped.
    tiny = normalized(torch.tensor([[0.0, 1e-6]], dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    np.testing.assert_allclose(tiny.numpy(), [[0.0, 0.5**0.5]], rtol=1e-12)


def test_the_adjoint_of_weight_norm() -> None:
    generator = torch.Generator().manual_seed(0)
    v, g = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((7, 5), (5,)))
    assert torch.autograd.gradcheck(normalized, (v.requires_grad_(), g.requires_grad_()))


@pytest.mark.parametrize("name", ["mlstm", "lstm", "gru"])
def test_steep_gates_are_those_of_a_sigmoid_of_a_multiple(name: CellName) -> None:
    cell, embedding = random_cell(name)
    plain = cell.weights(embedding)
    byte, state = torch.tensor([10, 32, 0, 255]), random_state()
    cell.steepness = 3.75
    steep = step(name, cell.weights(embedding), byte, state)

    squash = torch.sigmoid
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.network.cells.torch.sigmoid", lambda a: squash(3.75 * a))
        expected = step(name, plain, byte, state)
    torch.testing.assert_close(steep.cell, expected.cell, rtol=0, atol=1e-12)
    torch.testing.assert_close(steep.hidden, expected.hidden, rtol=0, atol=1e-12)
    assert not torch.allclose(steep.hidden, step(name, plain, byte, state).hidden, atol=1e-3)


@pytest.mark.parametrize("name", ["mlstm", "lstm", "gru"])
def test_reset_makes_every_recurrent_block_orthogonal(name: CellName) -> None:
    cell = Cell(name, UNITS, EMBEDDING).double()
    cell.reset(torch.Generator().manual_seed(3))
    weights = cell.weights(torch.zeros(256, EMBEDDING, dtype=torch.float64))
    blocks = list(weights.recurrent.split(UNITS, dim=1))
    assert len(blocks) == GATES[name]
    if name == "mlstm":
        assert weights.multiplier is not None
        blocks.append(weights.multiplier)
    identity = torch.eye(UNITS, dtype=torch.float64)
    for block in blocks:
        torch.testing.assert_close(block.t() @ block, identity, rtol=0, atol=1e-10)
    for number, block in enumerate(blocks):
        assert all(not torch.allclose(block, other) for other in blocks[:number])
    # The folded weights are the directions themselves: the gains leave them as they are.
    torch.testing.assert_close(weights.recurrent, cell.wh.detach(), rtol=0, atol=1e-10)
    assert not cell.b.any()


def test_reset_depends_on_its_generator_alone() -> None:
    cells = [Cell("mlstm", UNITS, EMBEDDING) for _ in range(3)]
    for cell, seed in zip(cells, (1, 1, 2), strict=True):
        torch.rand(5)
        cell.reset(torch.Generator().manual_seed(seed))
    one, again, other = (cell.state_dict() for cell in cells)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["wh"], other["wh"])


@pytest.mark.parametrize("name", ["mlstm", "lstm", "gru"])
def test_a_step_leaves_the_state_before_it_alone(name: CellName) -> None:
    cell, embedding = random_cell(name)
    state = random_state()
    copy = State(state.cell.clone(), state.hidden.clone())
    step(name, cell.weights(embedding), torch.zeros(ROWS, dtype=torch.int64), state)
    assert torch.equal(state.cell, copy.cell)
    assert torch.equal(state.hidden, copy.hidden)


def test_only_the_mlstm_has_a_multiplier() -> None:
    for name in ("lstm", "gru"):
        cell, embedding = random_cell(name)
        weights = cell.weights(embedding)
        assert isinstance(weights, CellWeights)
        assert weights.multiplier is None
        assert weights.multiplier_table is None
