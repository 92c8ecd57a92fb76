"""The unit's value by class (Radford et al. 2017, figure 3): a peak for each class shows that it carries the label."""

from typing import Any

import numpy as np

from evaluation.features import Reader
from evaluation.report import COLOURS, Report, Table, plot
from evaluation.traces import check_unit
from model.heads.histogram import bin_edges
from texts.labelled import Labelled


def evaluate(reader: Reader, labelled: Labelled, unit: int | None) -> Report:
    """unit: by default the checkpoint's sentiment unit. Nothing is fitted."""
    unit = reader.calibration.unit if unit is None else check_unit(reader, unit)
    values = reader.features(labelled.texts)[:, unit].astype(np.float64)
    by_label = {label: values[np.array(labelled.labels) == label] for label in sorted(set(labelled.labels))}
    classes: dict[str, dict[str, Any]] = {
        label: {"rows": len(of), "mean": float(of.mean()), "deviation": float(of.std())}
        for label, of in by_label.items()
    }
    found: dict[str, Any] = {"unit": unit, "classes": classes}
    notes = []
    if len(by_label) == 2:
        low, high = by_label.values()
        found["area_under_roc"] = _area(low, high)
        first, second = by_label
        notes.append(
            f"A text of {second!r} lies above one of {first!r} in {100 * found['area_under_roc']:.1f} % of all pairs "
            "(area under the ROC curve)."
        )
    what = f"{'mean hidden' if reader.pooling == 'mean' else 'final'} value of unit {unit}"
    table = Table(
        f"{what.capitalize()} by class.",
        ["class", "texts", "mean", "deviation"],
        [[label, of["rows"], of["mean"], of["deviation"]] for label, of in classes.items()],
    )
    figure, axes = plot(what, "texts")
    edges = bin_edges(values).tolist()
    for number, (label, of) in enumerate(by_label.items()):
        axes.hist(of, edges, color=COLOURS[(1 - number) % len(COLOURS)], alpha=0.6, label=label)
    axes.legend(frameon=False)
    return Report("histogram", found, [table], {"histogram": figure}, notes=notes)


def _area(low: Any, high: Any) -> float:
    """The share of pairs in which `high` lies above `low`; equal values count half."""
    ordered = np.sort(low)
    below, not_above = np.searchsorted(ordered, high, "left"), np.searchsorted(ordered, high, "right")
    return float((below + not_above).mean() / 2 / len(low))
