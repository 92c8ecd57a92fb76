"""Which waiting rows run next: interactive before bulk, with ageing, within a budget of rows. No torch, no threads.

Every row gets a virtual arrival: the real one for interactive rows, `ageing_s` later for bulk. The earliest goes
first. So an interactive row overtakes the bulk rows of the last `ageing_s` seconds, and no bulk row starves: after
that long it stands before any interactive row that comes later.

A step costs nearly the same for one row as for thirty. So while requests keep coming and few rows run, it pays to wait
a moment for company before the next block: `company_wait_s`. A request that comes alone never waits.
"""

import heapq
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

RowT = TypeVar("RowT")
Priority = Literal["interactive", "bulk"]

# From this many rows on, a step is well filled: more would share it, but no longer nearly for free.
_WELL_FILLED_ROWS = 32
# Requests keep coming if two came within this many waits for company.
_RECENT_WAITS = 4


@dataclass(order=True)
class _Waiting(Generic[RowT]):
    virtual_arrival: float
    order: int
    row: RowT = field(compare=False)


class Scheduler(Generic[RowT]):
    """Rows wait in here until there is room; the caller says when one has left."""

    def __init__(self, max_rows: int, ageing_s: float, gather_s: float = 0.0) -> None:
        if max_rows < 1:
            raise ValueError(f"max_rows is {max_rows}, at least 1 is needed")
        self.max_rows = max_rows
        self.ageing_s = ageing_s
        self.gather_s = gather_s
        self._arrivals: deque[float] = deque(maxlen=2)  # when the last two submissions came
        self._heap: list[_Waiting[RowT]] = []
        self._added = 0
        self._active = 0

    @property
    def waiting(self) -> int:
        return len(self._heap)

    @property
    def active(self) -> int:
        return self._active

    def add(self, row: RowT, priority: Priority, now: float) -> None:
        """now: seconds on any clock that never goes back; rows that came together share it."""
        if not self._arrivals or self._arrivals[-1] != now:
            self._arrivals.append(now)
        late = self.ageing_s if priority == "bulk" else 0.0
        heapq.heappush(self._heap, _Waiting(now + late, self._added, row))
        self._added += 1

    def company_wait_s(self, now: float) -> float:
        """How long to wait for more rows before the next block; 0 to go on at once."""
        if self._active >= min(_WELL_FILLED_ROWS, self.max_rows) or len(self._arrivals) < 2:
            return 0.0
        return self.gather_s if now - self._arrivals[0] < _RECENT_WAITS * self.gather_s else 0.0

    def admit(self) -> list[RowT]:
        """The rows that may start now, most urgent first; each counts as active until `leave`."""
        admitted = []
        while self._heap and self._active < self.max_rows:
            admitted.append(heapq.heappop(self._heap).row)
            self._active += 1
        return admitted

    def leave(self) -> None:
        """An admitted row has ended."""
        if self._active == 0:
            raise ValueError("leave() without an active row")
        self._active -= 1

    def withdraw(self, dead: "list[RowT]") -> None:
        """Forget waiting rows that need not run any more. Cost is linear in the rows that wait."""
        gone = {id(row) for row in dead}
        self._heap = [waiting for waiting in self._heap if id(waiting.row) not in gone]
        heapq.heapify(self._heap)

    def waiting_rows(self) -> list[RowT]:
        return [waiting.row for waiting in self._heap]
