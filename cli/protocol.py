"""Runs a protocol of `neuron evaluate`: with progress bars, up to its report on disk."""

import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import torch
from click.core import ParameterSource

from engine.rows import EngineFailure
from evaluation.features import EvaluationError, Progress, Reader
from evaluation.report import JSON, MARKDOWN, Report
from model.checkpoints.checkpoint import CheckpointError
from model.heads.checks import HeadError
from model.heads.pooling import Pooling
from sentiment_neuron.bars import bars
from trainer.run.options import TrainingError
from trainer.run.snapshot import SnapshotError


def run(
    protocol: Callable[[Reader], Report],
    out: Path,
    directory: Path,
    cache: Path,
    dtype: str,
    pooling: Pooling | None = None,
) -> None:
    """Run a protocol of one checkpoint and write its report. pooling: None for a protocol that has its own."""

    def with_reader(progress: Progress) -> tuple[Report, dict[str, Any]]:
        of_products = None if dtype == "auto" else getattr(torch, dtype)
        reader = Reader(directory, cache, pooling or "cell", of_products, progress)
        about = reader.described()
        if pooling is None:
            del about["pooling"]
        return protocol(reader), about

    write(with_reader, out)


def write(protocol: Callable[[Progress], tuple[Report, dict[str, Any]]], out: Path) -> None:
    """Run a protocol and write its report. protocol: returns the report, and the facts about what was evaluated."""
    try:
        with _bars() as progress:
            report, about = protocol(progress)
        report.write(out, {**about, "command": command_line(click.get_current_context())})
    except (EvaluationError, HeadError, CheckpointError, EngineFailure, TrainingError, SnapshotError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{error.filename or out}: {error.strerror or error}") from error
    for table in report.tables:
        click.echo(table.markdown() + "\n")
    for note in report.notes:
        click.echo(note)
    click.echo(f"{out}: {JSON}, {MARKDOWN}, {len(report.figures)} figures, {len(report.pages)} pages")


@contextmanager
def _bars() -> Iterator[Progress]:
    """A bar for each stage."""
    with bars("{task.description}") as shown:

        def begin(stage: str, total: int) -> None:
            shown.add_task(stage, total=total)

        yield Progress(begin, lambda count: shown.advance(shown.task_ids[-1], count))


def command_line(context: click.Context) -> str:
    """The command as it was given."""
    words = ["neuron", "evaluate", str(context.info_name)]
    for parameter in context.command.params:
        if context.get_parameter_source(str(parameter.name)) is not ParameterSource.COMMANDLINE:
            continue
        value = context.params[str(parameter.name)]
        values = value if isinstance(value, tuple) else [value]
        if isinstance(parameter, click.Option) and parameter.is_flag:
            words.append(parameter.opts[0] if value else parameter.secondary_opts[0])
            continue
        option = [parameter.opts[0]] if isinstance(parameter, click.Option) else []
        words += [word for one in values for word in (*option, str(one))]
    return shlex.join(words)


def read_report(path: Path) -> dict[str, Any]:
    """Raises EvaluationError for a file that is not a report, OSError for one that cannot be read."""
    try:
        report = json.loads(path.read_bytes())
    except ValueError as error:
        raise EvaluationError(f"{path} is not a report.json: {error}") from error
    if not isinstance(report, dict) or "protocol" not in report:
        raise EvaluationError(f"{path} is not a report.json: it names no protocol")
    return report
