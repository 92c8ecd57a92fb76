"""`neuron bench cells`: mLSTM, LSTM and GRU, also with steeper gates, on one corpus with equal parameters and time.

The question of figure 1 of Radford et al. 2017: which cell learns most. All runs have the parameters of
an mLSTM of `--units`, the same lanes, window and learning rates, and the same seconds of training, taken in turns
(benchmarks/contest.py). Each learning rate is tried by every cell.

The cells are ranked by the bits per byte of the last tenth. Held-out text is measured too, but from a zero state, which
the lanes of so short a run saw only at its start: a cell that forgets slowly may be lost there.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from benchmarks import contest, report
from model.network.cells import CellName
from model.network.language_model import Architecture, LanguageModel
from trainer.run.distributed import ALONE
from trainer.run.options import Options

CELLS: list[tuple[CellName, float]] = [("mlstm", 1.0), ("lstm", 1.0), ("gru", 1.0), ("mlstm", 3.75), ("lstm", 3.75)]


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
    common = Options(corpus=str(corpus), lanes=lanes, window=window, embedding_std=0.5, warmup_steps=100)
    size = LanguageModel(Architecture("mlstm", units))
    entries: list[tuple[str, Options]] = []
    for cell, steepness in CELLS:
        variant = replace(common, cell=cell, steepness=steepness, units=matching_units(cell, size))
        entries += [(_label(options), options) for options in (replace(variant, learning_rate=rate) for rate in rates)]
    results = [
        {name: getattr(options, name) for name in ("cell", "steepness", "units", "learning_rate")} | result
        for (_, options), result in zip(entries, contest.hold(entries, seconds), strict=True)
    ]
    for result in sorted(results, key=lambda result: result["bits_per_byte"]):
        click.echo(
            f"{result['bits_per_byte']:.4f} bits per byte after {result['bytes'] / 1e6:6.2f} MB in "
            f"{result['seconds']:5.0f} s (held out, from a zero state: {result['validation_bits_per_byte']:.4f}): "
            f"{result['label']}"
        )
    report.write(
        path,
        {
            "seconds": seconds,
            "lanes": lanes,
            "window": window,
            "runs": results,
            "machine": report.machine(ALONE.device(common.device)),
        },
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


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Bits per byte, smoothed, against bytes and against seconds: the better rate of each cell."""
    import matplotlib  # noqa: PLC0415 - drawing alone needs it

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415 - drawing alone needs it

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


def _label(options: Options) -> str:
    steep = "" if options.steepness == 1.0 else f", σ({options.steepness:g}x)"
    return f"{options.cell}{steep}, {options.units:,} units, rate {options.learning_rate:g}"


def _parameters(model: LanguageModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
