"""The command that trains: `neuron train` for one process, `torchrun -m trainer` for several."""

import json
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from texts.faults import Faults, TextsError
from texts.sets import read_sentiment
from trainer.corpus.corpus import CorpusError
from trainer.publishing.publish import publish_run
from trainer.run import schedule
from trainer.run.curve import draw_curve
from trainer.run.distributed import World
from trainer.run.options import OPTIONS, Options, TrainingError
from trainer.run.snapshot import SnapshotError
from trainer.run.train import Run

_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path, resolve_path=True)


# What an unset option is, where its value does not say it.
_MEANS = {
    "lanes": "128, the paper's; 512 or 256 on a GPU",
    "total_seconds": "by bytes",
    "label_unit": "the sentiment unit of --from, else unit 0",
    "threads": "as many as pay",
    "segment": "all of a window",
    "device": "a GPU if there is one",
    "dtype": "what the device multiplies fastest",
    "fuse": "if there is a compiler",
    "triton": "yes",
    "graph": "yes",
    "validate_every_bytes": "200 times in the run",
    "publish_every_steps": "only at the end",
}


def _option(flag: str, *more: str, **attributes: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """An option of `Options`, shown with its default; not given, it is None."""
    name = more[0] if more else flag.partition("/")[0].removeprefix("--").replace("-", "_")
    default = next(field.default for field in fields(Options) if field.name == name)
    shown = _MEANS.get(name, None if default in (None, "") else f"{default:,}" if isinstance(default, int) else default)
    return click.option(flag, *more, default=None, show_default=None if shown is None else str(shown), **attributes)


@click.command()
@click.argument("directory", metavar="RUN", type=click.Path(file_okay=False, path_type=Path))
@click.option("--corpus", type=_DIRECTORY, help="Built by `neuron corpus build`; with --resume, where it is now.")
@click.option("--resume", is_flag=True, help="Continue from the newest snapshot in RUN; start if there is no run.")
@_option("--from", "start_from", type=_DIRECTORY, help="Start with the weights of this checkpoint, not with new ones.")
@_option("--skip-bytes", type=int, help="Start so far into the corpus: what that checkpoint has read of it.")
@_option("--cell", type=click.Choice(["mlstm", "lstm", "gru"]))
@_option("--units", type=int, help="The paper's model has 4,096.")
@_option("--embedding-size", type=int)
@_option("--steepness", type=float, help="Gates are sigmoid(steepness * x).")
@_option("--lanes", type=int, help="Parallel streams, over all processes. Fewer learn more per byte, more run faster.")
@_option("--window", type=int, help="Bytes of every lane that gradients reach back.")
@_option("--accumulate", type=int, help="Successive windows of every lane an update.")
@_option("--total-bytes", type=int, help="Length of the run; the learning rate falls to zero there.")
@_option("--total-seconds", type=float, help="The same by the clock, with what earlier parts of the run took.")
@_option("--optimizer", type=click.Choice(["adam", "muon"]), help="muon: for the recurrent matrices.")
@_option("--label-weight", type=float, help="Of the labels' cross-entropy beside the bits per byte.")
@_option("--unit-weight", type=float, help="The same for one unit alone, which learns to carry sentiment.")
@_option("--label-unit", type=int, help="That unit.")
@_option("--learning-rate", type=float, help="Of Adam. The paper's suits 128 lanes of 256 bytes.")
@_option("--muon-learning-rate", type=float)
@_option("--warmup-steps", type=int, help="Updates in which the learning rate rises.")
@_option("--clip-norm", type=float, help="Limit of the gradient's norm.")
@_option("--embedding-std", type=float, help="Of new embeddings, the paper's; 0.5 learns faster in short runs.")
@_option("--seed", type=int, help="Of new weights, and of the reviews that heads are fitted to.")
@_option("--device", help="cpu, cuda, or cuda:N for one process; each of several takes a GPU of its own.")
@_option("--dtype", type=click.Choice(["auto", "float32", "bfloat16"]), help="Of products.")
@_option("--fuse/--no-fuse", help="Compile the element-wise functions.")
@_option("--triton/--no-triton", help="On a GPU, fuse them by kernels of our own rather than torch.compile's.")
@_option("--graph/--no-graph", help="On a GPU, record a window as one CUDA graph.")
@_option("--threads", type=int, help="On a CPU.")
@_option("--segment", type=int, help="Keep the activations of N steps: less memory, a third more work.")
@_option("--snapshot-every-s", type=float, help="The most that a crash can cost.")
@_option("--keep", type=int, help="Newest snapshots to keep; the best is kept as well.")
@_option("--validate-every-bytes", type=int, help="Most new bests are saved.")
@_option("--validation-bytes", type=int, help="To validate on, a window of every lane at least: more are surer.")
@_option("--publish-to", type=click.Path(file_okay=False, resolve_path=True), help="Volume of checkpoints.")
@_option("--publish-every-steps", type=int, help="Publish while training.")
@_option("--publish-eval", type=_DIRECTORY, help="Labelled texts that find the sentiment unit when publishing.")
@click.option("--metrics-port", type=int, show_default="not at all", help="Serve Prometheus metrics there.")
@click.option("--metrics-host", default="127.0.0.1", show_default=True, help="0.0.0.0 serves other machines too.")
@click.option("--peak-flops", type=float, show_default="measured at the start", help="FLOP/s of one device, for MFU.")
def train(
    directory: Path,
    resume: bool,
    metrics_port: int | None,
    metrics_host: str,
    peak_flops: float | None,
    **chosen: Any,
) -> None:
    """Train a model in RUN; stop it at any time with Ctrl-C and continue with --resume.

    On several devices: torchrun --nproc-per-node=8 --max-restarts=3 -m trainer RUN --resume --corpus CORPUS
    """
    given: dict[str, Any] = {name: str(v) if isinstance(v, Path) else v for name, v in chosen.items() if v is not None}
    if "total_bytes" in given and "total_seconds" in given:
        raise click.UsageError("--total-bytes and --total-seconds exclude each other: a run ends by one of them")
    metrics_at = None if metrics_port is None else (metrics_host, metrics_port)
    bar = Progress(
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    task = bar.add_task("train", total=None, note="", start=False)
    held_out = ""

    def on_update(record: dict[str, Any]) -> None:
        nonlocal held_out
        if "validation_bits_per_byte" in record:
            held_out = f"  held-out {record['validation_bits_per_byte']:.4f}"
        note = f"train {record['bits_per_byte']:.4f}{held_out} bits per byte  {record['bytes_per_s']:,} bytes/s"
        done = schedule.done(run.options, run.progress)
        bar.update(task, completed=done, note=f"{record['bytes_seen']:,} bytes  {note}")

    def on_log(record: dict[str, Any]) -> None:
        if "warning" in record:
            click.echo(f"Warning: {record['warning']}", err=True)
        elif bar.disable:
            click.echo(json.dumps({name: _rounded(value) for name, value in record.items()}))

    with World.join() as world:
        try:
            if "publish_eval" in given and world.rank == 0:
                _check_labelled(Path(given["publish_eval"]))
            [exists] = world.any(world.rank == 0 and (directory / OPTIONS).exists())
            if exists and resume:
                run = Run.resume(directory, on_log, world, **given)
            elif "corpus" in given:
                run = Run.create(directory, Options(**given), on_log, world)
            elif exists:
                raise click.UsageError(f"{directory} holds a run already: continue it with --resume")
            else:
                raise click.UsageError(f"name a corpus with --corpus: {directory} holds no run to resume")
            bar.disable |= world.rank > 0
            if not (exists or given.get("lanes")) and world.rank == 0:
                click.echo(f"{run.options.lanes} lanes: --lanes chooses another number", err=True)
            bar.update(task, total=1.0, completed=schedule.done(run.options, run.progress))
            bar.start_task(task)
            with bar:
                run.train(metrics_at, peak_flops, on_update, publish_run)
            if world.rank == 0:
                click.echo(_summary(run), err=True)
        except (TrainingError, CorpusError, SnapshotError, TextsError, OSError) as error:
            raise click.ClickException(str(error)) from error


def _check_labelled(directory: Path) -> None:
    """Read the set of --publish-eval, whose faults would else be found when the run publishes, hours later."""
    faults = Faults(lambda fault: click.echo(f"Warning: {fault}: left out", err=True))
    read_sentiment(directory, faults)
    if faults.untold:
        click.echo(f"Warning: {faults.untold:,} more records of {directory} are left out", err=True)


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _summary(run: Run) -> str:
    """What a run came to, and what can be done next."""
    progress, directory = run.progress, run.directory
    speed = progress.bytes_seen / max(progress.seconds, 1e-9)
    lines = [f"{progress.bytes_seen:,} bytes in {progress.seconds:,.0f} s: {speed:,.0f} bytes/s"]
    if progress.skipped_steps:
        lines.append(f"{progress.skipped_steps:,} updates were left out: their gradients were not finite")
    if progress.validation_bits_per_byte is not None:
        best = progress.best_validation_bits_per_byte
        lines.append(f"held out: {progress.validation_bits_per_byte:.4f} bits per byte, at best {best:.4f}")
    if progress.validation_label_accuracy is not None:
        by_all, by_unit = progress.validation_label_accuracy, progress.validation_unit_accuracy
        lines.append(f"labels held out: {by_all:.1%} by all units, {by_unit:.1%} by unit {run.options.label_unit}")
    try:
        if (curve := draw_curve(directory)) is not None:
            lines.append(f"curve: {curve}")
    except OSError as error:
        lines.append(f"no curve: {error}")
    if schedule.done(run.options, progress) < 1:
        lines.append(f"continue: neuron train {directory} --resume")
    elif run.options.publish_to is None:
        lines.append(f"publish: neuron publish {directory} --to VOLUME")
    return "\n".join(lines)
