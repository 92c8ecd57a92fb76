"""Which units carry the label: the weight of every unit, the best of them alone, and all but the best.

The weights are those of the classifier on all units, times the unit's deviation over the training part, so that they
can be compared; the order of the units comes from them alone.
"""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from evaluation.classify import fit_all, read_material
from evaluation.features import Reader
from evaluation.logistic import fit
from evaluation.report import COLOURS, Report, Table, percent, plot
from evaluation.sets import Sets

_MOST = 64
_SHOWN = 10


def evaluate(reader: Reader, sets: Sets, folds: int) -> Report:
    material = read_material(reader, sets, folds)
    chosen, linear = fit_all(reader, material)
    weights = linear.weights * material.train_x.std(axis=0, dtype=np.float64)  # (rows, units)
    strength = np.abs(weights).max(axis=0)
    order = np.argsort(-strength, kind="stable")
    # Units without weight have no order among them.
    most = min(_MOST, linear.nonzero, len(order) - 1)
    counts = [2**power for power in range(most.bit_length())]

    reader.progress.begin("fitting", 2 * len(counts))
    steps = []
    for count in counts:
        step: dict[str, Any] = {"units": count}
        for name, kept in (("alone", order[:count]), ("without", order[count:])):
            [fitted] = fit(material.train_x[:, kept], material.train_y, [chosen.recipe])
            step[name] = fitted.accuracy(material.test_x[:, kept], material.test_y)
            reader.progress.advance(1)
        steps.append(step)

    top = [{"unit": int(unit), "weight": float(strength[unit])} for unit in order[: min(_SHOWN, linear.nonzero)]]
    known = reader.manifest.sentiment
    values = {
        "accuracy_all": linear.accuracy(material.test_x, material.test_y),
        "C": chosen.recipe.c,
        "standardized": chosen.recipe.standardized,
        "nonzero": linear.nonzero,
        "top": top,
        "sentiment_unit": known.unit if known else None,
        "sentiment_unit_rank": _rank(strength, known.unit) if known else None,
        "steps": steps,
        "weights": weights.tolist(),
        **sets.described(),
    }
    tables = [
        Table(
            "The heaviest units: absolute weight times the unit's deviation.",
            ["unit", "weight"],
            [[*row.values()] for row in top],
        ),
        Table(
            f"Accuracy on the test part; all units: {percent(values['accuracy_all'])}.",
            ["units", "these alone", "all but these"],
            [[step["units"], percent(step["alone"]), percent(step["without"])] for step in steps],
        ),
    ]
    figures = {"weights": _spike(strength), "top": _steps(steps, float(values["accuracy_all"]))}
    return Report("units", values, tables, figures)


def _rank(strength: NDArray[np.float64], unit: int) -> int | None:
    """1 for the heaviest; None without weight."""
    return int((strength > strength[unit]).sum()) + 1 if strength[unit] else None


def _spike(strength: NDArray[np.float64]) -> Figure:
    figure, axes = plot("unit", "absolute weight")
    axes.vlines(np.arange(len(strength)), 0, strength, color=COLOURS[0], linewidth=0.8)
    axes.set_ylim(bottom=0)
    return figure


def _steps(steps: list[dict[str, Any]], accuracy_all: float) -> Figure:
    figure, axes = plot("units", "test accuracy")
    counts = [step["units"] for step in steps]
    axes.plot(counts, [step["alone"] for step in steps], marker="o", color=COLOURS[0], label="the heaviest alone")
    axes.plot(counts, [step["without"] for step in steps], marker="o", color=COLOURS[1], label="all but the heaviest")
    axes.axhline(accuracy_all, color="0.5", linestyle="--", linewidth=1, label="all units")
    axes.set_xscale("log", base=2)
    axes.legend(frameon=False)
    return figure
