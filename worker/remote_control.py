"""Celery's remote control (`celery -A worker inspect`, Flower), on a thread and a connection of its own.

Celery has it on the connection that takes messages. There, jobs stayed unanswered after Redis had been killed.
"""

import logging
import os
import signal
import threading
from typing import Any

from celery import Celery, signals
from celery.utils.collections import AttributeDict
from celery.worker.control import Panel

log = logging.getLogger(__name__)

_RETRY_S = 2.0
_LOOK_S = 1.0  # how soon it sees that it must end


class RemoteControl:
    def __init__(self, app: Celery) -> None:
        self._app = app
        self._stopped = threading.Event()

    def listen(self) -> None:
        """Answer from when the worker is ready until it shuts down."""
        signals.worker_ready.connect(self._start, weak=False)
        signals.worker_shutting_down.connect(lambda **_: self._stopped.set(), weak=False)

    def _start(self, sender: Any, **_: Any) -> None:
        threading.Thread(target=self._run, args=(sender,), name="remote-control", daemon=True).start()

    def _run(self, consumer: Any) -> None:
        while not self._stopped.is_set():
            try:
                self._answer(consumer)
            except Exception as error:  # noqa: BLE001 - tools must not be able to stop a worker
                log.warning("Celery's remote control: %s", error)
                self._stopped.wait(_RETRY_S)

    def _answer(self, consumer: Any) -> None:
        """Answer what comes. Raises whatever the connection does."""
        state = AttributeDict(app=self._app, hostname=consumer.hostname, consumer=consumer, tset=set)
        with self._app.connection_for_read() as connection:
            node = self._app.control.mailbox.Node(
                consumer.hostname, state=state, handlers=Panel.data, channel=connection.default_channel
            )

            def answer(body: Any, message: Any) -> None:
                try:
                    node.handle_message(body, message)
                except SystemExit:  # `shutdown`; for Celery it ends the thread that takes messages
                    os.kill(os.getpid(), signal.SIGTERM)
                except Exception as error:  # noqa: BLE001 - a command that is none, or whose answer is not taken
                    log.warning("Celery's remote control: %r", error)

            with node.listen(callback=answer):
                while not self._stopped.is_set():
                    try:
                        connection.drain_events(timeout=_LOOK_S)
                    except TimeoutError:
                        continue
