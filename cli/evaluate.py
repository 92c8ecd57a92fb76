"""`neuron evaluate`: the paper's tables and figures for a checkpoint, a command for each protocol."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cli.checkpoint_option import checkpoint_option
from cli.pooling_option import pooling_option
from cli.protocol import read_report, run, write
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
from evaluation.features import Reader, Watch
from evaluation.report import Report
from evaluation.sets import IMDB, SST, Sets, find_sets, read_sets
from model.checkpoints.volumes import published
from model.texts.labelled import read_labelled
from sentiment_neuron.heat_maps import heat_maps, html_page

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)
_DTYPES = ["auto", "float32", "bfloat16"]


@click.group()
def evaluate() -> None:
    """Evaluate a checkpoint as the paper does.

    Every command writes report.json, report.md and figures into --out. What is chosen and fitted never sees the test
    part. Features are kept in --cache, so that the next command on the same texts reads none.
    """


def _options(*chosen: Callable[[F], F]) -> Callable[[F], F]:
    def add(command: F) -> F:
        for option in reversed(chosen):
            command = option(command)
        return command

    return add


_cache = click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/features"),
    show_default=True,
    help="Where features are kept, by checkpoint and texts; may be deleted at any time.",
)
_of_model = _options(
    click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Directory."),
    checkpoint_option,
    _cache,
    pooling_option,
    click.option("--dtype", type=click.Choice(_DTYPES), default="auto", show_default=True, help="Of the products."),
)
_columns = _options(
    click.option("--text", help="Column of the texts. Default: the one that is not the label."),
    click.option("--label", default="label", show_default=True, help="Column of the labels."),
)
_train = click.option("--train", required=True, type=_FILE, help="CSV with a header, also .gz or .xz.")
_valid = click.option("--valid", type=_FILE, help="What C is chosen on; without it, folds of --train.")
_test = click.option("--test", required=True, type=_FILE, help="What accuracy is measured on, and nothing else.")
_parts = _options(_train, _valid, _test, _columns)
_folds = click.option(
    "--folds",
    type=click.IntRange(1, 5),
    default=5,
    show_default=True,
    help="Without --valid: of five parts of --train, how many are held out in turn. 1 is five times as fast.",
)
_data = click.option("--data", required=True, type=_DIRECTORY, help="Directory of the set's CSV files.")


@evaluate.command()
@_data
@_of_model
def sst(data: Path, **where: Any) -> None:
    """Accuracy on the Stanford Sentiment Treebank, binary.

    DIR holds sst_binary_train.csv, sst_binary_dev.csv and sst_binary_test.csv; or train, valid and test.
    """
    run(lambda reader: classify_protocol.evaluate(reader, find_sets(data, SST), folds=5), **where)


@evaluate.command()
@_data
@_of_model
def imdb(data: Path, **where: Any) -> None:
    """Accuracy on IMDB. C is chosen on a fifth of the training part.

    DIR holds imdb_train.csv and imdb_test.csv, or train and test; also as .csv.xz.
    """
    run(lambda reader: classify_protocol.evaluate(reader, find_sets(data, IMDB), folds=1), **where)


@evaluate.command()
@_parts
@_folds
@_of_model
def classify(folds: int, **options: Any) -> None:
    """Accuracy on any labelled set, of two or more labels.

    All units with L1, the one unit with a fitted threshold and with its sign alone, and tf-idf of words and pairs.
    Of two labels the second in order (1 of 0 and 1, pos of neg and pos) counts as positive.
    """
    sets, where = _sets(options)
    run(lambda reader: classify_protocol.evaluate(reader, sets(), folds), **where)


@evaluate.command()
@_parts
@click.option("--draws", type=click.IntRange(2), default=100, show_default=True, help="For each number of examples.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@_of_model
def curve(draws: int, seed: int, **options: Any) -> None:
    """Accuracy against the number of labelled examples: all units with L1 and L2, and the unit alone."""
    sets, where = _sets(options)
    run(lambda reader: curve_protocol.evaluate(reader, sets(), draws, seed), **where)


@evaluate.command()
@_parts
@_folds
@_of_model
def units(folds: int, **options: Any) -> None:
    """The weight of every unit, the heaviest alone, and all but the heaviest."""
    sets, where = _sets(options)
    run(lambda reader: units_protocol.evaluate(reader, sets(), folds), **where)


@evaluate.command()
@_parts
@_folds
@_of_model
def lengths(folds: int, **options: Any) -> None:
    """Text lengths of right and wrong answers against all."""
    sets, where = _sets(options)
    run(lambda reader: lengths_protocol.evaluate(reader, sets(), folds), **where)


@evaluate.command()
@click.argument("source", metavar="FILE", type=_FILE)
@_columns
@click.option("--unit", type=click.IntRange(0), help="Default: the sentiment unit.")
@_of_model
def histogram(source: Path, text: str | None, label: str, unit: int | None, **where: Any) -> None:
    """The unit's final value by class."""
    run(lambda reader: histogram_protocol.evaluate(reader, read_labelled(source, text, label), unit), **where)


@evaluate.command()
@click.argument("source", metavar="FILE", type=_FILE)
@_columns
@click.option("--unit", type=click.IntRange(0), help="Default: the sentiment unit.")
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="Texts, from the beginning.")
@_of_model
def shifts(source: Path, text: str | None, label: str, unit: int | None, limit: int, **where: Any) -> None:
    """The size of the unit's changes against position in the text."""
    run(
        lambda reader: shifts_protocol.evaluate(reader, read_labelled(source, text, label).first(limit).texts, unit),
        **where,
    )


@evaluate.command()
@click.argument("texts", nargs=-1, required=True, metavar="TEXT...")
@click.option("--unit", "units_", type=click.IntRange(0), multiple=True, help="May be repeated. Default: sentiment.")
@_of_model
def heatmap(texts: tuple[str, ...], units_: tuple[int, ...], **where: Any) -> None:
    """Units after every character of chosen texts, as figures and pages of HTML."""

    def protocol(reader: Reader) -> Report:
        units = list(dict.fromkeys(units_)) or [reader.calibration.unit]
        traced = heatmap_protocol.trace(reader, list(texts), units)
        pages = {f"text_{number}": _page(reader, one, units) for number, one in enumerate(traced, start=1)}
        return heatmap_protocol.report(reader, traced, units, pages)

    run(protocol, **where)


@evaluate.command()
@_train
@_valid
@_test
@click.option("--first", required=True, help="Column of the first texts.")
@click.option("--second", required=True, help="Column of the second texts.")
@click.option("--label", help="Column of the labels of paraphrases; the second label in order means that it is one.")
@click.option("--score", help="Column of the scores of relatedness.")
@_folds
@_of_model
def pairs(
    train: Path,
    valid: Path | None,
    test: Path,
    first: str,
    second: str,
    label: str | None,
    score: str | None,
    folds: int,
    **where: Any,
) -> None:
    """Paraphrase (--label) or relatedness (--score) of pairs of texts."""
    column = label or score
    if column is None or (label and score):
        raise click.UsageError("give --label for paraphrase or --score for relatedness, one of them")

    def protocol(reader: Reader) -> Report:
        of_train, of_test = (pairs_protocol.read_pairs(path, first, second, column) for path in (train, test))
        of_valid = pairs_protocol.read_pairs(valid, first, second, column) if valid else None
        if label:
            return pairs_protocol.paraphrase(reader, of_train, of_valid, of_test, folds)
        return pairs_protocol.relatedness(reader, of_train, of_valid, of_test)

    run(protocol, **where)


@evaluate.command()
@_train
@_valid
@_columns
@click.option("--samples", type=click.IntRange(1), default=200, show_default=True, help="Of each prompt and sentiment.")
@click.option("--best-of", type=click.IntRange(1), default=8, show_default=True, help="Drawn for each; 1 ranks none.")
@click.option("--length", type=click.IntRange(1), default=200, show_default=True, help="Bytes at most.")
@click.option("--temperature", type=click.FloatRange(0, 10), default=0.7, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**32), default=0, show_default=True)
@_of_model
def generation(
    train: Path,
    valid: Path | None,
    text: str | None,
    label: str,
    samples: int,
    best_of: int,
    length: int,
    temperature: float,
    seed: int,
    **where: Any,
) -> None:
    """Write with the sentiment unit held at +1, 0 and -1, judged by tf-idf trained on --train (the IMDB reviews).

    As the samples are drawn, and the best --best-of by the checkpoint's head, as `neuron generate --rank-by sentiment`.
    """

    def protocol(reader: Reader) -> Report:
        of_train = read_labelled(train, text, label)
        of_valid = read_labelled(valid, text, label) if valid else None
        return generation_protocol.evaluate(reader, of_train, of_valid, samples, length, temperature, seed, best_of)

    run(protocol, **where)


@evaluate.command()
@click.argument("volume", type=_DIRECTORY)
@_data
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Directory.")
@click.option("--earlier", multiple=True, type=_FILE, help="A report.json whose points are taken over. Repeatable.")
@_cache
def growth(volume: Path, data: Path, out: Path, earlier: tuple[Path, ...], cache: Path) -> None:
    """Bits per byte and accuracy on SST against bytes read, of all checkpoints in VOLUME.

    Made by `neuron train --publish-to VOLUME --publish-every-steps N`. DIR as for `sst`.
    """

    def protocol(watch: Watch) -> tuple[Report, dict[str, Any]]:
        sets = find_sets(data, SST)
        readers = [Reader(directory, cache, watch=watch) for directory in published(volume)]
        return growth_protocol.evaluate(readers, sets, [read_report(path) for path in earlier]), {}

    write(protocol, out)


def _sets(options: dict[str, Any]) -> tuple[Callable[[], Sets], dict[str, Any]]:
    """How to read the parts, and the options that are left."""
    parts = {name: options.pop(name) for name in ("train", "valid", "test", "text", "label")}
    return lambda: read_sets(**parts), options


def _page(reader: Reader, traced: heatmap_protocol.Traced, units: list[int]) -> str:
    """The page that `neuron trace --html` writes."""
    known = reader.manifest.sentiment
    column = units.index(known.unit) if known is not None and known.unit in units else None
    steps = []
    for origin, values in zip(traced.origins, traced.values.tolist(), strict=True):
        step = {"start": origin.start, "end": origin.end, "values": values}
        if known is not None and column is not None:
            step["sentiment"] = known.sentiment(values[column])
        steps.append(step)
    maps = heat_maps(traced.text, {"units": units, "bytes": steps}, known.unit if known else None)
    return html_page(traced.text, maps, f"{reader.manifest.name}, step {reader.manifest.step}")
