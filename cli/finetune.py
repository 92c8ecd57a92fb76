"""`neuron finetune`: all weights of a checkpoint trained on the labels of a task, published with the head for it."""

import json
import shlex
import shutil
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cli.reading_options import Reading, reading_options
from model.checkpoints import checkpoint, volumes
from model.checkpoints.checkpoint import CheckpointError
from model.heads.checks import HeadError
from model.heads.classifier import SENTIMENT_HEAD
from sentiment_neuron.bars import Bars
from texts.faults import TextsError
from texts.labelled import check_known, distinct
from trainer.finetuning.finetune import Finetuning, Stopped
from trainer.finetuning.options import FinetuningOptions
from trainer.finetuning.task import digest
from trainer.finetuning.tuned import check_size, publish_tuned
from trainer.run.options import TrainingError
from trainer.run.snapshot import SnapshotError

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option(
    "--from",
    "start_from",
    default=str(volumes.SHIPPED),
    type=click.Path(exists=True, file_okay=False, resolve_path=True),
    help="Checkpoint or volume to start from. Default: the shipped model.",
)
@click.option("--train", "train_file", required=True, type=_FILE, help="Labelled texts.")
@click.option(
    "--valid", "valid_file", required=True, type=_FILE, help="Other labelled texts, which decide when to stop."
)
@click.option("--test", "test_file", type=_FILE, help="Yet others, used once, at the end.")
@click.option("--out", "volume", required=True, type=click.Path(file_okay=False, path_type=Path), help="Volume.")
@click.option("--name", help="Of what is published. Default: that of --from and -tuned.")
@click.option("--head", "head_name", default=SENTIMENT_HEAD, show_default=True, help="Name of the head.")
@click.option("--epochs", default=6, show_default=True, help="At most; the learning rate falls to zero over them.")
@click.option("--patience", default=2, show_default=True, help="Epochs that are no better before it stops.")
@click.option("--rows", default=64, show_default=True, help="Texts of an update.")
@click.option("--window", default=256, show_default=True, help="Bytes that gradients reach back.")
@click.option("--learning-rate", default=3e-4, show_default=True, help="Adam's.")
@click.option("--language-weight", default=0.3, show_default=True, help="Of the bits per byte beside the label's.")
@click.option("--unit-weight", default=0.5, show_default=True, help="Of the unit's own, for labels of sentiment.")
@click.option("--seed", default=0, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--dtype", default="auto", show_default=True, type=click.Choice(["auto", "float32", "bfloat16"]))
@click.option("--fuse/--no-fuse", default=True, show_default=True, help="Compile the element-wise functions.")
@click.option(
    "--run",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory that it continues from when stopped. Default: OUT/NAME.finetuning, deleted at the end.",
)
@reading_options(label=True)
def finetune(
    start_from: str,
    train_file: Path,
    valid_file: Path,
    test_file: Path | None,
    volume: Path,
    name: str | None,
    head_name: str,
    directory: Path | None,
    reading: Reading,
    **chosen: Any,
) -> None:
    """Train all weights of a checkpoint to predict the labels of texts, 2 to 100 of them, and publish the result.

    Its loss as a language model is kept as an auxiliary. It starts from a classifier of the model as it came, epoch 0.
    The epoch with the best accuracy on --valid is published with its read-out as the head. Ctrl-C stops it; the same
    command continues.
    """
    try:
        parts = [None if path is None else reading.labelled(path) for path in (train_file, valid_file, test_file)]
        train, valid, test = parts[0], parts[1], parts[2]
        if train is None or valid is None:
            raise click.UsageError("--train and --valid are needed")
        labels = distinct(train.labels)
        for part, labelled in (("--valid", valid), ("--test", test)):
            check_known(part, labelled.labels if labelled else (), labels)
        start = checkpoint.read_manifest(volumes.resolve(Path(start_from)))
        check_size(start.architecture.units, len(labels))
        name = name or f"{start.name[:57]}-tuned"
        volumes.check_place(volume, name, 0)
        if (volume / name).exists():
            raise click.ClickException(f"{volume / name} is there already: choose another --name or --out")
        options = FinetuningOptions(start_from, labels, digest(train, valid), **chosen)
        place = directory or volume / f"{name}.finetuning"
        tuning = Finetuning.begin(place, options, train, valid, lambda record: click.echo(json.dumps(record), err=True))
        if not _run(tuning):
            raise click.ClickException(f"stopped; the same command continues after epoch {tuning.epoch}")
        published, head = publish_tuned(tuning, volume, name, head_name, test)
    except Stopped as stopped:
        raise click.ClickException("stopped; the same command publishes what is done") from stopped
    except (TextsError, TrainingError, SnapshotError, CheckpointError, HeadError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if directory is None:
        shutil.rmtree(place)
    for metric, value in head.metrics.items():
        click.echo(f"{metric:<20} {value:.4f}")
    click.echo(f"published {published}\nserve it: NEURON_CHECKPOINT_DIR={shlex.quote(str(volume))} neuron up")


def _run(tuning: Finetuning) -> bool:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,} of {task.total:,} updates"),
    )
    with ExitStack() as stack:
        for number in (signal.SIGTERM, signal.SIGINT):  # given back, so that they end what comes after it at once
            stack.callback(signal.signal, number, signal.signal(number, lambda *_: tuning.stop()))
        bar = stack.enter_context(Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn()))
        task = bar.add_task("fine-tuning", total=tuning.updates)
        return tuning.run(lambda update: bar.update(task, completed=update))
