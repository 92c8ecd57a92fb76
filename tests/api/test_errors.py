"""Everything a client can do wrong gets its problem document (RFC 9457), which says what to change."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from contract import wire
from tests.conftest import Stack, redis_server, wait_until
from tests.support.gateway import gateway

JSON = {"Content-Type": "application/json"}


def check(response: httpx.Response, status: int, kind: str) -> dict[str, object]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, object] = response.json()
    assert problem["type"] == f"urn:sentiment-neuron:problem:{kind}"
    assert problem["status"] == status
    assert problem["title"]
    return problem


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"text": ""}', "the text is empty"),
        (b'{"text": " \\n\\t "}', "the text is empty"),
        (b'{"text": "&nbsp;&#x20;\\n"}', "the text is empty: its HTML character references stand for spaces"),
        (b'{"texts": ["fine", ""]}', "texts.1"),
        (b'{"texts": []}', "at least 1 item"),
        (b'{"text": 5}', "valid string"),
        (b'{"texts": "one"}', "valid list"),
        (b"{}", "give either texts or text"),
        (b'{"text": "a", "texts": ["b"]}', "give either texts or text"),
        (b'{"text": "a", "heads": "b"}', "body.heads: there is no such field; did you mean 'head'?"),
        (b'{"text": "\xff"}', "not valid UTF-8"),
        (b'{"text": "\\ud83d"}', "lone surrogate"),
        (b'{"text": ', "the body is not JSON: Expecting value at line 1, column 10"),
        (b'{"text": %s}' % (b"9" * 5000), "the JSON of the body cannot be read"),
        (b"[" * 100_000, "JSON"),
        (b"", "the body is empty"),
    ],
)
def test_a_body_that_is_not_valid(client: httpx.Client, content: bytes, said: str) -> None:
    problem = check(client.post("/classify", content=content, headers=JSON), 422, "invalid-request")
    assert said in str(problem["detail"])


def test_no_such_address_or_method(client: httpx.Client) -> None:
    check(client.get("/nowhere"), 404, "not-found")
    check(client.get("/classify"), 405, "method-not-allowed")


@pytest.fixture(scope="module")
def narrow(stack: Stack) -> Iterator[httpx.Client]:
    """A client of a gateway with narrow limits."""
    settings = {
        "NEURON_API_MAX_TEXTS": "3",
        "NEURON_API_MAX_TEXT_BYTES": "100",
        "NEURON_API_MAX_REQUEST_BYTES": "2000",
        "NEURON_API_MAX_TRACE_BYTES": "50",
        "NEURON_API_MAX_LENGTH": "40",
        "NEURON_API_MAX_SAMPLES": "4",
        "NEURON_API_MAX_QUEUED_TEXTS": "5",
        "NEURON_API_MAX_QUEUED_BYTES": "250",
    }
    with (
        gateway(stack.environment["NEURON_REDIS_URL"], **settings) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield client


@pytest.mark.parametrize(
    ("path", "body", "limit", "actual", "setting"),
    [
        ("/classify", {"texts": ["a"] * 4}, 3, 4, "MAX_TEXTS"),
        ("/classify", {"texts": ["a", "é" * 51]}, 100, 102, "MAX_TEXT_BYTES"),
        ("/featurize", {"text": "a" * 101}, 100, 101, "MAX_TEXT_BYTES"),
        ("/trace", {"text": "a" * 51}, 50, 51, "MAX_TRACE_BYTES"),
        ("/generate", {"prompt": "a" * 101}, 100, 101, "MAX_TEXT_BYTES"),
        ("/generate", {"length": 41}, 40, 41, "MAX_LENGTH"),
        ("/generate", {"length": 5, "best_of": 5}, 4, 5, "MAX_SAMPLES"),
        ("/classify", {"texts": ["a" * 90] * 3}, 250, 270, "MAX_QUEUED_BYTES"),
    ],
)
def test_over_a_limit_names_limit_actual_and_setting(
    narrow: httpx.Client, path: str, body: dict[str, object], limit: int, actual: int, setting: str
) -> None:
    problem = check(narrow.post(path, json=body), 413, "too-large")
    assert (problem["limit"], problem["actual"], problem["setting"]) == (limit, actual, "NEURON_API_" + setting)


def test_a_body_over_the_limit_is_refused_by_its_declared_length_and_while_it_is_read(narrow: httpx.Client) -> None:
    check(narrow.post("/classify", content=b" " * 3000, headers=JSON), 413, "too-large")
    chunks = (b" " * 100 for _ in range(1000))
    check(narrow.post("/classify", content=chunks, headers=JSON), 413, "too-large")


def test_a_full_queue_answers_429_and_takes_again_what_was_refused(narrow: httpx.Client, stack: Stack) -> None:
    later = {"Prefer": "respond-async"}
    with redis.Redis.from_url(stack.environment["NEURON_REDIS_URL"]) as queue:
        wait_until(lambda: not queue.exists(wire.OPEN), what="the end of other jobs")
        with stack.paused("worker"):
            accepted = [narrow.post("/classify", json={"text": str(n)}, headers=later) for n in range(5)]
            assert [response.status_code for response in accepted] == [202] * 5
            refused = narrow.post("/classify", json={"text": "one more"}, headers=later)
            problem = check(refused, 429, "queue-full")
            assert int(refused.headers["retry-after"]) >= 1
            assert (problem["limit"], problem["queued"]) == (5, 5)

            queue.delete(
                *map(wire.worker, (one.decode() for one in queue.smembers(wire.WORKERS)))
            )  # as if it were dead
            check(narrow.get("/readyz"), 503, "not-ready")
    stack.wait_ready()
    for response in accepted:
        where = response.headers["location"]
        wait_until(lambda where=where: narrow.get(where).json()["state"] == "done", what="an accepted job's end")
    assert narrow.post("/classify", json={"text": "one more"}).status_code == 200


def test_redis_away_is_503_and_passes(tmp_path: Path) -> None:
    with (
        redis_server(tmp_path) as server,
        gateway(server.connection_url + "/0") as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        port = server.port
        server.stop()
        response = client.post("/classify", json={"text": "Good."})
        check(response, 503, "unavailable")
        assert "retry-after" in response.headers
        check(client.get("/readyz"), 503, "unavailable")
        assert client.get("/healthz").status_code == 200
        server._desired_port = port
        server.start()
        wait_until(
            lambda: client.post("/classify", json={"text": "Good."}, headers={"Prefer": "respond-async"}).is_success,
            what="the gateway's reconnection",
        )
