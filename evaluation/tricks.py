"""Optimizers and tricks of Radford's slides (2015), compared on one task: which lower the loss, and how fast.

Every optimizer learns at several rates and is shown at its best; every trick is taken from the recurrent classifier,
or put into it, alone. Because that pools the states of all tokens, in two directions, all tricks are also tried on a
network that reads the last state of one direction alone. What counts is the loss on texts held out, after each pass.
Every fit is a process's work, on one core.
"""

import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from multiprocessing import get_context, parent_process
from typing import Any, get_args

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from evaluation.features import EvaluationError, Progress
from evaluation.report import COLOURS, Report, Table, percent, plot
from recurrent.classifier import fit
from recurrent.learning import DivergedError
from recurrent.optimizers import DEFAULTS
from recurrent.options import Optimizer, OptionError, Options
from texts.labelled import Labelled

_PROCESSES = os.cpu_count() or 1
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
    optimizers = get_args(Optimizer)
    asked = [
        replace(options, optimizer=name, learning_rate=factor * DEFAULTS[name])
        for name in optimizers
        for factor in RATES
    ]
    asked += [replace(options, **base, **change) for base in ({}, _LAST) for change in TRICKS.values()]
    y = np.array(texts.binary(), dtype=np.float64)
    if len(set(y.tolist())) < 2:
        raise EvaluationError(f"all {len(y):,} texts have one label, two are needed: take more, or mix them")
    made = iter(_learn_all(progress, texts.texts, y, seed, asked))
    tried = [{"optimizer": name, **next(made)} for name in optimizers for _ in RATES]
    tricks, of_last = ([{"trick": name, **next(made)} for name in TRICKS] for _ in range(2))
    best = [min((one for one in tried if one["optimizer"] == name), key=_lowest) for name in optimizers]
    held_out = max(one["texts_held_out"] for one in [*tried, *tricks, *of_last])
    learned_from = len(y) - held_out
    values = {"texts": learned_from, "texts_held_out": held_out, "seed": seed}
    values |= {"tried": tried, "tricks": tricks, "of_last": of_last}
    of_texts = f"{learned_from:,} texts learned from, {held_out:,} held out, losses in nats a text."
    tables = [
        _table(f"Every optimizer at the best of {len(RATES)} rates: {of_texts}", "optimizer", best),
        _table("The recurrent classifier, and the same with one thing changed.", "trick", tricks),
        _table("The same where the last state of one direction is all that is read.", "trick", of_last),
    ]
    figures = {
        "optimizers": _figure(best, "optimizer"),
        "tricks": _figure(tricks, "trick"),
        "tricks_of_last": _figure(of_last, "trick"),
    }
    return Report("tricks", values, tables, figures)


def _learn_all(
    progress: Progress, texts: list[str], y: NDArray[np.float64], seed: int, asked: list[Options]
) -> list[dict[str, Any]]:
    progress.begin("fitting", len(asked))
    found = []
    with ProcessPoolExecutor(_PROCESSES, get_context("spawn"), _begin) as pool:
        try:
            for one in pool.map(partial(_learn, texts, y, seed), asked):
                found.append(one)
                progress.advance(1)
        except BrokenProcessPool as error:
            raise EvaluationError("a process that fits was killed: is there memory for one on every core?") from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return found


def _begin() -> None:
    """Of a process that fits: it uses one core, says nothing of Ctrl-C, and ends with the one that asked for it."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


def _learn(texts: list[str], y: NDArray[np.float64], seed: int, options: Options) -> dict[str, Any]:
    try:
        model = fit(options, "binary", ["0", "1"], texts, y, seed=seed, device="cpu")
        history, held_out = model.history, model.held_out
        if not held_out:
            raise EvaluationError(f"{len(texts):,} texts are too few to hold some of each label out")
    except DivergedError:
        history, held_out = [], 0
    except OptionError as error:
        raise EvaluationError(f"the recurrent classifier cannot learn from {len(texts):,} texts: {error}") from error
    return {
        "texts_held_out": held_out,
        "learning_rate": options.learning_rate or DEFAULTS[options.optimizer],
        "loss": [epoch.loss for epoch in history],
        "held_out": [epoch.valid_loss for epoch in history],
        "accuracy": [epoch.valid_score for epoch in history],
        "seconds": history[-1].seconds if history else None,
    }


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
    return Table(caption, header, rows)


def _figure(found: list[dict[str, Any]], key: str) -> Figure:
    figure, axes = plot("passes", "loss on texts held out, nats")
    for number, one in enumerate(found):
        style = "-" if number < len(COLOURS) else "--"
        passes = range(1, len(one["held_out"]) + 1)
        axes.plot(passes, one["held_out"], style, color=COLOURS[number % len(COLOURS)], label=one[key])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize="small")
    return figure
