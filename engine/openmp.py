"""How the threads of products on a CPU wait for each other: `spin_briefly`, `on_passing_thread`. No torch.

A thread that multiplies gets a team of OpenMP threads, which it keeps. Between two products GNU's OpenMP lets a team
spin for some milliseconds before it sleeps. Two things go wrong with that:

- Where other processes want the cores, one thread of a team often does not run, and the others spin on the cores that
  it needs. A tenth of a millisecond bridges the gap between two products.
- Where all teams of a process have more threads than there are cores, they sleep at once, and a small step takes twice
  as long. So only one thread of a process should keep a team, and another thread that multiplies once should end
  afterwards.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_SPINS = 20_000  # 0.1 to 0.2 ms


def spin_briefly() -> None:
    """For a process that has not loaded torch yet."""
    os.environ.setdefault("GOMP_SPINCOUNT", str(_SPINS))


def on_passing_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """function(*args, **kwargs), on a thread that ends with it and takes its team along."""
    with ThreadPoolExecutor(1) as passing:
        return passing.submit(function, *args, **kwargs).result()
