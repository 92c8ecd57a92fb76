"""`neuron evaluate`: the paper's tables and figures for a checkpoint, a command for each protocol."""

from pathlib import Path
from typing import Any

import click

from cli.evaluate_options import (
    DIRECTORY,
    FILE,
    cache_option,
    checkpoint_options,
    column_options,
    data_option,
    folds_option,
    model_options,
    part_options,
    parts_of,
    test_option,
    train_option,
    valid_option,
)
from cli.groups import Group
from cli.protocol import read_report, run, write
from cli.reading_options import Reading, reading_options
from cli.reviews import labelled_reviews
from engine.traces import Places, trace_json
from evaluation import answers as answers_protocol
from evaluation import classify as classify_protocol
from evaluation import curve as curve_protocol
from evaluation import generation as generation_protocol
from evaluation import growth as growth_protocol
from evaluation import heatmap as heatmap_protocol
from evaluation import histogram as histogram_protocol
from evaluation import lengths as lengths_protocol
from evaluation import pairs as pairs_protocol
from evaluation import shifts as shifts_protocol
from evaluation import units as units_protocol
from evaluation.features import Progress, Reader
from evaluation.report import Report
from evaluation.sets import find_sets
from heatmaps.cells import heat_maps
from heatmaps.html import html_page
from model.checkpoints.volumes import published
from texts.sets import IMDB, SST


@click.group(cls=Group)
def evaluate() -> None:
    """Evaluate a checkpoint as the paper does.

    Every command writes report.json, report.md and figures into --out. Nothing is chosen or fitted on the test part.
    Features are cached in --cache, so that the next command on the same texts need not read them.
    """


@evaluate.command()
@data_option
@column_options
@model_options
def sst(data: Path, reading: Reading, **where: Any) -> None:
    """Accuracy on the Stanford Sentiment Treebank, binary.

    DIR holds sst_binary_train.csv, sst_binary_dev.csv and sst_binary_test.csv, in any format, or under other names of
    theirs, such as train, valid and test.
    """
    run(
        lambda reader: classify_protocol.evaluate(
            reader, find_sets(data, SST, reading.faults, reading.columns), folds=5
        ),
        **where,
    )


@evaluate.command()
@data_option
@column_options
@model_options
def imdb(data: Path, reading: Reading, **where: Any) -> None:
    """Accuracy on IMDB. C is chosen on a fifth of the training part.

    DIR holds imdb_train.csv and imdb_test.csv, or train and test, in any format.
    """
    run(
        lambda reader: classify_protocol.evaluate(
            reader, find_sets(data, IMDB, reading.faults, reading.columns), folds=1
        ),
        **where,
    )


@evaluate.command()
@part_options
@folds_option
@model_options
def classify(folds: int, **options: Any) -> None:
    """Accuracy on any labelled set, of two or more labels.

    All units with L1, the one unit with a fitted threshold and with its sign alone, and tf-idf of words and pairs.
    Of two labels the second in order (1 of 0 and 1, pos of neg and pos) counts as positive.
    """
    sets, where = parts_of(options)
    run(lambda reader: classify_protocol.evaluate(reader, sets(), folds), **where)


@evaluate.command()
@click.option("--set", "sets", multiple=True, metavar="NAME=FILE", help="Labelled texts, 0 or 1. Repeatable.")
@click.option("--corpus", type=DIRECTORY, help="Also the labelled reviews that this corpus holds out for tests.")
@click.option(
    "--baseline-reviews",
    type=click.IntRange(1),
    default=240_000,
    show_default=True,
    help="Labelled reviews of --corpus that tf-idf is fitted to.",
)
@reading_options(label=True, classes=True)
@checkpoint_options
def answers(sets: tuple[str, ...], corpus: Path | None, baseline_reviews: int, reading: Reading, **where: Any) -> None:
    """What the service answers: head `sentiment` and unit as they are served, on any number of sets.

    Accuracy of both, how often they agree, the calibration error, and what lower case and tokens cost. With --corpus
    also by source, and beside tf-idf that was fitted to the corpus' labels.
    """
    pairs = [one.partition("=") for one in sets]
    if not all(name and path for name, _, path in pairs) or not (pairs or corpus):
        raise click.UsageError("give --set NAME=FILE, --corpus, or both")

    def protocol(reader: Reader) -> Report:
        questions = [answers_protocol.Questions(name, reading.of_sentiment(Path(path))) for name, _, path in pairs]
        if corpus is None:
            return answers_protocol.evaluate(reader, questions)
        train, valid, test = labelled_reviews(corpus, baseline_reviews)
        questions.append(answers_protocol.Questions("held-out reviews", *test))
        return answers_protocol.evaluate(reader, questions, answers_protocol.tfidf(reader, train[0], valid[0]))

    run(protocol, **where)


@evaluate.command()
@part_options
@click.option("--draws", type=click.IntRange(2), default=100, show_default=True, help="For each number of examples.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@model_options
def curve(draws: int, seed: int, **options: Any) -> None:
    """Accuracy against the number of labelled examples: all units with L1 and L2, and the unit alone."""
    sets, where = parts_of(options)
    run(lambda reader: curve_protocol.evaluate(reader, sets(), draws, seed), **where)


@evaluate.command()
@part_options
@folds_option
@model_options
def units(folds: int, **options: Any) -> None:
    """The weight of every unit, the heaviest alone, and all but the heaviest."""
    sets, where = parts_of(options)
    run(lambda reader: units_protocol.evaluate(reader, sets(), folds), **where)


@evaluate.command()
@part_options
@folds_option
@model_options
def lengths(folds: int, **options: Any) -> None:
    """Text lengths of right and wrong answers against all."""
    sets, where = parts_of(options)
    run(lambda reader: lengths_protocol.evaluate(reader, sets(), folds), **where)


@evaluate.command()
@click.argument("source", metavar="FILE", type=FILE)
@column_options
@click.option("--unit", type=click.IntRange(0), help="Default: the sentiment unit.")
@model_options
def histogram(source: Path, reading: Reading, unit: int | None, **where: Any) -> None:
    """The unit's final value by class."""
    run(lambda reader: histogram_protocol.evaluate(reader, reading.labelled(source), unit), **where)


@evaluate.command()
@click.argument("source", metavar="FILE", type=FILE)
@column_options
@click.option("--unit", type=click.IntRange(0), help="Default: the sentiment unit.")
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="Texts, the first of all.")
@checkpoint_options
def shifts(source: Path, reading: Reading, unit: int | None, limit: int, **where: Any) -> None:
    """The size of the unit's changes against position in the text."""
    run(
        lambda reader: shifts_protocol.evaluate(reader, reading.labelled(source).first(limit).texts, unit),
        **where,
    )


@evaluate.command()
@click.argument("texts", nargs=-1, required=True, metavar="TEXT...")
@click.option("--unit", "units_", type=click.IntRange(0), multiple=True, help="May be repeated. Default: sentiment.")
@checkpoint_options
def heatmap(texts: tuple[str, ...], units_: tuple[int, ...], **where: Any) -> None:
    """Units after every character of chosen texts, as figures and pages of HTML."""

    def protocol(reader: Reader) -> Report:
        units = list(dict.fromkeys(units_)) or [reader.calibration.unit]
        known = reader.manifest.sentiment
        traced = heatmap_protocol.trace(reader, list(texts), units)
        pages = {}
        for number, one in enumerate(traced, start=1):  # the pages that `neuron trace --html` writes
            maps = heat_maps(one.text, trace_json(Places(one.text), one.values, units, known))
            name = f"{reader.manifest.name}, step {reader.manifest.step}"
            pages[f"text_{number}"] = html_page(one.text, maps, name)
        return heatmap_protocol.report(reader, traced, units, pages)

    run(protocol, **where)


@evaluate.command()
@train_option
@valid_option
@test_option
@reading_options(text=False)
@click.option("--first", required=True, help="Column of the first texts.")
@click.option("--second", required=True, help="Column of the second texts.")
@click.option("--label-field", "label", help="Of the labels of paraphrases; the second in order means that it is one.")
@click.option("--score-field", "score", help="Of the scores of relatedness.")
@folds_option
@model_options
def pairs(
    train: Path,
    valid: Path | None,
    test: Path,
    first: str,
    second: str,
    label: str | None,
    score: str | None,
    folds: int,
    reading: Reading,
    **where: Any,
) -> None:
    """Paraphrase (--label-field) or relatedness (--score-field) of pairs of texts."""
    column = label or score
    if column is None or (label and score):
        raise click.UsageError("give --label-field for paraphrase or --score-field for relatedness, one of them")

    def read(path: Path) -> pairs_protocol.Pairs:
        return pairs_protocol.read_pairs(path, first, second, column, reading.faults, reading.columns.dialect)

    def protocol(reader: Reader) -> Report:
        of_train, of_test = (read(path) for path in (train, test))
        of_valid = read(valid) if valid else None
        if label:
            return pairs_protocol.paraphrase(reader, of_train, of_valid, of_test, folds)
        return pairs_protocol.relatedness(reader, of_train, of_valid, of_test, folds)

    run(protocol, **where)


@evaluate.command()
@train_option
@valid_option
@column_options
@click.option("--samples", type=click.IntRange(1), default=200, show_default=True, help="Of each prompt and sentiment.")
@click.option("--best-of", type=click.IntRange(1), default=8, show_default=True, help="Drawn for each; 1 ranks none.")
@click.option("--length", type=click.IntRange(1), default=200, show_default=True, help="Bytes at most.")
@click.option("--temperature", type=click.FloatRange(0, 10), default=0.7, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**32), default=0, show_default=True)
@checkpoint_options
def generation(
    train: Path,
    valid: Path | None,
    reading: Reading,
    samples: int,
    best_of: int,
    length: int,
    temperature: float,
    seed: int,
    **where: Any,
) -> None:
    """Write with the sentiment unit held at +1, 0 and -1; judged by tf-idf trained on --train (the IMDB reviews).

    Judged are the samples as drawn, and the best of --best-of by the checkpoint's head, as `neuron generate
    --rank-by sentiment` ranks them.
    """

    def protocol(reader: Reader) -> Report:
        of_train = reading.labelled(train)
        of_valid = reading.labelled(valid) if valid else None
        return generation_protocol.evaluate(reader, of_train, of_valid, samples, length, temperature, seed, best_of)

    run(protocol, **where)


@evaluate.command()
@click.argument("volume", type=DIRECTORY)
@data_option
@column_options
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Directory.")
@click.option("--earlier", multiple=True, type=FILE, help="A report.json whose points are taken over. Repeatable.")
@cache_option
def growth(volume: Path, data: Path, out: Path, earlier: tuple[Path, ...], cache: Path, reading: Reading) -> None:
    """Bits per byte and accuracy on SST against bytes read, of all checkpoints in VOLUME.

    Made by `neuron train --publish-to VOLUME --publish-every-steps N`. DIR as for `sst`.
    """

    def protocol(progress: Progress) -> tuple[Report, dict[str, Any]]:
        sets = find_sets(data, SST, reading.faults, reading.columns)
        readers = (Reader(directory, cache, progress=progress) for directory in published(volume))
        return growth_protocol.evaluate(readers, sets, [read_report(path) for path in earlier]), {}

    write(protocol, out)
