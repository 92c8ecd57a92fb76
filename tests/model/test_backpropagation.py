"""`Backpropagation` adds what `loss.backward` gives, window after window; on CUDA a replayed graph does the same."""

import pytest
import torch

from model.network.backpropagation import Backpropagation
from model.network.cells import CellName
from model.network.language_model import Architecture, LanguageModel
from model.network.objective import Objective, Targets
from model.network.sequence import Window

ROWS, STEPS = 3, 8


def model(name: CellName, device: str = "cpu") -> LanguageModel:
    made = LanguageModel(Architecture(name, 32, 8))
    made.reset(torch.Generator().manual_seed(0), embedding_std=0.5)
    return made.to(device)


def texts(count: int, device: str = "cpu") -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(97, 123, (STEPS + 1, ROWS), generator=generator).to(device) for _ in range(count)]


@pytest.mark.parametrize("name", ["mlstm", "lstm", "gru"])
def test_windows_add_up(name: CellName) -> None:
    ours, plain = model(name), model(name)
    back = Backpropagation(Objective(ours), Window(name, torch.float32, fuse=False))
    runner = Window(name, torch.float32, fuse=False)
    state = after = ours.zero_state(ROWS)
    for text in texts(3):
        loss, state = back.run(text[:-1], Targets(text[1:]), state)
        expected, after = plain.loss(text[:-1], text[1:], after, runner)
        expected.backward()
        assert torch.equal(loss, expected.detach()[None])
        assert not loss.requires_grad
        assert torch.equal(state.cell, after.cell)
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        assert one.grad is not None
        assert torch.equal(one.grad, other.grad)
        assert one.grad.any()


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:`torch.jit")  # torch's compiler imports its own old parts
@pytest.mark.parametrize("name", ["mlstm", "lstm", "gru"])
@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("segment", [None, 3])
def test_a_graph_replays_what_was_recorded(name: CellName, fuse: bool, segment: int | None) -> None:
    ours, plain = model(name, "cuda"), model(name)
    back = Backpropagation(Objective(ours), Window(name, torch.float32, fuse, segment))
    runner = Window(name, torch.float32, fuse=False)
    optimizers = [torch.optim.Adam(each.parameters(), lr=1e-3) for each in (ours, plain)]
    state, after = ours.zero_state(ROWS), plain.zero_state(ROWS)
    for text in texts(5):
        on_device = text.cuda()
        loss, state = back.run(on_device[:-1], Targets(on_device[1:]), state)
        expected, after = plain.loss(text[:-1], text[1:], after, runner)
        expected.backward()
        assert float(loss) == pytest.approx(float(expected.detach()), abs=1e-4)
        torch.testing.assert_close(state.hidden.cpu(), after.hidden, rtol=0, atol=1e-4)
        for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
            assert one.grad is not None
            torch.testing.assert_close(one.grad.cpu(), other.grad, rtol=1e-3, atol=1e-5)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
