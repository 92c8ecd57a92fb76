"""`Idempotency-Key`: the same request with the same key gives the same job, through every gateway; another fails."""

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import redis

from api import keys
from contract import wire
from tests.conftest import Stack, wait_until
from tests.support.gateway import gateway

ASYNC = {"Prefer": "respond-async"}
BODY = {"prompt": "The film", "length": 20, "stop": []}  # without a seed: a second job would write something else


def key(name: str, **headers: str) -> dict[str, str]:
    return {"Idempotency-Key": name} | headers


def metric(client: httpx.Client, *words: str) -> float:
    """The sum of those of the gateway's metrics that have all the words in their line."""
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if all(word in line for word in words) and line[0] != "#")


def accepted(client: httpx.Client) -> float:
    """Jobs that this gateway has put on the queue."""
    return metric(client, "neuron_accepted_jobs_total")


def queue_of(stack: Stack) -> "redis.Redis":
    return redis.Redis.from_url(stack.environment["NEURON_REDIS_URL"])


@pytest.fixture(scope="module")
def other_gateway(stack: Stack) -> Iterator[Stack]:
    """A second gateway on the same Redis, quick to give a stream up."""
    with stack.gateway(NEURON_API_DISCONNECT_GRACE_S="0.2") as other:
        yield other


@pytest.fixture
def other_client(other_gateway: Stack) -> Iterator[httpx.Client]:
    with other_gateway.client() as opened:
        yield opened


def test_a_repeat_gives_the_same_job_in_every_form(client: httpx.Client) -> None:
    before = accepted(client)
    first = client.post("/generate", json=BODY, headers=key("forms"))
    assert first.status_code == 200
    assert "idempotency-replayed" not in first.headers
    again = client.post("/generate", json=BODY | {"n": 1}, headers=key("forms"))  # a default, written out
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    later = client.post("/generate", json=BODY, headers=key("forms", **ASYNC))
    assert later.status_code == 202
    assert later.headers["idempotency-replayed"] == "true"
    assert later.json()["state"] == "done"
    assert client.get(later.headers["location"]).json()["result"] == first.json()
    assert accepted(client) == before + 1


def test_a_repeat_of_an_asynchronous_request_waits_for_its_job(client: httpx.Client) -> None:
    body = BODY | {"length": 800}
    first = client.post("/generate", json=body, headers=key("waits", **ASYNC))
    assert first.status_code == 202
    second = client.post("/generate", json=body, headers=key("waits"))
    assert second.status_code == 200
    assert client.get(first.headers["location"]).json()["result"] == second.json()


def test_features_come_as_the_repeat_asks_for_them(client: httpx.Client) -> None:
    body = {"text": "Good."}
    client.post("/featurize", json=body, headers=key("features")).raise_for_status()
    array = client.post("/featurize", json=body, headers=key("features", Accept="application/x-npy"))
    assert array.content.startswith(b"\x93NUMPY")
    assert array.headers["idempotency-replayed"] == "true"


def test_a_stream_is_sent_again_from_its_start(client: httpx.Client) -> None:
    body = BODY | {"stream": True}
    first = client.post("/generate", json=body, headers=key("streams"))
    again = client.post("/generate", json=body, headers=key("streams"))
    assert again.text == first.text
    assert again.text.count("event: done") == 1
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotency-replayed"] == "true"


def test_another_body_with_the_same_key_is_refused_and_not_quoted(client: httpx.Client) -> None:
    client.post("/classify", json={"text": "Good."}, headers=key("reused")).raise_for_status()
    for body in ({"text": "Secret."}, {"text": "Good.", "head": "length"}, {"text": "Good.", "timeout_s": 5}):
        refused = client.post("/classify", json=body, headers=key("reused"))
        assert refused.status_code == 422
        assert refused.json()["type"].endswith(":idempotency-key-reused")
        assert "Secret" not in refused.text
        assert "Good" not in refused.text
    # Elsewhere it is another key.
    assert client.post("/featurize", json={"text": "Secret."}, headers=key("reused")).status_code == 200


@pytest.mark.parametrize("name", ["", "x" * 256, "é", "a\tb"])
def test_a_key_that_is_none_is_refused(client: httpx.Client, name: str) -> None:
    headers = [(b"Idempotency-Key", name.encode("latin-1")), (b"Content-Type", b"application/json")]
    response = client.post("/classify", content=b'{"text": "Good."}', headers=headers)
    assert response.status_code == 422
    assert "Idempotency-Key" in response.json()["detail"]


@pytest.mark.parametrize("name", ["!", "x" * 255, '"8e03978e-40d5-43dd-bc93-6894a57f9324"', "two words"])
def test_any_printable_key_is_taken(client: httpx.Client, name: str) -> None:
    assert client.post("/classify", json={"text": "Good."}, headers=key(name)).status_code == 200


def test_many_at_once_through_two_gateways_make_one_job(
    client: httpx.Client, stack: Stack, other_gateway: Stack
) -> None:
    with queue_of(stack) as queue, ThreadPoolExecutor(48) as pool:
        records = len(queue.keys(wire.job("*")))  # type: ignore[arg-type]

        def post(at: int) -> httpx.Response:
            url, headers = other_gateway.url if at % 2 else stack.url, key(f"at-once-{at // 16}")
            return httpx.post(url + "/generate", json=BODY | {"length": 200}, headers=headers, timeout=60)

        answers = list(pool.map(post, range(48)))
        for of_one_key in (answers[:16], answers[16:32], answers[32:]):
            assert [answer.status_code for answer in of_one_key] == [200] * 16
            assert len({answer.text for answer in of_one_key}) == 1
            assert sum("idempotency-replayed" not in answer.headers for answer in of_one_key) == 1
        assert len(queue.keys(wire.job("*"))) == records + 3  # type: ignore[arg-type]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_finds_its_job_when_it_comes_back(
    other_gateway: Stack, other_client: httpx.Client, stream: bool
) -> None:
    body, name = BODY | {"length": 1_000_000, "stream": stream}, f"comes-back-{stream}"
    content = json.dumps(body).encode()
    cancelled, gone = (
        metric(other_client, "neuron_cancelled_jobs_total"),
        metric(other_client, "neuron_requests_total", '"/generate"', '"499"'),
    )
    with (
        queue_of(other_gateway) as queue,
        socket.create_connection(("127.0.0.1", int(other_gateway.environment["NEURON_API_PORT"]))) as connection,
    ):
        head = f"POST /generate HTTP/1.1\r\nHost: x\r\nIdempotency-Key: {name}\r\nContent-Length: {len(content)}"
        connection.sendall(head.encode() + b"\r\nContent-Type: application/json\r\n\r\n" + content)
        wait_until(lambda: queue.hlen(wire.OPEN) == 1, what="the job's acceptance")
        ((job_id, _),) = queue.hgetall(wire.OPEN).items()  # type: ignore[union-attr]
        wait_until(lambda: queue.hget(wire.job(job_id.decode()), "state") == b"running", what="its start")
    if stream:
        wait_until(lambda: metric(other_client, "neuron_open_streams ") == 0, what="the noticed disconnect")
        time.sleep(0.5)  # more than NEURON_API_DISCONNECT_GRACE_S
    else:
        wait_until(
            lambda: metric(other_client, "neuron_requests_total", '"/generate"', '"499"') == gone + 1,
            what="the noticed disconnect",
        )
    where = f"/jobs/{job_id.decode()}"
    assert other_client.get(where).json()["state"] == "running"
    assert metric(other_client, "neuron_cancelled_jobs_total") == cancelled
    with other_client.stream("POST", "/generate", json=body, headers=key(name, Prefer="wait=1")) as back:
        assert back.status_code == (200 if stream else 202)
        assert back.headers["location"] == where
        assert back.headers["idempotency-replayed"] == "true"
        other_client.delete(where)
        assert stream == ("event: cancelled" in back.iter_lines())
    wait_until(lambda: other_client.get(where).json()["state"] == "cancelled", what="the cancellation")


def test_a_refused_request_leaves_its_key_free(stack: Stack) -> None:
    with (
        queue_of(stack) as queue,
        gateway(stack.environment["NEURON_REDIS_URL"], NEURON_API_MAX_QUEUED_TEXTS="1") as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        wait_until(lambda: not queue.exists(wire.OPEN), what="an empty queue")
        with stack.paused("worker"):
            first = client.post("/classify", json={"text": "Good."}, headers=key("first", **ASYNC))
            assert client.post("/classify", json={"text": "Bad."}, headers=key("second", **ASYNC)).status_code == 429
            # A repeat counts nothing, so it is not refused.
            assert client.post("/classify", json={"text": "Good."}, headers=key("first", **ASYNC)).status_code == 202
        wait_until(lambda: client.get(first.headers["location"]).json()["state"] == "done", what="the first's end")
        answer = client.post("/classify", json={"text": "Another."}, headers=key("second"))
        assert answer.status_code == 200
        assert "idempotency-replayed" not in answer.headers


def test_a_result_may_expire_before_its_key(stack: Stack) -> None:
    with (
        queue_of(stack) as queue,
        gateway(stack.environment["NEURON_REDIS_URL"], NEURON_API_IDEMPOTENCY_TTL_S="3600") as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):

        def kept() -> set[bytes]:
            return set(queue.keys("neuron:idempotency:*"))  # type: ignore[arg-type]

        for name, body in (("plain", BODY), ("stream", BODY | {"stream": True})):
            before = kept()
            where = client.post("/generate", json=body, headers=key(name, Prefer="wait=0")).headers["location"]
            wait_until(lambda where=where: client.get(where).json()["state"] == "done", what="the job's end")
            for expiring in (wire.result, wire.events):
                # Sooner than in an hour. Only what has a time to live takes another.
                queue.pexpire(expiring(where.removeprefix("/jobs/")), 1, xx=True)
            wait_until(lambda where=where: client.get(where).status_code == 410, what="the result's expiry")
            for headers in (key(name), key(name, **ASYNC)):
                gone = client.post("/generate", json=body, headers=headers)
                assert gone.status_code == 410
                assert gone.json()["type"].endswith(":expired-job")
                assert gone.headers["idempotency-replayed"] == "true"
            (stored,) = kept() - before
            assert 3500 < queue.ttl(stored) <= 3600  # type: ignore[operator]
            queue.delete(stored)
            fresh = client.post("/generate", json=body, headers=key(name))
            assert fresh.status_code == 200
            assert "idempotency-replayed" not in fresh.headers


def test_a_repeat_is_another_owners_own_request_and_costs_no_bytes(redis_url: str) -> None:
    secrets = {name: keys.generate() for name in ("alice", "bob")}
    settings = {
        "NEURON_API_KEYS": ",".join(keys.entry(name, ["use"], digest) for name, (_, digest) in secrets.items()),
        "NEURON_API_KEY_BYTES_PER_DAY": "100",
        "NEURON_API_MAX_QUEUED_TEXTS": "4",
    }
    with gateway(redis_url, **settings) as url, redis.Redis.from_url(redis_url) as queue:

        def post(name: str, text: str, idempotency_key: str) -> httpx.Response:
            headers = key(idempotency_key, Authorization=f"Bearer {secrets[name][0]}", **ASYNC)
            return httpx.post(url + "/classify", json={"text": text}, headers=headers)

        def used(name: str) -> int:
            (counted,) = queue.keys(wire.quota(name, "*"))  # type: ignore[misc]
            return int(queue.get(counted))  # type: ignore[arg-type]

        first = post("alice", "a" * 60, "k")
        for _ in range(3):
            again = post("alice", "a" * 60, "k")
            assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
        assert post("alice", "b" * 60, "k").status_code == 422
        assert used("alice") == 60
        assert post("alice", "a" * 60, "l").status_code == 429  # the quota
        theirs = post("bob", "a" * 60, "k")
        assert theirs.status_code == 202
        assert theirs.json()["id"] != first.json()["id"]
        # Requests sent at the same time are charged once, too, and what the queue refuses is not charged. Each is
        # charged until it is known that another made the job, so all of them must fit what is left of the day.
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: post("bob", "b" * 5, "m"), range(8)))
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert used("bob") == 65
        assert post("bob", "c", "n").status_code == 202
        assert post("bob", "c", "o").json()["type"].endswith(":queue-full")
        assert used("bob") == 66


def test_it_is_documented_and_open_to_browsers(redis_url: str) -> None:
    with gateway(redis_url, NEURON_API_CORS_ORIGINS="https://app.example") as url:
        document = httpx.get(url + "/openapi.json").json()
        for path in ("/classify", "/featurize", "/trace", "/generate"):
            operation = document["paths"][path]["post"]
            assert "Idempotency-Key" in {parameter["name"] for parameter in operation["parameters"]}
            assert "Idempotency-Replayed" in operation["responses"]["200"]["headers"]
        limit = document["components"]["schemas"]["TraceRequest"]["properties"]["timeout_s"]["anyOf"][0]
        assert (limit["exclusiveMinimum"], limit["maximum"]) == (0, 3600)
        asked = {
            "Origin": "https://app.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "idempotency-key",
        }
        allowed = httpx.options(url + "/classify", headers=asked)
        assert "idempotency-key" in allowed.headers["access-control-allow-headers"]
        answer = httpx.post(url + "/classify", json={"text": ""}, headers={"Origin": "https://app.example"})
        assert "Idempotency-Replayed" in answer.headers["access-control-expose-headers"]
