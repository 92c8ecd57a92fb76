"""When is recurrence worth it? The question of Radford's slides (2015), with this program's numbers.

A bag of words, a recurrent classifier trained from scratch, the language model's features, its one unit, and the
language model itself, fine-tuned, learn from the same draws of 10² to 10⁵ labelled texts, and answer the same test.
Each chooses what it has to choose on a part of its draw alone. All that is fitted takes hours, so what was measured of
one fit is kept on disk, and a command that was interrupted goes on there.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from engine.reading import read_features
from evaluation.area import area, area_interval
from evaluation.baseline import fit_baseline
from evaluation.features import EvaluationError, Reader
from evaluation.logistic import choose, fit, recipes
from evaluation.report import COLOURS, Report, Table, percent, plot
from evaluation.sets import FOLDS, Rows, Sets, Split
from model.checkpoints.durable import replace_file
from model.heads.cross_validation import accuracy_interval
from model.heads.unit import fit_threshold
from recurrent.classifier import fit as fit_recurrent
from recurrent.learning import DivergedError
from recurrent.optimizers import DEFAULTS
from recurrent.options import OptionError, Options
from texts.labelled import Labelled
from texts.preparation import prepare

SIZES = (100, 1_000, 10_000, 100_000)
_FEW = 1_000  # texts up to which there are several draws, and several folds to choose on
_DRAWS = 5
_TIMED = 512  # texts that the speed of reading is measured on
_MEASURED = ("accuracy", "auc", "fit_s", "texts_per_s")

Scores = NDArray[np.float64]  # (texts,), the larger the more it is the second label, above 0 where it is
Answer = Callable[[Sequence[str]], Scores]


@dataclass(frozen=True)
class Answered:
    """The test's scores, and how fast any texts are answered. reading_s: of what was read before the fit, for it."""

    scores: Scores
    texts_per_s: float
    reading_s: float = 0.0


@dataclass(frozen=True)
class Contender:
    """What learns.

    fit: gets texts, their classes, 0 or 1, and their rows; returns what answers, or the answers, where these cost
    nothing because all texts were read before. about: all settings that its answers depend on, with so many
    texts. most: labelled texts that it is given. draws: of one size, at most.
    """

    name: str
    fit: Callable[[Sequence[str], Rows, Rows], Answer | Answered]
    about: Callable[[int], str] = lambda _: ""
    most: int | None = None
    draws: int = _DRAWS


def evaluate(
    reader: Reader,
    sets: Sets,
    sizes: Sequence[int],
    more: Sequence[Contender] = (),
    seed: int = 0,
    options: Options | None = None,
) -> Report:
    """sizes: numbers of labelled texts; those beyond what there is become all there are.

    more: other contenders. options: of the recurrent classifier; None: its defaults.
    """
    fitting, y, test_y = sets.fitting, sets.numbers(sets.fitting), sets.numbers(sets.test)
    if len(set(test_y.tolist())) < 2:
        raise EvaluationError("all texts of the test part have one label, and the area needs both")
    if (rarest := int(np.bincount(y).min())) < FOLDS:
        raise EvaluationError(f"{rarest} training texts have one of the labels: each needs {FOLDS} to choose on")
    contenders = [*_contenders(reader, fitting.texts, sets.test.texts, options or Options(), seed), *more]
    notes = [f"{size:,} texts were asked for: there are {len(y):,}." for size in sizes if size > len(y)]
    sizes = sorted({min(size, len(y)) for size in sizes})
    points: list[dict[str, Any]] = []
    for size in sizes:
        drawn = _draws(y, size, np.random.default_rng([seed, size]))
        for contender in contenders:
            if contender.most is not None and size > contender.most:
                continue
            given = drawn[: contender.draws]
            reader.progress.begin(f"{contender.name}, {size:,} texts", len(given))
            found = []
            for rows in given:
                found.append(_kept(reader, contender, fitting.texts, y, rows, sets.test, test_y))
                reader.progress.advance(1)
            points.append({"contender": contender.name, "examples": size, "draws": len(given)} | _mean(found, test_y))
    values = {"seed": seed, "points": points, **sets.described()}
    names = [contender.name for contender in contenders]
    figures = {
        "accuracy": _figure(points, names, "accuracy", "test accuracy"),
        "seconds": _figure(points, names, "fit_s", "seconds to fit", log=True),
    }
    return Report("showdown", values, [_table(points, len(test_y))], figures, notes=notes)


def _kept(
    reader: Reader, contender: Contender, texts: Sequence[str], y: Rows, rows: Rows, test: Labelled, test_y: Rows
) -> dict[str, float]:
    """What `_judged` finds, or found earlier: it is kept by everything that it depends on."""
    about = [
        contender.name,
        contender.about(len(rows)),
        reader.manifest_sha256,
        str(reader.model.dtype),
        reader.pooling,
    ]
    digest = hashlib.sha256(json.dumps(about).encode())
    for asked, labels in (([texts[row] for row in rows], y[rows]), (test.texts, test_y)):
        digest.update(json.dumps([asked, labels.tolist()]).encode())
    path = reader.judged / f"{digest.hexdigest()}.json"
    try:
        kept = json.loads(path.read_bytes())
        return {key: float(kept[key]) for key in _MEASURED}
    except (OSError, ValueError, TypeError, KeyError):
        pass  # there is none, or it is damaged
    found = _judged(contender, texts, y, rows, test, test_y)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(found))
    return found


def _judged(
    contender: Contender, texts: Sequence[str], y: Rows, rows: Rows, test: Labelled, test_y: Rows
) -> dict[str, float]:
    chosen = [texts[row] for row in rows]
    began = time.monotonic()
    fitted = contender.fit(chosen, y[rows], rows)
    fit_s = time.monotonic() - began
    if not isinstance(fitted, Answered):
        began = time.monotonic()
        scores = fitted(test.texts)
        fitted = Answered(scores, len(scores) / (time.monotonic() - began))
    accuracy = float(((fitted.scores > 0) == (test_y == 1)).mean())
    measured = (accuracy, area(fitted.scores, test_y), fit_s + fitted.reading_s, fitted.texts_per_s)
    return dict(zip(_MEASURED, measured, strict=True))


def _mean(found: list[dict[str, float]], test_y: Rows) -> dict[str, Any]:
    """Over the draws; intervals are those that so many test texts leave."""
    means = {key: float(np.mean([one[key] for one in found])) for key in found[0]}
    positive = int(test_y.sum())
    return {
        **means,
        "accuracy_interval": accuracy_interval(means["accuracy"], len(test_y)),
        "auc_interval": area_interval(means["auc"], positive, len(test_y) - positive),
        "lowest": min(one["accuracy"] for one in found),
        "highest": max(one["accuracy"] for one in found),
    }


def _draws(y: Rows, size: int, draw: np.random.Generator) -> list[Rows]:
    """Rows of every draw, both labels alike where there is room; one draw where it is large."""
    count = _DRAWS if size <= _FEW and size < len(y) else 1
    groups = [np.flatnonzero(y == label) for label in (0, 1)]
    found = []
    for _ in range(count):
        mixed = [draw.permutation(group) for group in groups]
        half = [min(len(mixed[0]), size // 2), 0]
        half[1] = min(len(mixed[1]), size - half[0])
        half[0] = min(len(mixed[0]), size - half[1])
        found.append(draw.permutation(np.concatenate([group[:n] for group, n in zip(mixed, half, strict=True)])))
    return found


def _splits(y: Rows) -> list[Split]:
    """To choose on: all five folds of few texts, one fold of many."""
    none = Labelled(["a", "b"], ["0", "1"])
    train = Labelled([""] * len(y), [str(label) for label in y])
    return Sets(train, None, none).splits(5 if len(y) <= _FEW else 1)


def _contenders(
    reader: Reader, texts: Sequence[str], test: Sequence[str], options: Options, seed: int
) -> list[Contender]:
    """The features of all texts are read once, before any fit; how long that takes is told to each that uses some."""
    x, test_x = reader.features(texts, "reading"), reader.features(test, "reading the test part")
    some = texts[:_TIMED]
    began = time.monotonic()
    read_features(reader.model, [prepare(text) for text in some], reader.pooling)
    seconds_a_byte = (time.monotonic() - began) / _bytes(some)
    texts_per_s = len(test) / (seconds_a_byte * _bytes(test))  # the product with the weights takes nothing beside it

    def linear(weights: NDArray[np.float64], bias: float, chosen: Sequence[str]) -> Answered:
        return Answered(test_x @ weights + bias, texts_per_s, seconds_a_byte * _bytes(chosen))

    def features(chosen: Sequence[str], y: Rows, rows: Rows) -> Answered:
        best = choose(x[rows], y, _splits(y), recipes()).recipe
        (found,) = fit(x[rows], y, [best])
        return linear(found.weights[0], float(found.bias[0]), chosen)

    def unit(chosen: Sequence[str], y: Rows, rows: Rows) -> Answered:
        number = reader.calibration.unit
        threshold, polarity, _ = fit_threshold(x[rows, number], y)
        weights = np.zeros(x.shape[1])
        weights[number] = polarity
        return linear(weights, -polarity * threshold, chosen)

    _warm_up(options, seed)
    found = [
        Contender("tf-idf", _tfidf),
        Contender(
            "recurrent",
            lambda chosen, y, _: _recurrent(options, chosen, y, seed),
            lambda count: f"{_resolved(options, count)}, seed={seed}",
        ),
        Contender("features", features),
    ]
    return found if reader.manifest.sentiment is None else [*found, Contender("the unit", unit)]


def _bytes(texts: Sequence[str]) -> int:
    return sum(len(prepare(text)) for text in texts)


def _warm_up(options: Options, seed: int) -> None:
    """What a process does at its first fit alone, such as imports, is no contender's time."""
    texts, y = ["good", "bad"] * 10, np.array([1, 0] * 10)
    _tfidf(texts, y, np.arange(len(y)))
    _recurrent(replace(options, min_df=1, epochs=1), texts, y, seed)


def _tfidf(texts: Sequence[str], y: Rows, _rows: Rows) -> Answer:
    return fit_baseline(texts, y, len(y), _splits(y), None, logarithms=(True, False)).log_odds


def _recurrent(options: Options, texts: Sequence[str], y: Rows, seed: int) -> Answer:
    try:
        model = fit_recurrent(options, "binary", ["0", "1"], texts, y.astype(np.float64), seed=seed)
    except (OptionError, DivergedError) as error:
        raise EvaluationError(f"the recurrent classifier cannot learn from {len(texts):,} texts: {error}") from error
    return lambda asked: model.outputs(asked)[:, 0].astype(np.float64)


def _resolved(options: Options, texts: int) -> Options:
    """With what the options that are None stand for."""
    return replace(
        options,
        learning_rate=options.learning_rate or DEFAULTS[options.optimizer],
        batch_size=options.batch_size_for(texts),
        epochs=options.epochs_for(texts),
    )


def _table(points: list[dict[str, Any]], tests: int) -> Table:
    header = [
        "labelled texts",
        "contender",
        "draws",
        "accuracy",
        "its interval",
        "AUC",
        "its interval",
        "seconds to fit",
        "texts/s",
    ]
    rows: list[list[object]] = [
        [
            f"{point['examples']:,}",
            point["contender"],
            point["draws"],
            percent(point["accuracy"]),
            " to ".join(percent(end) for end in point["accuracy_interval"]),
            f"{point['auc']:.4f}",
            " to ".join(f"{end:.4f}" for end in point["auc_interval"]),
            f"{point['fit_s']:,.1f}",
            f"{point['texts_per_s']:,.0f}",
        ]
        for point in points
    ]
    caption = (
        f"On {tests:,} test texts; of several draws the mean. Intervals are of 95 %, "
        "and those of the test alone. Seconds are those of one fit with all that is chosen for it. The reading of the "
        "language model is part of them, and of its texts a second."
    )
    return Table(caption, header, rows)


def _figure(points: list[dict[str, Any]], names: list[str], key: str, label: str, log: bool = False) -> Figure:
    figure, axes = plot("labelled texts", label)
    for name, colour in zip(names, COLOURS, strict=False):
        of_name = [point for point in points if point["contender"] == name]
        sizes = [point["examples"] for point in of_name]
        axes.plot(sizes, [point[key] for point in of_name], marker="o", color=colour, label=name)
        if key == "accuracy":
            axes.fill_between(
                sizes,
                [point["lowest"] for point in of_name],
                [point["highest"] for point in of_name],
                color=colour,
                alpha=0.15,
                linewidth=0,
            )
    axes.set_xscale("log")
    if log:
        axes.set_yscale("log")
    axes.legend(frameon=False)
    return figure
