"""`neuron bench cells`: mLSTM, LSTM and GRU, also with steeper gates, on one corpus with equal parameters and time.

The question of figure 1 of Radford et al. 2017: which cell learns most. All runs have the parameters of
an mLSTM of `--units`, the same lanes, window and learning rates, and the same seconds of training; they take turns of a
few seconds, so that whatever else the machine does falls on all alike. Each learning rate is tried by every cell and
falls linearly to zero over the bytes that the cell is expected to read in its time.

No text is read twice, so the bits per byte of the last tenth, before the model learns from it, are those of unseen
text: they are what the cells are ranked by. Held-out text is measured too, but from a zero state, which the lanes of so
short a run saw only at its beginning: a cell that forgets slowly may be lost there.
"""

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from benchmarks import report
from model.cells import CellName
from model.language_model import Architecture, LanguageModel
from trainer.options import Options
from trainer.train import Run

CELLS: list[tuple[CellName, float]] = [("mlstm", 1.0), ("lstm", 1.0), ("gru", 1.0), ("mlstm", 3.75), ("lstm", 3.75)]

_TURN_S = 5.0
_CALIBRATION_STEPS = 5  # updates, after the first, that a cell's speed is taken from


@dataclass
class Contestant:
    """One run, and what was seen of it."""

    run: Run
    speed: float  # bytes a second, measured before
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)

    def take_turn(self) -> None:
        """Train for one turn, or to the end, and note the mean bits per byte of it."""
        losses: list[float] = []
        began = time.perf_counter()
        while self.left() and time.perf_counter() - began < _TURN_S:
            losses.append(self.run.step()[0])
        self.seconds += time.perf_counter() - began
        mean = sum(losses) / len(losses)
        self.curve.append({"bytes": self.run.progress.bytes_seen, "seconds": self.seconds, "bits_per_byte": mean})

    def left(self) -> bool:
        return self.run.progress.bytes_seen < self.run.options.total_bytes

    @property
    def label(self) -> str:
        options = self.run.options
        steep = "" if options.steepness == 1.0 else f", σ({options.steepness:g}x)"
        return f"{options.cell}{steep}, {options.units:,} units, rate {options.learning_rate:g}"


@click.command()
@click.option("--corpus", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--units", default=512, show_default=True, help="Of the mLSTM; the others get as many parameters.")
@click.option("--lanes", default=32, show_default=True)
@click.option("--window", default=128, show_default=True)
@click.option("--seconds", default=300.0, show_default=True, help="Training time of each run.")
@click.option(
    "--learning-rate", "rates", multiple=True, type=float, default=(1.5e-3, 3e-3), show_default=True, help="Repeatable."
)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures to this file.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the curves into this PNG.")
def cells(
    corpus: Path,
    units: int,
    lanes: int,
    window: int,
    seconds: float,
    rates: tuple[float, ...],
    path: Path | None,
    plot: Path | None,
) -> None:
    """Compare the cells at equal parameters and equal time."""
    common = Options(
        corpus=str(corpus),
        lanes=lanes,
        window=window,
        embedding_std=0.5,
        warmup_steps=100,
        validate_every_bytes=10**12,
        snapshot_every_s=1e9,
    )
    with tempfile.TemporaryDirectory() as scratch:
        contestants: list[Contestant] = []
        for cell, steepness in CELLS:
            size = matching_units(cell, LanguageModel(Architecture("mlstm", units)))
            speed = 0.0
            for rate in rates:
                options = vars(common) | {
                    "cell": cell,
                    "steepness": steepness,
                    "units": size,
                    "learning_rate": rate,
                }
                speed = speed or _speed(Path(scratch), Options(**options))
                total = int(speed * seconds) // common.update_bytes * common.update_bytes
                place = Path(scratch) / f"run-{len(contestants)}"
                contestants.append(
                    Contestant(Run.create(place, Options(**options | {"total_bytes": total}), _ignore), speed)
                )
        while waiting := [contestant for contestant in contestants if contestant.left()]:
            for contestant in waiting:
                contestant.take_turn()
            done = sum(contestant.seconds for contestant in contestants)
            click.echo(f"\r{done:,.0f} of about {seconds * len(contestants):,.0f} s", nl=False, err=True)
        click.echo(err=True)
        results = [_result(contestant) for contestant in contestants]
        device = contestants[0].run.device
    for result in sorted(results, key=lambda result: result["bits_per_byte"]):
        click.echo(
            f"{result['bits_per_byte']:.4f} bits per byte after {result['bytes'] / 1e6:6.2f} MB in "
            f"{result['seconds']:5.0f} s (held out, from a zero state: {result['validation_bits_per_byte']:.4f}): "
            f"{result['label']}"
        )
    report.write(
        path,
        {"seconds": seconds, "lanes": lanes, "window": window, "runs": results, "machine": report.machine(device)},
    )
    if plot is not None:
        draw(results, plot)


def matching_units(cell: CellName, model: LanguageModel) -> int:
    """The units with which `cell` has most nearly as many parameters as `model`."""
    wanted = _parameters(model)
    low, high = 1, 4 * model.architecture.units
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (middle, high) if _parameters(LanguageModel(Architecture(cell, middle))) <= wanted else (low, middle)
        )
    # Matrix kernels want multiples of 16.
    return max(16, round(low / 16) * 16)


def of_the_last_tenth(curve: list[dict[str, float]]) -> float:
    """Mean bits per byte of the turns that end in the last tenth of the bytes, weighed by their bytes."""
    begin = 0.9 * curve[-1]["bytes"]
    pairs = zip([{"bytes": 0.0}, *curve], curve, strict=False)
    turns = [
        (after["bytes"] - before["bytes"], after["bits_per_byte"]) for before, after in pairs if after["bytes"] > begin
    ]
    return sum(size * bits for size, bits in turns) / sum(size for size, _ in turns)


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Bits per byte, smoothed, against bytes and against seconds: the better rate of each cell."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    best: dict[tuple[str, float], dict[str, Any]] = {}
    for result in sorted(results, key=lambda result: -result["bits_per_byte"]):
        best[result["cell"], result["steepness"]] = result
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    for result in best.values():
        smooth, points = None, []
        for point in result["curve"]:
            smooth = point["bits_per_byte"] if smooth is None else 0.7 * smooth + 0.3 * point["bits_per_byte"]
            points.append(smooth)
        left.plot([point["bytes"] / 1e6 for point in result["curve"]], points, label=result["label"])
        right.plot([point["seconds"] for point in result["curve"]], points, label=result["label"])
    left.set(xlabel="MB read", ylabel="bits per byte (training text)", ylim=(1.6, 3.2))
    right.set(xlabel="seconds of training")
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _speed(scratch: Path, options: Options) -> float:
    run = Run.create(scratch / f"speed-{options.cell}-{options.steepness}", options, _ignore)
    run.step()
    began = time.perf_counter()
    for _ in range(_CALIBRATION_STEPS):
        run.step()
    return _CALIBRATION_STEPS * options.update_bytes / (time.perf_counter() - began)


def _result(contestant: Contestant) -> dict[str, Any]:
    options = contestant.run.options
    return {
        "label": contestant.label,
        "cell": options.cell,
        "steepness": options.steepness,
        "units": options.units,
        "parameters": _parameters(contestant.run.model),
        "learning_rate": options.learning_rate,
        "bytes": contestant.run.progress.bytes_seen,
        "seconds": contestant.seconds,
        "bits_per_byte": of_the_last_tenth(contestant.curve),
        "validation_bits_per_byte": contestant.run.validate(),
        "curve": contestant.curve,
    }


def _parameters(model: LanguageModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _ignore(_: dict[str, Any]) -> None:
    pass
