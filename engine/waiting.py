"""`wait_for`: the next of what callbacks of rows put into a queue, as long as their engine lives."""

import queue
from typing import TypeVar

from engine.engine import Engine
from engine.rows import EngineFailure

Event = TypeVar("Event")

_LOOK_S = 1.0


def wait_for(engine: Engine, events: "queue.SimpleQueue[Event]") -> Event:
    """Take the next of `events`. Any thread but the engine's may wait.

    Raises EngineFailure where the engine's thread has died: its rows will never end. A worker does not wait here; it
    exits, and other workers get its jobs.
    """
    while True:
        alive = engine.alive  # before the look: what came until then is still taken
        try:
            return events.get(timeout=_LOOK_S) if alive else events.get_nowait()
        except queue.Empty:
            if not alive:
                raise EngineFailure("the engine's thread has died") from None
