"""`neuron bench training`: bytes a second of an update, beside plain autograd, other libraries and the matrix rate.

Everything is measured in one run, in rounds that take turns, and the fastest round of each counts: other work on the
machine only ever slows. An update is forward, backward, clipping and Adam, for ours and for the plain loop alike.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from benchmarks import report
from benchmarks.training_peers import peers
from model.network.backpropagation import Backpropagation
from model.network.cells import GATES, CellName, CellWeights, State, step
from model.network.language_model import Architecture, LanguageModel
from model.network.matrix import Matrix, fast_dtype
from model.network.objective import Objective, Targets
from model.network.sequence import Window

_LEAST_S = 0.5  # a round repeats what is shorter


class PlainWindow(Window):
    """The loop of `cells.step` under autograd: what the hand-written window is measured against."""

    def run(self, weights: CellWeights, window: Tensor, state: State) -> tuple[Tensor, State]:
        hidden = []
        for byte in window:
            state = step(self.name, weights, byte, state)
            hidden.append(state.hidden)
        return torch.stack(hidden), state


@click.command()
@click.option("--cell", type=click.Choice(["mlstm", "lstm", "gru"]), default="mlstm", show_default=True)
@click.option("--units", default=1024, show_default=True)
@click.option("--lanes", default=64, show_default=True)
@click.option("--window", default=128, show_default=True, help="Bytes of every lane an update.")
@click.option("--segment", type=int, help="Steps whose activations are kept; others are computed again.")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--rounds", default=5, show_default=True, help="Runs, of which the fastest counts.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures to this file.")
def training(
    cell: CellName,
    units: int,
    lanes: int,
    window: int,
    segment: int | None,
    device: str,
    rounds: int,
    path: Path | None,
) -> None:
    """Measure training: bytes a second, as ratios to the plain loop and to the machine's matrix products."""
    found = measure(cell, units, lanes, window, segment, torch.device(device), rounds)
    click.echo(f"this trainer           {found['bytes_per_s']:12,.0f} bytes/s  ({found['dtype']})")
    click.echo(f"plain autograd loop    {found['plain_bytes_per_s']:12,.0f} bytes/s  (float32)")
    click.echo(f"ratio                  {found['ratio_vs_plain']:12.2f}")
    for name, rate in found["peers_bytes_per_s"].items():
        click.echo(f"{name:23}{rate:12,.0f} bytes/s  (an LSTM of as many units)")
    click.echo(
        f"matrix products        {found['matmul_flops'] / 1e12:12.3f} TFLOP/s ({found['dtype']}, the best shape)"
    )
    click.echo(f"share of them used     {100 * found['share_of_matmul']:12.1f} %  (6 x {found['parameters']:,} a byte)")
    report.write(path, found)


def measure(
    cell: CellName, units: int, lanes: int, window: int, segment: int | None, device: torch.device, rounds: int
) -> dict[str, Any]:
    """The figures, as they are written: rates in bytes and FLOP a second."""
    dtype = fast_dtype(device)
    text = _text(window, lanes, device)
    ours = _ours(_model(cell, units, device), text, Window(cell, dtype, fuse=True, segment=segment))
    plain = _plain(_model(cell, units, device), text, PlainWindow(cell, torch.float32, fuse=False))
    products = [_product(shape, dtype, device) for shape in _shapes(cell, units, lanes, device)]
    others = dict(peers(units, text, dtype))
    fastest = dict.fromkeys(("ours", "plain", "flop", *others), float("inf"))
    for _ in range(rounds):
        fastest["ours"] = min(fastest["ours"], _seconds(ours, device))
        fastest["plain"] = min(fastest["plain"], _seconds(plain, device))
        for name, run in others.items():
            fastest[name] = min(fastest[name], _seconds(run, device))
        for flop, run in products:
            fastest["flop"] = min(fastest["flop"], _seconds(run, device) / flop)
    parameters = sum(p.numel() for p in LanguageModel(Architecture(cell, units)).parameters())
    bytes_per_s, plain_bytes_per_s = lanes * window / fastest["ours"], lanes * window / fastest["plain"]
    return {
        "cell": cell,
        "units": units,
        "lanes": lanes,
        "window": window,
        "segment": segment,
        "dtype": str(dtype).removeprefix("torch."),
        "parameters": parameters,
        "bytes_per_s": bytes_per_s,
        "plain_bytes_per_s": plain_bytes_per_s,
        "ratio_vs_plain": bytes_per_s / plain_bytes_per_s,
        "peers_bytes_per_s": {name: lanes * window / fastest[name] for name in others},
        "matmul_flops": 1 / fastest["flop"],
        "share_of_matmul": 6 * parameters * bytes_per_s * fastest["flop"],
        "rounds": rounds,
        "machine": report.machine(device),
    }


def _model(cell: CellName, units: int, device: torch.device) -> LanguageModel:
    model = LanguageModel(Architecture(cell, units))
    model.reset(torch.Generator().manual_seed(0), embedding_std=0.5)
    return model.to(device)


def _text(window: int, lanes: int, device: torch.device) -> Tensor:
    """(window + 1, lanes). As many different bytes as English text has: the table gradients cost by their number."""
    return torch.randint(32, 127, (window + 1, lanes), generator=torch.Generator().manual_seed(0)).to(device)


def _ours(model: LanguageModel, text: Tensor, runner: Window) -> Callable[[], None]:
    back = Backpropagation(Objective(model), runner)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    state = model.zero_state(text.shape[1])

    def update() -> None:
        nonlocal state
        _, state = back.run(text[:-1], Targets(text[1:]), state)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    return update


def _plain(model: LanguageModel, text: Tensor, runner: Window) -> Callable[[], None]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    state = model.zero_state(text.shape[1])

    def update() -> None:
        nonlocal state
        loss, state = model.loss(text[:-1], text[1:], state, runner)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return update


def _shapes(cell: CellName, units: int, lanes: int, device: torch.device) -> list[tuple[int, int, int]]:
    """(rows, inputs, outputs) among which the machine's best rate is looked for: the step's own and larger ones."""
    shapes = [(rows, units, GATES[cell] * units) for rows in (lanes, 128, 256)]
    return [*shapes, (8192, 8192, 8192)] if device.type == "cuda" else shapes


def _product(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> tuple[int, Callable[[], None]]:
    """How many FLOP a call of the function makes, and the function."""
    rows, inputs, outputs = shape
    generator = torch.Generator().manual_seed(0)
    matrix = Matrix(torch.randn(inputs, outputs, generator=generator).to(device, dtype), rows)
    x = torch.randn(rows, inputs, generator=generator).to(device, dtype)
    return 2 * rows * inputs * outputs, lambda: (matrix(x), None)[1]


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    """Mean seconds of one call."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    run()
    wait()
    began, calls = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < _LEAST_S:
        run()
        calls += 1
        if device.type == "cuda" and calls % 8 == 0:
            wait()
    wait()
    return max(elapsed, time.perf_counter() - began) / calls
