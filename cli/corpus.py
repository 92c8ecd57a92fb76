"""`neuron corpus`: files of reviews to training shards, and what a built corpus holds."""

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import click
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from cli.groups import Group
from cli.reading_options import Reading, reading_options
from sentiment_neuron.bars import Bars
from texts.faults import REPORTED, Fault
from trainer.corpus.build import BuildProgress, build_corpus
from trainer.corpus.corpus import Corpus, CorpusError, CorpusManifest
from trainer.corpus.labels import Labelling


@click.group(cls=Group)
def corpus() -> None:
    """Build training shards from review files, and show them."""


@corpus.command("build")
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New directory for the shards.")
@click.option("--shards", default=1000, show_default=True, help="Of equal review count; the last two are held out.")
@click.option(
    "--held-out",
    type=click.IntRange(min=1),
    help="Reviews of each held-out shard. Default: as many as the others have.",
)
@click.option("--label-field", metavar="NAME", help="Of the label, as in review.stars.")
@click.option(
    "--labels",
    "labels_directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory of the labels of text: a file of the same name, a label a line.",
)
@click.option("--positive", metavar="VALUES", help="Labels that mean positive, as in 4,5,+.")
@click.option("--negative", metavar="VALUES", help="Labels that mean negative, as in 1,2,-.")
@click.option(
    "--class",
    "named_classes",
    multiple=True,
    metavar="NAME=VALUES",
    help="Labels that mean NAME; may be given again. Default: each label is a class.",
)
@click.option("--seed", default=0, show_default=True, help="Of the shuffle.")
@click.option("--memory-limit", default="1GB", show_default=True, help="More sorts in fewer, larger pieces.")
@click.option(
    "--threads", type=click.IntRange(min=1), help="Default: all cores, while --memory-limit gives each 48 MB."
)
@reading_options()
def build(
    sources: tuple[Path, ...],
    out: Path,
    shards: int,
    held_out: int | None,
    label_field: str | None,
    labels_directory: Path | None,
    positive: str | None,
    negative: str | None,
    named_classes: tuple[str, ...],
    seed: int,
    memory_limit: str,
    threads: int | None,
    reading: Reading,
) -> None:
    """Clean, de-duplicate and shuffle the reviews of SOURCES into shards.

    SOURCES: files or quoted globs, in any format that is read (docs/files.md), packed or not.

    With --label-field or --labels the shards keep the label of every review. A label of no class, or none at all, is
    allowed: then only the text is learnt.
    """
    labelling = _labelling(label_field, labels_directory, positive, negative, named_classes)
    with ExitStack() as stack:
        # By default it would end the process at once, and leave up to three times the text beside --out.
        terminated = False

        def terminate(number: int, _: object) -> None:
            nonlocal terminated
            terminated = True
            sys.exit(128 + number)

        stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, terminate))
        bar = stack.enter_context(_progress())
        task = bar.add_task("")

        def stage(name: str, size: int) -> None:
            bar.reset(task, description=name, total=size)

        def report(found: Fault) -> None:
            bar.console.print(f"left out: {found}", markup=False, highlight=False, soft_wrap=True)

        try:
            manifest = build_corpus(
                sources,
                out,
                shards,
                seed,
                text_field=reading.columns.text,
                dialect=reading.columns.dialect,
                labelling=labelling,
                held_out=held_out,
                memory_limit=memory_limit,
                threads=threads,
                strict=reading.faults.strict,
                progress=BuildProgress(stage, lambda size: bar.advance(task, size), report),
            )
        except (Exception, KeyboardInterrupt) as error:
            if terminated:  # a library that was at work has made an error of its own of it
                sys.exit(128 + signal.SIGTERM)
            if isinstance(error, CorpusError):
                raise click.ClickException(str(error)) from error
            raise
    if manifest.malformed > REPORTED:
        click.echo(f"left out: {manifest.malformed - REPORTED:,} more malformed records", err=True)
    click.echo(
        f"{manifest.reviews:,} reviews in {len(manifest.shards):,} shards, "
        f"{sum(shard.bytes for shard in manifest.shards):,} bytes: {out}\n"
        f"left out: {_left_out(manifest)}"
    )
    for line in _label_lines(manifest):
        click.echo(line)


@corpus.command("show")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--verify", is_flag=True, help="Compare every shard with its SHA-256.")
def show(directory: Path, verify: bool) -> None:
    """Counts, sizes and sources of a built corpus."""
    try:
        built = Corpus(directory)
        manifest = built.manifest
        total = sum(shard.bytes for shard in manifest.shards)
        counts = [shard.reviews for shard in manifest.shards]
        click.echo(f"reviews     {manifest.reviews:,}")
        click.echo(f"left out    {_left_out(manifest)}")
        click.echo(f"bytes       {total:,} ({total / manifest.reviews:.0f} a review)")
        click.echo(
            f"shards      {len(built.training):,} to train on, 1 to validate, 1 to test; "
            f"{min(counts):,} to {max(counts):,} reviews each"
        )
        click.echo(f"seed        {manifest.seed}")
        for source in manifest.sources:
            click.echo(
                f"source      {source.file}: {source.bytes:,} bytes, {source.reviews:,} reviews, "
                f"{source.empty:,} empty, {source.malformed:,} malformed"
            )
        for line in _label_lines(manifest):
            click.echo(line)
        if verify:
            with _progress() as bar:
                task = bar.add_task("verifying", total=total)
                built.verify(lambda size: bar.advance(task, size))
            click.echo("verified    every shard has the SHA-256 of the manifest")
    except CorpusError as error:
        raise click.ClickException(str(error)) from error


def _labelling(
    field: str | None, directory: Path | None, positive: str | None, negative: str | None, named: tuple[str, ...]
) -> Labelling | None:
    classes = {}
    for text in named:
        name, equals, values = text.partition("=")
        if not (name and equals) or name in classes:
            raise click.BadParameter(f"{text!r} is not NAME=VALUES, with another NAME each time", param_hint="--class")
        classes[name] = values
    # In this order: heads name negative first.
    for name, given in (("negative", negative), ("positive", positive)):
        if given is not None:
            if name in classes:
                raise click.UsageError(f"--{name} and --class {name}= are the same: give one of them")
            classes[name] = given
    if field is None and directory is None:
        if classes:
            raise click.UsageError("classes need labels: say where they are with --label-field or --labels")
        return None
    if len(classes) == 1:
        raise click.UsageError(f"there is one class, {next(iter(classes))}: at least two are needed")
    split = {name: [value for part in values.split(",") if (value := part.strip())] for name, values in classes.items()}
    return Labelling(field, directory, split)


def _label_lines(manifest: CorpusManifest) -> Iterator[str]:
    labels = manifest.labels
    if labels is None:
        return
    totals = [sum(column) for column in zip(*labels.counts, strict=True)]
    for name, values in labels.classes.items():
        counts = ", ".join(f"{value}: {totals[1 + labels.values.index(value)]:,}" for value in values)
        yield f"class       {name}: {counts}"
    classed = {value for values in labels.classes.values() for value in values}
    others = [value for value in labels.values if value not in classed]
    if others:
        yield "no class    " + ", ".join(f"{value}: {totals[1 + labels.values.index(value)]:,}" for value in others)
    yield f"no label    {totals[0]:,}, of which {labels.disagreeing:,} have copies that were labelled differently"


def _left_out(manifest: CorpusManifest) -> str:
    return f"{manifest.duplicates:,} duplicates, {manifest.empty:,} empty, {manifest.malformed:,} malformed"


def _progress() -> Bars:
    description = TextColumn("{task.description}")
    return Bars(description, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
