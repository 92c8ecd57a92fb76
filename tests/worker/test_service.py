"""The worker process: redelivered and malformed messages, batches, shared steps, a second worker, the end."""

import concurrent.futures
import json
import subprocess
import time
from collections.abc import Iterator
from typing import NamedTuple

import httpx
import pytest
import redis
from celery import Celery

from contract import wire
from tests.conftest import Stack, free_port, wait_until

JOB = {"kind": "classify", "texts": ["Good."], "head": "sentiment", "timeout_s": 3600}


def send(stack: Stack, job_ids: object) -> None:
    with Celery("test", broker=stack.environment["NEURON_REDIS_URL"]) as app:
        app.conf.update(wire.celery_settings({}))
        app.send_task(wire.TASK, args=[job_ids], queue=wire.QUEUES["interactive"])


def record(client: "redis.Redis", job_id: str, **changes: object) -> str:
    """What admission leaves of a job, for a message of the test's own."""
    body = json.dumps(JOB | {"id": job_id} | changes)
    client.hset(wire.job(job_id), mapping={"state": "queued", "kind": "classify", "created": time.time(), "body": body})
    return job_id


def outcome(client: "redis.Redis", job_id: str) -> dict[str, object]:
    wait_until(lambda: client.exists(wire.result(job_id)), what="an outcome")
    found: dict[str, object] = json.loads(client.get(wire.result(job_id)))  # type: ignore[arg-type]
    return found


@pytest.fixture
def client_of_redis(stack: Stack) -> "redis.Redis":
    return redis.Redis.from_url(stack.environment["NEURON_REDIS_URL"])


def test_a_job_delivered_twice_is_answered_once(stack: Stack, client_of_redis: "redis.Redis") -> None:
    job_id = record(client_of_redis, "delivered-twice-0001", mailbox="of-a-test")
    send(stack, [job_id])
    first = outcome(client_of_redis, job_id)
    letters = client_of_redis.lrange(wire.mailbox("of-a-test"), 0, -1)
    assert [wire.letter(entry) for entry in letters] == [(job_id, client_of_redis.get(wire.result(job_id)))]  # type: ignore[union-attr]
    client_of_redis.set(wire.result(job_id), json.dumps(first | {"marked": True}))
    send(stack, [job_id])
    send(stack, [record(client_of_redis, "after-the-second-one")])
    outcome(client_of_redis, "after-the-second-one")
    assert outcome(client_of_redis, job_id)["marked"]
    assert client_of_redis.hget(wire.job(job_id), "state") == b"done"
    assert client_of_redis.llen(wire.mailbox("of-a-test")) == 1


def test_what_is_no_job_is_refused_and_its_neighbours_run(stack: Stack, client_of_redis: "redis.Redis") -> None:
    before = stack.worker_metric("neuron_refused_messages_total")
    unread = '{kind="unknown",state="failed"}'
    counted = stack.worker_metric("neuron_jobs_total", unread)
    ids = [{"kind": "shell"}, "../../etc/passwd-------", None, 7]
    bodies = [{"kind": "shell"}, {"surprise": 1}, {"texts": "text"}]
    jobs = [record(client_of_redis, f"no-job-{number:013d}", **changes) for number, changes in enumerate(bodies)]
    client_of_redis.hset(wire.job("no-json-at-all-00000"), "body", "{")
    send(stack, [*ids, *jobs, "no-json-at-all-00000", record(client_of_redis, "beside-forged-messages")])
    assert outcome(client_of_redis, "beside-forged-messages")["state"] == "done"
    for job_id in (*jobs, "no-json-at-all-00000"):
        assert outcome(client_of_redis, job_id)["error"]["code"] == "engine-failure"  # type: ignore[index]
    assert stack.worker_metric("neuron_refused_messages_total") == before + len(ids) + len(jobs) + 1
    assert stack.worker_metric("neuron_jobs_total", unread) == counted + len(jobs) + 1


@pytest.mark.parametrize(("model", "state"), [("tiny step 1", "done"), ("tiny step 0", "failed")])
def test_a_stream_is_gone_on_with_by_the_model_that_began_it(
    stack: Stack, client_of_redis: "redis.Redis", model: str, state: str
) -> None:
    body = {"prompt": "I", "length": 50, "seed": 3, "stop": [], "stream": True}
    whole = httpx.post(stack.url + "/generate", json=body | {"stream": False}, timeout=60).json()["results"][0]["text"]
    fields = {"kind": "generate", "sentiment": None, "clamp": {}, "temperature": 0.7, "top_k": 256, "top_p": 1.0}
    job = body | fields | {"n": 1, "best_of": 1, "events": True, "texts": None, "head": None}
    job_id = record(client_of_redis, f"began-by-{model.replace(' ', '-')}", **job)
    stored = {name: value for name, value in (JOB | job | {"id": job_id}).items() if value is not None}
    client_of_redis.hset(wire.job(job_id), mapping={"body": json.dumps(stored | {"sentiment": None}), "holder": "dead"})
    counted = stack.worker_metric("neuron_jobs_total", ended_so := f'{{kind="generate",state="{state}"}}')
    data = json.dumps({"index": 0, "text": whole[:7]})
    client_of_redis.xadd(wire.events(job_id), {"event": "token", "data": data, "model": model})
    send(stack, [job_id])
    ended = outcome(client_of_redis, job_id)
    assert ended["state"] == state
    assert stack.worker_metric("neuron_jobs_total", ended_so) == counted + 1
    entries = client_of_redis.xrange(wire.events(job_id))
    text = "".join(json.loads(entry[b"data"])["text"] for _, entry in entries if entry[b"event"] == b"token")  # type: ignore[union-attr]
    assert text == (whole if state == "done" else whole[:7])
    if state == "failed":
        assert ended["error"]["code"] == "model-changed"  # type: ignore[index]


def test_a_job_that_nobody_knows_is_dropped(stack: Stack, client_of_redis: "redis.Redis") -> None:
    send(stack, ["never-admitted-000000", record(client_of_redis, "beside-an-unknown-one")])
    assert outcome(client_of_redis, "beside-an-unknown-one")["state"] == "done"
    assert not client_of_redis.exists(wire.result("never-admitted-000000"))


def test_a_job_cancelled_before_it_is_begun_costs_nothing(stack: Stack, client_of_redis: "redis.Redis") -> None:
    client_of_redis.set(wire.cancel("cancelled-beforehand"), "1")
    read = stack.worker_metric("neuron_bytes_total", '{kind="read"}')
    send(stack, [record(client_of_redis, "cancelled-beforehand")])
    assert outcome(client_of_redis, "cancelled-beforehand") == {"state": "cancelled"}
    assert stack.worker_metric("neuron_bytes_total", '{kind="read"}') == read


def test_small_requests_share_messages_and_give_back_what_admission_counted(
    stack: Stack, client_of_redis: "redis.Redis"
) -> None:
    texts = [f"Text number {number}, which is like no other." for number in range(96)]

    def post(text: str) -> dict[str, object]:
        result: dict[str, object] = httpx.post(stack.url + "/classify", json={"text": text}, timeout=60).json()
        return result

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(post, texts))
    together = httpx.post(stack.url + "/classify", json={"texts": texts}, timeout=60).json()
    for answer, expected in zip(answers, together["results"], strict=True):
        (result,) = answer["results"]  # type: ignore[misc]
        assert result["label"] == expected["label"]
        assert result["unit_value"] == pytest.approx(expected["unit_value"], abs=1e-5)
    full = httpx.get(stack.url + "/metrics").text
    messages = float(full.split("neuron_message_jobs_count ")[1].split()[0])
    jobs = float(full.split("neuron_message_jobs_sum ")[1].split()[0])
    assert messages < jobs
    assert client_of_redis.hlen(wire.OPEN) == 0
    assert client_of_redis.hgetall(wire.LOAD) == {b"texts": b"0", b"bytes": b"0"}
    assert not client_of_redis.exists(wire.LEASES, *wire.WAITING.values())


class Second(NamedTuple):
    process: "subprocess.Popen[bytes]"
    metrics_port: str


@pytest.fixture
def second(stack: Stack) -> Iterator[Second]:
    """A worker beside that of the shared stack, which is alone again in the end."""

    def ready() -> int:
        return int(httpx.get(stack.url + "/readyz").json().get("workers", 0))

    port = str(free_port())
    stack.spawn("second", "worker", NEURON_WORKER_METRICS_PORT=port)
    process = stack.processes.pop("second")
    try:
        wait_until(lambda: process.poll() is not None or ready() == 2, what="two ready workers")
        assert process.poll() is None, stack.log.read_text()
        yield Second(process, port)
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: ready() == 1, what="one worker")


def test_two_workers_share_the_queue_and_either_suffices(stack: Stack, second: Second, client: httpx.Client) -> None:
    def generated() -> list[float]:
        ports = None, second.metrics_port
        return [stack.worker_metric("neuron_bytes_total", '{kind="generated"}', port) for port in ports]

    before = generated()
    lengths = range(100, 340, 10)  # different ones, so that they do not end and come together, in one message

    def ask(length: int) -> int:
        return httpx.post(stack.url + "/generate", json={"length": length, "stop": [], "n": 4}, timeout=60).status_code

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, lengths)) == [200] * 24
    shares = [after - earlier for after, earlier in zip(generated(), before, strict=True)]
    assert sum(shares) == 4 * sum(lengths)
    assert min(shares) > 0
    second.process.terminate()
    assert second.process.wait(180) == 0
    assert client.post("/classify", json={"text": "Good."}).status_code == 200
    assert client.get("/readyz").json() == {"status": "ready", "workers": 1}


def test_sigterm_finishes_what_is_in_progress(
    stack: Stack, second: Second, client: httpx.Client, client_of_redis: "redis.Redis"
) -> None:
    def ask() -> str:
        posted = client.post("/generate", json={"length": 1500, "stop": []}, headers={"Prefer": "respond-async"})
        where: str = posted.headers["location"]
        wait_until(lambda: client.get(where).json()["state"] == "running", what="the job's start")
        return where

    def has_it(where: str) -> bool:
        holder = client_of_redis.hget(wire.job(where.split("/")[-1]), "holder")
        return f"-{second.process.pid}-".encode() in holder  # type: ignore[operator]

    while not has_it(where := ask()):
        pass
    second.process.terminate()
    assert second.process.wait(180) == 0
    assert client.get(where).json()["state"] == "done"
