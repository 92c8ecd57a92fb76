"""`texts_bar`, the progress bar of every command that reads many texts."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def texts_bar(total: int, out: Path | None = None) -> Iterator[Callable[[int], None]]:
    """On stderr, if that is a terminal. What it yields must be called with the number of texts just finished.

    out: the file that is written, where a command that was stopped continues it; Ctrl-C then tells so.
    """
    columns = (TextColumn("texts"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task("", total=total)
            yield lambda finished: bar.advance(task, finished)
    except KeyboardInterrupt:
        if out is not None:
            click.echo(f"{out} is not finished: the same command continues it", err=True)
        raise
