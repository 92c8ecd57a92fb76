"""`neuron publish`: from a training run to a checkpoint that workers serve."""

import shlex
from pathlib import Path

import click

from cli.reading_options import Reading, reading_options
from model.checkpoints.checkpoint import CheckpointError, read_manifest
from model.checkpoints.manifest import Manifest
from model.heads.checks import HeadError
from sentiment_neuron.bars import bars
from texts.labelled import joined
from texts.sets import Sentiment, read_sentiment
from trainer.corpus.corpus import CorpusError
from trainer.publishing.heads import HeadSpec
from trainer.publishing.publish import REVIEWS, publish_run
from trainer.run.options import TrainingError
from trainer.run.snapshot import SnapshotError, best

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("run_directory", metavar="RUN", type=_DIRECTORY)
@click.option("--to", "volume", required=True, type=click.Path(file_okay=False, path_type=Path), help="Volume.")
@click.option(
    "--eval",
    "evaluation",
    type=_DIRECTORY,
    help="Directory of labelled texts: train.csv, valid.csv and perhaps test.csv, in any format, under any known name.",
)
@click.option("--step", type=int, help="The snapshot of this step.")
@click.option("--best", "take_best", is_flag=True, help="The snapshot that predicts held-out text best.")
@click.option("--name", help="Default: reviews-CELL-UNITS.")
@click.option("--notes", default="", help="Free text for the manifest.")
@click.option("--rollback", is_flag=True, help="Serve an earlier step than the volume serves now.")
@click.option("--train", "train_files", multiple=True, type=_FILE, help="Instead of --eval; may be given repeatedly.")
@click.option("--valid", "valid_file", type=_FILE)
@click.option("--test", "test_file", type=_FILE)
@click.option("--limit", type=click.IntRange(1), help="First rows of each --train file.")
@click.option(
    "--head",
    "heads",
    multiple=True,
    metavar="NAME:LABEL=VALUES ...",
    help="A head from the labels of the run's corpus: 'sentiment:negative=1,2 positive=4,5'. May be given repeatedly.",
)
@click.option(
    "--head-reviews", type=click.IntRange(1), default=REVIEWS, show_default=True, help="Reviews that --head takes."
)
@reading_options(label=True, classes=True)
def publish(
    run_directory: Path,
    volume: Path,
    evaluation: Path | None,
    step: int | None,
    take_best: bool,
    name: str | None,
    notes: str,
    rollback: bool,
    train_files: tuple[Path, ...],
    valid_file: Path | None,
    test_file: Path | None,
    limit: int | None,
    heads: tuple[str, ...],
    head_reviews: int,
    reading: Reading,
) -> None:
    """Publish the newest snapshot of RUN, which may continue training.

    With labelled texts, negative and positive, the sentiment unit is found and calibrated
    and the head `sentiment` is fitted on the training part, its C chosen and its probabilities calibrated on the
    validation part. With --head that is done on labelled reviews of the run's corpus, and these texts join them.
    Workers on the volume serve the model within seconds.
    """
    if step is not None and take_best:
        raise click.UsageError("--step and --best exclude each other")
    files = bool(train_files or valid_file or test_file or limit)
    if evaluation is not None and files:
        raise click.UsageError("--eval names all labelled texts: leave out --train, --valid, --test and --limit")
    if files and not (train_files and valid_file):
        raise click.UsageError("labelled texts need --train and --valid; --test and --limit go with them")
    try:
        sentiment = None
        if evaluation is not None:
            sentiment = read_sentiment(evaluation, reading.faults, reading.sentiment)
        elif valid_file is not None:
            sentiment = Sentiment(
                joined(reading.of_sentiment(path).first(limit) for path in train_files),
                reading.of_sentiment(valid_file),
                None if test_file is None else reading.of_sentiment(test_file),
            )
        with bars("reading labelled texts") as bar:
            task = bar.add_task("", total=None)
            directory = publish_run(
                run_directory,
                volume,
                snapshot=_chosen(run_directory / "snapshots", step, take_best),
                evaluation=sentiment,
                heads=[HeadSpec.parse(head) for head in heads],
                reviews=head_reviews,
                name=name,
                notes=notes,
                rollback=rollback,
                on_progress=lambda texts, total: bar.update(task, advance=texts, total=total),
            )
        manifest = read_manifest(directory)
    except (TrainingError, SnapshotError, HeadError, CorpusError, CheckpointError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{error.filename or volume}: {error.strerror or error}") from error
    click.echo(f"{directory}: {_measured(manifest)}")
    click.echo(_read_out(manifest))
    click.echo(f"serve it: NEURON_CHECKPOINT_DIR={shlex.quote(str(volume))} neuron up")


def _chosen(directory: Path, step: int | None, take_best: bool) -> Path | None:
    if step is not None:
        return directory / f"step-{step}"
    if not take_best:
        return None
    found = best(directory)
    if found is None:
        raise TrainingError(f"no snapshot in {directory} was validated: publish the newest, or one by its --step")
    return found


def _measured(manifest: Manifest) -> str:
    bits = manifest.bits_per_byte
    return "not measured on held-out text" if bits is None else f"{bits:.4f} bits per byte on held-out text"


def _read_out(manifest: Manifest) -> str:
    unit = manifest.sentiment
    if unit is None:
        return "no sentiment unit and no head, so it cannot classify: give labelled texts with --eval"
    lines = [f"sentiment unit {unit.unit}, polarity {unit.polarity:+d}"]
    for name, head in manifest.heads.items():
        metrics = ", ".join(f"{metric} {value:.4g}" for metric, value in head.metrics.items())
        lines.append(f"head {name} ({', '.join(head.labels)}), {head.pooling}: C {head.c}, {metrics}")
    return "\n".join(lines)
