"""What an engine reports while it runs: `Observer` ignores all of it, a subclass may count it.

Every method is called on the engine's thread, between blocks of steps, and must not block.
"""

from collections.abc import Sequence
from typing import Literal

RowEnd = Literal["done", "failed", "cancelled", "late"]
# hit: the row starts from a kept state; shared: it waits for another row that reads the same prefix; miss: neither
PrefixLookup = Literal["hit", "shared", "miss"]


class Observer:
    """Does nothing."""

    def rows(self, active: int, waiting: int) -> None:
        """Rows in the engine, and rows that wait for room in it. Reported before every block."""

    def block(self, seconds: float, steps: Sequence[int], read: int, generated: int) -> None:
        """A block has run. steps: of each of its rows, most first. read, generated: bytes of all its rows."""

    def row_ended(self, how: RowEnd) -> None:
        """A row that had a place in the engine has left it."""

    def out_of_memory(self) -> None:
        """A block ran out of memory; its rows will run again, fewer at once."""

    def prefix_lookup(self, outcome: PrefixLookup) -> None:
        """A row that joined has looked for the longest prefix of its text that is kept or being read."""

    def prefix_spared(self, bytes_: int) -> None:
        """A row took over the state after a prefix, and need not read the prefix's bytes."""

    def prefixes_evicted(self, count: int) -> None:
        """`count` kept states made room for another one; often 0."""

    def prefixes_held(self, bytes_: int) -> None:
        """Memory of all kept states. Reported after every block."""
