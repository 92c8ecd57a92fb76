"""What clients expect of any HTTP service: types and encodings of bodies, HEAD, names of requests, other origins."""

import gzip
import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from api.redis.fleet import Fleet
from tests.conftest import Stack, wait_until
from tests.support.gateway import gateway, metric

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

JSON = {"Content-Type": "application/json"}
PAGE = "https://page.example"
GOOD = b'{"text": "Good."}'


def _of_a_wide_window() -> bytes:
    """A frame for which 128 MB of memory would be needed."""
    packer = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    return packer.compress(GOOD) + packer.flush()


@pytest.mark.parametrize("path", ["/classify", "/featurize", "/trace", "/generate", "/heads"])
@pytest.mark.parametrize(
    ("content_type", "said"),
    [
        (None, "there is no Content-Type"),
        ("application/x-www-form-urlencoded", "'application/x-www-form-urlencoded'"),
        ("text/json", "'text/json'"),
    ],
)
def test_what_is_not_sent_as_json_is_told_how_to_be(
    client: httpx.Client, path: str, content_type: str | None, said: str
) -> None:
    answer = client.post(path, content=GOOD, headers={} if content_type is None else {"Content-Type": content_type})
    assert answer.status_code == 415
    assert answer.headers["accept"] == "application/json"
    assert answer.json()["type"].endswith(":not-json")
    assert said in answer.json()["detail"]
    assert "`Content-Type: application/json`" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("coding", "pack"), [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("ZSTD", zstd.compress)]
)
def test_a_packed_body_is_unpacked(client: httpx.Client, coding: str, pack: object) -> None:
    half = len(GOOD) // 2
    members = pack(GOOD[:half]) + pack(GOOD[half:])
    for content in (pack(GOOD), members):
        answer = client.post("/classify", content=content, headers=JSON | {"Content-Encoding": coding})
        assert answer.json()["results"] == client.post("/classify", content=GOOD, headers=JSON).json()["results"]


@pytest.mark.parametrize(
    ("coding", "content", "status", "said"),
    [
        ("br", GOOD, 415, "'br': send one of gzip, zstd"),
        ("gzip, zstd", GOOD, 415, "send one of"),
        ("gzip", GOOD, 422, "the Content-Encoding is gzip, and the body is not"),
        ("gzip", gzip.compress(GOOD)[:-4], 422, "is not"),
        ("zstd", zstd.compress(GOOD)[:-3], 422, "is not"),
        ("zstd", b"", 422, "the body is empty"),
        ("gzip", gzip.compress(b" " * 40_000), 413, "NEURON_API_MAX_REQUEST_BYTES"),
        ("zstd", zstd.compress(b" " * 40_000), 413, "NEURON_API_MAX_REQUEST_BYTES"),
        ("zstd", _of_a_wide_window(), 422, "memory"),
    ],
    ids=["unknown", "two", "no gzip", "cut gzip", "cut zstd", "empty", "gzip bomb", "zstd bomb", "wide window"],
)
def test_a_packed_body_that_is_none(redis_url: str, coding: str, content: bytes, status: int, said: str) -> None:
    with gateway(redis_url, NEURON_API_MAX_REQUEST_BYTES="20000") as url:
        answer = httpx.post(f"{url}/classify", content=content, headers=JSON | {"Content-Encoding": coding})
    assert answer.status_code == status, answer.text
    assert said in answer.json()["detail"]


def test_long_answers_are_packed_where_the_client_unpacks(client: httpx.Client) -> None:
    body = {"texts": ["One text.", "Another."], "encoding": "float"}
    many = {"texts": ["One text."] * 64}
    plain = client.post("/classify", json=many, headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    packed = client.post("/classify", json=many, headers={"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["vary"] == "Accept-Encoding"
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"]) / 2
    assert packed.json() == plain.json()
    short = client.post("/featurize", json=body, headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in short.headers
    with client.stream("POST", "/generate", json={"length": 2000, "stop": [], "stream": True}) as events:
        assert "content-encoding" not in events.headers


def test_head_is_answered_wherever_get_is(client: httpx.Client) -> None:
    job = client.post("/classify", content=GOOD, headers=JSON | {"Prefer": "respond-async"}).headers["location"]
    wait_until(lambda: client.get(job).json()["state"] == "done", what="the job's end")
    for path in (
        "/healthz",
        "/readyz",
        "/models",
        "/heads",
        "/metrics",
        "/openapi.json",
        "/docs",
        job,
        f"{job}/events",
    ):
        found, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (found.status_code, b""), path
        assert head.headers["content-type"] == found.headers["content-type"], path
    assert client.head("/nowhere").status_code == 404
    refused = client.head("/classify")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert client.delete("/models").headers["allow"] == client.delete("/docs").headers["allow"] == "GET, HEAD"


def test_head_does_not_wait_for_a_stream_to_end(client: httpx.Client) -> None:
    body, later = {"length": 1_000_000, "stop": []}, {"Prefer": "respond-async"}
    job = client.post("/generate", json=body, headers=later).headers["location"]
    assert client.head(f"{job}/events").headers["content-type"].startswith("text/event-stream")
    assert client.get(job).json()["state"] in ("queued", "running")
    client.delete(job)


def test_head_is_counted_as_such(redis_url: str) -> None:
    with gateway(redis_url) as url:
        sample = 'neuron_requests_total{method="HEAD",route="/healthz",status="200"}'
        before = metric(url, sample)
        assert httpx.head(f"{url}/healthz").status_code == 200
        assert metric(url, sample) == before + 1


def test_every_request_has_a_name(client: httpx.Client) -> None:
    named = client.post("/classify", content=GOOD, headers=JSON | {"X-Request-Id": "order-17/retry:2"})
    assert named.headers["x-request-id"] == "order-17/retry:2"
    unnamed = [client.get("/healthz").headers["x-request-id"] for _ in range(2)]
    assert len({*unnamed, ""}) == 3
    for bad in ("two words", "x" * 200, "ä"):
        answer = client.get("/nowhere", headers={"X-Request-Id": bad.encode("latin-1")})
        assert answer.headers["x-request-id"] not in ("", bad)


def test_an_unexpected_failure_is_logged_by_the_name_of_its_request(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(_: Fleet) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Fleet, "models", fails)
    with gateway(redis_url, NEURON_API_CORS_ORIGINS=PAGE) as url:
        answer = httpx.get(f"{url}/models", headers={"X-Request-Id": "a-failure", "Origin": PAGE})
    assert answer.status_code == 500
    assert answer.json()["type"].endswith(":internal")
    assert "a-failure" in answer.json()["detail"]
    assert answer.headers["access-control-allow-origin"] == PAGE
    record = next(record for record in caplog.records if "failed" in record.message)
    assert "GET /models failed (a-failure)" in record.message
    assert record.exc_info is not None


@pytest.fixture(scope="module")
def open_to_a_page(stack: Stack) -> Iterator[str]:
    settings = {"NEURON_API_CORS_ORIGINS": f"{PAGE},https://other.example", "NEURON_API_MAX_HEADER_BYTES": "2000"}
    with gateway(stack.environment["NEURON_REDIS_URL"], **settings) as url:
        yield url


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (f"GET /models HTTP/1.1\r\nHost: x\r\nOrigin: {PAGE}\r\nX-A: {'a' * 4000}\r\n\r\n", 431),
        (f"GET /models HTTP/1.1\r\nHost: x\r\nOrigin: {PAGE}\r\nX-A: b\r\nnot a header\r\n\r\n", 400),
    ],
)
@pytest.mark.parametrize("origin", [PAGE, "https://stranger.example"])
def test_a_page_may_read_what_refuses_its_request(
    open_to_a_page: str, request_head: str, status: int, origin: str
) -> None:
    with socket.create_connection(("127.0.0.1", httpx.URL(open_to_a_page).port), timeout=10) as connection:
        connection.sendall(request_head.replace(PAGE, origin).encode())
        head = b"".join(iter(lambda: connection.recv(65_536), b"")).decode().lower()
    assert head.startswith(f"http/1.1 {status}")
    assert (f"access-control-allow-origin: {origin}\r\n" in head) == (origin == PAGE)


def test_a_page_may_send_headers_of_tracing(open_to_a_page: str) -> None:
    asked = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type, traceparent, tracestate, baggage, x-stainless-lang",
    }
    preflight = httpx.options(f"{open_to_a_page}/classify", headers=asked)
    assert preflight.status_code == 200
    assert "baggage" in preflight.headers["access-control-allow-headers"]


@pytest.mark.parametrize(
    "path", ["/jobs/123", "/jobs/no%20job", "/jobs/123/events", "/heads/UPPER", "/heads/" + "x" * 99]
)
def test_what_cannot_be_there_is_not_there(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404
    if not path.endswith("/events"):
        assert client.delete(path).status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/generate", {"prompt": "a", "xyz": 5}, "body.xyz: there is no such field (known: timeout_s, webhook, prompt"),
        ("/generate", {"lenght": 5}, "body.lenght: there is no such field; did you mean 'length'?"),
        (
            "/heads",
            {"name": "n", "examples": [{"text": "a", "lable": "b"}]},
            "body.examples.0.lable: there is no such field; did you mean 'label'? (known: text, label)",
        ),
        ("/trace", {"text": "a", "units": ["x"]}, "body.units.0: not a number"),
        ("/generate", {"clamp": {"x": 1}}, "not the number of a unit"),
    ],
)
def test_a_fault_is_named_in_our_words(client: httpx.Client, path: str, body: dict[str, object], said: str) -> None:
    problem = client.post(path, json=body).json()
    assert said in problem["detail"]
    assert "Value error" not in json.dumps(problem)


def test_many_faults_are_counted(client: httpx.Client) -> None:
    problem = client.post("/generate", json={f"field{number}": 1 for number in range(40)}).json()
    assert problem["detail"].count("there is no such field") == 5
    assert problem["detail"].endswith("; and 35 more")
    assert len(problem["errors"]) == 20


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/classify", {"texts": [""] * 300_000}, 422),
        ("/classify", {"texts": [""] * 300_000, "on_error": "skip"}, 413),
        ("/classify", {"texts": ["a"] * 300_000}, 413),
        ("/classify", {f"field{number}": 1 for number in range(100_000)}, 422),
        ("/generate", {"clamp": {f"unit{number}": 1 for number in range(100_000)}}, 422),
        ("/heads", {"name": "n", "examples": [{}] * 300_000}, 422),
        ("/v1/embeddings", {"model": "tiny", "input": [""] * 300_000}, 400),
        ("/v1/completions", {"model": "tiny", "prompt": [""] * 300_000}, 413),
        ("/v1/completions", {"model": "tiny", "x" * 100_000: 1}, 400),
    ],
    ids=["texts", "skipped", "count", "fields", "clamps", "examples", "input", "prompts", "name"],
)
def test_a_small_packed_body_of_many_faults_holds_nobody_up(
    client: httpx.Client, path: str, body: dict[str, object], status: int
) -> None:
    """The answer says little of them: describing each took seconds for every megabyte, and its gigabytes."""
    content = gzip.compress(json.dumps(body).encode())
    assert len(content) < 500_000
    answer = client.post(path, content=content, headers=JSON | {"Content-Encoding": "gzip", "Accept-Encoding": "gzip"})
    assert answer.status_code == status, answer.text[:300]
    assert len(answer.content) < 4000


def test_a_body_is_unpacked_only_where_one_is_read(redis_url: str) -> None:
    headers = JSON | {"Content-Encoding": "br"}
    with gateway(redis_url, NEURON_API_MAX_REQUEST_BYTES="20000") as url:
        assert httpx.get(f"{url}/healthz", headers=headers).status_code == 200
        bomb = gzip.compress(b" " * 100_000)
        answer = httpx.post(f"{url}/healthz", content=bomb, headers=JSON | {"Content-Encoding": "gzip"})
        assert answer.status_code == 405


TEXTS = ["Good.", "", "Bad.", 7, "half \ud83d", "&nbsp;", "x" * 200]


@pytest.fixture(scope="module")
def short(stack: Stack) -> Iterator[httpx.Client]:
    settings = {"NEURON_API_MAX_TEXT_BYTES": "100", "NEURON_API_MAX_TEXTS": "7"}
    with gateway(stack.environment["NEURON_REDIS_URL"], **settings) as url, httpx.Client(base_url=url) as client:
        yield client


def skipping(texts: list[object], **fields: object) -> bytes:
    return json.dumps({"texts": texts, "on_error": "skip", **fields}).encode()


@pytest.mark.parametrize("path", ["/classify", "/featurize"])
@pytest.mark.parametrize("later", [False, True])
def test_skip_answers_the_good_texts_and_an_error_in_place_of_the_others(
    short: httpx.Client, path: str, later: bool
) -> None:
    refused = short.post(path, content=json.dumps({"texts": TEXTS}), headers=JSON)
    assert refused.status_code == 422
    headers = JSON | ({"Prefer": "respond-async"} if later else {})
    answer = short.post(path, content=skipping(TEXTS), headers=headers).raise_for_status()
    job = f"/jobs/{answer.headers['x-job-id']}"
    if later:
        wait_until(lambda: short.get(job).json()["state"] == "done", what="the job's end")
    found = short.get(job).json()["result"]
    assert later or answer.json() == found
    good = short.post(path, json={"texts": ["Good.", "Bad."]}).json()["results"]
    assert [found["results"][0], found["results"][2]] == good
    errors = [result.get("error") for result in found["results"]]
    assert [error and error["type"].rpartition(":")[2] for error in errors] == [
        None, "invalid-request", None, "invalid-request", "invalid-request", "invalid-request", "too-large",
    ]  # fmt: skip
    assert "the text is empty" in errors[1]["detail"]
    assert "bytes of text 6: 200 is over the limit of 100" in errors[6]["detail"]


def test_skip_leaves_rows_of_nan_in_a_numpy_file(short: httpx.Client, tmp_path: Path) -> None:
    import numpy as np  # noqa: PLC0415

    answer = short.post("/featurize", content=skipping(TEXTS), headers=JSON | {"Accept": "application/x-npy"})
    (tmp_path / "features.npy").write_bytes(answer.content)
    matrix = np.load(tmp_path / "features.npy")
    assert np.isnan(matrix).any(axis=1).tolist() == [False, True, False, True, True, True, True]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (skipping(["", "\n"]), 422),  # nothing is left
        (skipping(["x" * 101]), 413),
        (skipping(["Good."] * 8), 413),
        (skipping(["Good.", ""] * 4), 413),
        (skipping(["Good.", ""], haed="sentiment"), 422),
        (json.dumps({"text": "", "on_error": "skip"}).encode(), 422),
        (json.dumps({"texts": ["Good.", ""], "on_error": "ignore"}).encode(), 422),
    ],
)
def test_skip_forgives_nothing_else(short: httpx.Client, body: bytes, status: int) -> None:
    assert short.post("/classify", content=body, headers=JSON).status_code == status


def test_skipped_texts_are_part_of_an_idempotent_request(short: httpx.Client) -> None:
    headers = JSON | {"Idempotency-Key": "with-skipped"}
    first = short.post("/classify", content=skipping(["Good.", ""]), headers=headers)
    again = short.post("/classify", content=skipping(["Good.", ""]), headers=headers)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() == first.json()
    other = short.post("/classify", content=skipping(["Good.", "", ""]), headers=headers)
    assert other.status_code == 422
    assert other.json()["type"].endswith(":idempotency-key-reused")


def test_offsets_of_javascript(client: httpx.Client) -> None:
    text = "\U0001f600 g\u00f6\u00f6d \U0001f44d&amp;"
    units = text.encode("utf-16-le")
    for offsets, cut in (
        ("characters", lambda start, end: text[start:end]),
        ("utf-16", lambda start, end: units[2 * start : 2 * end].decode("utf-16-le")),
    ):
        answer = client.post("/trace", json={"text": text, "offsets": offsets}).json()
        assert len(answer["bytes"]) == len(f"\n {text.replace('&amp;', '&')} ".encode())
        for byte in answer["bytes"]:
            assert cut(byte["start"], byte["end"]) == byte["text"]


def test_the_examples_of_the_document_run(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    names = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(names) == len(set(names))
    tried = 0
    client.delete("/heads/delivery")  # of another test
    for path, operations in document["paths"].items():
        if "requestBody" in operations.get("post", {}):
            media_type, content = next(iter(operations["post"]["requestBody"]["content"].items()))
            if media_type == "multipart/form-data":
                continue  # Swagger UI lets its reader choose a file
            if media_type == "application/json":
                schema = content["schema"]["$ref"].rpartition("/")[2]
                example = document["components"]["schemas"][schema]["examples"][0]
                if "model" in example:
                    example["model"] = "tiny"
                body = json.dumps(example)
            else:
                body = content["example"]
            answer = client.post(path, content=body, headers={"Content-Type": media_type})
            # A file's id cannot be known beforehand.
            expected = {"/batches": 202, "/v1/batches": 404}.get(path, 200)
            assert answer.status_code == expected, (path, answer.text)
            tried += 1
    assert tried == 9
    assert client.delete("/heads/delivery").status_code == 204


def test_the_documentation_comes_from_the_gateway_itself(client: httpx.Client) -> None:
    page = client.get("/docs").text
    assert "://" not in page.replace("http://www.w3.org", "")
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert f"swagger/{asset}" in page
        assert len(client.get(f"/swagger/{asset}").raise_for_status().content) > 10_000
    assert client.get("/swagger/%2e%2e/%2e%2e/fastapi_swagger/main.py").status_code == 404
    assert client.get("/redoc").status_code == 404
