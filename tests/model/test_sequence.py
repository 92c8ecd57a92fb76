"""The hand-written backward pass of a window is that of autograd, and windows joined by their state are one window."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.training import PlainWindow
from model.network.cells import GATES, CellName, CellWeights, State
from model.network.language_model import Architecture, LanguageModel
from model.network.sequence import Window

UNITS, EMBEDDING = 9, 5
CELLS: list[CellName] = ["mlstm", "lstm", "gru"]


def random_model(name: CellName = "mlstm", seed: int = 0, units: int = UNITS) -> LanguageModel:
    """In float64, every parameter far from its initial value, so that no gradient is small by chance."""
    generator = torch.Generator().manual_seed(seed)
    model = LanguageModel(Architecture(name, units, EMBEDDING)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def random_bytes(steps: int, rows: int, seed: int = 0) -> Tensor:
    """Few different bytes, so that their rows of the tables gather gradients of many steps."""
    return torch.randint(97, 103, (steps, rows), generator=torch.Generator().manual_seed(seed))


def random_state(rows: int, seed: int = 0, units: int = UNITS) -> State:
    generator = torch.Generator().manual_seed(seed)
    cell, hidden = (torch.randn(rows, units, generator=generator, dtype=torch.float64) for _ in range(2))
    return State(cell.requires_grad_(), hidden.requires_grad_())


def gradients(model: LanguageModel, runner: Window, window: Tensor, state: State) -> dict[str, Tensor]:
    """Of a loss that looks at every hidden vector and at both parts of the last state."""
    hidden, last = runner.run(model.cell.weights(model.embedding), window, state)
    generator = torch.Generator().manual_seed(99)
    loss = torch.zeros((), dtype=hidden.dtype)
    for value in (hidden, last.cell, last.hidden):
        # Drawn in one dtype: versions of torch draw other numbers in bfloat16 than in float32.
        factors = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.dtype)
        loss = loss + (value * factors).sum()
    inputs = {"embedding": model.embedding, "c0": state.cell, "h0": state.hidden}
    inputs |= {f"cell.{name}": parameter for name, parameter in model.cell.named_parameters()}
    found = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(inputs, found, strict=True)) | {"loss": loss.detach()}


def assert_same(ours: dict[str, Tensor], plain: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    assert ours.keys() == plain.keys()
    for name, expected in plain.items():
        if expected.any():
            assert expected.abs().max() > 1e-3, f"{name} is no test"
        else:
            assert name == "c0", "a GRU looks at its hidden alone, all else has a gradient"
        torch.testing.assert_close(
            ours[name], expected, rtol=tolerance, atol=tolerance, msg=lambda text, n=name: n + text
        )


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize(("steps", "rows"), [(1, 1), (1, 5), (7, 1), (11, 4)])
def test_every_gradient_is_that_of_autograd(name: CellName, steps: int, rows: int) -> None:
    model = random_model(name)
    window = random_bytes(steps, rows)
    ours = gradients(model, Window(name, torch.float64, fuse=False), window, random_state(rows))
    plain = gradients(model, PlainWindow(name, torch.float64, fuse=False), window, random_state(rows))
    assert_same(ours, plain)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("segment", [1, 3, 4, 11, 64])
def test_segments_computed_again_change_nothing(name: CellName, segment: int) -> None:
    model, window = random_model(name), random_bytes(11, 4)
    whole = gradients(model, Window(name, torch.float64, fuse=False), window, random_state(4))
    runner = Window(name, torch.float64, fuse=False, segment=segment)
    for _ in range(2):  # the second finds the buffers of the first
        assert_same(gradients(model, runner, window, random_state(4)), whole)
    activations = runner.buffers.get("gates", (min(segment, 11), 4, GATES[name] * UNITS), torch.float64, window.device)
    assert activations.any(), "only one segment's activations are kept"


@pytest.mark.parametrize("name", CELLS)
def test_gradcheck(name: CellName) -> None:
    """Every parameter that the published system has, and the state before the window, by finite differences."""
    window = random_bytes(4, 2, seed=5)
    model = random_model(name, units=3)
    parameters = dict(model.named_parameters())

    def run(*values: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(parameters, values[2:], strict=True))
        embedding = model.embedding.detach().index_copy(0, torch.arange(97, 103), given.pop("embedding"))
        weights = torch.func.functional_call(
            _Weights(model), {f"model.{key}": value for key, value in given.items()}, (embedding,)
        )
        hidden, last = Window(name, torch.float64, fuse=False).run(weights, window, State(*values[:2]))
        return hidden @ given["output_w"] + given["output_b"], last.cell, last.hidden

    leaves = {key: value.detach().clone() for key, value in parameters.items()}
    # Six bytes are read; differences of the other 250 would be zero and slow.
    leaves["embedding"] = leaves["embedding"][97:103].clone()
    leaves["output_w"], leaves["output_b"] = leaves["output_w"][:, :7].clone(), leaves["output_b"][:7].clone()
    inputs = [*random_state(2, units=3), *(value.requires_grad_() for value in leaves.values())]
    assert torch.autograd.gradcheck(run, inputs, atol=1e-6, rtol=1e-5)


class _Weights(torch.nn.Module):
    """`Cell.weights` as a module's call, which is what `functional_call` can give other parameters to."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, embedding: Tensor) -> CellWeights:
        return self.model.cell.weights(embedding)


@pytest.mark.parametrize("name", CELLS)
def test_windows_in_sequence_are_one_long_window(name: CellName) -> None:
    model, text, rows = random_model(name), random_bytes(24, 3), 3
    weights = model.cell.weights(model.embedding)
    runner, state, parts = Window(name, torch.float64, fuse=False), random_state(rows), []
    whole, end = Window(name, torch.float64, fuse=False).run(weights, text, state)
    for begin, finish in ((0, 8), (8, 16), (16, 17), (17, 24)):
        hidden, state = runner.run(weights, text[begin:finish], state)
        parts.append(hidden)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-13)
    torch.testing.assert_close(state.cell, end.cell, rtol=0, atol=1e-13)
    torch.testing.assert_close(state.hidden, end.hidden, rtol=0, atol=1e-13)


def test_used_buffers_leak_nothing_into_the_next_window() -> None:
    runner = Window("mlstm", torch.float64, fuse=False)
    for number, (steps, rows) in enumerate([(6, 3), (6, 3), (4, 3), (6, 2), (9, 5), (6, 3)]):
        model = random_model(seed=number)
        window, seed = random_bytes(steps, rows, seed=number), number + 10
        ours = gradients(model, runner, window, random_state(rows, seed))
        assert_same(
            ours, gradients(model, PlainWindow("mlstm", torch.float64, False), window, random_state(rows, seed))
        )


def test_what_a_window_returned_survives_the_next() -> None:
    runner, model = Window("mlstm", torch.float64, fuse=False), random_model()
    weights = model.cell.weights(model.embedding)
    hidden, last = runner.run(weights, random_bytes(5, 3), random_state(3))
    before = [value.detach().clone() for value in (hidden, *last)]
    runner.run(weights, random_bytes(5, 3, seed=7), random_state(3, seed=7))
    assert all(torch.equal(value, copy) for value, copy in zip((hidden, *last), before, strict=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit")  # torch's compiler imports its own old parts
@pytest.mark.parametrize("name", CELLS)
def test_compiled_kernels_compute_the_same(name: CellName) -> None:
    model, window = random_model(name), random_bytes(11, 4)
    plain = gradients(model, Window(name, torch.float64, fuse=False), window, random_state(4))
    assert_same(gradients(model, Window(name, torch.float64, fuse=True), window, random_state(4)), plain)


_WITHOUT_A_COMPILER = """
import torch
from tests.model.test_sequence import *
model, window = random_model(), random_bytes(5, 2)
plain = gradients(model, Window("mlstm", torch.float64, fuse=False), window, random_state(2))
assert_same(gradients(model, Window("mlstm", torch.float64, fuse=True), window, random_state(2)), plain)
"""


@pytest.mark.slow
def test_without_a_compiler_the_plain_kernels_serve(tmp_path: Path) -> None:
    environment = os.environ | {
        "CXX": str(tmp_path / "no-compiler"),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
    }
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _WITHOUT_A_COMPILER], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    for name in ("mix", "mix_adjoint", "lstm", "lstm_adjoint"):
        assert f"{name} is not fused" in run.stderr


def test_memory_that_a_graph_writes_to_is_not_replaced() -> None:
    runner, model = Window("mlstm", torch.float64, fuse=False), random_model()
    weights = model.cell.weights(model.embedding)
    runner.run(weights, random_bytes(5, 3), random_state(3))
    runner.buffers.recorded = True
    runner.run(weights, random_bytes(5, 3), random_state(3))
    runner.run(weights, random_bytes(4, 3), random_state(3))
    with pytest.raises(RuntimeError, match=r"a graph was recorded with .* needs a runner of its own"):
        runner.run(weights, random_bytes(6, 3), random_state(3))


def test_a_late_backward_pass_is_refused_and_not_wrong() -> None:
    runner, model = Window("mlstm", torch.float64, fuse=False), random_model()
    weights = model.cell.weights(model.embedding)
    hidden, _ = runner.run(weights, random_bytes(5, 3), random_state(3))
    runner.run(weights, random_bytes(5, 3, seed=7), random_state(3))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        hidden.sum().backward()


def test_a_window_without_gradients_between_two_with_them() -> None:
    runner, model = Window("mlstm", torch.float64, fuse=False), random_model()
    window = random_bytes(5, 3)
    first = gradients(model, runner, window, random_state(3))
    with torch.no_grad():
        hidden, _ = runner.run(model.cell.weights(model.embedding), random_bytes(5, 3, seed=4), random_state(3))
        assert not hidden.requires_grad
    assert_same(gradients(model, runner, window, random_state(3)), first, tolerance=0)


@pytest.mark.parametrize("name", CELLS)
def test_loss_is_bits_per_byte(name: CellName) -> None:
    model, text = random_model(name), random_bytes(13, 3)
    window, targets = text[:-1], text[1:]
    state = model.zero_state(3)
    loss, last = model.loss(window, targets, state, Window(name, torch.float64, fuse=False))
    hidden, end = PlainWindow(name, torch.float64, False).run(model.cell.weights(model.embedding), window, state)
    logits = hidden @ model.output_w + model.output_b
    chosen = torch.softmax(logits, dim=2).gather(2, targets[:, :, None])
    assert float(loss.detach()) == pytest.approx(float(-chosen.detach().log2().mean()), rel=1e-12)
    torch.testing.assert_close(last.cell, end.cell.detach(), rtol=0, atol=1e-13)
    assert not last.cell.requires_grad
    assert not last.hidden.requires_grad


def test_an_untrained_model_needs_eight_bits_a_byte() -> None:
    model = LanguageModel(Architecture("mlstm", 16, 8))
    model.reset(torch.Generator().manual_seed(0))
    text = random_bytes(20, 4)
    loss, _ = model.loss(text[:-1], text[1:], model.zero_state(4), Window("mlstm", torch.float32, fuse=False))
    assert float(loss.detach()) == pytest.approx(8.0, abs=0.01)


def test_bfloat16_products_keep_the_direction_of_the_gradient() -> None:
    model = random_model(units=32).float()
    window = random_bytes(16, 8)

    def state() -> State:
        drawn = random_state(8, units=32)
        return State(drawn.cell.detach().float().requires_grad_(), drawn.hidden.detach().float().requires_grad_())

    low = gradients(model, Window("mlstm", torch.bfloat16, fuse=False), window, state())
    exact = gradients(model, PlainWindow("mlstm", torch.float32, fuse=False), window, state())
    for name in exact.keys() - {"loss"}:
        cosine = torch.cosine_similarity(low[name].flatten(), exact[name].flatten(), dim=0)
        assert float(cosine) > 0.98, name
    assert math.isfinite(float(low["loss"]))
