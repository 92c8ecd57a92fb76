"""Time limits: a job ends in its time, or fails, whether or not a worker has it, and without a byte read when late."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import redis

from contract import wire
from tests.conftest import Stack, run_stack, wait_until

ASYNC = {"Prefer": "respond-async"}
ENDLESS = {"length": 1_000_000, "stop": []}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A gateway without a worker."""
    with run_stack(tmp_path_factory.mktemp("alone"), worker=False) as stack:
        yield stack


def check_late(response: httpx.Response, timeout_s: str) -> None:
    assert response.status_code == 504, response.text
    assert response.json()["type"].endswith(":deadline-exceeded")
    assert f"within {timeout_s} s" in response.json()["detail"]


def nothing_is_left(stack: Stack) -> None:
    with redis.Redis.from_url(stack.environment["NEURON_REDIS_URL"]) as client:
        assert not client.exists(wire.OPEN, wire.LEASES, *wire.WAITING.values())
        assert client.hgetall(wire.LOAD) == {b"texts": b"0", b"bytes": b"0"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/classify", {"text": "Good."}),
        ("/featurize", {"text": "Good."}),
        ("/trace", {"text": "Good."}),
        ("/generate", {"prompt": "Good"}),
    ],
)
@pytest.mark.parametrize("timeout_s", [0, -1, "1", True, 3600.5, 1e300])
def test_a_timeout_that_is_not_valid_or_too_long_is_refused(
    alone: Stack, path: str, body: dict[str, object], timeout_s: object
) -> None:
    with alone.client() as client:
        response = client.post(path, json=body | {"timeout_s": timeout_s})
    assert response.status_code == 422
    problem = response.json()
    assert "timeout_s" in problem["detail"]
    if not isinstance(timeout_s, str | bool) and timeout_s > 0:  # type: ignore[operator]
        assert (problem["limit"], problem["actual"]) == (3600, timeout_s)
        assert problem["setting"] == "NEURON_API_JOB_TIMEOUT_S"


@pytest.mark.parametrize("timeout_s", [b"Infinity", b"NaN"])
def test_what_json_has_no_number_for_is_refused(alone: Stack, timeout_s: bytes) -> None:
    with alone.client() as client:
        content = b'{"text": "Good.", "timeout_s": ' + timeout_s + b"}"
        response = client.post("/classify", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 422


def test_a_job_that_runs_too_long_fails(client: httpx.Client) -> None:
    check_late(client.post("/generate", json=ENDLESS | {"timeout_s": 0.7}), "0.7")
    streamed = client.post("/generate", json=ENDLESS | {"timeout_s": 0.7, "stream": True})
    assert "event: failed" in streamed.text.splitlines()


def test_without_a_worker_a_request_is_answered_in_time_and_its_job_agrees(alone: Stack) -> None:
    with alone.client() as client:
        started = time.monotonic()
        response = client.post("/classify", json={"text": "Good.", "timeout_s": 1})
        check_late(response, "1")
        # In time: the limit, a second in which a worker may end the job itself, and slack.
        assert 1 <= time.monotonic() - started < 1 + wire.LATE_S + 5
        with redis.Redis.from_url(alone.environment["NEURON_REDIS_URL"]) as queue:
            ids = [key.decode().split(":")[-1] for key in queue.keys(wire.result("*"))]  # type: ignore[union-attr]
        assert len(ids) == 1
        shown = client.get(f"/jobs/{ids[0]}").json()
        assert (shown["state"], shown["error"]) == ("failed", response.json())
        counted = client.get("/metrics").text
        assert "neuron_expired_jobs_total 1.0" in counted
    nothing_is_left(alone)


def test_without_a_worker_a_job_says_that_it_has_failed_and_so_do_its_events(alone: Stack) -> None:
    with alone.client() as client, ThreadPoolExecutor(1) as pool:
        body = {"text": "Good.", "timeout_s": 0.5}
        where = client.post("/classify", json=body, headers=ASYNC).headers["location"]
        events = pool.submit(client.get, where + "/events")
        assert client.get(where).json()["state"] == "queued"
        wait_until(lambda: client.get(where).json()["state"] == "failed", what="the end of its time")
        check_late(httpx.Response(504, json=client.get(where).json()["error"]), "0.5")
        assert "event: failed" in events.result().text.splitlines()
        assert client.get(where + "/events").text.count("event: ") == 1
        assert client.delete(where).json()["state"] == "failed"
        streamed = client.post("/generate", json={"stream": True, "timeout_s": 0.5})
        assert "event: failed" in streamed.text.splitlines()
    nothing_is_left(alone)


def test_what_waited_too_long_costs_no_byte_and_what_did_not_runs(tiny_volume: Path, tmp_path: Path) -> None:
    with run_stack(tmp_path, worker=False, NEURON_CHECKPOINT_DIR=str(tiny_volume)) as stack, stack.client() as client:
        late = [
            client.post(path, json=body | {"timeout_s": 0.5}, headers=headers).headers["location"]
            for path, body in (("/classify", {"text": "Good."}), ("/generate", {"prompt": "Good", "length": 20}))
            for headers in (ASYNC, {"Prefer": "wait=0"})
        ]
        timely = client.post("/classify", json={"text": "Good."}, headers=ASYNC).headers["location"]
        time.sleep(0.6)
        stack.spawn("worker")
        with redis.Redis.from_url(stack.environment["NEURON_REDIS_URL"]) as queue:
            # Not asked for over HTTP meanwhile, so it is the worker that ends them.
            results = [wire.result(where.split("/")[-1]) for where in (*late, timely)]
            wait_until(lambda: queue.exists(*results) == len(results), what="all ends")
            outcomes = [json.loads(queue.get(result)) for result in results]  # type: ignore[arg-type]
        assert [outcome["state"] for outcome in outcomes] == ["failed"] * 4 + ["done"]
        assert {outcome["error"]["code"] for outcome in outcomes[:4]} == {"deadline-exceeded"}
        assert stack.worker_metric("neuron_bytes_total", '{kind="read"}') == len("\n Good. ")
        assert stack.worker_metric("neuron_bytes_total", '{kind="generated"}') == 0
        assert "neuron_expired_jobs_total 0.0" in client.get("/metrics").text
        nothing_is_left(stack)


def test_what_the_gateway_ended_is_not_run_by_a_worker_that_comes_later(tiny_volume: Path, tmp_path: Path) -> None:
    with run_stack(tmp_path, worker=False, NEURON_CHECKPOINT_DIR=str(tiny_volume)) as stack, stack.client() as client:
        check_late(client.post("/classify", json={"text": "Good.", "timeout_s": 0.1}), "0.1")
        stack.spawn("worker")
        stack.wait_ready()
        assert client.post("/classify", json={"text": "Fine."}).status_code == 200  # behind it on the queue
        assert stack.worker_metric("neuron_bytes_total", '{kind="read"}') == len("\n Fine. ")
        assert stack.worker_metric("neuron_jobs_total", '{kind="classify",state="failed"}') == 0
        nothing_is_left(stack)


def test_age_is_measured_by_the_clock_of_redis_alone(tiny_volume: Path, tmp_path: Path) -> None:
    with run_stack(tmp_path, worker=False, NEURON_CHECKPOINT_DIR=str(tiny_volume)) as stack, stack.client() as client:
        body = {"text": "Good.", "timeout_s": 60}
        ids = [client.post("/classify", json=body, headers=ASYNC).json()["id"] for _ in range(2)]
        with redis.Redis.from_url(stack.environment["NEURON_REDIS_URL"]) as queue:
            # As if that clock had gone on by more than the limit, or had been set back by an hour.
            for job_id, change in zip(ids, (-61, 3600), strict=True):
                queue.hincrbyfloat(wire.job(job_id), "created", change)
            stack.spawn("worker")
            wait_until(lambda: queue.exists(*map(wire.result, ids)) == 2, what="both ends")
            states = [json.loads(queue.get(wire.result(job_id)))["state"] for job_id in ids]  # type: ignore[arg-type]
        assert states == ["failed", "done"]
