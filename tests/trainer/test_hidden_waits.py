"""A window and an update wait for no device and mix no devices: shown on "meta", which has shapes alone."""

from typing import Any, get_args

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.network.backpropagation import Backpropagation
from model.network.cells import CellName
from model.network.language_model import Architecture, LanguageModel
from model.network.objective import Objective, ReadOut, Targets
from model.network.sequence import Window
from trainer.run.distributed import ALONE, Gradients
from trainer.run.initial import make_optimizers
from trainer.run.options import Options

META = torch.device("meta")
# What needs a number or a size that only the device knows: the host would wait for it, and no graph may hold it.
WAITING = {
    "aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::equal", "aten::nonzero", "aten::_unique2",
    "aten::masked_select", "aten::unique_dim", "aten::repeat_interleave.Tensor",
}  # fmt: skip


class Watch(TorchDispatchMode):
    """Notes operations that wait, and those on tensors of several devices. Numbers (no dimensions) may be a CPU's."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.waiting: list[str] = []
        self.mixed: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        found = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        self.operations += 1
        if function.name() in WAITING or function.name().partition(".")[0] in WAITING:
            self.waiting.append(function.name())
        if any(tensor.device != META for tensor in found if tensor.dim() > 0):
            self.mixed.append(function.name())
        return result


def objective(cell: CellName, labels: bool) -> Objective:
    model = LanguageModel(Architecture(cell, 32, 16))
    read_out = ReadOut(32, 2, 5) if labels else None
    return Objective(model, read_out, 0.5, 0.5).to(META)


def targets(steps: int, rows: int, labels: bool) -> Targets:
    def numbers(dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(steps, rows, dtype=dtype, device=META)

    return Targets(numbers(torch.int64), *((numbers(torch.int64), numbers(torch.float32)) if labels else ()))


@pytest.mark.parametrize("cell", get_args(CellName))
@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("segment", [None, 3])
def test_a_window_waits_for_nothing(cell: CellName, labels: bool, segment: int | None) -> None:
    trained = objective(cell, labels)
    back = Backpropagation(trained, Window(cell, torch.bfloat16, fuse=False, segment=segment), graph=False)
    state, text = trained.model.zero_state(4), torch.zeros(8, 4, dtype=torch.int64, device=META)
    _, state = back.run(text, targets(8, 4, labels), state)  # makes the buffers
    with Watch() as watch:
        losses, state = back.run(text, targets(8, 4, labels), state)
    assert watch.operations > 100
    assert watch.waiting == []
    assert watch.mixed == []
    assert (losses.shape, losses.device) == ((3 if labels else 1,), META)
    assert state.cell.dtype == torch.float32


def test_muon_waits_for_nothing() -> None:
    trained = objective("mlstm", labels=True)
    Gradients(trained, ALONE, trained.terms)
    muon = make_optimizers(trained, Options("none", units=32, optimizer="muon"))[-1]
    assert isinstance(muon, torch.optim.Muon)
    with Watch() as watch:
        muon.step()
    assert watch.operations > 10
    assert watch.waiting == []
    assert watch.mixed == []


def test_what_waits_and_what_is_mixed_is_seen() -> None:
    with Watch() as watch:
        float(torch.ones(3).sum())
        torch.ones(3).nonzero()
    assert watch.waiting == ["aten::_local_scalar_dense", "aten::nonzero"]
    assert watch.mixed
