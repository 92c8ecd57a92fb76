"""`neuron evaluate showdown` and `tricks`: recurrent classifiers beside everything else, and what is in them.

They add themselves to the group of cli/evaluate.py.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from cli.evaluate_all import evaluate
from cli.evaluate_options import DIRECTORY, FILE, model_options
from cli.protocol import run, write
from cli.reading_options import Reading, reading_options
from cli.reviews import labelled_reviews
from engine.folded import FoldedModel
from engine.reading import read_features
from evaluation import showdown as showdown_protocol
from evaluation import tricks as tricks_protocol
from evaluation.features import Progress, Reader
from evaluation.report import Report
from evaluation.sets import Rows, Sets
from evaluation.showdown import SIZES, Answer, Contender
from model.checkpoints import checkpoint
from recurrent.options import Options
from texts.labelled import Labelled
from texts.preparation import prepare
from trainer.finetuning.finetune import Finetuning
from trainer.finetuning.options import FinetuningOptions
from trainer.finetuning.task import digest
from trainer.finetuning.tuned import publish_tuned

_VALID = 10  # of so many drawn texts one chooses the epoch of a fine-tuning


@evaluate.command()
@click.option("--train", type=FILE, help="Labelled texts to draw from.")
@click.option("--test", type=FILE, help="What is measured on, and nothing else.")
@click.option("--corpus", type=DIRECTORY, help="Draw from its labelled reviews, and measure on those it holds out.")
@click.option(
    "--sizes", default=",".join(map(str, SIZES)), show_default=True, help="Numbers of labelled texts, with commas."
)
@click.option(
    "--finetune-most",
    type=click.IntRange(0),
    default=10_000,
    show_default=True,
    help="Labelled texts up to which the language model is fine-tuned, which takes longest. 0: not at all.",
)
@click.option("--finetune-epochs", type=click.IntRange(1), default=3, show_default=True, help="At most.")
@click.option("--fuse/--no-fuse", default=True, show_default=True, help="As of `neuron finetune`.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@reading_options(label=True, classes=True)
@model_options
def showdown(
    train: Path | None,
    test: Path | None,
    corpus: Path | None,
    sizes: str,
    finetune_most: int,
    finetune_epochs: int,
    fuse: bool,
    seed: int,
    reading: Reading,
    **where: Any,
) -> None:
    """When is recurrence worth it? Five ways to learn from 10² to 10⁵ labelled texts.

    tf-idf with a grid search, the recurrent classifier, the features with L1, the one unit, and the language model
    fine-tuned: accuracy and area under the ROC curve, seconds to fit, texts a second. Takes hours; interrupted, it goes
    on where it was: what it measured, seconds too, is kept in --cache.
    """
    numbers = _numbers(sizes)
    given = [train is not None, test is not None]
    if any(given) if corpus is not None else not all(given):
        raise click.UsageError("give --train and --test, or --corpus alone")
    if corpus is not None:
        drawn, _, held_out = labelled_reviews(corpus, max(numbers))
        sets = Sets(drawn[0], None, held_out[0])
    elif train is not None and test is not None:
        sets = Sets(reading.of_sentiment(train), None, reading.of_sentiment(test))

    def protocol(reader: Reader) -> Report:
        options = FinetuningOptions(
            str(where["directory"]), ["0", "1"], "", epochs=finetune_epochs, fuse=fuse, seed=seed
        )
        tuned = Contender("fine-tuned", _tuned(options), lambda _: str(options), finetune_most, draws=1)
        more = [tuned] if finetune_most else []
        return showdown_protocol.evaluate(reader, sets, numbers, more, seed)

    run(protocol, **where)


def _numbers(sizes: str) -> list[int]:
    try:
        found = [int(size) for size in sizes.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 2 * _VALID:
        raise click.UsageError(f"--sizes is {sizes!r}: give whole numbers of {2 * _VALID} or more, with commas")
    return found


def _tuned(options: FinetuningOptions) -> Callable[[Sequence[str], Rows, Rows], Answer]:
    """options: for any texts, whose digest they lack."""

    def fit(texts: Sequence[str], y: Rows, _rows: Rows) -> Answer:
        held = np.arange(len(texts)) % _VALID == 0
        train, valid = (
            Labelled([texts[row] for row in rows], [str(y[row]) for row in rows])
            for rows in (np.flatnonzero(~held).tolist(), np.flatnonzero(held).tolist())
        )
        of_these = replace(options, data_sha256=digest(train, valid))
        with tempfile.TemporaryDirectory() as place:
            tuning = Finetuning.begin(Path(place) / "run", of_these, train, valid, lambda _record: None)
            tuning.run()
            published, head = publish_tuned(tuning, Path(place), "tuned", "sentiment", None)
            model = FoldedModel(checkpoint.read(published).model, str(tuning.device))
        weights, bias = head.matrix[:, 0], head.bias[0]
        units = sorted(head.weights)
        return lambda asked: read_features(model, [prepare(text) for text in asked])[:, units] @ weights + bias

    return fit


@evaluate.command()
@click.option("--train", required=True, type=FILE, help="Labelled texts; a part is held out.")
@click.option("--texts", type=click.IntRange(20), default=4_000, show_default=True, help="How many of them, the first.")
@click.option("--epochs", type=click.IntRange(2), default=5, show_default=True, help="Passes of every fit.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Directory.")
@reading_options(label=True, classes=True)
def tricks(train: Path, texts: int, epochs: int, seed: int, out: Path, reading: Reading) -> None:
    """The optimizers and the tricks of recurrent classifiers, one by one, on one task."""

    def protocol(progress: Progress) -> tuple[Report, dict[str, Any]]:
        drawn = reading.of_sentiment(train).first(texts)
        # A tenth of them is too few to tell fits apart.
        options = replace(Options(), epochs=epochs, validation_fraction=0.25)
        return tricks_protocol.evaluate(progress, drawn, options, seed), {}

    write(protocol, out)
