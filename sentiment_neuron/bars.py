"""`bars`, the look of every progress bar."""

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def bars(label: str, console: Console | None = None) -> Progress:
    """Bars on stderr, if that is a terminal. label: what is counted, in rich's markup, of which {task.description}."""
    return Progress(
        TextColumn(label),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console or Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
