"""What a worker writes to Redis about jobs, prepared and written by one thread: all that is ready in one round trip.

The engine ends many rows after a block and adds characters to many streams. A thread for each of them would have to be
woken, and would wait for its own round trip and for the interpreter lock, which the engine needs for its next block.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import redis

Command = tuple[str | int | float, ...]

# Entries of one round trip. An entry may be some megabytes of features.
_MOST = 256
# A Redis that refuses to write gets as long to come back as one that is away (worker/service.py).
_PATIENCE_S = 60.0
_PAUSE_S = 0.2


class Receipt:
    """Waits until everything that was sent with it is written."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._left = 0
        self._error: Exception | None = None

    def wait(self) -> None:
        """Raises the first error, if something could not be written."""
        with self._changed:
            self._changed.wait_for(lambda: self._left == 0)
            if self._error is not None:
                raise self._error

    def expect(self) -> None:
        """Wait for a `note` more."""
        with self._changed:
            self._left += 1

    def note(self, error: Exception | None = None) -> None:
        with self._changed:
            self._left -= 1
            self._error = self._error or error
            if self._left == 0:
                self._changed.notify_all()


@dataclass(frozen=True)
class _Entry:
    commands: Callable[[], Sequence[Command]]
    receipt: Receipt


class Outbox:
    """Writes entries in the order in which they were sent."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._entries: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name="outbox", daemon=True)
        self._thread.start()

    def send(self, receipt: Receipt, commands: Callable[[], Sequence[Command]]) -> None:
        """Returns at once. `commands` is called on its thread; `receipt.wait` returns once they are written."""
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
        ready: list[tuple[Receipt, Sequence[Command]]] = []
        for entry in entries:
            try:
                ready.append((entry.receipt, entry.commands()))
            except Exception as error:  # noqa: BLE001 - whatever it is, `wait` must raise it and the loop must continue
                entry.receipt.note(error)
        until = time.monotonic() + _PATIENCE_S
        while ready:
            faults = self._send(ready)
            waits = time.monotonic() < until and any(map(_is_for_now, faults))
            again: list[tuple[Receipt, Sequence[Command]]] = []
            for sent, fault in zip(ready, faults, strict=True):
                # What followed an event that could not be written follows it again.
                if waits and (_is_for_now(fault) or str(fault).startswith("GAP ")):
                    again.append(sent)
                else:
                    sent[0].note(fault)
            ready = again
            if ready:
                time.sleep(_PAUSE_S)

    def _send(self, ready: list[tuple[Receipt, Sequence[Command]]]) -> list[Exception | None]:
        """In one round trip. Returns the first error of each entry."""
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for _, commands in ready:
                    for command in commands:
                        pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
                answers = iter(pipeline.execute(raise_on_error=False))
        except Exception as error:  # noqa: BLE001 - as above
            return [error] * len(ready)
        of_entries = [[next(answers) for _ in commands] for _, commands in ready]
        return [next((one for one in some if isinstance(one, Exception)), None) for some in of_entries]


def _is_for_now(fault: Exception | None) -> bool:
    """Redis is there and does not write now: its disk or memory is full, or it is a replica for the moment.

    Every command may be sent again, because each finds what it has done before.
    """
    if isinstance(fault, redis.exceptions.OutOfMemoryError | redis.exceptions.ReadOnlyError):
        return True
    return isinstance(fault, redis.ResponseError) and "MISCONF" in str(fault)
