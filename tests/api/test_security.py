"""What the gateway withstands and keeps to itself: slow and huge requests, strange origins, users' texts."""

import json
import re
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import Stack, run_stack, wait_until
from tests.support.gateway import gateway, metric

HEADERS = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
PAGE = "https://page.example"


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """No worker: what is tested here ends at the gateway."""
    settings = {
        "NEURON_API_REQUEST_TIMEOUT_S": "0.5",
        "NEURON_API_MAX_HEADER_BYTES": "2000",
        "NEURON_API_CORS_ORIGINS": f"https://other.example, {PAGE}",
        "NEURON_API_WAIT_S": "1.5",
    }
    with run_stack(tmp_path_factory.mktemp("strict"), worker=False, **settings) as stack:
        yield stack


def connect(stack: Stack) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(stack.environment["NEURON_API_PORT"])), timeout=30)


def answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """All that comes until the gateway closes: status, headers, body."""
    received = b""
    try:
        while more := connection.recv(65_536):
            received += more
    except ConnectionResetError:
        pass  # it closed with some of the request unread
    if not received:
        return 0, {}, b""
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(status.split()[1]), headers, body


def trickle(connection: socket.socket, piece: bytes) -> None:
    """Send a piece now and then, half a minute long."""
    for _ in range(600):
        time.sleep(0.05)
        connection.sendall(piece)


JSON = {"Content-Type": "application/json"}
POST = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
POST_GENERATE = POST.replace(b"/classify", b"/generate")


@pytest.mark.parametrize("start", [b"GET /mod", b"GET /models HTTP/1.1\r\nHost: x\r\nX-A: ", POST + b"X-B: c\r\n"])
def test_a_head_that_does_not_come_is_refused(strict: Stack, start: bytes) -> None:
    with connect(strict) as connection:
        connection.sendall(start)
        status, headers, body = answer(connection)
    assert status == 408
    assert headers["content-type"] == "application/problem+json"
    problem = json.loads(body)
    assert problem["type"].endswith(":too-slow")
    assert (problem["limit"], problem["setting"]) == (0.5, "NEURON_API_REQUEST_TIMEOUT_S")


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"GET /models HTTP/1.1\r\nHost: x\r\n", b"X-A: b\r\n"),
        (POST + b"Content-Length: 5000\r\n\r\n", b" "),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n", b" "),  # answered before it is read
        (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-Trailer: more\r\n"),
    ],
)
def test_a_request_that_trickles_in_is_cut_off(strict: Stack, start: bytes, piece: bytes) -> None:
    with connect(strict) as connection:
        connection.sendall(start)
        with pytest.raises(OSError):  # noqa: PT011 - a reset or a broken pipe, as the kernel likes
            trickle(connection, piece)


def test_a_connection_that_says_nothing_is_closed_without_a_word(strict: Stack) -> None:
    with connect(strict) as connection:
        assert answer(connection) == (0, {}, b"")


def test_slow_work_is_no_slow_request(strict: Stack) -> None:
    # Longer than the request may take to come: nothing serves the job, so the wait ends with 202.
    with strict.client() as client:
        assert client.post("/classify", json={"text": "Good."}).status_code == 202
        # And its connection serves on, with a pause that is longer, too.
        assert client.get("/models").status_code == 200


def test_a_client_that_does_not_read_its_answer_is_dropped_and_its_job_cancelled(stack: Stack) -> None:
    settings = {
        "NEURON_API_REQUEST_TIMEOUT_S": "1",
        "NEURON_API_DISCONNECT_GRACE_S": "0.1",
        "NEURON_API_MAX_LENGTH": "1000000",
    }
    with gateway(stack.environment["NEURON_REDIS_URL"], send_buffer=4096, **settings) as url:
        dropped = "neuron_dropped_connections_total"
        cancelled = 'neuron_cancelled_jobs_total{reason="disconnect"}'
        dropped_before, before = metric(url, dropped), metric(url, cancelled)
        body = json.dumps({"length": 1_000_000, "n": 8, "stop": [], "stream": True}).encode()
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            connection.connect(("127.0.0.1", httpx.URL(url).port))
            connection.sendall(POST_GENERATE + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            wait_until(lambda: metric(url, dropped) == dropped_before + 1, what="the end of its connection")
            wait_until(lambda: metric(url, cancelled) > before, what="the end of its job")


def test_a_request_sent_ahead_waits_for_the_one_before(strict: Stack) -> None:
    body = b'{"text": "Good."}'
    with connect(strict) as connection:
        connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body + b"GET /mo")
        time.sleep(0.2)
        connection.sendall(b"dels HT")
        head = connection.recv(65_536)
        assert head.startswith(b"HTTP/1.1 202")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 2000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /models HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 2000 + b"\r\n\r\n",
        b"GET /models HTTP/1.1\r\nHost: x\r\n" + b"X-A: bbbbbbbbbb\r\n" * 150 + b"\r\n",
        b"GET /models HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 3000,  # and no end to it
    ],
)
def test_a_header_section_over_the_limit_is_refused(strict: Stack, head: bytes) -> None:
    with connect(strict) as connection:
        connection.sendall(head)
        status, _, body = answer(connection)
    assert status == 431
    problem = json.loads(body)
    assert problem["type"].endswith(":head-too-large")
    assert (problem["limit"], problem["setting"]) == (2000, "NEURON_API_MAX_HEADER_BYTES")


def test_a_header_section_within_the_limit_and_a_long_body_are_served(strict: Stack) -> None:
    with strict.client() as client:
        assert client.get("/models", headers={"X-A": "a" * 1500}).status_code == 200
        answered = client.post("/classify", json={"text": "a" * 200_000}, headers={"Prefer": "respond-async"})
        assert answered.status_code == 202


def test_what_is_not_http(strict: Stack) -> None:
    with connect(strict) as connection:
        connection.sendall(b"EHLO mail.example\r\n\r\n")
        status, headers, body = answer(connection)
    assert status == 400
    assert json.loads(body)["type"].endswith(":bad-request")
    assert headers["x-content-type-options"] == "nosniff"


def test_every_answer_has_the_security_headers(strict: Stack, client: httpx.Client) -> None:
    with strict.client() as strictly:
        answers = [
            strictly.get("/healthz"),
            strictly.get("/docs"),
            strictly.get("/nowhere"),
            strictly.post("/classify", content=b"{", headers=JSON),
            strictly.get("/readyz"),
            client.post("/classify", json={"text": "Good."}),
            client.post("/generate", json={"length": 3, "stop": [], "stream": True}),
        ]
    assert [response.status_code for response in answers] == [200, 200, 404, 422, 503, 200, 200]
    for response in answers:
        assert {name: response.headers.get(name) for name in HEADERS} == HEADERS, response.url
        assert response.headers.get_list("cache-control") == ["no-store"]
        assert "server" not in response.headers


def test_pages_of_other_origins_may_not_call_unless_they_are_named(strict: Stack, client: httpx.Client) -> None:
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    assert client.options("/classify", headers=asked).status_code == 405  # off by default
    assert "access-control-allow-origin" not in client.get("/models", headers={"Origin": PAGE}).headers
    with strict.client() as strictly:
        preflight = strictly.options("/classify", headers=asked)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == PAGE
        named = strictly.get("/models", headers={"Origin": PAGE})
        assert named.headers["access-control-allow-origin"] == PAGE
        assert "access-control-allow-credentials" not in named.headers
        stranger = strictly.get("/models", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in stranger.headers
        assert strictly.options("/classify", headers=asked | {"Origin": "https://evil.example"}).status_code == 400


def test_no_text_of_users_is_logged(strict: Stack, stack: Stack, client: httpx.Client) -> None:
    marker = "xyzzy-plugh"
    assert client.post("/classify", json={"text": marker}).status_code == 200
    assert client.post("/featurize", json={"text": marker}).status_code == 200
    assert client.post("/trace", json={"text": marker}).status_code == 200
    assert client.post("/trace", json={"text": marker, "units": [99]}).status_code == 404
    assert client.post("/generate", json={"prompt": marker, "length": 5}).status_code == 200
    assert client.post("/generate", json={"prompt": marker, "length": 5, "stream": True}).status_code == 200
    assert client.post("/classify", json={"text": "Good.", "head": marker}).status_code == 404
    assert client.post("/classify", json={"text": marker, marker: 1}).status_code == 422
    assert (
        client.post(
            "/classify", content=f'{{"text": "{marker}', headers={"Content-Type": "application/json"}
        ).status_code
        == 422
    )
    assert client.get(f"/{marker}").status_code == 404
    assert client.get(f"/jobs/{'A' * 24}/events", headers={"Last-Event-ID": marker}).status_code == 422
    with connect(stack) as connection:
        connection.sendall(f"{marker}\r\n\r\n".encode())
        assert answer(connection)[0] == 400
    assert marker not in stack.log.read_text()
    # Of a gateway whose Redis goes away, too.
    port = strict.redis.port
    strict.redis.stop()
    with strict.client() as strictly:
        assert strictly.post("/classify", json={"text": marker}).status_code == 503
    wait_until(lambda: re.search(r"could not be queued|Redis", strict.log.read_text()), what="the failure's line")
    strict.redis._desired_port = port
    strict.redis.start()
    assert marker not in strict.log.read_text()
