"""Overload: requests come at 10 times the rate that the worker manages, whether or not they are answered.

`OVERLOAD_S=60` lengthens it to what docs/reliability.md tells.
"""

import asyncio
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from tests.conftest import Stack, run_stack
from tests.faults.figures import record, rss_mib
from tests.faults.load import left_behind

SECONDS = float(os.environ.get("OVERLOAD_S", "6"))
SAMPLES = 16  # a request's; so that few requests a second are the limit, and this process can ask for ten times more
ROOM = 16  # requests that the queue takes
BODIES = [
    {"prompt": "I", "length": 250, "n": SAMPLES, "seed": seed, "stop": [], "temperature": 1.0} for seed in range(8)
]


@dataclass
class Arrivals:
    """Requests that came at a steady rate. latencies_s: of those that were answered."""

    latencies_s: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[Any] = field(default_factory=list)
    unexplained: list[Any] = field(default_factory=list)  # refusals without Retry-After

    def p99_s(self) -> float:
        return float(np.percentile(self.latencies_s, 99))


async def _arrive(url: str, rate: float, seconds: float, expected: list[Any]) -> Arrivals:
    """One request every 1 / rate seconds. expected: the answers to BODIES."""
    found, count = Arrivals(), max(1, round(rate * seconds))
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as http:

        async def ask(number: int) -> None:
            began = time.monotonic()
            answer = await http.post("/generate", json=BODIES[number % len(BODIES)])
            found.statuses[answer.status_code] += 1
            if answer.status_code == 200:
                found.latencies_s.append(time.monotonic() - began)
                if answer.json() != expected[number % len(BODIES)]:
                    found.wrong.append(answer.json())
            elif not (answer.status_code == 429 and int(answer.headers["retry-after"]) > 0):
                found.unexplained.append(answer.text)

        began, tasks = time.monotonic(), []
        for number in range(count):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            tasks.append(asyncio.create_task(ask(number)))
        await asyncio.gather(*tasks)
    return found


def _capacity(stack: Stack, seconds: float) -> float:
    """Requests a second that the worker manages, with the queue never empty and never full."""

    async def measure() -> float:
        done, until = 0, time.monotonic() + seconds
        async with httpx.AsyncClient(base_url=stack.url, timeout=120) as http:

            async def client(number: int) -> None:
                nonlocal done
                while time.monotonic() < until:
                    answer = await http.post("/generate", json=BODIES[number % len(BODIES)])
                    assert answer.status_code == 200, answer.text
                    done += 1

            await asyncio.gather(*(client(number) for number in range(ROOM)))
        return done / (time.monotonic() - until + seconds)

    return asyncio.run(measure())


def _memory_mib(stack: Stack) -> dict[str, float]:
    pids = {name: process.pid for name, process in stack.processes.items()}
    return {name: rss_mib(pid) for name, pid in (pids | {"redis": stack.redis._process.pid}).items()}


def test_ten_times_more_than_the_worker_manages(tiny_volume: Path, tmp_path: Path) -> None:
    settings = {"NEURON_CHECKPOINT_DIR": str(tiny_volume), "NEURON_API_MAX_QUEUED_TEXTS": str(ROOM * SAMPLES)}
    with run_stack(tmp_path, **settings) as stack:
        with stack.client() as client:
            expected = [client.post("/generate", json=body).json() for body in BODIES]
        capacity = _capacity(stack, 3.0)
        calm = asyncio.run(_arrive(stack.url, capacity / 2, SECONDS / 3, expected))
        asyncio.run(_arrive(stack.url, capacity * 10, SECONDS / 5, expected))  # pools and buffers are as large as ever
        before = _memory_mib(stack)
        crowd = asyncio.run(_arrive(stack.url, capacity * 10, SECONDS, expected))
        after = _memory_mib(stack)
        row = {
            "fault": "overload",
            "capacity_per_s": round(capacity, 1),
            "seconds": SECONDS,
            "requests": crowd.statuses.total(),
            "jobs_accepted": crowd.statuses[200],
            "refused": crowd.statuses[429],
            "different": len(crowd.wrong),
            "calm_p99_s": round(calm.p99_s(), 3),
            "p99_s": round(crowd.p99_s(), 3),
            "full_queue_s": round(ROOM / capacity, 3),
            "grown_mib": {name: round(after[name] - before[name], 1) for name in before},
        }
        assert not crowd.unexplained, crowd.unexplained[:3]
        assert not crowd.wrong, crowd.wrong[:1]
        assert crowd.statuses[429] > crowd.statuses[200] > 0, row
        # Whoever is admitted finds less than a full queue before him. If it had no bound, the last ones would wait
        # nine times as long as the overload takes.
        assert crowd.p99_s() < 10 * ROOM / capacity, row
        for name, grown in row["grown_mib"].items():  # type: ignore[attr-defined]
            assert grown < max(16.0, 0.1 * before[name]), row
        assert left_behind(stack.environment["NEURON_REDIS_URL"]) == {}
        record(row)
