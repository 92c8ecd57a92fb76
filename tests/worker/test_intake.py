"""Bulk messages never hold all of a worker's threads."""

from pathlib import Path

import pytest

from tests.conftest import run_stack, wait_until

ENDLESS = {"length": 1_000_000, "stop": []}
ASYNC = {"Prefer": "respond-async"}


@pytest.mark.slow
def test_interactive_jobs_get_a_thread_while_more_bulk_jobs_run_than_there_are_threads(
    tiny_volume: Path, tmp_path: Path
) -> None:
    settings = {"NEURON_CHECKPOINT_DIR": str(tiny_volume), "NEURON_WORKER_JOBS": "4"}
    with (
        run_stack(tmp_path, NEURON_API_MAX_LENGTH="1000000", NEURON_API_COALESCE_MS="0", **settings) as stack,
        stack.client() as client,
    ):

        def states() -> list[str]:
            return [str(client.get(where).json()["state"]) for where in jobs]

        jobs = []
        for number in range(8):  # one by one, for jobs that arrive together share a message
            jobs.append(client.post("/generate", json=ENDLESS, headers=ASYNC).headers["location"])
            if number < 3:
                wait_until(lambda: states().count("running") == len(jobs), what=f"the start of job {number}")
        for _ in range(3):
            assert client.post("/classify", json={"text": "Good."}).status_code == 200
        assert states() == ["running"] * 3 + ["queued"] * 5
        # At half as many the worker takes bulk messages again, and in their order.
        for where in jobs[:2]:
            client.delete(where)
        wait_until(lambda: states() == ["cancelled"] * 2 + ["running"] * 3 + ["queued"] * 3, what="the next two")
        assert client.post("/classify", json={"text": "Good."}).status_code == 200
        for where in jobs:
            client.delete(where)
        wait_until(lambda: states() == ["cancelled"] * 8, what="the end")
