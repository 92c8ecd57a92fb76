"""`python -m trainer.check`: does this device train as a CPU does, with which options, and how fast?

A small labelled model makes four updates on the device, with bfloat16 and everything else that makes it fast, and on
the CPU in float32 as the equations are written; losses and the direction of every gradient must agree. The fastest
options that pass are then timed on a window of the size that was asked for. Each trial is a process of its own, because
an error on a GPU spoils the process that meets it.
"""

import json
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from model.network.backpropagation import Backpropagation
from model.network.language_model import Architecture, LanguageModel
from model.network.matrix import fast_dtype
from model.network.objective import Objective, ReadOut, Targets
from model.network.sequence import Window
from trainer.run.distributed import ALONE, Gradients
from trainer.run.initial import make_optimizers
from trainer.run.options import Options, TrainingError
from trainer.run.peak import finish, measured_peak_flops

# Options of `neuron train`, the fastest first.
ON_A_GPU = ((), ("--no-triton",), ("--no-graph",), ("--no-fuse",), ("--no-fuse", "--no-graph"))
ON_A_CPU = ((), ("--no-fuse",))

_UNITS, _ROWS, _STEPS, _UPDATES, _RATE = 512, 48, 32, 4, 0.3
_LOSS_DIFFERENCE, _LEAST_COSINE = 0.02, 0.97  # of bfloat16 and float32
_TIMED = 5


@dataclass(frozen=True)
class Trained:
    """losses: of each update, as `Objective.losses` orders them; gradients: of the last, by name."""

    losses: list[list[float]]
    gradients: dict[str, Tensor]


def train(device: torch.device, dtype: torch.dtype, flags: tuple[str, ...]) -> Trained:
    """Four updates of the small model."""
    generator = torch.Generator().manual_seed(0)
    model = LanguageModel(Architecture("mlstm", _UNITS, 64))
    model.reset(generator, embedding_std=0.5)
    objective = Objective(model, ReadOut(_UNITS, 2, 7), 0.5, 0.5).to(device)
    text = torch.randint(32, 127, (_STEPS + 1, _ROWS), generator=generator).to(device)
    classes = torch.randint(0, 2, (_STEPS, _ROWS), generator=generator).to(device)
    weights = torch.rand(_STEPS, _ROWS, generator=generator).to(device)
    step, state = _backpropagation(objective, dtype, flags), model.zero_state(_ROWS)
    losses = []
    for _ in range(_UPDATES):
        for parameter in objective.parameters():
            _gradient(parameter).zero_()
        found, state = step.run(text[:-1], Targets(text[1:], classes, weights), state)
        losses.append(found.tolist())
        with torch.no_grad():
            for parameter in objective.parameters():
                parameter.sub_(_gradient(parameter), alpha=_RATE)
    return Trained(losses, {name: _gradient(p).float().cpu().clone() for name, p in objective.named_parameters()})


def compared(found: Trained, expected: Trained) -> dict[str, Any]:
    """How far the losses are from each other, the least cosine of two gradients, and whether that is close enough."""
    difference = max(
        abs(one - other)
        for ours, theirs in zip(found.losses, expected.losses, strict=True)
        for one, other in zip(ours, theirs, strict=True)
    )
    cosines = {
        name: float(torch.cosine_similarity(gradient.flatten(), expected.gradients[name].flatten(), dim=0))
        for name, gradient in found.gradients.items()
    }
    least = min(cosines, key=lambda name: cosines[name])
    return {
        "bits_per_byte": [losses[0] for losses in found.losses],
        "loss_difference": difference,
        "least_cosine": cosines[least],
        "least_cosine_of": least,
        "agrees": difference < _LOSS_DIFFERENCE and cosines[least] > _LEAST_COSINE,
    }


def timed(device: torch.device, flags: tuple[str, ...], options: Options) -> dict[str, Any]:
    """Time updates of the size that was asked for; their text and weights are random."""
    dtype = fast_dtype(device)
    model = LanguageModel(options.architecture)
    model.reset(torch.Generator().manual_seed(0), embedding_std=0.5)
    objective = Objective(model.to(device))
    gradients, optimizers = Gradients(objective, ALONE), make_optimizers(objective, options)
    step, state = _backpropagation(objective, dtype, flags), model.zero_state(options.lanes)
    text = torch.randint(32, 127, (options.window + 1, options.lanes), device=device)
    seconds = []
    for _ in range(_TIMED + 1):
        finish(device)
        began = time.perf_counter()
        gradients.zero()
        _, state = step.run(text[:-1], Targets(text[1:]), state)
        finish(device)
        window_s = time.perf_counter() - began
        _, norm = gradients.average(1)
        gradients.clip(norm, options.clip_norm)
        for optimizer in optimizers:
            optimizer.step()
        finish(device)
        seconds.append((window_s, time.perf_counter() - began))
    window_s, update_s = sorted(seconds[1:], key=lambda pair: pair[1])[_TIMED // 2]
    bytes_per_s = options.update_bytes / update_s
    peak = measured_peak_flops(device, dtype, options.lanes * options.window, options.units, 4 * options.units)
    return {
        "units": options.units,
        "lanes": options.lanes,
        "first_update_s": round(seconds[0][1], 2),
        "window_ms": round(1e3 * window_s, 2),
        "update_ms": round(1e3 * update_s, 2),
        "bytes_per_s": round(bytes_per_s),
        "mfu": round(6 * sum(map(torch.numel, model.parameters())) * bytes_per_s / peak, 4),
        "memory_gib": round(torch.cuda.max_memory_allocated(device) / 2**30, 2) if device.type == "cuda" else None,
    }


def _backpropagation(objective: Objective, dtype: torch.dtype, flags: tuple[str, ...]) -> Backpropagation:
    window = Window("mlstm", dtype, fuse="--no-fuse" not in flags, triton="--no-triton" not in flags)
    return Backpropagation(objective, window, graph="--no-graph" not in flags)


def _gradient(parameter: torch.nn.Parameter) -> Tensor:
    if parameter.grad is None:
        raise RuntimeError("a parameter has no gradient")
    return parameter.grad


def _trial(flags: tuple[str, ...], device: torch.device, more: list[str], timeout_s: float) -> dict[str, Any]:
    """What a process of its own reports: `_report_of` these flags."""
    command = [sys.executable, "-m", "trainer.check", "--device", str(device), *more, *(f"--flag={f}" for f in flags)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {timeout_s:g} s"}
    try:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        lines = done.stderr.strip().splitlines()
        return {"error": lines[-1] if lines else f"ended with {done.returncode}"}
    return found


@click.command()
@click.option("--units", default=1024, show_default=True, help="Of the model whose updates are timed.")
@click.option("--lanes", default=128, show_default=True)
@click.option("--window", default=256, show_default=True)
@click.option("--optimizer", type=click.Choice(["adam", "muon"]), default="adam", show_default=True)
@click.option("--device", default="auto", show_default="a GPU if there is one")
@click.option("--timeout-s", default=180.0, show_default=True, help="For each trial.")
@click.option("--json", "report", type=click.Path(dir_okay=False, path_type=Path), help="Write all of it there.")
@click.option("--flag", "flags", multiple=True, hidden=True)
@click.option("--trial", type=click.Choice(["train", "time"]), hidden=True)
def check(
    units: int,
    lanes: int,
    window: int,
    optimizer: Any,
    device: str,
    timeout_s: float,
    report: Path | None,
    flags: tuple[str, ...],
    trial: str | None,
) -> None:
    """Compare training on this device with training on its CPU, and time it. Exit code 1 if it does not train."""
    try:
        where = ALONE.device(device)
    except TrainingError as error:
        raise click.ClickException(str(error)) from error
    options = Options("none", units=units, lanes=lanes, window=window, optimizer=optimizer)
    if trial == "train":
        expected = train(torch.device("cpu"), torch.float32, ("--no-fuse",))
        click.echo(json.dumps(compared(train(where, fast_dtype(where), flags), expected)))
        return
    if trial == "time":
        click.echo(json.dumps(timed(where, flags, options)))
        return
    trials: list[dict[str, Any]] = []
    for flags in ON_A_CPU if where.type == "cpu" else ON_A_GPU:
        found = _trial(flags, where, ["--trial", "train"], timeout_s)
        trials.append({"options": " ".join(flags), **found})
        click.echo(f"{' '.join(flags) or 'no other options':24} {_verdict(found)}")
        if found.get("agrees"):
            break
    result: dict[str, Any] = {"device": _name(where), "torch": torch.__version__, "trials": trials, "speed": None}
    passed = bool(trials[-1].get("agrees"))
    if passed:
        size = {"units": units, "lanes": lanes, "window": window, "optimizer": optimizer}
        more = ["--trial", "time", *(f"--{name}={value}" for name, value in size.items())]
        result["speed"] = speed = _trial(flags, where, more, timeout_s)
        click.echo(speed.get("error") or _described(speed))
        passed = "error" not in speed
    if report is not None:
        report.write_text(json.dumps(result, indent=1) + "\n")
    if not passed:
        trains = trials[-1].get("agrees")
        failure = f"it trains, but not {units} units on {lanes} lanes" if trains else "no options train as a CPU does"
        click.echo(f"{_name(where)}: {failure}", err=True)
        sys.exit(1)
    size_of = f"--units {units} --lanes {lanes} --window {window} --optimizer {optimizer}"
    chosen = [] if device == "auto" else [f"--device {device}"]
    command = ["neuron train RUN --corpus CORPUS", *chosen, size_of, *flags]
    click.echo(f"{_name(where)}: {' '.join(command)}")


def _verdict(found: dict[str, Any]) -> str:
    if "error" in found:
        return f"fails: {found['error']}"
    verdict = "agrees" if found["agrees"] else "DIFFERS"
    cosine = f"{found['least_cosine']:.4f} ({found['least_cosine_of']})"
    return f"{verdict}: losses within {found['loss_difference']:.1e}, gradients' least cosine {cosine}"


def _described(speed: dict[str, Any]) -> str:
    size = f"{speed['units']} units, {speed['lanes']} lanes: {speed['bytes_per_s']:,} bytes/s, MFU {speed['mfu']:.1%}"
    times = f"{speed['window_ms']} ms a window, {speed['update_ms']} an update, {speed['first_update_s']} s the first"
    return f"{size}, {times}" + ("" if speed["memory_gib"] is None else f", {speed['memory_gib']} GiB")


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"


if __name__ == "__main__":
    check(prog_name="python -m trainer.check")
