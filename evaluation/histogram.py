"""The unit's value by class (Radford et al. 2017, figure 3): a peak for each class shows that it carries the label."""

from typing import Any

import numpy as np

from evaluation.area import area
from evaluation.features import Reader
from evaluation.report import COLOURS, Report, Table, plot
from evaluation.traces import check_unit
from model.heads.histogram import bin_edges
from texts.labelled import Labelled, distinct


def evaluate(reader: Reader, labelled: Labelled, unit: int | None) -> Report:
    """unit: by default the checkpoint's sentiment unit. Nothing is fitted."""
    unit = reader.calibration.unit if unit is None else check_unit(reader, unit)
    values = reader.features(labelled.texts)[:, unit].astype(np.float64)
    by_label = {label: values[np.array(labelled.labels) == label] for label in distinct(labelled.labels)}
    classes: dict[str, dict[str, Any]] = {
        label: {"rows": len(of), "mean": float(of.mean()), "deviation": float(of.std())}
        for label, of in by_label.items()
    }
    found: dict[str, Any] = {"unit": unit, "classes": classes}
    notes = []
    if len(by_label) == 2:
        first, second = by_label
        found["area_under_roc"] = area(values, np.array([label == second for label in labelled.labels], dtype=np.int64))
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
