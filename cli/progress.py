"""`texts_bar`, the progress bar of every command that reads many texts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from sentiment_neuron.bars import bars


@contextmanager
def texts_bar(total: int, out: Path | None = None) -> Iterator[Callable[[int], None]]:
    """On stderr. What it yields must be called with the number of texts just finished.

    out: the file that is written, where a command that was stopped continues it; Ctrl-C then tells so.
    """
    try:
        with bars("texts") as bar:
            task = bar.add_task("", total=total)
            yield lambda finished: bar.advance(task, finished)
    except KeyboardInterrupt:
        if out is not None:
            click.echo(f"{out} is not finished: the same command continues it", err=True)
        raise
