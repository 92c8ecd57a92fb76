"""`neuron corpus`: files of reviews to training shards, and what a built corpus holds."""

import sys
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from trainer.build import REPORTED, Malformed, Watch
from trainer.corpus import Corpus, CorpusError, CorpusManifest, build_corpus


@click.group()
def corpus() -> None:
    """Build training shards from review files, and show them."""


@corpus.command("build")
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New directory for the shards.")
@click.option("--shards", default=1000, show_default=True, help="Of equal review count; the last two are held out.")
@click.option("--text-field", help="Column or key of the text in CSV, JSON lines and Parquet.")
@click.option("--seed", default=0, show_default=True, help="Of the shuffle.")
@click.option("--memory-limit", default="1GB", show_default=True, help="More sorts in fewer, larger pieces.")
@click.option(
    "--threads", type=click.IntRange(min=1), help="Default: all cores, while --memory-limit gives each 48 MB."
)
@click.option("--strict", is_flag=True, help="Stop at the first malformed record instead of counting it.")
def build(
    sources: tuple[Path, ...],
    out: Path,
    shards: int,
    text_field: str | None,
    seed: int,
    memory_limit: str,
    threads: int | None,
    strict: bool,
) -> None:
    """Clean, de-duplicate and shuffle the reviews of SOURCES into shards.

    SOURCES: files or quoted globs; .csv, .tsv, .jsonl, .ndjson, .json (an object a line) and .parquet by their names,
    all others are text with a review a line. Each may be packed as .gz, .xz or .zst.
    """
    with _progress() as bar:
        task = bar.add_task("")

        def begin(name: str, size: int) -> None:
            bar.reset(task, description=name, total=size)

        def report(found: Malformed) -> None:
            bar.console.print(f"left out: {found}", markup=False, highlight=False, soft_wrap=True)

        try:
            manifest = build_corpus(
                sources,
                out,
                shards,
                seed,
                text_field=text_field,
                memory_limit=memory_limit,
                threads=threads,
                strict=strict,
                watch=Watch(begin, lambda size: bar.advance(task, size), report),
            )
        except CorpusError as error:
            raise click.ClickException(str(error)) from error
    if manifest.malformed > REPORTED:
        click.echo(f"left out: {manifest.malformed - REPORTED:,} more malformed records", err=True)
    click.echo(
        f"{manifest.reviews:,} reviews in {len(manifest.shards):,} shards, "
        f"{sum(shard.bytes for shard in manifest.shards):,} bytes: {out}\n"
        f"left out: {_left_out(manifest)}"
    )


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
        if verify:
            with _progress() as bar:
                task = bar.add_task("verifying", total=total)
                built.verify(lambda size: bar.advance(task, size))
            click.echo("verified    every shard has the SHA-256 of the manifest")
    except CorpusError as error:
        raise click.ClickException(str(error)) from error


def _left_out(manifest: CorpusManifest) -> str:
    return f"{manifest.duplicates:,} duplicates, {manifest.empty:,} empty, {manifest.malformed:,} malformed"


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
