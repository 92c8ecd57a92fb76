"""The loss of labels: its gradients are those of autograd, through the cells of every step, and it is what it says."""

import math

import pytest
import torch
from torch import Tensor

from benchmarks.training import PlainWindow
from model.network.backpropagation import Backpropagation
from model.network.cells import CellName, State, step
from model.network.language_model import Architecture, LanguageModel
from model.network.objective import Objective, ReadOut, Targets, label_bits
from model.network.sequence import Window

CELLS: list[CellName] = ["mlstm", "lstm", "gru"]
UNITS, CLASSES, UNIT = 9, 3, 4
STEPS, ROWS = 11, 4


def objective(name: CellName, label_weight: float = 0.7, unit_weight: float = 0.4) -> Objective:
    """In float64, every parameter far from its initial value."""
    generator = torch.Generator().manual_seed(0)
    made = Objective(
        LanguageModel(Architecture(name, UNITS, 5)), ReadOut(UNITS, CLASSES, UNIT), label_weight, unit_weight
    )
    with torch.no_grad():
        for parameter in made.double().parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return made


def window() -> tuple[Tensor, Targets]:
    """Some bytes have no label: their weight is 0 and their class of no meaning."""
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(97, 103, (STEPS + 1, ROWS), generator=generator)
    classes = torch.randint(0, CLASSES, (STEPS, ROWS), generator=generator)
    weights = torch.rand(STEPS, ROWS, generator=generator) * (torch.rand(STEPS, ROWS, generator=generator) > 0.3)
    return text[:-1], Targets(text[1:], classes, weights)


def plain_losses(made: Objective, text: Tensor, targets: Targets, state: State) -> list[Tensor]:
    """By `cells.step`, byte for byte, in words of log-probabilities."""
    weights = made.model.cell.weights(made.model.embedding)
    read_out = made.read_out
    assert read_out is not None
    assert targets.classes is not None
    assert targets.weights is not None
    sums = [torch.zeros((), dtype=torch.float64) for _ in range(3)]
    for t in range(STEPS):
        state = step(made.model.cell.name, weights, text[t], state)
        logits = [
            state.hidden @ made.model.output_w + made.model.output_b,
            state.cell @ read_out.weight + read_out.bias,
            state.cell[:, [UNIT]] @ read_out.unit_weight[None] + read_out.unit_bias,
        ]
        wanted = [targets.bytes[t], targets.classes[t], targets.classes[t]]
        counts = [torch.ones(ROWS), targets.weights[t], targets.weights[t]]
        for number, (found, target, count) in enumerate(zip(logits, wanted, counts, strict=True)):
            bits = -torch.log_softmax(found, 1)[torch.arange(ROWS), target] / math.log(2)
            sums[number] = sums[number] + (bits * count).sum() / (STEPS * ROWS)
    return sums


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("segment", [None, 3])
@pytest.mark.parametrize("weights", [(0.7, 0.4), (0.0, 0.4), (0.7, 0.0)])
def test_losses_and_gradients_are_those_of_the_plain_loop(
    name: CellName, segment: int | None, weights: tuple[float, float]
) -> None:
    made, (text, targets) = objective(name, *weights), window()
    generator = torch.Generator().manual_seed(2)
    state = State(*(torch.randn(ROWS, UNITS, generator=generator, dtype=torch.float64) for _ in range(2)))
    expected = plain_losses(made, text, targets, state)
    sum(w * loss for w, loss in zip((1.0, *weights), expected, strict=True)).backward()  # type: ignore[union-attr]
    wanted = {key: parameter.grad for key, parameter in made.named_parameters()}
    made.zero_grad()
    losses, _ = Backpropagation(made, Window(name, torch.float64, fuse=False, segment=segment)).run(
        text, targets, state
    )
    torch.testing.assert_close(losses, torch.stack(expected).detach(), rtol=1e-10, atol=1e-10)
    for key, parameter in made.named_parameters():
        gradient = wanted[key]
        assert gradient is not None
        assert gradient.abs().max() > 1e-4 or 0.0 in weights, f"{key} is no test"
        torch.testing.assert_close(
            parameter.grad, gradient, rtol=1e-9, atol=1e-11, msg=lambda text, key=key: key + text
        )


@pytest.mark.parametrize("name", CELLS)
def test_windows_in_sequence_have_the_cells_of_one(name: CellName) -> None:
    made, (text, _) = objective(name), window()
    state, parts = made.model.zero_state(ROWS), []
    runner = Window(name, torch.float64, fuse=False)
    for begin in (0, 5):
        _, cells, state = made.read(text[begin : begin + 5], state, runner)
        parts.append(cells.detach())
    _, whole, last = made.read(text[:10], made.model.zero_state(ROWS), runner)
    torch.testing.assert_close(torch.cat(parts), whole.detach(), rtol=0, atol=1e-12)
    assert torch.equal(last.cell, whole[-1])


def test_without_read_out_no_cells_are_kept_and_the_loss_is_the_language_model_s() -> None:
    made, (text, targets) = Objective(objective("mlstm").model), window()
    runner, state = Window("mlstm", torch.float64, fuse=False), made.model.zero_state(ROWS)
    assert len(made.read(text, state, runner)[1]) == 0
    losses, _ = made.losses(text, targets, state, runner)
    assert made.terms == len(losses) == 1
    plain, _ = made.model.loss(text, targets.bytes, state, PlainWindow("mlstm", torch.float64, False))
    torch.testing.assert_close(losses[0], plain, rtol=1e-12, atol=0)


def test_the_total_weighs_each_loss() -> None:
    model, losses = objective("mlstm").model, tuple(torch.tensor([2.0, 3.0, 5.0]))
    assert float(Objective(model, ReadOut(UNITS, 2, 0), 0.5, 0.25).total(losses)) == 2 + 1.5 + 1.25
    assert float(Objective(model, ReadOut(UNITS, 2, 0), 1.0, 0.0, 0.25).total(losses)) == 0.5 + 3
    assert float(Objective(model).total(losses[:1])) == 2


def test_label_bits_by_hand() -> None:
    logits = torch.tensor([[[0.0, 0.0]], [[0.0, math.log(3.0)]]])  # P(1) = 1/2, then 3/4
    classes, weights = torch.tensor([[0], [1]]), torch.tensor([[1.0], [2.0]])
    assert float(label_bits(logits, classes, weights)) == pytest.approx((1 + 2 * math.log2(4 / 3)) / 2)
    assert float(label_bits(logits, classes, torch.zeros(2, 1))) == 0.0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit")  # torch's compiler imports its own old parts
@pytest.mark.parametrize("name", CELLS)
def test_fused_kernels_give_the_same(name: CellName) -> None:
    found = []
    for fuse in (False, True):
        made, (text, targets) = objective(name), window()
        state = made.model.zero_state(ROWS)
        losses, _ = Backpropagation(made, Window(name, torch.float64, fuse)).run(text, targets, state)
        found.append([losses, *(parameter.grad for parameter in made.parameters())])
    for plain, fused in zip(*found, strict=True):
        torch.testing.assert_close(plain, fused, rtol=1e-10, atol=1e-10)
