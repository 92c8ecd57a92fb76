"""A job that brings down its workers ends as a dead letter, those beside it as they should, and may be run again."""

import os
import signal
import subprocess
from pathlib import Path

import httpx
import pytest
import redis
from click.testing import CliRunner

from cli.main import main
from contract import wire
from tests.conftest import Stack, free_port, run_stack, wait_until

ASYNC = {"Prefer": "respond-async"}


def neuron(stack: Stack, *arguments: str) -> str:
    done = CliRunner().invoke(main, ["jobs", *arguments], env=stack.environment)
    return done.stdout if done.exit_code == 0 else f"refused: {done.stderr}"


def start(stack: Stack) -> "subprocess.Popen[bytes]":
    stack.environment["NEURON_WORKER_METRICS_PORT"] = str(free_port())
    stack.spawn("worker", "tests.worker.hurried")
    return stack.processes.pop("worker")


def let_leases_lapse(stack: Stack) -> None:
    """So that a test need not wait for it."""
    with redis.Redis.from_url(stack.environment["NEURON_REDIS_URL"]) as client:
        for member in client.zrange(wire.LEASES, 0, -1):  # type: ignore[union-attr]
            client.zadd(wire.LEASES, {member: 0})


@pytest.mark.slow
def test_a_job_that_kills_workers_is_given_up_alone_kept_and_can_be_retried(tiny_volume: Path, tmp_path: Path) -> None:
    def state(where: str) -> str:
        return str(httpx.get(stack.url + where).raise_for_status().json()["state"])

    harm = tmp_path / "harm"
    harm.write_text("kill")
    settings = {
        "NEURON_CHECKPOINT_DIR": str(tiny_volume),
        "NEURON_WORKER_MAX_DELIVERIES": "2",
        "SABOTAGE_FILE": str(harm),
    }
    with run_stack(tmp_path, worker=False, **settings) as stack, stack.client() as client:
        texts = ["Innocent.", "A \1 text.", "Innocent, too."]
        paths = [client.post("/classify", json={"text": text}, headers=ASYNC).headers["location"] for text in texts]
        poison = paths.pop(1)
        for _ in range(2):
            assert start(stack).wait(180) < 0
            let_leases_lapse(stack)
        survivor = start(stack)
        stack.processes["survivor"] = survivor
        wait_until(lambda: {state(where) for where in paths} == {"done"}, what="the end of those beside it")
        wait_until(lambda: state(poison) == "failed", what="the poison's end")
        assert client.get(poison).json()["error"]["type"].endswith(":workers-died")
        assert stack.worker_metric("neuron_dead_letters_total") == 1
        with redis.Redis.from_url(stack.environment["NEURON_REDIS_URL"]) as queue:
            assert not queue.exists(wire.LEASES, *wire.WAITING.values(), wire.OPEN)
            assert queue.hgetall(wire.LOAD) == {b"texts": b"0", b"bytes": b"0"}

        job_id = poison.split("/")[-1]
        (line,) = neuron(stack, "dead").splitlines()
        assert line.split()[:3] == [job_id, "classify", "2"]
        assert "text" not in line
        assert "NEURON_REDIS_URL" not in neuron(stack, "retry", "another-id-0000000000")
        assert neuron(stack, "retry").startswith("refused")
        survivor.send_signal(signal.SIGSTOP)
        harm.unlink()
        assert neuron(stack, "retry", job_id) == f"{job_id} is queued\n"
        assert state(poison) == "queued"
        assert neuron(stack, "dead") == ""
        survivor.send_signal(signal.SIGCONT)  # no text can hurt it now
        wait_until(lambda: state(poison) == "done", what="the end of the second life")
        survivor.terminate()
        assert survivor.wait(180) == 0


def test_dropped_jobs_are_forgotten(redis_url: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NEURON_")}
    stack = Stack(None, environment | {"NEURON_REDIS_URL": redis_url}, Path(), {})  # type: ignore[arg-type]
    entry = '{"id": "%s", "at": 0, "cost": "1:1", "record": ["kind", "trace", "attempts", "3"]}'
    with redis.Redis.from_url(redis_url) as client:
        client.rpush(wire.DEAD, *(entry % name for name in ("first", "second", "third")))
        assert [line.split()[0] for line in neuron(stack, "dead").splitlines()] == ["first", "second", "third"]
        assert neuron(stack, "drop", "second") == "second is dropped\n"
        assert neuron(stack, "drop", "second").startswith("refused")
        assert neuron(stack, "drop", "--all") == "first is dropped\nthird is dropped\n"
        assert not client.exists(wire.DEAD)
