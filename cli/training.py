"""`neuron corpus`, `neuron train` and `neuron publish`: from raw reviews to a served model."""

import json
import sys
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from trainer.corpus import Corpus, CorpusError, build_corpus
from trainer.train import Options, Run, TrainingError


@click.group()
def corpus() -> None:
    """Build training shards from review files, and show them."""


@corpus.command("build")
@click.argument("sources", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New directory for the shards.")
@click.option("--shards", default=1000, show_default=True, help="The last two are held out.")
@click.option("--seed", default=0, show_default=True, help="Of the shuffle.")
def build(sources: tuple[Path, ...], out: Path, shards: int, seed: int) -> None:
    """SOURCES: text files with one review a line, plain, .gz or .xz."""
    try:
        manifest = build_corpus(sources, out, shards, seed)
    except CorpusError as error:
        raise click.ClickException(str(error)) from error
    click.echo(
        f"{manifest.reviews:,} reviews ({manifest.duplicates:,} duplicates left out) in {len(manifest.shards)} shards, "
        f"{sum(shard.bytes for shard in manifest.shards):,} bytes: {out}"
    )


@corpus.command("show")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
def show(directory: Path) -> None:
    """Counts of a built corpus."""
    try:
        built = Corpus(directory)
    except CorpusError as error:
        raise click.ClickException(str(error)) from error
    manifest = built.manifest
    click.echo(f"reviews     {manifest.reviews:,} ({manifest.duplicates:,} duplicates left out)")
    click.echo(f"shards      {len(built.training):,} to train on, 1 to validate, 1 to test")
    click.echo(f"bytes       {sum(shard.bytes for shard in manifest.shards):,}")
    click.echo(f"sources     {', '.join(manifest.sources)}")


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--corpus", "corpus_directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--resume", is_flag=True, help="Go on from the newest snapshot in DIRECTORY.")
@click.option("--cell", type=click.Choice(["mlstm", "lstm", "gru"]))
@click.option("--units", type=int, help="Default: 4096, the paper's.")
@click.option("--lanes", type=int, help="Parallel streams. Fewer learn more per byte, more run faster. Default: 128.")
@click.option("--window", type=int, help="Bytes of every lane an update. Default: 256.")
@click.option("--total-bytes", type=int, help="Length of the run; the learning rate falls to zero there.")
@click.option("--learning-rate", type=float, help="Default: 5e-4, the paper's for 128 lanes x 256.")
@click.option("--warmup-steps", type=int)
@click.option("--embedding-std", type=float, help="Default: 0.02, the paper's; 0.5 learns faster in short runs.")
@click.option("--seed", type=int)
@click.option("--device")
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16"]))
@click.option("--fuse/--no-fuse", default=None, help="Compile the element-wise functions; needs a C++ compiler.")
@click.option("--snapshot-every-s", type=float)
@click.option("--validate-every-bytes", type=int)
@click.option("--validation-bytes", type=int)
def train(directory: Path, corpus_directory: Path | None, resume: bool, **chosen: Any) -> None:
    """Train a model in DIRECTORY; stop it at any time with Ctrl-C and go on with --resume."""
    given = {name: value for name, value in chosen.items() if value is not None}
    with Progress(
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} bytes"),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        disable=not sys.stderr.isatty(),
    ) as bar:
        task = bar.add_task("train", total=None, note="")

        def report(record: dict[str, Any]) -> None:
            note = "  ".join(
                f"{short} {record[key]:.4f}"
                for key, short in (("bits_per_byte", "train"), ("validation_bits_per_byte", "held-out"))
                if key in record
            )
            bar.update(task, completed=record["bytes_seen"], note=note + " bits per byte")
            if bar.disable:
                click.echo(json.dumps(record))

        try:
            if resume:
                others = set(given) - {"total_bytes"}
                if others:
                    raise click.UsageError(f"a resumed run keeps its options: leave out {', '.join(sorted(others))}")
                run = Run.resume(directory, report, given.get("total_bytes"))
            elif corpus_directory is None:
                raise click.UsageError("name the corpus with --corpus, or go on with --resume")
            else:
                run = Run.create(directory, Options(corpus=str(corpus_directory), **given), report)
            bar.update(task, total=run.options.total_bytes, completed=run.progress.bytes_seen)
            run.train()
        except (TrainingError, CorpusError) as error:
            raise click.ClickException(str(error)) from error


@click.command()
@click.argument("run_directory", metavar="RUN", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--to", "volume", required=True, type=click.Path(path_type=Path), help="Volume of checkpoints.")
@click.option("--name", help="Default: reviews-CELL-UNITS.")
@click.option("--train", "train_files", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--valid", "valid_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--test", "test_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--limit", type=int, help="Take at most so many rows of each --train file, from its beginning.")
@click.option("--notes", default="", help="Free text for the manifest.")
def publish(
    run_directory: Path,
    volume: Path,
    name: str | None,
    train_files: tuple[Path, ...],
    valid_file: Path | None,
    test_file: Path | None,
    limit: int | None,
    notes: str,
) -> None:
    """Publish the newest snapshot of RUN.

    With labelled CSV files (columns `label`, 0 or 1, and the text) its sentiment unit is found and calibrated and the
    head `sentiment` is fitted on --train, C chosen on --valid.
    """
    from model.checkpoint import CheckpointError, read_manifest
    from model.heads import HeadError
    from trainer import publish as publishing
    from trainer.labelled import LabelledError, joined, read_labelled

    if bool(train_files) != (valid_file is not None):
        raise click.UsageError("give --train and --valid together, or neither")
    try:
        run = Run.resume(run_directory, lambda _: None)
        sentiment = None
        if valid_file is not None:
            sentiment = publishing.Sentiment(
                joined(read_labelled(path).head(limit) for path in train_files),
                read_labelled(valid_file),
                None if test_file is None else read_labelled(test_file),
            )
        with Progress(disable=not sys.stderr.isatty()) as bar:
            parts = [] if sentiment is None else [sentiment.train, sentiment.valid, sentiment.test]
            task = bar.add_task("reading labelled texts", total=sum(len(part.texts) for part in parts if part))
            directory = publishing.publish(
                run.model,
                volume,
                name or f"reviews-{run.options.cell}-{run.options.units}",
                run.progress.step,
                run.progress.bytes_seen,
                run.validate(),
                sentiment,
                notes,
                lambda texts: bar.advance(task, texts),
            )
    except (TrainingError, CorpusError, LabelledError, HeadError, CheckpointError) as error:
        raise click.ClickException(str(error)) from error
    manifest = read_manifest(directory)
    click.echo(f"{directory}: {manifest.bits_per_byte:.4f} bits per byte on held-out text")
    if manifest.sentiment is not None:
        unit, head = manifest.sentiment, manifest.heads["sentiment"]
        click.echo(f"sentiment unit {unit.unit}, polarity {unit.polarity:+d}; head: C {head.c}, {head.metrics}")
