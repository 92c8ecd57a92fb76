"""Jobs: 202 and Location, status and result, cancellation, events, unknown and expired ids."""

import hashlib
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import redis

from api import keys
from api.http import answers
from api.redis import streams
from contract import wire
from tests.conftest import Stack, wait_until
from tests.support.gateway import gateway

ASYNC = {"Prefer": "respond-async"}


def state(client: httpx.Client, where: str) -> str:
    return str(client.get(where).raise_for_status().json()["state"])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/classify", {"text": "Good."}),
        ("/featurize", {"text": "Good.", "encoding": "base64"}),
        ("/trace", {"text": "Good."}),
        ("/generate", {"prompt": "Good", "length": 20, "seed": 1}),
    ],
)
def test_a_job_gives_what_the_request_in_place_gives(client: httpx.Client, path: str, body: dict[str, object]) -> None:
    accepted = client.post(path, json=body, headers=ASYNC)
    assert accepted.status_code == 202
    job = accepted.json()
    assert accepted.headers["location"] == f"/jobs/{job['id']}"
    assert re.fullmatch("[0-9a-f]{32}", job["id"])
    assert accepted.headers["preference-applied"] == "respond-async"
    wait_until(lambda: state(client, accepted.headers["location"]) == "done", what="the job's end")
    shown = client.get(accepted.headers["location"]).json()
    assert shown["kind"] == path[1:]
    in_place = client.post(path, json=body)
    assert shown["result"] == in_place.json()
    assert client.get(f"/jobs/{in_place.headers['x-job-id']}").json()["result"] == in_place.json()


@pytest.mark.parametrize(("path", "long"), [("/featurize", True), ("/trace", True), ("/classify", False)])
def test_what_takes_long_to_encode_keeps_no_other_request_waiting(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, path: str, long: bool
) -> None:
    threads: list[str] = []
    encode = answers.body

    def body(*arguments: Any) -> dict[str, Any]:
        threads.append(threading.current_thread().name)
        return encode(*arguments)

    monkeypatch.setattr(answers, "body", body)
    with gateway(stack.environment["NEURON_REDIS_URL"]) as url, httpx.Client(base_url=url, timeout=60) as client:
        where = client.post(path, json={"text": "Good."}, headers=ASYNC).headers["location"]
        assert events(client, where) == ["event: done"]  # as it ends
        with redis.Redis.from_url(stack.environment["NEURON_REDIS_URL"]) as direct:
            direct.delete(wire.events(where.removeprefix("/jobs/")))
        assert events(client, where) == ["event: done"]  # of what keeps no events
        assert state(client, where) == "done"
    assert [name != "gateway" for name in threads] == [long] * 3  # that of its event loop


def test_waiting_no_longer_than_the_client_prefers(client: httpx.Client) -> None:
    response = client.post("/generate", json={"length": 200_000, "stop": []}, headers={"Prefer": "wait=1"})
    assert response.status_code == 202
    assert state(client, response.headers["location"]) == "running"
    client.delete(response.headers["location"])
    wait_until(lambda: state(client, response.headers["location"]) == "cancelled", what="the cancellation")


def test_delete_cancels_a_running_job_and_its_stream_says_so(client: httpx.Client) -> None:
    accepted = client.post("/generate", json={"length": 1_000_000, "stop": []}, headers=ASYNC)
    where = accepted.headers["location"]
    wait_until(lambda: state(client, where) == "running", what="the job's start")
    assert client.delete(where).status_code == 202
    with client.stream("GET", where + "/events") as response:
        assert "event: cancelled" in list(response.iter_lines())
    assert state(client, where) == "cancelled"
    assert client.delete(where).status_code == 202  # again changes nothing


def test_a_job_that_was_cancelled_does_not_begin_however_late_its_turn_is(redis_url: str) -> None:
    limit_s = 3 * wire.CANCEL_TTL_S
    with (
        gateway(redis_url, NEURON_API_JOB_TIMEOUT_S=str(limit_s)) as url,
        httpx.Client(base_url=url) as client,
        redis.Redis.from_url(redis_url) as direct,
    ):
        job = client.post("/classify", json={"text": "Good."}, headers=ASYNC).json()
        client.delete(f"/jobs/{job['id']}")
        assert job["created"] + limit_s < time.time() + direct.ttl(wire.cancel(job["id"]))  # type: ignore[operator]


def events(client: httpx.Client, where: str) -> list[str]:
    with client.stream("GET", where + "/events") as response:
        return [line for line in response.iter_lines() if line.startswith("event")]


def test_events_of_a_job_that_ended(client: httpx.Client) -> None:
    where = client.post("/classify", json={"text": "Good."}, headers=ASYNC).headers["location"]
    assert events(client, where) == ["event: done"]


def test_events_of_a_running_job_that_keeps_none(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "BLOCK_S", 1)  # how often a stream in which nothing comes looks after its job
    with (
        gateway(stack.environment["NEURON_REDIS_URL"]) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        body, headers = {"length": 500, "stop": []}, {"Prefer": "wait=0"}
        where = client.post("/generate", json=body, headers=headers).headers["location"]
        assert events(client, where) == ["event: done"]


def test_a_failed_job_shows_its_problem(client: httpx.Client) -> None:
    where = client.post("/classify", json={"text": "Good.", "head": "nope"}, headers=ASYNC).headers["location"]
    wait_until(lambda: state(client, where) == "failed", what="the failure")
    assert client.get(where).json()["error"]["type"].endswith(":unknown-head")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_unknown_job(client: httpx.Client, method: str) -> None:
    response = client.request(method, "/jobs/" + "A" * 24)
    assert response.status_code == 404
    assert response.json()["type"].endswith(":unknown-job")


def test_a_last_event_id_that_is_not_one(client: httpx.Client) -> None:
    where = client.post("/classify", json={"text": "Good."}, headers=ASYNC).headers["location"]
    response = client.get(where + "/events", headers={"Last-Event-ID": "yesterday"})
    assert response.status_code == 422


def test_an_expired_job(stack: Stack, client: httpx.Client) -> None:
    where = client.post("/classify", json={"text": "Good."}, headers=ASYNC).headers["location"]
    wait_until(lambda: state(client, where) == "done", what="the job's end")
    with redis.Redis.from_url(stack.environment["NEURON_REDIS_URL"]) as server:
        for kept in (wire.result(where.removeprefix("/jobs/")), wire.events(where.removeprefix("/jobs/"))):
            assert 0 < server.ttl(kept) <= int(stack.environment["NEURON_WORKER_RESULT_TTL_S"])  # type: ignore[operator]
            server.pexpire(kept, 1)  # as after all of that time
    wait_until(lambda: client.get(where).status_code == 410, what="the result's expiry")
    assert client.get(where).json()["type"].endswith(":expired-job")
    assert client.get(where + "/events").status_code == 410


def test_a_job_that_misses_its_deadline(stack: Stack) -> None:
    settings = {"NEURON_API_JOB_TIMEOUT_S": "0.5", "NEURON_API_MAX_LENGTH": "1000000"}
    with gateway(stack.environment["NEURON_REDIS_URL"], **settings) as url:
        response = httpx.post(url + "/generate", json={"length": 1_000_000, "stop": []}, timeout=60)
        assert response.status_code == 504
        assert response.json()["type"].endswith(":deadline-exceeded")


def test_a_job_outlives_the_gateway_that_took_it(stack: Stack) -> None:
    with stack.client() as client:
        where = client.post("/generate", json={"length": 1500, "stop": []}, headers=ASYNC).headers["location"]
        stack.processes["api"].kill()
        stack.processes["api"].wait()
        stack.spawn("api")
        stack.wait_ready()
    with stack.client() as client:
        wait_until(lambda: state(client, where) == "done", what="the job's end")


def test_a_hundred_and_more_open_streams_leave_the_service_to_others(stack: Stack, client: httpx.Client) -> None:
    where = client.post("/generate", json={"length": 1_000_000, "stop": []}, headers=ASYNC).headers["location"]
    with httpx.Client(base_url=stack.url, timeout=60, limits=httpx.Limits(max_connections=None)) as readers:
        streams = [readers.send(readers.build_request("GET", where + "/events"), stream=True) for _ in range(120)]
        assert {stream.status_code for stream in streams} == {200}
        assert client.post("/classify", json={"text": "Good."}).status_code == 200
        client.delete(where)
        for stream in streams:
            assert "event: cancelled" in list(stream.iter_lines())


def test_150_requests_at_once_are_all_answered(stack: Stack) -> None:
    limits = httpx.Limits(max_connections=None)
    with httpx.Client(base_url=stack.url, timeout=60, limits=limits) as client, ThreadPoolExecutor(150) as pool:
        answers = pool.map(lambda number: client.post("/classify", json={"text": f"Number {number}"}), range(150))
        assert [answer.status_code for answer in answers] == [200] * 150


def test_jobs_are_listed_by_owner_and_state_in_pages(stack: Stack) -> None:
    entries = ",".join(keys.entry(name, ["use"], hashlib.sha256(name.encode()).hexdigest()) for name in ("ann", "bob"))
    with stack.gateway(NEURON_API_KEYS=entries) as keyed, keyed.client() as client:
        ann, bob = ({"Authorization": f"Bearer {name}"} for name in ("ann", "bob"))

        def listed(owner: dict[str, str], **query: object) -> tuple[list[str], str | None]:
            page = client.get("/jobs", params=query, headers=owner).raise_for_status().json()
            return [job["id"] for job in page["jobs"]], page["next"]

        assert listed(ann) == ([], None)
        made = [client.post("/classify", json={"text": "Good."}, headers=ann | ASYNC).json()["id"] for _ in range(5)]
        client.post("/classify", json={"text": "Good."}, headers=ann).raise_for_status()  # in place: nobody asks for it
        endless = client.post("/generate", json={"length": 900_000, "stop": []}, headers=ann | ASYNC).json()["id"]
        newest = [endless, *reversed(made)]
        wait_until(lambda: listed(ann, state="done") == (newest[1:], None), what="the end of the short jobs")
        assert listed(ann) == (newest, None)
        assert listed(ann, state=["running", "queued"]) == ([endless], None)
        assert listed(bob) == ([], None)

        first, after = listed(ann, limit=4)
        assert (first, after) == (newest[:4], newest[3])
        assert listed(ann, limit=4, after=after) == (newest[4:], None)
        page, after = listed(ann, limit=1, state="done")
        assert (page, after) == ([newest[1]], newest[1])

        client.delete(f"/jobs/{endless}", headers=ann)
        wait_until(lambda: listed(ann, state="cancelled") == ([endless], None), what="the cancellation")
        refused = client.get("/jobs", params={"after": endless}, headers=bob)
        assert refused.status_code == 404
        assert "begin again without it" in refused.json()["detail"]
        for query in ({"state": "finished"}, {"limit": 0}, {"limit": 1001}):
            assert client.get("/jobs", params=query, headers=ann).status_code == 422


def test_a_list_of_jobs_has_its_length_and_leaves_out_what_is_forgotten(redis_url: str) -> None:
    with gateway(redis_url) as url, redis.Redis.from_url(redis_url) as direct:
        ids = [f"{number:032x}" for number in range(wire.LISTED_AT_MOST)]
        direct.zadd(wire.jobs_of(""), {job_id: number for number, job_id in enumerate(ids)})
        made = httpx.post(url + "/classify", json={"text": "Good."}, headers=ASYNC).json()["id"]
        assert direct.zcard(wire.jobs_of("")) == wire.LISTED_AT_MOST
        assert direct.zscore(wire.jobs_of(""), ids[0]) is None
        assert 0 < direct.ttl(wire.jobs_of("")) <= wire.LISTED_S
        page = httpx.get(url + "/jobs", params={"state": "queued"}).json()
        assert [job["id"] for job in page["jobs"]] == [made]
        assert page["next"] is None or page["next"] == ids[1]


def test_a_job_tells_how_far_it_is(client: httpx.Client) -> None:
    prompt, length = "Good", 400_000
    accepted = client.post("/generate", json={"prompt": prompt, "length": length, "stop": [], "n": 2}, headers=ASYNC)
    where = accepted.headers["location"]
    total = 2 * (len(prompt) + length)

    def done() -> int:
        progress = client.get(where).json()["progress"]
        assert progress["total"] == total
        return int(progress["done"])

    assert done() < total
    wait_until(lambda: 0 < done() < total, what="the first bytes")
    before = done()
    wait_until(lambda: done() > before, what="more bytes")
    client.delete(where)
    short = client.post("/classify", json={"texts": ["Good.", "Naïve."]}, headers=ASYNC).headers["location"]
    wait_until(lambda: state(client, short) == "done", what="its end")
    size = len("Good.Naïve.".encode())
    assert client.get(short).json()["progress"] == {"done": size, "total": size}
    assert client.get("/jobs").json()["jobs"][0]["progress"] == {"done": size, "total": size}
