"""What job threads have to tell Redis, written by one thread, as much in one round trip as has gathered.

Each thread by itself would wait for its own round trip, and for the interpreter lock after it, once for every outcome
and every few characters of generated text.
"""

import queue
import threading
from dataclasses import dataclass

import redis

Command = tuple[str | int, ...]

# Entries of one round trip. An entry may be some megabytes of features.
_MOST = 256


class Receipt:
    """Whether all that was sent with it is written."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._left = 0
        self._error: Exception | None = None

    def wait(self) -> None:
        """Raises the first error of what could not be written."""
        with self._changed:
            self._changed.wait_for(lambda: self._left == 0)
            if self._error is not None:
                raise self._error

    def expect(self) -> None:
        with self._changed:
            self._left += 1

    def note(self, error: Exception | None) -> None:
        with self._changed:
            self._left -= 1
            self._error = self._error or error
            self._changed.notify_all()


@dataclass(frozen=True)
class _Entry:
    commands: tuple[Command, ...]
    receipt: Receipt


class Outbox:
    """Keeps the order in which it is given entries."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._entries: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name="outbox", daemon=True)
        self._thread.start()

    def send(self, receipt: Receipt, *commands: Command) -> None:
        """Returns at once; the receipt says when they are written, or why not."""
        receipt.expect()
        self._entries.put(_Entry(commands, receipt))

    def close(self) -> None:
        """Write what is left, and end."""
        self._entries.put(None)
        self._thread.join()

    def _loop(self) -> None:
        while (entry := self._entries.get()) is not None:
            entries = [entry]
            while entry is not None and len(entries) < _MOST and not self._entries.empty():
                if (entry := self._entries.get()) is not None:
                    entries.append(entry)
            self._write(entries)
            if entry is None:
                return

    def _write(self, entries: list[_Entry]) -> None:
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for entry in entries:
                    for command in entry.commands:
                        pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
                answers = iter(pipeline.execute(raise_on_error=False))
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it and the loop must go on
            for entry in entries:
                entry.receipt.note(error)
            return
        for entry in entries:
            errors = [answer for answer in (next(answers) for _ in entry.commands) if isinstance(answer, Exception)]
            entry.receipt.note(errors[0] if errors else None)
