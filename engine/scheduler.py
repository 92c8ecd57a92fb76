"""Which rows run in the next block: interactive before bulk, without starving bulk. No torch, no threads.

Rows that somebody waits for are interactive, the others bulk. Each class has `max_rows` places, so neither keeps the
other from starting; a row that finds no free place waits in its class's queue, first come first served. A block holds
up to `max_rows` rows, and the others stand still until a later one:

- Interactive rows go first, but leave bulk rows their share of a full block.
- Beside interactive rows, bulk rows may make a step no longer than 1 / (1 - `bulk_share`) times what it would take
  without them. Where a step takes the same for one row as for 200, that leaves no bulk row out.
- At least one bulk row runs, and those that stood still longest go first.

A step costs nearly the same for one row as for thirty. So while requests keep coming and few rows run, it pays to wait
a moment for more rows before the next block: the batching delay, `batching_wait_s`. A request that is alone never
waits.
"""

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from contract.jobs import Priority

RowT = TypeVar("RowT")

# From this many rows on a step is well filled: another row is no longer almost free.
_WELL_FILLED_ROWS = 32
# Requests keep coming if two came within this many batching delays.
_RECENT_DELAYS = 4


class _Class(Generic[RowT]):
    """The rows of one priority."""

    def __init__(self) -> None:
        self.waiting: deque[RowT] = deque()
        self.active = 0


class Scheduler(Generic[RowT]):
    """Rows wait in here until there is room; the caller reports when one has left."""

    def __init__(self, max_rows: int, bulk_share: float, batching_delay_s: float = 0.0) -> None:
        """Raises ValueError where max_rows is less than 1 or bulk_share not in [0, 1)."""
        if max_rows < 1:
            raise ValueError(f"max_rows is {max_rows}, at least 1 is needed")
        if not 0 <= bulk_share < 1:
            raise ValueError(f"bulk_share is {bulk_share}, it must be at least 0 and less than 1")
        self.max_rows = max_rows
        self.bulk_share = bulk_share
        self.batching_delay_s = batching_delay_s
        self._arrivals: deque[float] = deque(maxlen=2)  # when the last two submissions came
        self._classes: dict[Priority, _Class[RowT]] = {"interactive": _Class(), "bulk": _Class()}

    @property
    def waiting(self) -> int:
        return sum(len(rows.waiting) for rows in self._classes.values())

    @property
    def active(self) -> int:
        return sum(rows.active for rows in self._classes.values())

    def add(self, row: RowT, priority: Priority, now: float) -> None:
        """now: seconds on any monotonic clock; rows that were submitted together have the same."""
        if not self._arrivals or self._arrivals[-1] != now:
            self._arrivals.append(now)
        self._classes[priority].waiting.append(row)

    def batching_wait_s(self, now: float) -> float:
        """How long to wait for more rows before the next block: 0 or the batching delay."""
        rows = self.active + self.waiting
        if not 2 <= rows < min(_WELL_FILLED_ROWS, self.max_rows) or len(self._arrivals) < 2:
            return 0.0
        return self.batching_delay_s if now - self._arrivals[0] < _RECENT_DELAYS * self.batching_delay_s else 0.0

    def admit(self) -> list[RowT]:
        """The rows that may start now, interactive ones first; each counts as active until `leave`."""
        admitted = []
        for rows in self._classes.values():
            while rows.waiting and rows.active < self.max_rows:
                admitted.append(rows.waiting.popleft())
                rows.active += 1
        return admitted

    def leave(self, priority: Priority) -> None:
        """An admitted row has ended."""
        if self._classes[priority].active == 0:
            raise ValueError(f"leave() without an active {priority} row")
        self._classes[priority].active -= 1

    def share(self, interactive: int, bulk: int, step_seconds: Callable[[int], float], fitting: int) -> tuple[int, int]:
        """How many interactive and how many bulk rows run in the next block, of those that could.

        step_seconds: time of a step by its number of rows; it must not fall as rows are added. fitting: rows of a block
        for which there is memory; one of each class runs in any case.
        """
        most_rows = min(self.max_rows, fitting)
        if interactive == 0 or bulk == 0:
            return min(interactive, most_rows), min(bulk, most_rows)
        interactive = min(interactive, max(1, min(most_rows - 1, round((1 - self.bulk_share) * most_rows))))
        limit_s = step_seconds(interactive) / (1 - self.bulk_share)
        least, most = 1, max(1, min(bulk, most_rows - interactive))
        while least < most:  # the most bulk rows with which a step keeps the limit
            middle = (least + most + 1) // 2
            if step_seconds(interactive + middle) <= limit_s:
                least = middle
            else:
                most = middle - 1
        return interactive, least

    def withdraw(self, dead: "list[RowT]") -> None:
        """Forget waiting rows that must not run any more. Cost is linear in the rows that wait."""
        gone = {id(row) for row in dead}
        for rows in self._classes.values():
            rows.waiting = deque(row for row in rows.waiting if id(row) not in gone)

    def waiting_rows(self) -> list[RowT]:
        return [row for rows in self._classes.values() for row in rows.waiting]
