"""`neuron bench soak` distinguishes what is flat from what rises, and runs against a real stack."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.soak import fit

TIMES = [float(second) for second in range(200)]


def noise() -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    return np.random.default_rng(0).normal(0.0, 1.0, len(TIMES))


def test_what_comes_to_rest_is_flat() -> None:
    warming_up = 100.0 - 50.0 * np.exp(-np.array(TIMES) / 20)
    assert fit(TIMES, list(warming_up + noise())).flat
    assert fit(TIMES, [7.0] * len(TIMES)).flat
    assert fit(TIMES, [0.0] * len(TIMES)).flat
    assert fit(TIMES, [7.0] * 150 + [9.0] * 50, least=2.5).flat, "a pool that grew by two, once"


def test_what_falls_is_flat_too() -> None:
    assert fit(TIMES, list(100.0 - 0.2 * np.array(TIMES))).flat


def test_a_leak_is_seen() -> None:
    line = fit(TIMES, list(100.0 + 0.1 * np.array(TIMES) + noise()))
    assert not line.flat
    assert line.rise == pytest.approx(9.9, abs=1.5)
    assert not fit(TIMES, [100.0 + second // 20 for second in range(200)], least=2.5).flat, (
        "one descriptor every 20 seconds"
    )


@pytest.mark.slow
def test_a_short_soak_writes_its_figures(tmp_path: Path) -> None:
    path = tmp_path / "soak.json"
    command = [sys.executable, "-m", "cli.main", "bench", "soak", "--minutes", "0.1", "--json", str(path)]
    environment = os.environ | {"NEURON_WORKER_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    # So short a soak still warms up, so it may say that something rises.
    assert done.returncode == 0 or "not flat: " in done.stderr, done.stderr
    found = json.loads(path.read_text())
    requests = found["requests"]
    assert "failed" not in requests
    ways = "answered", "streams read", "streams left", "cancelled", "returned for", "reloaded"
    assert all(requests[way] > 0 for way in ways), requests
    for part in ("gateway", "worker"):
        for what in ("RSS MiB", "threads", "descriptors", "sockets"):
            assert found["second_half"][f"{part} {what}"]["mean"] > 0
    assert found["second_half"]["Redis keys"]["mean"] > 0
    assert found["second_half"]["Redis subscriptions"]["flat"]
