"""Batches against a real gateway, worker and Redis: every line has one answer, in its place, whatever dies."""

import contextlib
import errno
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from api import keys
from api.batches.storage import Directory
from tests.conftest import Stack, publish_tiny, run_stack, wait_until
from tests.support import small_disk
from tests.support.gateway import gateway, metric

NDJSON = {"Content-Type": "application/x-ndjson"}
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/classify", {"texts": ["A lovely film.", "Dull."]}),
    ("/featurize", {"text": "One text.", "encoding": "base64"}),
    ("/trace", {"text": "Naïve."}),
    ("/generate", {"prompt": "Good", "length": 20, "seed": 3}),
    ("/v1/embeddings", {"model": "tiny", "input": "One text."}),
    ("/v1/completions", {"model": "tiny", "prompt": "Good", "max_tokens": 20, "seed": 3}),
    ("/classify", {"text": "Good.", "head": "nobody"}),
    ("/classify", {"text": ""}),
    ("/v1/completions", {"model": "tiny", "prompt": "Good", "suffix": "x"}),
]


def line(url: str, body: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"url": url, "body": body, **more}).encode() + b"\n"


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("batches")
    publish_tiny(directory / "volume", step=1)
    settings = {
        "NEURON_CHECKPOINT_DIR": str(directory / "volume"),
        "NEURON_API_MAX_BATCH_BYTES": "3000000",
        "NEURON_API_MAX_BATCH_LINES": "5000",
        "NEURON_API_MAX_REQUEST_BYTES": "100000",
        "NEURON_API_MAX_LENGTH": "1000000",
    }
    with run_stack(directory, **settings) as stack:
        yield stack


@pytest.fixture
def client(serving: Stack) -> Iterator[httpx.Client]:
    with serving.client() as opened:
        yield opened


def send(client: httpx.Client, content: bytes, **query: Any) -> str:
    answer = client.post("/batches", content=content, headers=NDJSON, params=query)
    assert answer.status_code == 202, answer.text
    batch = answer.json()
    assert answer.headers["location"] == f"/batches/{batch['id']}"
    assert batch["state"] == "queued"
    return str(batch["id"])


def ended(client: httpx.Client, batch_id: str, timeout_s: float = 60.0) -> dict[str, Any]:
    def state() -> dict[str, Any]:
        found: dict[str, Any] = client.get(f"/batches/{batch_id}").raise_for_status().json()
        return found

    wait_until(lambda: state()["ended"], timeout_s, "the end of the batch")
    return state()


def answers(client: httpx.Client, batch_id: str) -> list[dict[str, Any]]:
    got = client.get(f"/batches/{batch_id}/answers").raise_for_status()
    assert got.headers["content-type"].startswith("application/x-ndjson")
    as_bytes = client.get(f"/batches/{batch_id}/answers", headers={"Accept": "application/octet-stream"})
    assert as_bytes.headers["content-type"] == "application/octet-stream"
    return [json.loads(one) for one in got.content.splitlines()]


def test_every_line_is_answered_as_if_it_had_come_alone(client: httpx.Client) -> None:
    content = b"".join(line(url, body, custom_id=f"line {number}") for number, (url, body) in enumerate(REQUESTS))
    batch_id = send(client, content)
    done = ended(client, batch_id)
    assert (done["state"], done["lines"]) == ("done", len(REQUESTS))
    found = answers(client, batch_id)
    assert [one["custom_id"] for one in found] == [f"line {number}" for number in range(len(REQUESTS))]
    assert [one["error"] for one in found] == [None] * len(REQUESTS)
    for (url, body), one in zip(REQUESTS, found, strict=True):
        alone = client.post(url, json=body)
        assert one["response"]["status_code"] == alone.status_code
        expected = alone.json()
        for name in ("id", "created"):  # of completions: each has its own
            if name in expected:
                expected[name] = one["response"]["body"][name]
        assert one["response"]["body"] == expected
    failed = sum(one["response"]["status_code"] != 200 for one in found)
    assert (done["completed"], done["failed"]) == (len(REQUESTS) - failed, failed)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"{", "not JSON"),
        (b"[1]", "Input should be an object"),
        ('{"url": "/classify", "body": {"text": "x"}}'.encode("utf-16"), "not JSON: 'utf-8' codec"),
        (b'{"url": "/classify"}', "body: "),
        (b'{"url": "/heads", "body": {}}', "url: "),
        (b'{"url": "/classify", "body": {"text": "x"}, "customid": "x"}', "custom_id"),
        (b'{"url": "/generate", "body": {"stream": true}}', "stream: the answers of a batch do not stream"),
        (b'{"url": "/classify", "body": {"text": "x"}, "method": "GET"}', "method: "),
        (b'\xff{"url"', "not JSON"),
    ],
)
def test_a_line_that_is_no_request_has_its_error_in_its_place(client: httpx.Client, raw: bytes, message: str) -> None:
    good = line("/classify", {"text": "Good."}, custom_id="good")
    batch_id = send(client, good + raw + b"\r\n\n  \n" + good.rstrip())
    done = ended(client, batch_id)
    assert (done["lines"], done["completed"], done["failed"]) == (3, 2, 1)
    first, second, third = answers(client, batch_id)
    assert first["response"]["body"] == third["response"]["body"]
    assert second["response"] is None
    assert second["error"]["code"] == "invalid-request"
    assert message in second["error"]["message"]


def slow_lines(count: int, length: int = 20_000) -> bytes:
    """Lines that take long enough to be interrupted, each known by its own seed."""
    bodies = ({"prompt": "", "length": length, "seed": number, "stop": []} for number in range(count))
    return b"".join(line("/generate", body, custom_id=str(body["seed"])) for body in bodies)


def seeds(found: list[dict[str, Any]]) -> list[int]:
    return [one["response"]["body"]["seed"] for one in found]


def has_begun(client: httpx.Client, batch_id: str) -> None:
    wait_until(lambda: client.get(f"/batches/{batch_id}").json()["state"] == "running", what="the batch's first lines")


@pytest.mark.slow
def test_a_batch_outlives_a_gateway_that_is_killed(serving: Stack, client: httpx.Client) -> None:
    # Chunks are of 64 lines: with 200 some are kept when the gateway dies, and some are not.
    batch_id = send(client, slow_lines(200, 300) + slow_lines(200, 5_000)[-20 * 110 :].split(b"\n", 1)[1])
    wait_until(lambda: client.get(f"/batches/{batch_id}").json()["completed"] > 70, what="answers")
    serving.kill("api")
    serving.spawn("api")
    serving.wait_ready()
    done = ended(client, batch_id)
    assert (done["state"], done["failed"]) == ("done", 0)
    found = answers(client, batch_id)
    assert len(found) == done["lines"] == done["completed"]
    assert seeds(found) == [int(one["custom_id"]) for one in found]


@pytest.mark.slow
def test_a_batch_outlives_its_worker_and_a_redis_that_forgets(serving: Stack, client: httpx.Client) -> None:
    batch_id = send(client, slow_lines(150, 2000))
    has_begun(client, batch_id)
    serving.kill("worker")
    serving.spawn("worker")
    serving.wait_ready()
    assert client.get(f"/batches/{batch_id}").json()["ended"] is None
    with redis.Redis.from_url(serving.redis.connection_url) as direct:
        direct.flushall()
    done = ended(client, batch_id)
    assert (done["lines"], done["completed"], done["failed"]) == (150, 150, 0)
    assert seeds(answers(client, batch_id)) == list(range(150))


def test_a_batch_that_is_cancelled_keeps_the_answers_that_it_has(serving: Stack, client: httpx.Client) -> None:
    batch_id = send(client, slow_lines(3, 5) + slow_lines(400, 500_000))
    wait_until(lambda: client.get(f"/batches/{batch_id}").json()["completed"] >= 3, what="the first answers")
    assert client.delete(f"/batches/{batch_id}").json()["state"] == "cancelling"
    done = ended(client, batch_id)
    assert (done["state"], done["lines"], done["completed"]) == ("cancelled", 403, 3)
    found = answers(client, batch_id)
    assert seeds(found[:3]) == [0, 1, 2]
    assert {one["error"]["code"] for one in found[3:]} == {"batch-cancelled"}
    assert [one["custom_id"] for one in found] == [str(number) for number in (*range(3), *range(400))]
    wait_until(lambda: metric(serving.url, "neuron_open_texts") == 0, what="the end of its jobs")
    assert client.delete(f"/batches/{batch_id}").json() == done


def test_files_over_a_limit_are_refused_by_name(client: httpx.Client) -> None:
    one = line("/classify", {"text": "x"})
    for content, what, setting in (
        (one * 5001, "lines of the file: 5,001 is over the limit of 5,000", "NEURON_API_MAX_BATCH_LINES"),
        (one + b"x" * 100_001, "bytes of line 2: ", "NEURON_API_MAX_REQUEST_BYTES"),
        ((b" " * 89_999 + b"\n") * 34, "bytes of the file: 3,0", "NEURON_API_MAX_BATCH_BYTES"),
        (b"\n" * 5001, "blank lines: 5,001 is over the limit of 5,000", "NEURON_API_MAX_BATCH_LINES"),
    ):
        refused = client.post("/batches", content=content, headers=NDJSON)
        assert refused.status_code == 413
        assert refused.json()["detail"].startswith(what)
        assert refused.json()["setting"] == setting
        # Without its length beforehand, it is refused as it comes.
        pieces = (content[start : start + 9000] for start in range(0, len(content), 9000))
        assert client.post("/batches", content=pieces, headers=NDJSON).json()["setting"] == setting


def test_a_body_that_can_hold_no_file_in_the_limit_is_told_the_limit(client: httpx.Client) -> None:
    refused = client.post("/batches", content=b" " * 3_100_000, headers=NDJSON).json()
    assert (refused["limit"], refused["actual"]) == (3_000_000, 3_100_000)
    assert refused["detail"].startswith("bytes of the request body: 3,100,000 is over the limit of 3,000,000 (setting ")


def test_a_key_may_store_so_much_and_no_more(serving: Stack, tmp_path: Path) -> None:
    limits = {"NEURON_API_MAX_STORED_BYTES": "4096", "NEURON_API_BATCH_STORAGE": str(tmp_path)}
    one = line("/classify", {"text": "x" * 1000})
    with gateway(serving.environment["NEURON_REDIS_URL"], **limits) as url, httpx.Client(base_url=url) as client:
        send(client, one)
        refused = client.post("/batches", content=one * 4, headers=NDJSON)
        assert refused.status_code == 413
        assert refused.json()["detail"].startswith("bytes of your files, batches and answers in storage: ")
        assert refused.json()["setting"] == "NEURON_API_MAX_STORED_BYTES"
        stored = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
        assert stored < 4096 + 1000  # nothing of the refused file
        send(client, one)


def test_uploads_at_once_share_what_a_key_may_store(serving: Stack, tmp_path: Path) -> None:
    limits = {"NEURON_API_MAX_STORED_BYTES": "300000", "NEURON_API_BATCH_STORAGE": str(tmp_path)}
    content = line("/classify", {"text": "x" * 1000}) * 100
    began = threading.Barrier(5)

    def pieces() -> Iterator[bytes]:
        yield content[:50_000]
        began.wait(180)  # so that none knows of the others when it begins
        yield content[50_000:]

    with gateway(serving.environment["NEURON_REDIS_URL"], **limits) as url, ThreadPoolExecutor(5) as threads:
        posts = [
            threads.submit(httpx.post, f"{url}/batches", content=pieces(), headers=NDJSON, timeout=60) for _ in range(5)
        ]
        statuses = [post.result().status_code for post in posts]
        assert set(statuses) <= {202, 413}
        assert statuses.count(202) <= 2
        assert len(list(tmp_path.rglob("*.jsonl"))) == statuses.count(202)


@pytest.mark.parametrize(
    ("content", "headers", "query", "status", "detail"),
    [
        (b"", NDJSON, {}, 422, "the file has no lines: each is a request"),
        (b"\n \n", NDJSON, {}, 422, "has no lines"),
        (b"{}", {}, {}, 415, "there is no Content-Type: send JSON lines, with `Content-Type: application/x-ndjson`"),
        (b"{}", {"Content-Type": "application/json"}, {}, 415, "'application/json': send JSON lines"),
        (b"{}", NDJSON | {"Content-Encoding": "gzip"}, {}, 415, "send it without Content-Encoding"),
        (b"{}", NDJSON, {"timeout_s": 90_000}, 422, "over the limit of 86400 (setting NEURON_API_BATCH_TIMEOUT_S)"),
        (b"{}", NDJSON, {"timeout_s": 0}, 422, "query.timeout_s: "),
        (b"{}", NDJSON, {"timeout_s": "inf"}, 422, "query.timeout_s: "),
        (b"{}", NDJSON | {"Idempotency-Key": "é".encode()}, {}, 422, "Idempotency-Key"),
    ],
)
def test_what_is_no_batch_is_refused(
    client: httpx.Client, content: bytes, headers: dict[str, str], query: dict[str, Any], status: int, detail: str
) -> None:
    refused = client.post("/batches", content=content, headers=headers, params=query)
    assert (refused.status_code, refused.headers["content-type"]) == (status, "application/problem+json")
    assert detail in refused.json()["detail"]


@pytest.mark.parametrize("batch_id", ["x", "0" * 32, "..%2F..%2Fetc", "%00", "0" * 31 + "G"])
def test_a_batch_that_is_not_there_is_unknown(client: httpx.Client, batch_id: str) -> None:
    for method, path in (("GET", ""), ("GET", "/answers"), ("DELETE", "")):
        answer = client.request(method, f"/batches/{batch_id}{path}")
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_repeated_upload_makes_one_batch(client: httpx.Client) -> None:
    content, key = line("/classify", {"text": "Good."}), NDJSON | {"Idempotency-Key": "once"}
    made = [client.post("/batches", content=content, headers=key) for _ in range(2)]
    assert [answer.headers.get("idempotency-replayed") for answer in made] == [None, "true"]
    assert made[0].json()["id"] == made[1].json()["id"]
    other = client.post("/batches", content=content * 2, headers=key)
    assert (other.status_code, other.json()["type"].rpartition(":")[2]) == (422, "idempotency-key-reused")


def test_batches_are_listed_in_pages_with_the_newest_first(client: httpx.Client) -> None:
    made = [send(client, line("/classify", {"text": "Good."})) for _ in range(5)][::-1]
    found, after = [], None
    while len(found) < 5:
        page = client.get("/batches", params={"limit": 2} | ({"after": after} if after else {})).json()
        assert len(page["batches"]) == 2
        found += [batch["id"] for batch in page["batches"]]
        after = page["next"]
    assert found[:5] == made


def test_a_batch_that_is_not_ready_in_time_says_so_in_the_place_of_answers(client: httpx.Client) -> None:
    batch_id = send(client, slow_lines(2, 5) + slow_lines(100, 500_000), timeout_s=4)
    done = ended(client, batch_id)
    assert (done["state"], done["completed"], done["failed"]) == ("expired", 2, 100)
    found = answers(client, batch_id)
    assert seeds(found[:2]) == [0, 1]
    assert {one["error"]["message"] for one in found[2:]} == {"the batch has expired before this line had its answer"}


def test_a_line_has_the_time_of_its_batch_unless_it_asks_for_less(serving: Stack) -> None:
    limit = 0.5
    with serving.gateway(NEURON_API_JOB_TIMEOUT_S=str(limit)) as short, short.client() as client:
        with serving.paused("worker"):  # for longer than a job may take
            patient = line("/classify", {"text": "Good."})
            other = line("/classify", {"text": "Bad.", "timeout_s": limit})
            batch_id = send(client, patient + other)
            wait_until(lambda: client.get(f"/batches/{batch_id}").json()["failed"] == 1, what="the end of the second")
        ended(client, batch_id)
        assert [one["response"]["status_code"] for one in answers(client, batch_id)] == [200, 504]


def test_batches_belong_to_the_names_of_keys(serving: Stack) -> None:
    secrets = {name: keys.generate() for name in ("alice", "bob")}
    setting = ",".join(keys.entry(name, ["use"], secrets[name][1]) for name in secrets)
    with contextlib.ExitStack() as closing:
        keyed = closing.enter_context(serving.gateway(NEURON_API_KEYS=setting))
        alice, bob = (
            closing.enter_context(httpx.Client(base_url=keyed.url, headers={"Authorization": f"Bearer {secret}"}))
            for secret, _ in secrets.values()
        )
        assert httpx.post(f"{keyed.url}/batches", content=b"{}", headers=NDJSON).status_code == 401
        batch_id = send(alice, line("/classify", {"text": "Good."}))
        assert ended(alice, batch_id)["completed"] == 1
        assert bob.get(f"/batches/{batch_id}").status_code == 404
        assert bob.get("/batches").json() == {"batches": [], "next": None}
        assert [batch["id"] for batch in alice.get("/batches").json()["batches"]] == [batch_id]


def test_without_a_storage_there_are_no_batches(redis_url: str) -> None:
    with gateway(redis_url) as url:
        for refused in (httpx.post(f"{url}/batches", content=b"{}", headers=NDJSON), httpx.get(f"{url}/batches")):
            assert refused.status_code == 404
            assert refused.json()["detail"] == "this gateway takes no batches: NEURON_API_BATCH_STORAGE is not set"


def test_batches_are_kept_for_their_time(serving: Stack, tmp_path: Path) -> None:
    url, storage = serving.environment["NEURON_REDIS_URL"], str(tmp_path / "storage")
    with gateway(url, NEURON_API_BATCH_STORAGE=storage) as address, httpx.Client(base_url=address) as client:
        batch_id = send(client, line("/classify", {"text": "Good."}))
        ended(client, batch_id)
    with gateway(url, NEURON_API_BATCH_STORAGE=storage) as address:
        assert httpx.get(f"{address}/batches/{batch_id}").json()["completed"] == 1
    with gateway(url, NEURON_API_BATCH_STORAGE=storage, NEURON_API_BATCH_TTL_S="0.1") as address:
        wait_until(lambda: httpx.get(f"{address}/batches/{batch_id}").status_code == 404, what="its end")
        wait_until(lambda: not list((tmp_path / "storage").rglob("*.json*")), what="the end of its file")


def test_a_full_disk_refuses_files_and_delays_answers(serving: Stack, tmp_path: Path) -> None:
    url = serving.environment["NEURON_REDIS_URL"]
    with (
        small_disk.small_disk(tmp_path / "disk", megabytes=2) as disk,
        gateway(url, NEURON_API_BATCH_STORAGE=str(disk / "storage"), NEURON_API_MAX_LENGTH="100000") as address,
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        batch_id = send(client, slow_lines(10, 4000))
        has_begun(client, batch_id)
        with small_disk.full(disk):
            refused = client.post("/batches", content=slow_lines(1000), headers=NDJSON)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
            assert refused.json()["detail"] == "the storage of batches does not answer, or is full"
            before = metric(address, "neuron_batch_errors_total")
            wait_until(lambda: metric(address, "neuron_batch_errors_total") > before, what="answers without a place")
        done = ended(client, batch_id)
        assert (done["completed"], done["failed"]) == (10, 0)
        assert seeds(answers(client, batch_id)) == list(range(10))


def test_a_batch_that_is_open_keeps_its_file_although_its_making_failed(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, failing = Directory.read, ["the look at the file once the batch is open"]

    def read_or_fail(storage: Directory, path: str, *where: Any) -> bytes:
        if "/files/" in path and path.endswith(".json") and failing:
            raise OSError(errno.EIO, failing.pop())
        return read(storage, path, *where)

    monkeypatch.setattr(Directory, "read", read_or_fail)
    with gateway(redis_url, NEURON_API_BATCH_STORAGE=str(tmp_path)) as url:
        refused = httpx.post(f"{url}/batches", content=line("/classify", {"text": "Good."}), headers=NDJSON)
        assert (refused.status_code, failing) == (503, [])
        assert len(list(tmp_path.rglob("*.jsonl"))) == 1
        (batch,) = httpx.get(f"{url}/batches").json()["batches"]
        assert batch["ended"] is None


def test_a_batch_leaves_half_of_the_queue_to_others(serving: Stack) -> None:
    with serving.gateway(NEURON_API_MAX_QUEUED_TEXTS="6") as small, small.client() as client:
        with serving.paused("worker"):
            batch_id = send(client, slow_lines(20, 5))
            wait_until(
                lambda: metric(small.url, "neuron_batch_pauses_total") > 0, what="a line that is refused for now"
            )
            alone = client.post("/classify", json={"text": "Good."}, headers={"Prefer": "respond-async"})
            assert alone.status_code == 202
        assert ended(client, batch_id)["completed"] == 20


@pytest.mark.slow
def test_a_batch_goes_on_at_another_gateway(serving: Stack) -> None:
    with serving.gateway() as first, serving.gateway() as second:
        serving.kill("api")
        with first.client() as client:
            batch_id = send(client, slow_lines(150, 1000))
            has_begun(client, batch_id)
        first.kill("api")
        with second.client() as client:
            done = ended(client, batch_id)
            assert (done["lines"], done["completed"]) == (150, 150)
            assert seeds(answers(client, batch_id)) == list(range(150))
        serving.spawn("api")
        serving.wait_ready()
