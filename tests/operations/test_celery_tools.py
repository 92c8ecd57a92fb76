"""Celery's own tools see the workers and their tasks, and the message that we write is the one that Celery writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from contract import wire
from tests.conftest import Stack, free_port, publish_tiny, run_stack, wait_until
from tests.support.pages import ROOT


def celery(stack: Stack, *words: str) -> str:
    command = [sys.executable, "-m", "celery", "-A", "worker", *words, "--timeout", "2"]
    done = subprocess.run(command, env=stack.environment, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else done.stderr  # which is so where no worker answers


@pytest.mark.slow
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


@pytest.mark.slow
def test_flower_shows_the_workers_and_their_tasks(stack: Stack, tmp_path: Path) -> None:
    celery_of_clients = ROOT / ".venv-clients" / "bin" / "celery"
    if not celery_of_clients.exists():
        pytest.skip("`make test-all` installs Flower")
    url = f"http://127.0.0.1:{(port := free_port())}"
    broker = f"--broker={stack.environment['NEURON_REDIS_URL']}"
    environment = os.environ | {"FLOWER_UNAUTHENTICATED_API": "true"}
    with (tmp_path / "log.txt").open("wb") as log:
        command = [str(celery_of_clients), broker, "flower", "--address=127.0.0.1", f"--port={port}"]
        flower = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:

        def shown(path: str) -> dict[str, dict[str, object]]:
            try:
                found: dict[str, dict[str, object]] = httpx.get(url + path, timeout=20).raise_for_status().json()
            except httpx.HTTPError:
                return {}
            return found

        wait_until(lambda: shown("/api/workers?refresh=true"), what="the worker in Flower")
        (about,) = shown("/api/workers").values()
        assert wire.TASK in str(about["registered"])
        with stack.client() as client:

            def names() -> set[object]:
                client.post("/classify", json={"text": "Good."}).raise_for_status()
                return {task["name"] for task in shown("/api/tasks").values()}

            wait_until(lambda: wire.TASK in names(), what="a task")
            # Of a task that was received before Flower listened, it sees the end alone, which has no name.
            assert names() <= {wire.TASK, None}
    finally:
        flower.terminate()
        flower.wait()


@pytest.mark.slow
def test_a_redis_that_was_killed_is_asked_again(tmp_path: Path) -> None:
    publish_tiny(tmp_path / "volume", step=1)
    with run_stack(tmp_path, NEURON_CHECKPOINT_DIR=str(tmp_path / "volume")) as stack, stack.client() as client:
        celery(stack, "control", "enable_events")
        for _ in range(2):
            assert "pong" in celery(stack, "inspect", "ping")
            stack.redis.stop()
            stack.redis.start()
            stack.wait_ready()
            client.post("/classify", json={"texts": ["Good."] * 50}).raise_for_status()
            wait_until(lambda: "pong" in celery(stack, "inspect", "ping"), what="the answer of the worker")
        celery(stack, "control", "shutdown")
        assert stack.processes.pop("worker").wait(180) == 0
