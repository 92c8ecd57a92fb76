"""No accepted job is lost: whatever becomes of workers and messages, it runs again, and its end is reported once."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import redis

from contract import wire
from tests.conftest import Stack, free_port, run_stack, wait_until

ASYNC = {"Prefer": "respond-async"}
LONG = {"length": 6000, "stop": [], "seed": 5}
LENGTHS = {"NEURON_API_MAX_LENGTH": "1000000"}


def spawn_worker(stack: Stack, name: str, module: str = "worker", **environment: str) -> None:
    """A worker beside those that run."""
    stack.environment["NEURON_WORKER_METRICS_PORT"] = str(free_port())
    stack.spawn(name, module, **environment)


def probe(stack: Stack, path: str) -> int:
    """Status of what the worker that was started last says of itself; 0 while it says nothing."""
    try:
        return httpx.get(f"http://127.0.0.1:{stack.environment['NEURON_WORKER_METRICS_PORT']}{path}").status_code
    except httpx.TransportError:
        return 0


def state(client: httpx.Client, where: str) -> str:
    return str(client.get(where).raise_for_status().json()["state"])


def events(stack: Stack, where: str) -> list[tuple[str, dict[str, object]]]:
    with redis.Redis.from_url(stack.environment["NEURON_REDIS_URL"]) as client:
        entries = client.xrange(wire.events(where.split("/")[-1]))
    return [(fields[b"event"].decode(), json.loads(fields[b"data"])) for _, fields in entries]  # type: ignore[union-attr]


def streamed(stack: Stack, where: str) -> str:
    return "".join(str(data["text"]) for event, data in events(stack, where) if event == "token")


@pytest.mark.slow
def test_what_a_killed_worker_read_and_wrote_is_done_by_another_and_a_stream_goes_on_where_it_stood(
    tiny_volume: Path, tmp_path: Path
) -> None:
    with run_stack(tmp_path, NEURON_CHECKPOINT_DIR=str(tiny_volume), **LENGTHS) as stack, stack.client() as client:
        whole = client.post("/generate", json=LONG).json()["results"][0]["text"]
        jobs = [
            client.post("/generate", json=LONG | {"stream": True}, headers=ASYNC).headers["location"],
            client.post("/classify", json={"text": "Good. " * 1500}, headers=ASYNC).headers["location"],
        ]
        wait_until(lambda: len(streamed(stack, jobs[0])) > 300, what="the first characters")
        wait_until(lambda: [state(client, where) for where in jobs] == ["running"] * 2, what="the start of both")
        stack.kill("worker")
        before = streamed(stack, jobs[0])
        assert 300 < len(before) < len(whole)
        spawn_worker(stack, "other")
        wait_until(lambda: [state(client, where) for where in jobs] == ["done"] * 2, what="the end of both")
        assert streamed(stack, jobs[0]) == whole
        assert streamed(stack, jobs[0]).startswith(before)
        assert [event for event, _ in events(stack, jobs[0]) if event != "token"] == ["done"]
        assert client.get(jobs[0]).json()["result"]["results"][0]["text"] == whole
        assert stack.worker_metric("neuron_redeliveries_total", '{reason="lapsed"}') == 2


@pytest.mark.slow
def test_a_message_that_was_lost_is_sent_again_and_what_waits_its_turn_is_not(
    tiny_volume: Path, tmp_path: Path
) -> None:
    with (
        run_stack(tmp_path, worker=False, NEURON_CHECKPOINT_DIR=str(tiny_volume), NEURON_API_COALESCE_MS="0") as stack,
        redis.Redis.from_url(stack.environment["NEURON_REDIS_URL"]) as queue,
        ThreadPoolExecutor(6) as pool,
    ):

        def post(number: int) -> httpx.Response:
            return httpx.post(stack.url + "/classify", json={"text": f"Number {number}."}, timeout=60)

        lost = pool.submit(post, 0)
        wait_until(lambda: queue.llen(wire.QUEUES["interactive"]) == 1, what="the message")
        queue.rpop(wire.QUEUES["interactive"])
        waiting = []
        for number in range(1, 5):  # not at once, for then they might share a message
            waiting.append(pool.submit(post, number))
            wait_until(lambda number=number: queue.llen(wire.QUEUES["interactive"]) == number, what="the next message")
        spawn_worker(stack, "worker")
        stack.wait_ready()
        assert [answer.result().status_code for answer in waiting] == [200] * 4
        assert lost.result().status_code == 200
        assert stack.worker_metric("neuron_redeliveries_total", '{reason="lost"}') == 1
        assert not queue.exists(wire.LEASES, *wire.WAITING.values(), *wire.QUEUES.values(), wire.OPEN)


@pytest.mark.slow
def test_a_job_that_comes_back_to_the_worker_that_runs_it_runs_once(tiny_volume: Path, tmp_path: Path) -> None:
    with (
        run_stack(tmp_path, NEURON_CHECKPOINT_DIR=str(tiny_volume), **LENGTHS) as stack,
        stack.client() as client,
        redis.Redis.from_url(stack.environment["NEURON_REDIS_URL"]) as queue,
    ):
        where = client.post("/generate", json=LONG | {"length": 1_000_000}, headers=ASYNC).headers["location"]
        wait_until(lambda: state(client, where) == "running", what="the start")
        job_id = where.split("/")[-1]

        def begun_again() -> bool:
            again = queue.hget(wire.job(job_id), "attempts") == b"2"
            if not again:
                queue.zadd(wire.LEASES, {job_id: 0}, xx=True)
            return again

        wait_until(begun_again, what="the second delivery")
        wait_until(
            lambda: stack.worker_metric("neuron_rows_ended_total", '{how="cancelled"}') == 1,
            what="the end of the first",
        )
        assert state(client, where) == "running"
        assert stack.worker_metric("neuron_rows_active") == 1
        client.delete(where)
        wait_until(lambda: state(client, where) == "cancelled", what="the end of the second")


@pytest.mark.slow
def test_sigterm_gives_back_what_does_not_end_in_time(tiny_volume: Path, tmp_path: Path) -> None:
    settings = LENGTHS | {"NEURON_CHECKPOINT_DIR": str(tiny_volume), "NEURON_WORKER_GRACE_S": "4"}
    with run_stack(tmp_path, **settings) as stack, stack.client() as client:
        whole = client.post("/generate", json=LONG).json()["results"][0]["text"]
        body = LONG | {"stream": True}
        jobs = [client.post("/generate", json=body, headers=ASYNC).headers["location"] for _ in range(3)]
        short = client.post("/generate", json={"length": 200, "stop": []}, headers=ASYNC).headers["location"]
        jobs.append(client.post("/generate", json=LONG | {"length": 1_000_000}, headers=ASYNC).headers["location"])
        wait_until(lambda: all(state(client, where) != "queued" for where in jobs), what="the start")
        worker = stack.processes.pop("worker")
        worker.send_signal(signal.SIGTERM)
        wait_until(lambda: client.get("/readyz").status_code == 503, what="unreadiness")
        assert probe(stack, "/readyz") == 503
        assert probe(stack, "/healthz") == 200
        assert worker.poll() is None  # that was reported at once, while jobs went on
        assert worker.wait(60) == 0
        assert state(client, short) == "done"
        assert state(client, jobs[-1]) == "queued"
        with redis.Redis.from_url(stack.environment["NEURON_REDIS_URL"]) as queue:
            assert queue.hget(wire.job(jobs[-1].split("/")[-1]), "attempts") == b"0"
            assert queue.zcard(wire.LEASES) == 0
        spawn_worker(stack, "other")
        client.delete(jobs.pop())
        wait_until(lambda: {state(client, where) for where in jobs} == {"done"}, what="the end")
        assert {streamed(stack, where) for where in jobs} == {whole}


@pytest.mark.slow
def test_sigterm_ends_a_worker_whose_redis_is_away(tiny_volume: Path, tmp_path: Path) -> None:
    settings = LENGTHS | {"NEURON_CHECKPOINT_DIR": str(tiny_volume), "NEURON_WORKER_GRACE_S": "1"}
    with run_stack(tmp_path, **settings) as stack, stack.client() as client:
        where = client.post("/generate", json=LONG | {"length": 1_000_000}, headers=ASYNC).headers["location"]
        wait_until(lambda: state(client, where) == "running", what="the start")
        stack.redis.stop()
        worker = stack.processes.pop("worker")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 75
        assert "NEURON_WORKER_GRACE_S=1 and 12 s more: it exits" in stack.log.read_text()


@pytest.mark.slow
def test_a_worker_whose_engine_hangs_exits_and_its_jobs_run_elsewhere(tiny_volume: Path, tmp_path: Path) -> None:
    with run_stack(tmp_path, worker=False, NEURON_CHECKPOINT_DIR=str(tiny_volume)) as stack, stack.client() as client:
        spawn_worker(stack, "hangs", "tests.worker.sabotaged", SABOTAGE="hang")
        where = client.post("/classify", json={"text": "A \1 text."}, headers=ASYNC).headers["location"]
        wait_until(lambda: probe(stack, "/healthz") == 503, what="the worker's own word")
        assert stack.processes.pop("hangs").wait(60) == 70
        assert "the engine has not moved" in stack.log.read_text()
        spawn_worker(stack, "worker")
        wait_until(lambda: state(client, where) == "done", what="the end")


@pytest.mark.slow
def test_a_slow_engine_is_not_taken_for_a_hung_one(tiny_volume: Path, tmp_path: Path) -> None:
    with run_stack(tmp_path, worker=False, NEURON_CHECKPOINT_DIR=str(tiny_volume)) as stack, stack.client() as client:
        spawn_worker(stack, "slow", "tests.worker.sabotaged", SABOTAGE="slow", NEURON_WORKER_BLOCK_STEPS="20")
        answer = client.post("/classify", json={"text": "\1 and twenty bytes more"})  # one block of 20 seconds
        assert answer.status_code == 200
        assert stack.worker_metric("neuron_block_seconds_sum") > 1.5 * wire.ENGINE_STALLED_S
        assert stack.processes["slow"].poll() is None
