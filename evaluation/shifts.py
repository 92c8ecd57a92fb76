"""The size of the unit's changes against position: where in a text the model's estimate changes most.

A change is the absolute difference of the unit's value over one byte. It is averaged by the byte's number, and by how
far into its text the byte stands. Nothing is fitted.
"""

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from evaluation.features import Reader
from evaluation.report import COLOURS, Report, Table, plot
from evaluation.traces import check_unit, read_traces
from texts.preparation import prepare

_BYTES = 25  # of a bin by number
_BINS = 20  # by share of the text
_LAST = 40  # bins by number; changes at later bytes are not counted there


def evaluate(reader: Reader, texts: list[str], unit: int | None) -> Report:
    """unit: by default the checkpoint's sentiment unit."""
    unit = reader.calibration.unit if unit is None else check_unit(reader, unit)
    prepared = [prepare(text) for text in texts]
    sums = {"byte": np.zeros((_LAST, 2)), "share": np.zeros((_BINS, 2))}  # sum of the changes, and their number
    for trace in read_traces(reader, prepared, [unit]):
        change = np.abs(np.diff(trace[:, 0].astype(np.float64), prepend=0.0))  # the state is zero before the first byte
        position = np.arange(len(change))
        _add(sums["byte"], position // _BYTES, change)
        _add(sums["share"], position * _BINS // len(change), change)
    by_byte, by_share = (_means(found) for found in sums.values())
    values = {
        "unit": unit,
        "texts": len(texts),
        "by_byte": [{"from": number * _BYTES, "mean_change": mean} for number, mean in by_byte],
        "by_share": [{"from": number / _BINS, "mean_change": mean} for number, mean in by_share],
    }
    table = Table(
        f"Mean absolute change of unit {unit} over a byte, {len(texts):,} texts.",
        ["share of the text read", "mean change"],
        [[f"{100 * number // _BINS} to {100 * (number + 1) // _BINS} %", mean] for number, mean in by_share],
    )
    figures = {
        "by_byte": _figure("byte", [((number + 0.5) * _BYTES, mean) for number, mean in by_byte]),
        "by_share": _figure("share of the text read", [((number + 0.5) / _BINS, mean) for number, mean in by_share]),
    }
    return Report("shifts", values, [table], figures)


def _figure(x_label: str, points: list[tuple[float, float]]) -> Figure:
    figure, axes = plot(x_label, "mean absolute change")
    axes.plot(*zip(*points, strict=True), marker="o", color=COLOURS[0])
    axes.set_ylim(bottom=0)
    return figure


def _add(sums: NDArray[np.float64], bins: NDArray[np.int64], change: NDArray[np.float64]) -> None:
    kept = bins < len(sums)
    np.add.at(sums[:, 0], bins[kept], change[kept])
    np.add.at(sums[:, 1], bins[kept], 1)


def _means(sums: NDArray[np.float64]) -> list[tuple[int, float]]:
    return [(number, float(total / count)) for number, (total, count) in enumerate(sums) if count]
