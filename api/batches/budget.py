"""How much of a batch is in flight and in memory."""

import asyncio

# Enough rows for a worker.
_LINES = 256
_BYTES = 131_072
# Answers in memory, those to come reckoned by the longest so far for a byte of its line.
_ANSWER_BYTES = 16 * 2**20
_UNKNOWN_LINES = 8  # in flight while nothing is known of answers


class Budget:
    """What may be in flight: a number of lines, of their bytes, and of those of their answers. One line always may."""

    def __init__(self) -> None:
        self._lines = 0
        self._bytes = 0
        self._answers = 0  # bytes that are not kept yet
        self._ratio = 0.0  # of an answer's bytes to its line's, the greatest so far
        self._freed = asyncio.Event()

    async def take(self, size: int) -> None:
        """Wait until a line of so many bytes may be asked."""
        while self._lines and not self._fits(size):
            self._freed.clear()
            await self._freed.wait()
        self._lines += 1
        self._bytes += size

    def _fits(self, size: int) -> bool:
        to_come = self._ratio * (self._bytes + size)
        return (
            self._lines < (_LINES if self._ratio else _UNKNOWN_LINES)
            and self._bytes + size <= _BYTES
            and self._answers + to_come <= _ANSWER_BYTES
        )

    def give(self, size: int, task: "asyncio.Task[bytes]") -> None:
        """The line has its answer, unless the task was stopped."""
        self._lines -= 1
        self._bytes -= size
        if not task.cancelled() and task.exception() is None:
            self._answers += len(task.result())
            self._ratio = max(self._ratio, len(task.result()) / size)
        self._freed.set()

    def kept(self, size: int) -> None:
        """Answers of so many bytes need no memory any more."""
        self._answers -= size
        self._freed.set()
