"""`Bars`, how every command but the trainer's shows its progress, and `bars`, those that count texts."""

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_LINE_EVERY_S = 60.0


class Bars(Progress):
    """Bars on stderr if that is a terminal; if not, as in the log of a job, the last bar as a line once a minute."""

    def __init__(self, *columns: ProgressColumn, console: Console | None = None) -> None:
        super().__init__(*columns, console=console or Console(stderr=True), disable=not sys.stderr.isatty())
        self._line_at = time.monotonic() + _LINE_EVERY_S

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._tell()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        self._tell()

    def _tell(self) -> None:
        if self.disable and time.monotonic() >= self._line_at:
            self._line_at = time.monotonic() + _LINE_EVERY_S
            self.console.print(self.make_tasks_table(self.tasks[-1:]))


def bars(label: str, console: Console | None = None) -> Bars:
    """label: what is counted, in rich's markup, of which {task.description}."""
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Bars(*columns, console=console)
