"""The end of tasks that others wait for."""

import asyncio
from typing import Any

_AGAIN_S = 0.5


async def stop(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel the tasks and wait until they have ended, however they do, also if this is cancelled meanwhile.

    Again and again: in Python 3.11 `asyncio.wait_for`, which every command of redis-py goes through, swallows a
    cancellation that comes in the moment of its end.
    """
    interrupted = False
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        try:
            await asyncio.wait(running, timeout=_AGAIN_S)
        except asyncio.CancelledError:
            interrupted = True
    if interrupted:
        raise asyncio.CancelledError


async def outlast(task: "asyncio.Future[Any]") -> None:
    """Wait until a task has ended that must not be cut short, however often this is cancelled. For who is cancelled."""
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            continue
