"""Waiting for storage, which may be slow: on threads of its own, because answers to requests need the others."""

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_THREADS = ThreadPoolExecutor(32, thread_name_prefix="storage")


async def in_thread(act: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """What the function returns, or raises."""
    return await asyncio.get_running_loop().run_in_executor(_THREADS, functools.partial(act, *arguments, **named))
