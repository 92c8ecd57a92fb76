"""The command that trains: `neuron train` for one process, `torchrun -m trainer` for several."""

import json
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from trainer.corpus.corpus import CorpusError
from trainer.publishing.publish import publish_run
from trainer.run.distributed import World
from trainer.run.options import OPTIONS, Options, TrainingError
from trainer.run.snapshot import SnapshotError
from trainer.run.train import Run

_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path, resolve_path=True)


@click.command()
@click.argument("directory", metavar="RUN", type=click.Path(file_okay=False, path_type=Path))
@click.option("--corpus", type=_DIRECTORY, help="Built by `neuron corpus build`; with --resume, where it is now.")
@click.option("--resume", is_flag=True, help="Continue from the newest snapshot in RUN; start if there is no run.")
@click.option("--from", "start_from", type=_DIRECTORY, help="Start with the weights of this checkpoint.")
@click.option("--skip-bytes", type=int, help="Start so far into the corpus: what that checkpoint has read of it.")
@click.option("--cell", type=click.Choice(["mlstm", "lstm", "gru"]))
@click.option("--units", type=int, help="Default: 4096, the paper's.")
@click.option("--embedding-size", type=int, help="Default: 64, the paper's.")
@click.option("--steepness", type=float, help="Gates are sigmoid(steepness * x). Default: 1.")
@click.option(
    "--lanes", type=int, help="Parallel streams, over all processes. Fewer learn more per byte, more run faster."
)
@click.option("--window", type=int, help="Bytes of every lane that gradients reach back. Default: 256.")
@click.option("--accumulate", type=int, help="Successive windows of every lane an update. Default: 1.")
@click.option("--total-bytes", type=int, help="Length of the run; the learning rate falls to zero there.")
@click.option("--optimizer", type=click.Choice(["adam", "muon"]), help="muon: for the recurrent matrices.")
@click.option(
    "--label-weight", type=float, help="Of the labels' cross-entropy beside the bits per byte. Default: 0, the paper's."
)
@click.option(
    "--unit-weight", type=float, help="The same for one unit alone, which learns to carry sentiment. Default: 0."
)
@click.option("--label-unit", type=int, help="That unit. Default: the sentiment unit of --from, else unit 0.")
@click.option("--learning-rate", type=float, help="Of Adam. Default: 5e-4, the paper's for 128 lanes x 256.")
@click.option("--muon-learning-rate", type=float, help="Default: 0.02.")
@click.option("--warmup-steps", type=int, help="Updates in which the learning rate rises. Default: 0.")
@click.option("--clip-norm", type=float, help="Limit of the gradient's norm. Default: 1.")
@click.option("--embedding-std", type=float, help="Default: 0.02, the paper's; 0.5 learns faster in short runs.")
@click.option("--seed", type=int)
@click.option("--device", help="Default: a GPU if there is one; each process takes its own.")
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16"]))
@click.option("--fuse/--no-fuse", default=None, help="Compile the element-wise functions. Default: if possible.")
@click.option("--segment", type=int, help="Keep the activations of N steps: less memory, a third more work.")
@click.option("--snapshot-every-s", type=float, help="The most that a crash can cost. Default: 300.")
@click.option("--keep", type=int, help="Newest snapshots to keep; the best is kept as well. Default: 2.")
@click.option("--validate-every-bytes", type=int, help="Each new best is saved. Default: 200 times in the run.")
@click.option("--validation-bytes", type=int, help="Bytes to validate on: more are surer, fewer quicker.")
@click.option("--publish-to", type=click.Path(file_okay=False, resolve_path=True), help="Volume of checkpoints.")
@click.option("--publish-every-steps", type=int, help="Publish while training. Default: only at the end.")
@click.option("--publish-eval", type=_DIRECTORY, help="Labelled texts that find the sentiment unit when publishing.")
@click.option("--metrics-port", type=int, help="Serve Prometheus metrics there. Default: not at all.")
@click.option("--metrics-host", default="127.0.0.1", show_default=True, help="0.0.0.0 serves other machines too.")
@click.option("--peak-flops", type=float, help="FLOP/s of one device, for MFU. Default: measured at the start.")
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
    metrics_at = None if metrics_port is None else (metrics_host, metrics_port)
    bar = Progress(
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} bytes"),
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
        bar.update(task, completed=record["bytes_seen"], note=note)

    def on_log(record: dict[str, Any]) -> None:
        if "warning" in record:
            click.echo(f"Warning: {record['warning']}", err=True)
        elif bar.disable:
            click.echo(json.dumps(record))

    with World.join() as world:
        try:
            [exists] = world.any(world.rank == 0 and (directory / OPTIONS).exists())
            if exists and resume:
                run = Run.resume(directory, on_log, world, **given)
            elif "corpus" in given:
                run = Run.create(directory, Options(**given), on_log, world)
            else:
                raise click.UsageError(f"name a corpus with --corpus: {directory} holds no run to resume")
            bar.disable |= world.rank > 0
            bar.update(task, total=run.options.total_bytes, completed=run.progress.bytes_seen)
            bar.start_task(task)
            with bar:
                run.train(metrics_at, peak_flops, on_update, publish_run)
        except (TrainingError, CorpusError, SnapshotError, OSError) as error:
            raise click.ClickException(str(error)) from error
