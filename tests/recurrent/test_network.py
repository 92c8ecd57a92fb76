"""The network: padding and parts change nothing, cells are those of their equations, weights begin as told."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from model.network.cells import CellWeights, State, step
from recurrent import network as network_module
from recurrent.network import Dropout, MultiplicativeStack, Network, TorchStack
from recurrent.options import Options

SMALL = Options(embedding=3, units=4, dropout=0.5)
LENGTHS = torch.tensor([7, 1, 4])


def made(options: Options, outputs: int = 2) -> Network:
    found = Network(options, tokens=11, outputs=outputs)
    found.reset(torch.Generator().manual_seed(1))
    for name, parameter in found.named_parameters():
        if "bias" in name or name.endswith(".b"):
            parameter.data.uniform_(-1, 1, generator=torch.Generator().manual_seed(2))
    return found.eval()


def tokens() -> Tensor:
    return torch.randint(0, 11, (7, 3), generator=torch.Generator().manual_seed(3))


SHAPES = [
    {"cell": cell, "pooling": pooling, "bidirectional": bidirectional, "layers": layers, "steepness": steepness}
    for cell, (pooling, bidirectional, layers, steepness) in product(
        ("gru", "lstm", "mlstm", "rnn"),
        (("last", True, 1, 1.0), ("mean", False, 2, 3.75), ("max", True, 2, 1.0), ("last", False, 1, 3.75)),
    )
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_text_among_longer_ones_is_read_as_alone(shape: dict[str, Any]) -> None:
    network = made(replace(SMALL, **shape))
    together = network(tokens(), LENGTHS)
    for row, length in enumerate(LENGTHS):
        alone = network(tokens()[:length, row : row + 1], LENGTHS[row : row + 1])
        assert together[row].tolist() == pytest.approx(alone[0].tolist(), abs=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_long_text_is_read_in_parts(shape: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    network = made(replace(SMALL, **shape))
    with torch.no_grad():
        whole = network(tokens(), LENGTHS)
        monkeypatch.setattr(network_module, "PART", 2)
        assert network(tokens(), LENGTHS).flatten().tolist() == pytest.approx(whole.flatten().tolist(), abs=1e-5)


@pytest.mark.parametrize("steepness", [1.0, 3.75])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_torchs_cells_are_those_of_the_equations(cell: Any, steepness: float) -> None:
    options = replace(SMALL, cell=cell, steepness=steepness)
    stack = TorchStack(options)
    embedded = torch.randn(5, 2, 3)
    hidden, _ = stack(embedded, None)
    weight_ih, weight_hh, bias_ih, bias_hh = stack.cell.parameters()
    if cell == "lstm":  # torch's order of gates is i, f, u, o; that of the equations i, f, o, u
        order = torch.cat([torch.arange(8), torch.arange(12, 16), torch.arange(8, 12)])
    else:
        order = torch.arange(12)
        bias_hh.data[8:] = 0  # torch adds it to h·Wh before the reset gate, where the equations have none
    gates = torch.ones(len(order))
    gates[: 12 if cell == "lstm" else 8] = steepness
    bias = bias_ih + bias_hh
    hidden, _ = stack(embedded, None)
    state = State(torch.zeros(2, 4), torch.zeros(2, 4))
    for t, x in enumerate(embedded):
        table = (x @ weight_ih.t() + bias)[:, order] * gates
        weights = CellWeights(table, weight_hh.t()[:, order] * gates, None, None)
        state = step(cell, weights, torch.arange(2), state)
        assert hidden[t].flatten().tolist() == pytest.approx(state.hidden.flatten().tolist(), abs=1e-5)


def test_the_mlstm_and_its_gradients_are_those_of_the_equations() -> None:
    """More lines than a table of bytes has, so that each is looked up alone."""
    stack = MultiplicativeStack(replace(SMALL, cell="mlstm", steepness=2.0))
    stack.reset(torch.Generator().manual_seed(1))
    (layer,) = stack.layers
    embedded = (0.1 * torch.randn(100, 3, 3)).requires_grad_()
    scale = torch.tensor([2.0] * 12 + [1.0] * 4)

    def plain() -> Tensor:
        state, found = State(torch.zeros(3, 4), torch.zeros(3, 4)), []
        for x in embedded:
            table = (x @ layer.wx + layer.b) * scale
            weights = CellWeights(table, layer.wh * scale, x @ layer.wmx, layer.wmh)
            state = step("mlstm", weights, torch.arange(3), state)
            found.append(state.hidden)
        return torch.stack(found)

    inputs = [embedded, *layer.parameters()]
    factors = torch.randn(100, 3, 4)
    expected, found = plain(), stack(embedded, None)[0]
    assert found.flatten().tolist() == pytest.approx(expected.flatten().tolist(), abs=1e-5)
    for one, other in zip(
        torch.autograd.grad((found * factors).sum(), inputs),
        torch.autograd.grad((expected * factors).sum(), inputs),
        strict=True,
    ):
        assert one.flatten().tolist() == pytest.approx(other.flatten().tolist(), rel=1e-3, abs=1e-4)


def test_recurrent_matrices_begin_as_told() -> None:
    eye = torch.eye(4)
    for cell in ("gru", "lstm", "rnn", "mlstm"):
        for initialization in ("orthogonal", "identity", "uniform"):
            network = made(replace(SMALL, cell=cell, initialization=initialization))
            (stack, _) = network.stacks
            if cell == "mlstm":
                blocks = [*torch.split(stack.layers[0].wh, 4, dim=1), stack.layers[0].wmh]
            else:
                blocks = list(torch.split(stack.cell.weight_hh_l0, 4))
            for block in blocks:
                orthogonal = torch.allclose(block @ block.t(), eye, atol=1e-5)
                assert orthogonal == (initialization != "uniform")
                assert torch.equal(block, eye) == (initialization == "identity")


def test_dropout_is_of_training_alone() -> None:
    network = made(SMALL)
    assert torch.equal(network(tokens(), LENGTHS), network(tokens(), LENGTHS))
    network.train()
    assert not torch.equal(network(tokens(), LENGTHS), network(tokens(), LENGTHS))


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.75, 0.999, 0.999999])
def test_dropout_takes_its_share_and_keeps_the_mean(probability: float) -> None:
    dropout = Dropout(probability)
    inputs = torch.ones(101, 103, 30, requires_grad=True)
    torch.manual_seed(0)
    outputs = dropout(inputs)
    kept = outputs != 0
    share = max(1 - round(probability * 2**16) / 2**16, 2**-16)  # draws are numbers of 16 bits
    assert kept.double().mean().item() == pytest.approx(1 - probability, abs=0.01)
    assert torch.equal(outputs[kept], torch.full_like(outputs[kept], 1 / share))
    outputs.sum().backward()
    assert torch.equal(inputs.grad != 0, kept)
    # Neighbours are drawn from one number of 64 bits, and are as independent as others.
    assert (kept[..., 0] & kept[..., 1]).double().mean().item() == pytest.approx((1 - probability) ** 2, abs=0.02)
    assert not torch.equal(dropout(inputs), outputs)
    torch.manual_seed(0)
    assert torch.equal(dropout(inputs), outputs)
