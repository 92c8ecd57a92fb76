"""No accepted job is lost: whatever becomes of workers and messages, it runs again, and its end is reported once.

The tests share a gateway; each is given, or makes, the one worker that runs, and may leave it to the next.
"""

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import redis

from contract import wire
from tests.conftest import Stack, free_port, run_stack, wait_until
from tests.worker import hurried

ASYNC = {"Prefer": "respond-async"}
LONG = {"length": 2000, "stop": [], "seed": 5}
ENDLESS = LONG | {"length": 1_000_000}
GRACE_S = 2


@dataclass
class Service:
    """A gateway, its Redis, and at most one worker, which is `worker` of the stack."""

    stack: Stack
    harm: Path  # what it says befalls the worker: see tests/worker/sabotaged.py

    def start_worker(self, **environment: str) -> None:
        self.stack.environment["NEURON_WORKER_METRICS_PORT"] = str(free_port())
        self.stack.spawn("worker", "tests.worker.hurried", **environment)

    @property
    def has_worker(self) -> bool:
        worker = self.stack.processes.get("worker")
        return worker is not None and worker.poll() is None

    def probe(self, path: str) -> int:
        """Status of what the worker says of itself; 0 while it says nothing."""
        port = self.stack.environment["NEURON_WORKER_METRICS_PORT"]
        try:
            return httpx.get(f"http://127.0.0.1:{port}{path}").status_code
        except httpx.TransportError:
            return 0


@pytest.fixture(scope="module")
def shared(tiny_volume: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("leases")
    settings = {
        "NEURON_CHECKPOINT_DIR": str(tiny_volume),
        "NEURON_API_MAX_LENGTH": "1000000",
        "NEURON_API_COALESCE_MS": "0",
        "NEURON_WORKER_BLOCK_STEPS": "20",
        "NEURON_WORKER_GRACE_S": str(GRACE_S),
        "SABOTAGE_FILE": str(directory / "harm"),
    }
    with run_stack(directory, worker=False, **settings) as stack:
        yield Service(stack, directory / "harm")


@pytest.fixture
def service(shared: Service) -> Iterator[Service]:
    """Without a job; with or without a worker."""
    yield shared
    shared.harm.unlink(missing_ok=True)
    if not shared.stack.redis.is_running():
        shared.stack.redis.start()
    with redis.Redis.from_url(shared.stack.environment["NEURON_REDIS_URL"]) as client:
        if client.exists(wire.OPEN) and shared.has_worker:  # a test has failed
            shared.stack.kill("worker")
        if not shared.has_worker:
            shared.stack.processes.pop("worker", None)
            client.flushdb()


@pytest.fixture
def stack(service: Service) -> Stack:
    """With a worker."""
    if not service.has_worker:
        service.start_worker()
        service.stack.wait_ready()
    return service.stack


@pytest.fixture
def stack_alone(service: Service) -> Stack:
    """Without a worker."""
    if service.has_worker:
        service.stack.kill("worker")
    return service.stack


@pytest.fixture
def client(shared: Service) -> Iterator[httpx.Client]:
    with shared.stack.client() as opened:
        yield opened


@pytest.fixture
def queue(shared: Service) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(shared.stack.environment["NEURON_REDIS_URL"]) as opened:
        yield opened


def state(client: httpx.Client, where: str) -> str:
    return str(client.get(where).raise_for_status().json()["state"])


def events(queue: "redis.Redis", where: str) -> list[tuple[str, dict[str, object]]]:
    entries = queue.xrange(wire.events(where.split("/")[-1]))
    return [(fields[b"event"].decode(), json.loads(fields[b"data"])) for _, fields in entries]  # type: ignore[union-attr]


def streamed(queue: "redis.Redis", where: str) -> str:
    return "".join(str(data["text"]) for event, data in events(queue, where) if event == "token")


def test_a_message_that_was_lost_is_sent_again_and_what_waits_its_turn_is_not(
    service: Service, stack_alone: Stack, queue: "redis.Redis"
) -> None:
    with ThreadPoolExecutor(6) as pool:

        def post(number: int) -> httpx.Response:
            return httpx.post(stack_alone.url + "/classify", json={"text": f"Number {number}."}, timeout=60)

        lost = pool.submit(post, 0)
        wait_until(lambda: queue.llen(wire.QUEUES["interactive"]) == 1, what="the message")
        queue.rpop(wire.QUEUES["interactive"])
        waiting = []
        for number in range(1, 5):  # not at once, for then they might share a message
            waiting.append(pool.submit(post, number))
            wait_until(lambda number=number: queue.llen(wire.QUEUES["interactive"]) == number, what="the next message")
        service.start_worker()
        stack_alone.wait_ready()
        assert [answer.result().status_code for answer in waiting] == [200] * 4
        assert lost.result().status_code == 200
        assert stack_alone.worker_metric("neuron_redeliveries_total", '{reason="lost"}') == 1
        assert not queue.exists(wire.LEASES, *wire.WAITING.values(), *wire.QUEUES.values(), wire.OPEN)


def test_a_job_that_comes_back_to_the_worker_that_runs_it_runs_once(
    stack: Stack, client: httpx.Client, queue: "redis.Redis"
) -> None:
    ended = '{how="cancelled"}'
    before = stack.worker_metric("neuron_rows_ended_total", ended)
    where = client.post("/generate", json=ENDLESS, headers=ASYNC).headers["location"]
    wait_until(lambda: state(client, where) == "running", what="the start")
    job_id = where.split("/")[-1]

    def begun_again() -> bool:
        again = queue.hget(wire.job(job_id), "attempts") == b"2"
        if not again:
            queue.zadd(wire.LEASES, {job_id: 0}, xx=True)
        return again

    wait_until(begun_again, what="the second delivery")
    wait_until(
        lambda: stack.worker_metric("neuron_rows_ended_total", ended) == before + 1,
        what="the end of the first",
    )
    assert state(client, where) == "running"
    assert stack.worker_metric("neuron_rows_active") == 1
    client.delete(where)
    wait_until(lambda: state(client, where) == "cancelled", what="the end of the second")


@pytest.mark.slow
def test_what_a_killed_worker_read_and_wrote_is_done_by_another_and_a_stream_goes_on_where_it_stood(
    service: Service, stack: Stack, client: httpx.Client, queue: "redis.Redis"
) -> None:
    whole = client.post("/generate", json=LONG).json()["results"][0]["text"]
    jobs = [
        client.post("/generate", json=LONG | {"stream": True}, headers=ASYNC).headers["location"],
        client.post("/classify", json={"text": "Good. " * 500}, headers=ASYNC).headers["location"],
    ]
    wait_until(lambda: len(streamed(queue, jobs[0])) > 300, what="the first characters")
    wait_until(lambda: [state(client, where) for where in jobs] == ["running"] * 2, what="the start of both")
    stack.kill("worker")
    before = streamed(queue, jobs[0])
    assert 300 < len(before) < len(whole)
    service.start_worker()
    wait_until(lambda: [state(client, where) for where in jobs] == ["done"] * 2, what="the end of both")
    assert streamed(queue, jobs[0]) == whole
    assert streamed(queue, jobs[0]).startswith(before)
    assert [event for event, _ in events(queue, jobs[0]) if event != "token"] == ["done"]
    assert client.get(jobs[0]).json()["result"]["results"][0]["text"] == whole
    assert stack.worker_metric("neuron_redeliveries_total", '{reason="lapsed"}') == 2


@pytest.mark.slow
def test_sigterm_gives_back_what_does_not_end_in_time(
    service: Service, stack: Stack, client: httpx.Client, queue: "redis.Redis"
) -> None:
    whole = client.post("/generate", json=LONG).json()["results"][0]["text"]
    body = LONG | {"stream": True}
    jobs = [client.post("/generate", json=body, headers=ASYNC).headers["location"] for _ in range(3)]
    short = client.post("/generate", json={"length": 200, "stop": []}, headers=ASYNC).headers["location"]
    jobs.append(client.post("/generate", json=ENDLESS, headers=ASYNC).headers["location"])
    wait_until(lambda: all(state(client, where) != "queued" for where in jobs), what="the start")
    worker = stack.processes.pop("worker")
    worker.send_signal(signal.SIGTERM)
    wait_until(lambda: client.get("/readyz").status_code == 503, what="unreadiness")
    assert service.probe("/readyz") == 503
    assert service.probe("/healthz") == 200
    assert worker.poll() is None  # that was reported at once, while jobs went on
    assert worker.wait(180) == 0
    assert state(client, short) == "done"
    assert state(client, jobs[-1]) == "queued"
    assert queue.hget(wire.job(jobs[-1].split("/")[-1]), "attempts") == b"0"
    assert queue.zcard(wire.LEASES) == 0
    service.start_worker()
    client.delete(endless := jobs.pop())
    wait_until(lambda: {state(client, where) for where in jobs} == {"done"}, what="the end")
    wait_until(lambda: state(client, endless) == "cancelled", what="the end of the endless one")
    assert {streamed(queue, where) for where in jobs} == {whole}


@pytest.mark.slow
def test_what_runs_is_given_back_at_a_second_ctrl_c(
    service: Service, stack_alone: Stack, client: httpx.Client, queue: "redis.Redis"
) -> None:
    service.start_worker(NEURON_WORKER_GRACE_S="600")  # far longer than it is waited for below
    stack_alone.wait_ready()
    where = client.post("/generate", json=ENDLESS, headers=ASYNC).headers["location"]
    wait_until(lambda: state(client, where) == "running", what="the start")
    worker = stack_alone.processes.pop("worker")
    worker.send_signal(signal.SIGINT)

    def takes_no_messages() -> bool:
        """Celery asked for one each second, and waits for its threads now."""
        (taking,) = [of for of in queue.client_list() if of["cmd"] == "brpop"]
        return "b" not in taking["flags"] and int(taking["idle"]) > 2

    wait_until(takes_no_messages, what="the last look for messages")
    worker.send_signal(signal.SIGINT)
    worker.wait(180)
    assert state(client, where) == "queued"
    assert queue.hget(wire.job(where.split("/")[-1]), "attempts") == b"0"
    client.delete(where)


def test_sigterm_ends_a_worker_whose_redis_is_away(stack: Stack, client: httpx.Client) -> None:
    where = client.post("/generate", json=ENDLESS, headers=ASYNC).headers["location"]
    wait_until(lambda: state(client, where) == "running", what="the start")
    stack.redis.stop()
    worker = stack.processes.pop("worker")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(180) == 75
    assert f"NEURON_WORKER_GRACE_S={GRACE_S} and {hurried.LAST_S:g} s more: it exits" in stack.log.read_text()


@pytest.mark.slow
def test_a_worker_whose_engine_hangs_exits_and_its_jobs_run_elsewhere(
    service: Service, stack: Stack, client: httpx.Client
) -> None:
    service.harm.write_text("hang")
    where = client.post("/classify", json={"text": "A \1 text."}, headers=ASYNC).headers["location"]
    wait_until(lambda: service.probe("/healthz") == 503, what="the worker's own word")
    assert stack.processes.pop("worker").wait(180) == 70
    assert "the engine has not moved" in stack.log.read_text()
    service.harm.unlink()
    service.start_worker()
    wait_until(lambda: state(client, where) == "done", what="the end")


def test_a_slow_engine_is_not_taken_for_a_hung_one(service: Service, stack: Stack, client: httpx.Client) -> None:
    service.harm.write_text("slow")
    before = stack.worker_metric("neuron_block_seconds_sum")
    answer = client.post("/classify", json={"text": "\1 and twenty bytes more"})  # one block of 20 slow steps
    assert answer.status_code == 200
    assert stack.worker_metric("neuron_block_seconds_sum") - before > 1.5 * hurried.ENGINE_STALLED_S
    assert stack.processes["worker"].poll() is None
