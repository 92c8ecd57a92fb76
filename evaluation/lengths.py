"""Text length of right and wrong answers against all: whether long or short texts are answered wrong."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.classify import fit_all, read_material
from evaluation.features import Reader
from evaluation.report import COLOURS, Report, Table, percent, plot
from evaluation.sets import Sets
from texts.preparation import prepare

_PARTS = 5


def evaluate(reader: Reader, sets: Sets, folds: int) -> Report:
    """The classifier is that on all units (`classify.py`); lengths are those of the test part, in prepared bytes."""
    material = read_material(reader, sets, folds)
    chosen, linear = fit_all(reader, material)
    right = linear.predict(material.test_x) == material.test_y
    lengths = np.array([len(prepare(text)) for text in sets.test.texts])
    groups = {"all": lengths, "right": lengths[right], "wrong": lengths[~right]}
    values: dict[str, Any] = {
        "accuracy_all": float(right.mean()),
        "C": chosen.recipe.c,
        "standardized": chosen.recipe.standardized,
        "lengths": {name: _described(of) for name, of in groups.items()},
        "by_length": _by_length(lengths, right),
        **sets.described(),
    }
    tables = [
        Table(
            "Length of the test texts in bytes.",
            ["answers", "texts", "mean", "median", "10th percentile", "90th percentile"],
            [[name, *(("-" if one is None else one) for one in of.values())] for name, of in values["lengths"].items()],
        ),
        Table(
            "Accuracy by length.",
            ["bytes", "texts", "accuracy"],
            [[f"{p['from']} to {p['to']}", p["texts"], percent(p["accuracy"])] for p in values["by_length"]],
        ),
    ]
    figure, axes = plot("length, bytes", "share of the texts")
    edges = np.geomspace(lengths.min(), lengths.max() + 1, 31)
    for colour, (name, of) in zip(("#999999", COLOURS[2], COLOURS[1]), groups.items(), strict=True):
        if len(of):
            axes.hist(
                of, edges.tolist(), weights=np.full(len(of), 1 / len(of)), histtype="step", color=colour, label=name
            )
    axes.set_xscale("log")
    axes.legend(frameon=False)
    return Report("lengths", values, tables, {"lengths": figure})


def _described(lengths: NDArray[np.int64]) -> dict[str, Any]:
    if not len(lengths):
        return {"texts": 0, "mean": None, "median": None, "p10": None, "p90": None}
    p10, median, p90 = np.percentile(lengths, [10, 50, 90]).tolist()
    return {"texts": len(lengths), "mean": float(lengths.mean()), "median": median, "p10": p10, "p90": p90}


def _by_length(lengths: NDArray[np.int64], right: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Five parts of the test texts, from the shortest to the longest."""
    order = np.argsort(lengths, kind="stable")
    return [
        {
            "from": int(lengths[part].min()),
            "to": int(lengths[part].max()),
            "texts": len(part),
            "accuracy": float(right[part].mean()),
        }
        for part in np.array_split(order, _PARTS)
        if len(part)
    ]
