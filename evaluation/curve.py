"""Accuracy against the number of labelled examples (Radford et al. 2017, figures 2 and 5).

For each number of examples, that many training rows are drawn repeatedly, and each draw fits three classifiers: all
units with the L1 penalty, with L2, and the one unit alone with a threshold. C and scaling are chosen for each number
of examples on the validation part, by the mean over the first draws; without a validation part a fifth of the training
part replaces it, and is never drawn from.
"""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from evaluation.classify import Material, read_material, the_unit
from evaluation.features import Reader
from evaluation.logistic import Recipe, fit, recipes
from evaluation.report import COLOURS, Report, Table, percent, plot
from evaluation.sets import Rows, Sets
from model.heads.unit import fit_threshold

TRIALS = 5  # draws by which C is chosen
# Wider and coarser than the paper's: with a few raw examples any C up to 1 leaves no weight at all.
GRID = tuple(2.0**exponent for exponent in range(-8, 5, 4))
SMALLEST = 8

_NAMES = {"l1": "all units, L1", "l2": "all units, L2", "unit": "the one unit"}


def evaluate(reader: Reader, sets: Sets, draws: int, seed: int = 0) -> Report:
    """draws: for each number of examples; the mean and the 10th and 90th percentile are of these."""
    material = read_material(reader, sets, folds=1)
    pool, valid_rows = material.splits[0]
    sizes = _sizes(len(pool), len(sets.labels))
    unit = the_unit(reader, material)
    kinds = ["l1", "l2"] + (["unit"] if unit is not None else [])
    candidates = recipes(GRID)
    trials = min(TRIALS, draws)
    reader.progress.begin("fitting", len(sizes) * 2 * (trials * len(candidates) + draws))

    points: list[dict[str, Any]] = []
    for size in sizes:
        draw = np.random.default_rng([seed, size])
        drawn = [_draw(material.y, pool, size, draw) for _ in range(draws)]
        for kind in kinds:
            recipe = None
            if kind == "unit":
                accuracies = [_unit_accuracy(material, rows, int(unit or 0)) for rows in drawn]
            else:
                recipe = _best(reader, material, candidates, drawn[:trials], valid_rows, kind == "l1")
                accuracies = []
                for rows in drawn:
                    [fitted] = fit(material.x[rows], material.y[rows], [recipe], kind == "l1")
                    accuracies.append(fitted.accuracy(material.test_x, material.test_y))
                    reader.progress.advance(1)
            low, high = np.percentile(accuracies, [10, 90]).tolist()
            points.append(
                {
                    "examples": size,
                    "classifier": kind,
                    "mean": float(np.mean(accuracies)),
                    "p10": low,
                    "p90": high,
                    "C": recipe.c if recipe else None,
                    "standardized": recipe.standardized if recipe else None,
                }
            )
    values = {"draws": draws, "unit": unit, "curve": points, **sets.described()}
    return Report("curve", values, [_table(points, kinds, draws)], {"curve": _figure(points, kinds)})


def _sizes(rows: int, labels: int) -> list[int]:
    """Powers of two with room for every label, up to half of the rows: larger draws would overlap too much."""
    sizes, size = [], max(SMALLEST, 1 << (labels - 1).bit_length())
    while size <= rows // 2:
        sizes.append(size)
        size *= 2
    return sizes or [max(labels, rows // 2)]


def _draw(y: Rows, pool: Rows, size: int, draw: np.random.Generator) -> Rows:
    """`size` rows of the pool, at least one of each class where there is room."""
    mixed = draw.permutation(pool)
    _, first = np.unique(y[mixed], return_index=True)
    rest = np.delete(np.arange(len(mixed)), first)
    drawn: Rows = mixed[np.concatenate([first, rest])[: max(size, len(first))]]
    return drawn


def _best(
    reader: Reader, material: Material, candidates: list[Recipe], trials: list[Rows], valid_rows: Rows, l1: bool
) -> Recipe:
    scores = []
    for rows in trials:
        fitted = fit(material.x[rows], material.y[rows], candidates, l1)
        scores.append([linear.accuracy(material.x[valid_rows], material.y[valid_rows]) for linear in fitted])
        reader.progress.advance(len(candidates))
    return candidates[int(np.mean(scores, axis=0).argmax())]


def _unit_accuracy(material: Material, rows: Rows, unit: int) -> float:
    threshold, polarity, _ = fit_threshold(material.x[rows, unit], material.y[rows])
    above: NDArray[np.bool_] = material.test_x[:, unit] > threshold
    return float(((above == (polarity > 0)) == (material.test_y == 1)).mean())


def _table(points: list[dict[str, Any]], kinds: list[str], draws: int) -> Table:
    rows: list[list[object]] = []
    for size in sorted({point["examples"] for point in points}):
        of_size = {point["classifier"]: point for point in points if point["examples"] == size}
        cells = [of_size[kind] for kind in kinds]
        rows.append([size, *(f"{percent(p['mean'])} ({percent(p['p10'])} to {percent(p['p90'])})" for p in cells)])
    caption = f"Accuracy on the test part: mean of {draws} draws (10th to 90th percentile)."
    return Table(caption, ["labelled examples", *(_NAMES[kind] for kind in kinds)], rows)


def _figure(points: list[dict[str, Any]], kinds: list[str]) -> Figure:
    figure, axes = plot("labelled examples", "test accuracy")
    for colour, kind in zip(COLOURS, kinds, strict=False):
        of_kind = [point for point in points if point["classifier"] == kind]
        sizes = [point["examples"] for point in of_kind]
        axes.plot(sizes, [point["mean"] for point in of_kind], marker="o", color=colour, label=_NAMES[kind])
        low, high = ([point[end] for point in of_kind] for end in ("p10", "p90"))
        axes.fill_between(sizes, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.legend(frameon=False)
    return figure
