"""`neuron checkpoint`: list, show, verify and serve published models, import and fetch the paper's own."""

import json
import shlex
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn

from cli.groups import Group
from model.checkpoints import checkpoint, volumes
from model.checkpoints.checkpoint import CheckpointError
from model.checkpoints.manifest import Manifest
from model.checkpoints.openai_weights import import_openai
from model.heads.checks import HeadError
from model.heads.unit import Calibration
from model.network.language_model import Architecture, LanguageModel
from sentiment_neuron.bars import Bars
from trainer.publishing.download import FetchError
from trainer.publishing.openai import OPENAI, fetch_openai

_directory = click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
_out = click.option(
    "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Volume to publish in."
)
_dtype = click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of the published parameters. bfloat16 halves the file, and rounds each parameter to 8 bits (by up to "
    "0.4 %): features move in their third digit.",
)


@click.group(cls=Group)
def checkpoint_group() -> None:
    """List, show, verify, serve, import and fetch published models. DIR: a checkpoint, or a volume with LATEST."""


@checkpoint_group.command("show")
@_directory
@click.option("--json", "as_json", is_flag=True)
def show(directory: Path, as_json: bool) -> None:
    """Show the manifest in DIR; the weights are not read."""
    try:
        manifest = checkpoint.read_manifest(volumes.resolve(directory))
    except CheckpointError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(_summary(manifest)))
        return
    for name, value in _described(manifest):
        click.echo(f"{name:<15} {value}")


@checkpoint_group.command("verify")
@_directory
def verify(directory: Path) -> None:
    """Read DIR whole: hash, shapes, finite values. Exit code 1 and the fault if anything does not match."""
    try:
        directory = volumes.resolve(directory)
        manifest = checkpoint.read(directory).manifest
    except CheckpointError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"ok: {directory}, {_parameters(manifest.architecture):,} parameters")


@checkpoint_group.command("list")
@click.argument("volume", type=click.Path(exists=True, file_okay=False, path_type=Path))
def list_(volume: Path) -> None:
    """A line for each checkpoint in VOLUME; the one that LATEST names has a star."""
    try:
        served = volumes.latest(volume)
    except CheckpointError as error:
        click.echo(str(error), err=True)
        served = None
    for directory in volumes.published(volume):
        name = str(directory.relative_to(volume))
        try:
            manifest = checkpoint.read_manifest(directory)
        except CheckpointError as error:
            click.echo(f"  {name}  {error}", err=True)
            continue
        bits = "not measured" if manifest.bits_per_byte is None else f"{manifest.bits_per_byte:.4f} bits per byte"
        star = "*" if directory == served else " "
        click.echo(f"{star} {name}  {manifest.architecture.units:,} units  {manifest.bytes_seen:,} bytes seen  {bits}")


@checkpoint_group.command("serve")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
def serve(directory: Path) -> None:
    """Verify DIRECTORY (VOLUME/NAME/step-N) and make it the LATEST of its volume, for example to roll back."""
    try:
        volumes.make_latest(directory.absolute())
    except CheckpointError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{directory.absolute().parent.parent / volumes.LATEST} names {directory.parent.name}/{directory.name}")


@checkpoint_group.command("import-openai")
@_directory
@_out
@_dtype
def import_(directory: Path, out: Path, dtype: str) -> None:
    """Publish the parameters in DIR, 0.npy to 14.npy as the paper's authors released them.

    A model of the paper's size gets its sentiment unit. There is no head: `fetch openai` fits one.
    """
    try:
        model = import_openai(directory)
        published = volumes.publish(out, model, _imported(model.architecture), getattr(torch, dtype))
    except CheckpointError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{error.filename or out}: {error.strerror or error}") from error
    click.echo(f"{published}: {_parameters(model.architecture):,} parameters, no head")
    click.echo(_how_to_serve(out))


@checkpoint_group.command("fetch")
@click.argument("release", type=click.Choice([OPENAI.name]), expose_value=False)
@_out
@_dtype
@click.option("--mirror", metavar="URL_OR_FOLDER", help="Another place of the published files, under the same paths.")
def fetch(out: Path, dtype: str, mirror: str | None) -> None:
    """Download, verify and publish the paper's model, with its sentiment unit and a head.

    Files that arrived before a failure are kept and not requested again.
    """
    console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Bars(*columns, TimeRemainingColumn(), console=console) as bar:
        tasks: dict[str, TaskID] = {}

        def on_progress(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what)
            bar.update(tasks[what], completed=done, total=total)

        try:
            published = fetch_openai(out, mirror, on_progress, console.print, dtype=getattr(torch, dtype))
        except (FetchError, CheckpointError, HeadError) as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            raise click.ClickException(f"{error.filename or out}: {error.strerror or error}") from error
    click.echo(str(published))
    click.echo(_how_to_serve(out))


def _how_to_serve(volume: Path) -> str:
    return f"serve it: NEURON_CHECKPOINT_DIR={shlex.quote(str(volume))} neuron up"


def _imported(architecture: Architecture) -> Manifest:
    """What is known of the published parameters; of others in their layout, nothing but the layout."""
    published = architecture.units == OPENAI.units
    return Manifest(
        name=OPENAI.name,
        step=OPENAI.step,
        architecture=architecture,
        bytes_seen=OPENAI.bytes_seen if published else 0,
        bits_per_byte=None,
        sha256={},
        sentiment=Calibration(OPENAI.sentiment_unit, polarity=1, center=0.0, scale=1.0) if published else None,
        notes=OPENAI.notes if published else "Imported from 0.npy to 14.npy; the bytes it has seen are not known.",
    )


def _parameters(architecture: Architecture) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in LanguageModel(architecture).parameters())


def _summary(manifest: Manifest) -> dict[str, Any]:
    """The manifest without its long vectors, with what follows from it."""
    architecture = manifest.architecture
    return {
        "name": manifest.name,
        "step": manifest.step,
        "cell": architecture.cell,
        "units": architecture.units,
        "embedding_size": architecture.embedding_size,
        "parameters": _parameters(architecture),
        "bits_per_byte": manifest.bits_per_byte,
        "bytes_seen": manifest.bytes_seen,
        "sentiment": None if manifest.sentiment is None else vars(manifest.sentiment),
        "heads": {
            name: {"labels": head.labels, "units": len(head.weights), "c": head.c, "metrics": head.metrics}
            for name, head in manifest.heads.items()
        },
        "notes": manifest.notes,
    }


def _described(manifest: Manifest) -> list[tuple[str, str]]:
    """(name, value) of every line that `show` prints."""
    architecture, unit, bits = manifest.architecture, manifest.sentiment, manifest.bits_per_byte
    lines = [
        ("name", f"{manifest.name}, step {manifest.step:,}"),
        (
            "cell",
            f"{architecture.cell}, {architecture.units:,} units, embeddings of size {architecture.embedding_size}",
        ),
        ("parameters", f"{_parameters(architecture):,}"),
        ("bits per byte", "not measured" if bits is None else f"{bits:.4f} on held-out text"),
        ("bytes seen", f"{manifest.bytes_seen:,}"),
        ("sentiment unit", "none"),
    ]
    if unit is not None:
        calibration = f"center {unit.center:.4g}, scale {unit.scale:.4g}"
        lines[-1] = ("sentiment unit", f"{unit.unit}, polarity {unit.polarity:+d}, {calibration}")
    for name, head in manifest.heads.items():
        strength = "" if head.c is None else f", C {head.c:g}"
        lines.append((f"head {name}", f"{', '.join(head.labels)}; {len(head.weights)} units{strength}"))
        lines += [("", f"{metric} {value:.4g}") for metric, value in head.metrics.items()]
    if not manifest.heads:
        lines.append(("heads", "none"))
    if manifest.notes:
        lines.append(("notes", manifest.notes))
    return lines
