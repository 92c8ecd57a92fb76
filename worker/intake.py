"""Which queues a worker takes messages from: always the interactive one, and the bulk one while threads are left.

Every message holds a thread until it is answered. Bulk jobs, of which there may be any number, must not hold all
threads, because an interactive job would then wait on the queue until one of them ends.
"""

import threading
from typing import Any

from celery import signals

from contract import wire

_BULK = wire.QUEUES["bulk"]


class BulkIntake:
    """Stops taking bulk messages while `most` of them are in progress, and continues at half as many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._in_progress = 0
        self._lock = threading.Lock()
        self._consumer: Any = None  # Celery's; used only on its own thread

    def listen(self) -> None:
        """Count every message that Celery takes, before it takes the next."""
        signals.task_received.connect(self._received, weak=False)

    def ended(self, queue: str) -> None:
        """A message of that queue has been answered."""
        if queue == _BULK and self._count(-1) <= self._most // 2:
            self._consumer.call_soon(self._take)

    def _received(self, sender: Any, request: Any, **_: Any) -> None:
        self._consumer = sender
        if request.delivery_info["routing_key"] == _BULK and self._count(1) >= self._most:
            sender.task_consumer.cancel_by_queue(_BULK)

    def _count(self, by: int) -> int:
        with self._lock:
            self._in_progress += by
            return self._in_progress

    def _take(self) -> None:
        tasks = self._consumer.task_consumer
        if tasks is not None and not tasks.consuming_from(_BULK):  # None: it is connecting, and then takes from all
            tasks.add_queue(self._consumer.app.amqp.queues[_BULK])
            tasks.consume()
