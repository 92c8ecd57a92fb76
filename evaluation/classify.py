"""The paper's protocol (Radford et al. 2017, section 4): how well features predict the labels of a set.

All units: L1 logistic regression. The one unit: its fitted threshold, and its sign without any label of the set. The
baseline is tf-idf. Everything is chosen and fitted on the training and validation parts; each classifier sees the test
part once.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from evaluation.baseline import fit_baseline
from evaluation.baseline import fits as baseline_fits
from evaluation.features import Features, Reader
from evaluation.logistic import Chosen, Linear, choose, fit, recipes
from evaluation.report import COLOURS, Report, Table, percent, plot
from evaluation.sets import Rows, Sets, Split
from model.heads.classifier import accuracy, are_sentiment, sentiment_head
from model.heads.pooling import Pooling
from model.heads.unit import find_unit, fit_threshold


@dataclass(frozen=True)
class Material:
    """Sets as numbers. x, y: of `Sets.fitting`, the first `train_rows` of them the training part."""

    sets: Sets
    splits: list[Split]
    x: Features
    y: Rows
    train_rows: int
    test_x: Features
    test_y: Rows

    @property
    def train_x(self) -> Features:
        return self.x[: self.train_rows]

    @property
    def train_y(self) -> Rows:
        return self.y[: self.train_rows]


def read_material(reader: Reader, sets: Sets, folds: int, pooling: Pooling | None = None) -> Material:
    """pooling: by default the reader's."""
    splits = sets.splits(folds)  # first, because it may fail and reading may take an hour
    fitting = sets.fitting
    return Material(
        sets,
        splits,
        reader.features(fitting.texts, "reading the training part", pooling),
        sets.numbers(fitting),
        len(sets.train.texts),
        reader.features(sets.test.texts, "reading the test part", pooling),
        sets.numbers(sets.test),
    )


def fit_all(reader: Reader, material: Material) -> tuple[Chosen, Linear]:
    """The classifier on all units: how it is fitted is chosen on the splits, then it is fitted on the training part."""
    candidates = recipes()
    reader.progress.begin("choosing C", len(candidates) * len(material.splits))
    chosen = choose(material.x, material.y, material.splits, candidates, reader.progress.advance)
    return chosen, fit(material.train_x, material.train_y, [chosen.recipe])[0]


def the_unit(reader: Reader, material: Material) -> int | None:
    """The checkpoint's sentiment unit; without one, that of the largest weight on the training part (two labels)."""
    if len(material.sets.labels) != 2:
        return None
    known = reader.manifest.sentiment
    return known.unit if known else find_unit(material.train_x, material.train_y)


def evaluate(reader: Reader, sets: Sets, folds: int) -> Report:
    material = read_material(reader, sets, folds)
    chosen, linear = fit_all(reader, material)
    fitting = sets.fitting
    reader.progress.begin("tf-idf", baseline_fits(material.splits))
    baseline = fit_baseline(
        fitting.texts, material.y, material.train_rows, material.splits, reader.baselines, reader.progress.advance
    )

    values: dict[str, Any] = {
        "accuracy_all": linear.accuracy(material.test_x, material.test_y),
        "accuracy_unit": None,
        "accuracy_unit_no_labels": None,
        "accuracy_unit_calibrated": None,
        "accuracy_shipped_head": None,
        "accuracy_tfidf": float((baseline.predict(sets.test.texts) == material.test_y).mean()),
        "C": chosen.recipe.c,
        "standardized": chosen.recipe.standardized,
        "nonzero": linear.nonzero,
        "valid_accuracy": chosen.accuracy,
        "tried": [
            {"C": recipe.c, "standardized": recipe.standardized, "valid_accuracy": score}
            for recipe, score in chosen.tried
        ],
        "tfidf": {
            "min_df": baseline.choice.min_df,
            "C": baseline.choice.c,
            "valid_accuracy": baseline.choice.accuracy,
        },
        "unit": the_unit(reader, material),
        "chosen_on": "the validation part" if sets.valid else f"{len(material.splits)} of 5 folds of the training part",
        **sets.described(),
    }
    values |= _of_the_unit(reader, material, values["unit"])
    head = sentiment_head(reader.manifest.heads)
    if head is not None and are_sentiment(sets.labels):
        test_x = reader.features(sets.test.texts, "reading for the checkpoint's head", head.pooling)
        values["accuracy_shipped_head"] = accuracy(head, test_x, material.test_y)
    return Report("classify", values, [_table(values)], {"choice": choice_figure(chosen)})


def with_threshold(material: Material, unit: int) -> dict[str, Any]:
    """The one unit with the threshold that is fitted on the training part, and its accuracy on the test part."""
    threshold, polarity, _ = fit_threshold(material.train_x[:, unit], material.train_y)
    predicted = (material.test_x[:, unit] > threshold) == (polarity > 0)
    accuracy_unit = float((predicted == (material.test_y == 1)).mean())
    return {"threshold": threshold, "polarity": polarity, "accuracy_unit": accuracy_unit}


def _of_the_unit(reader: Reader, material: Material, unit: int | None) -> dict[str, Any]:
    if unit is None:
        return {}
    found = with_threshold(material, unit)
    test, positive = material.test_x[:, unit], material.test_y == 1
    known = reader.manifest.sentiment
    if known is not None:
        found["accuracy_unit_no_labels"] = float(((known.polarity * test > 0) == positive).mean())
        if reader.pooling != "mean":  # the calibration is that of the cell
            center = np.tanh(known.center) if reader.pooling == "tanh" else known.center
            found["accuracy_unit_calibrated"] = float(((known.polarity * (test - center) > 0) == positive).mean())
    return found


def _table(values: dict[str, Any]) -> Table:
    scaled = "standardized" if values["standardized"] else "raw"
    tfidf = values["tfidf"]
    rows: list[list[object]] = [
        [f"all units ({scaled} features)", percent(values["accuracy_all"]), values["C"], values["nonzero"]],
        ["the one unit, fitted threshold", percent(values["accuracy_unit"]), "", 1],
        ["the one unit, its sign, no labels", percent(values["accuracy_unit_no_labels"]), "", 1],
        ["the one unit, the checkpoint's calibration", percent(values["accuracy_unit_calibrated"]), "", 1],
        ["the checkpoint's head `sentiment`", percent(values["accuracy_shipped_head"]), "", ""],
        [f"tf-idf, words and pairs (min_df {tfidf['min_df']})", percent(values["accuracy_tfidf"]), tfidf["C"], ""],
    ]
    rows = [row for row in rows if row[1] != "-"]
    counted = values["rows"]
    caption = (
        f"Accuracy on {counted['test']:,} test texts; fitted on {counted['train']:,}, "
        f"C and scaling chosen on {values['chosen_on']}."
    )
    return Table(caption, ["", "accuracy", "C", "non-zero features"], rows)


def choice_figure(chosen: Chosen) -> Figure:
    """Accuracy by C, where it was chosen."""
    figure, axes = plot("C", "accuracy where C is chosen")
    for colour, standardized in zip(COLOURS, (False, True), strict=False):
        points = [(recipe.c, score) for recipe, score in chosen.tried if recipe.standardized == standardized]
        name = "standardized" if standardized else "raw"
        axes.plot(*zip(*points, strict=True), marker="o", color=colour, label=f"{name} features")
    axes.set_xscale("log", base=2)
    axes.legend(frameon=False)
    return figure
