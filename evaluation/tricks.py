"""Optimizers and tricks of Radford's slides (2015), compared on one task: which lower the loss, and how fast.

Every optimizer learns at several rates and is shown at its best; every trick is taken from the recurrent classifier,
or put into it, alone. As a classifier pools the states of all tokens, in two directions, its gradients have short ways;
so the same is done where one direction's last state is all that is read. What counts is the loss on texts held out,
after each pass.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import numpy as np
from matplotlib.figure import Figure

from evaluation.features import Progress
from evaluation.report import COLOURS, Report, Table, percent, plot
from recurrent.classifier import fit
from recurrent.learning import DivergedError
from recurrent.optimizers import DEFAULTS
from recurrent.options import Optimizer, Options
from texts.labelled import Labelled

RATES = (0.3, 1.0, 3.0)  # of the default rate

TRICKS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "no gates": {"cell": "rnn"},
    "no clipping": {"clip": None},
    "steeper gates": {"steepness": 3.75},
    "recurrent matrices uniform": {"initialization": "uniform"},
    "recurrent matrices identity": {"initialization": "identity"},
    "no dropout": {"dropout": 0.0},
}
_LAST: dict[str, Any] = {"bidirectional": False, "pooling": "last"}  # of the slides


def evaluate(progress: Progress, texts: Labelled, options: Options, seed: int = 0) -> Report:
    """texts: labelled 0 or 1; a part of them is held out, as `options` say."""
    options = replace(options, patience=options.epochs_for(len(texts.texts)), schedule="constant")
    learn = _learner(progress, texts, seed)
    optimizers = get_args(Optimizer)
    progress.begin("fitting", len(optimizers) * len(RATES) + 2 * len(TRICKS))
    tried = [
        {"optimizer": name, **learn(replace(options, optimizer=name, learning_rate=factor * DEFAULTS[name]))}
        for name in optimizers
        for factor in RATES
    ]
    best = [min((one for one in tried if one["optimizer"] == name), key=_lowest) for name in optimizers]
    tricks, of_last = (
        [{"trick": name, **learn(replace(options, **base, **change))} for name, change in TRICKS.items()]
        for base in ({}, _LAST)
    )
    values = {"texts": len(texts.texts), "seed": seed, "tried": tried, "tricks": tricks, "of_last": of_last}
    tables = [
        _table("Every optimizer at the best of three rates", "optimizer", best),
        _table("The recurrent classifier, and the same with one thing changed", "trick", tricks),
        _table("The same where the last state of one direction is all that is read", "trick", of_last),
    ]
    figures = {
        "optimizers": _figure(best, "optimizer"),
        "tricks": _figure(tricks, "trick"),
        "tricks_of_last": _figure(of_last, "trick"),
    }
    return Report("tricks", values, tables, figures)


def _learner(progress: Progress, texts: Labelled, seed: int) -> Callable[[Options], dict[str, Any]]:
    y = np.array(texts.binary(), dtype=np.float64)

    def learn(options: Options) -> dict[str, Any]:
        try:
            history = fit(options, "binary", ["0", "1"], texts.texts, y, seed=seed).history
        except DivergedError:
            history = []
        progress.advance(1)
        return {
            "learning_rate": options.learning_rate or DEFAULTS[options.optimizer],
            "loss": [epoch.loss for epoch in history],
            "held_out": [epoch.valid_loss for epoch in history],
            "accuracy": [epoch.valid_score for epoch in history],
            "seconds": history[-1].seconds if history else None,
        }

    return learn


def _lowest(one: dict[str, Any]) -> float:
    return min(one["held_out"], default=np.inf)


def _table(caption: str, key: str, found: list[dict[str, Any]]) -> Table:
    rows: list[list[object]] = []
    for one in found:
        losses = one["held_out"]
        if not losses:
            rows.append([one[key], one["learning_rate"], "diverged", "", "", ""])
            continue
        at = int(np.argmin(losses))
        rows.append(
            [
                one[key],
                one["learning_rate"],
                f"{losses[at]:.4f}",
                at + 1,
                percent(one["accuracy"][at]),
                f"{one['seconds'] / len(losses):.1f}",
            ]
        )
    header = [key, "learning rate", "lowest loss held out", "after pass", "accuracy then", "seconds a pass"]
    return Table(f"{caption}; losses in nats a text.", header, rows)


def _figure(found: list[dict[str, Any]], key: str) -> Figure:
    figure, axes = plot("passes", "loss on texts held out, nats")
    for number, one in enumerate(found):
        style = "-" if number < len(COLOURS) else "--"
        passes = range(1, len(one["held_out"]) + 1)
        axes.plot(passes, one["held_out"], style, color=COLOURS[number % len(COLOURS)], label=one[key])
    axes.legend(frameon=False, fontsize="small")
    return figure
