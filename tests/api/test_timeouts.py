"""Time limits: a job ends in its time, or fails, whether or not a worker has it, and without a byte read when late."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import redis

from api.redis import streams
from contract import wire
from tests.conftest import Stack, redis_server, wait_until
from tests.support.gateway import gateway, metric

ASYNC = {"Prefer": "respond-async"}
ENDLESS = {"length": 1_000_000, "stop": []}


@pytest.fixture(scope="module")
def unserved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis that no worker has."""
    with redis_server(tmp_path_factory.mktemp("unserved")) as server:
        yield server.connection_url + "/0"


@pytest.fixture(scope="module")
def alone(unserved: str) -> Iterator[httpx.Client]:
    """A client of a gateway without a worker."""
    with gateway(unserved) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture
def queue(stack: Stack) -> Iterator[redis.Redis]:
    """Redis of the shared stack, with no job left of other tests."""
    with redis.Redis.from_url(stack.environment["NEURON_REDIS_URL"]) as opened:
        wait_until(lambda: not opened.exists(wire.OPEN), what="the end of other jobs")
        yield opened


def check_late(response: httpx.Response, timeout_s: str) -> None:
    assert response.status_code == 504, response.text
    assert response.json()["type"].endswith(":deadline-exceeded")
    assert f"within {timeout_s} s" in response.json()["detail"]


def nothing_is_left(queue: redis.Redis) -> None:
    assert not queue.exists(wire.OPEN, wire.LEASES, *wire.WAITING.values())
    assert queue.hgetall(wire.LOAD) == {b"texts": b"0", b"bytes": b"0"}


def read_and_generated(stack: Stack) -> tuple[float, float]:
    """Bytes, by the worker's count."""
    read, generated = (
        stack.worker_metric("neuron_bytes_total", f'{{kind="{kind}"}}') for kind in ("read", "generated")
    )
    return read, generated


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
    alone: httpx.Client, path: str, body: dict[str, object], timeout_s: object
) -> None:
    response = alone.post(path, json=body | {"timeout_s": timeout_s})
    assert response.status_code == 422
    problem = response.json()
    assert "timeout_s" in problem["detail"]
    if not isinstance(timeout_s, str | bool) and timeout_s > 0:  # type: ignore[operator]
        assert (problem["limit"], problem["actual"]) == (3600, timeout_s)
        assert problem["setting"] == "NEURON_API_JOB_TIMEOUT_S"


@pytest.mark.parametrize("timeout_s", [b"Infinity", b"NaN"])
def test_what_json_has_no_number_for_is_refused(alone: httpx.Client, timeout_s: bytes) -> None:
    content = b'{"text": "Good.", "timeout_s": ' + timeout_s + b"}"
    response = alone.post("/classify", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 422


def test_a_job_that_runs_too_long_fails(client: httpx.Client) -> None:
    check_late(client.post("/generate", json=ENDLESS | {"timeout_s": 0.3}), "0.3")
    streamed = client.post("/generate", json=ENDLESS | {"timeout_s": 0.3, "stream": True})
    assert "event: failed" in streamed.text.splitlines()


def test_without_a_worker_a_request_is_answered_in_time_and_its_job_agrees(alone: httpx.Client, unserved: str) -> None:
    expired = metric(str(alone.base_url), "neuron_expired_jobs_total")
    with redis.Redis.from_url(unserved) as queue:
        before = set(queue.keys(wire.result("*")))  # type: ignore[arg-type]
        started = time.monotonic()
        response = alone.post("/classify", json={"text": "Good.", "timeout_s": 0.3})
        check_late(response, "0.3")
        assert 0.3 <= time.monotonic() - started < 30  # which is half of what a request without a limit is given
        ids = [key.decode().split(":")[-1] for key in set(queue.keys(wire.result("*"))) - before]  # type: ignore[arg-type]
        assert len(ids) == 1
        shown = alone.get(f"/jobs/{ids[0]}").json()
        assert (shown["state"], shown["error"]) == ("failed", response.json())
        assert metric(str(alone.base_url), "neuron_expired_jobs_total") == expired + 1
        nothing_is_left(queue)


def test_without_a_worker_a_job_says_that_it_has_failed_and_so_do_its_events(
    alone: httpx.Client, unserved: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "BLOCK_S", 1)  # how often a stream in which nothing comes looks after its job
    with ThreadPoolExecutor(1) as pool:
        body = {"text": "Good.", "timeout_s": 0.5}
        where = alone.post("/classify", json=body, headers=ASYNC).headers["location"]
        events = pool.submit(alone.get, where + "/events")
        assert alone.get(where).json()["state"] == "queued"
        wait_until(lambda: alone.get(where).json()["state"] == "failed", what="the end of its time")
        check_late(httpx.Response(504, json=alone.get(where).json()["error"]), "0.5")
        assert "event: failed" in events.result().text.splitlines()
        assert alone.get(where + "/events").text.count("event: ") == 1
        assert alone.delete(where).json()["state"] == "failed"
        streamed = alone.post("/generate", json={"stream": True, "timeout_s": 0.5})
        assert "event: failed" in streamed.text.splitlines()
    with redis.Redis.from_url(unserved) as queue:
        nothing_is_left(queue)


def test_what_waited_too_long_costs_no_byte_and_what_did_not_runs(
    stack: Stack, client: httpx.Client, queue: redis.Redis
) -> None:
    read, generated = read_and_generated(stack)
    expired = metric(stack.url, "neuron_expired_jobs_total")
    with stack.paused("worker"):
        late = [
            client.post(path, json=body | {"timeout_s": 0.2}, headers=headers).headers["location"]
            for path, body in (("/classify", {"text": "Good."}), ("/generate", {"prompt": "Good", "length": 20}))
            for headers in (ASYNC, {"Prefer": "wait=0"})
        ]
        timely = client.post("/classify", json={"text": "<Timely>"}, headers=ASYNC).headers["location"]
        time.sleep(0.3)
    # Not asked for over HTTP meanwhile, so it is the worker that ends them.
    results = [wire.result(where.split("/")[-1]) for where in (*late, timely)]
    wait_until(lambda: queue.exists(*results) == len(results), what="all ends")
    outcomes = [json.loads(queue.get(result)) for result in results]  # type: ignore[arg-type]
    assert [outcome["state"] for outcome in outcomes] == ["failed"] * 4 + ["done"]
    assert {outcome["error"]["code"] for outcome in outcomes[:4]} == {"deadline-exceeded"}
    read_now, generated_now = read_and_generated(stack)
    assert read_now == read + len("\n <Timely> ")
    assert generated_now == generated
    assert metric(stack.url, "neuron_expired_jobs_total") == expired
    nothing_is_left(queue)


def test_what_the_gateway_ended_is_not_run_by_a_worker_that_comes_later(
    stack: Stack, client: httpx.Client, queue: redis.Redis
) -> None:
    failures = "neuron_jobs_total", '{kind="classify",state="failed"}'
    failed, (read, _) = stack.worker_metric(*failures), read_and_generated(stack)
    with stack.paused("worker"):
        check_late(client.post("/classify", json={"text": "Good.", "timeout_s": 0.1}), "0.1")
    assert client.post("/classify", json={"text": "<Fine>"}).status_code == 200  # behind it on the queue
    assert read_and_generated(stack)[0] == read + len("\n <Fine> ")
    assert stack.worker_metric(*failures) == failed
    nothing_is_left(queue)


def test_age_is_measured_by_the_clock_of_redis_alone(stack: Stack, client: httpx.Client, queue: redis.Redis) -> None:
    with stack.paused("worker"):
        body = {"text": "Good.", "timeout_s": 60}
        ids = [client.post("/classify", json=body, headers=ASYNC).json()["id"] for _ in range(2)]
        # As if that clock had gone on by more than the limit, or had been set back by an hour.
        for job_id, change in zip(ids, (-61, 3600), strict=True):
            queue.hincrbyfloat(wire.job(job_id), "created", change)
    wait_until(lambda: queue.exists(*map(wire.result, ids)) == 2, what="both ends")
    states = [json.loads(queue.get(wire.result(job_id)))["state"] for job_id in ids]  # type: ignore[arg-type]
    assert states == ["failed", "done"]
