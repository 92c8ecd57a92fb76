"""Celery's own tools see the workers and their tasks, and the message that we write is the one that Celery writes."""

import json
import subprocess
import sys

from contract import wire
from tests.conftest import Stack, wait_until
from tests.support.pages import ROOT


def celery(stack: Stack, *words: str) -> str:
    command = [sys.executable, "-m", "celery", "-A", "worker", *words, "--timeout", "5"]
    done = subprocess.run(command, env=stack.environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_inspect_finds_the_workers_and_their_tasks(stack: Stack) -> None:
    assert "pong" in celery(stack, "inspect", "ping")
    assert f"* {wire.TASK}" in celery(stack, "inspect", "registered")
    with stack.client() as client:
        body, later = {"length": 1_000_000, "stop": []}, {"Prefer": "respond-async"}
        job = client.post("/generate", json=body, headers=later).headers["location"]
        wait_until(lambda: client.get(job).json()["state"] == "running", what="the job's start")
        assert job.removeprefix("/jobs/") in celery(stack, "inspect", "active")
        client.delete(job)
    stats = celery(stack, "inspect", "stats", "--json")
    (worker,) = json.loads(stats[: stats.rindex("}") + 1]).values()
    assert worker["total"][wire.TASK] >= 1
