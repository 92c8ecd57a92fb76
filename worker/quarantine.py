"""Which jobs may run side by side: all, except that a job which has brought down its workers runs alone."""

import contextlib
import threading
from collections.abc import Callable, Iterator


class Quarantine:
    """A lock that many hold side by side, or one alone. While one waits to be alone, no others enter."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._changed = threading.Condition()
        self._inside = 0
        self._closed = False

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self, patience_s: float, make_way: Callable[[], None]) -> Iterator[None]:
        """make_way: called when others are still inside after `patience_s`; they must leave soon after."""
        with self._turn:
            with self._changed:
                self._closed = True
                left = self._changed.wait_for(lambda: self._inside == 0, patience_s)
            try:
                if not left:
                    make_way()
                    with self._changed:
                        self._changed.wait_for(lambda: self._inside == 0)
                yield
            finally:
                with self._changed:
                    self._closed = False
                    self._changed.notify_all()
