"""API keys: who may call which endpoints, whose a job is, and a key's limits for a second and for a day."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis
from click.testing import CliRunner

from api import keys
from api.server import main as serve
from api.settings import ApiSettings
from cli.main import main
from contract import wire
from contract.setting_error import SettingError
from tests.conftest import Stack, redis_server, wait_until
from tests.support.gateway import gateway, metric

ASYNC = {"Prefer": "respond-async"}
SCOPES = {"alice": ["use"], "bob": ["use"], "fitter": ["use", "heads"], "prometheus": ["metrics"], "root": ["admin"]}
SECRETS = {name: keys.generate() for name in SCOPES}
SETTING = ",".join(keys.entry(name, scopes, SECRETS[name][1]) for name, scopes in SCOPES.items())


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {SECRETS[name][0]}"}


@pytest.fixture(scope="module")
def keyed(stack: Stack) -> Iterator[Stack]:
    # Listening on all addresses, as in a container: with keys that is allowed.
    with stack.gateway(NEURON_API_KEYS=SETTING, NEURON_API_HOST="0.0.0.0") as keyed:  # noqa: S104
        yield keyed


def client_of(url: str, name: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=60, headers=bearer(name))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/classify"),
        ("POST", "/featurize"),
        ("POST", "/trace"),
        ("POST", "/generate"),
        ("POST", "/heads"),
        ("GET", "/models"),
        ("GET", "/metrics"),
        ("GET", "/jobs/" + "A" * 24),
        ("DELETE", "/jobs/" + "A" * 24),
        ("GET", "/jobs/" + "A" * 24 + "/events"),
        ("GET", "/nowhere"),
        ("OPTIONS", "/classify"),
    ],
)
@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "Bearer",
        "Basic " + SECRETS["root"][0],
        "Bearer " + SECRETS["root"][0][:-1],
        "Bearer " + SECRETS["root"][1],
        "Bearer \xff",
    ],
    ids=["none", "no key", "another scheme", "cut", "its hash", "not ASCII"],
)
def test_without_a_key_nothing_is_done(keyed: Stack, method: str, path: str, authorization: str | None) -> None:
    headers = [] if authorization is None else [(b"Authorization", authorization.encode("latin-1"))]
    response = httpx.request(method, keyed.url + path, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith('Bearer realm="sentiment-neuron"')
    assert response.json()["type"].endswith(":unauthorized")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/docs", "/openapi.json"])
def test_probes_and_documentation_are_open(keyed: Stack, path: str) -> None:
    assert httpx.get(keyed.url + path).status_code == 200


def test_a_key_opens_what_its_scope_names(keyed: Stack) -> None:
    def status(name: str, method: str, path: str) -> int:
        body = {"text": "Good."} if method == "POST" else None
        return httpx.request(method, keyed.url + path, json=body, headers=bearer(name), timeout=60).status_code

    assert {name: status(name, "POST", "/classify") for name in SCOPES} == {
        "alice": 200, "bob": 200, "fitter": 200, "prometheus": 403, "root": 200,
    }  # fmt: skip
    assert {name: status(name, "GET", "/metrics") for name in SCOPES} == {
        "alice": 403, "bob": 403, "fitter": 403, "prometheus": 200, "root": 200,
    }  # fmt: skip
    heads = {name: status(name, "POST", "/heads") for name in SCOPES}
    assert {name for name, answer in heads.items() if answer != 403} == {"fitter", "root"}
    assert {name: status(name, "DELETE", "/heads/none") for name in SCOPES} == {
        "alice": 403, "bob": 403, "fitter": 404, "prometheus": 403, "root": 404,
    }  # fmt: skip
    assert {name: status(name, "GET", "/heads") for name in SCOPES} == {
        "alice": 200, "bob": 200, "fitter": 200, "prometheus": 403, "root": 200,
    }  # fmt: skip


def test_a_refusal_names_the_scope(keyed: Stack) -> None:
    response = httpx.post(keyed.url + "/classify", json={"text": "Good."}, headers=bearer("prometheus"))
    assert response.json()["scope"] == "use"
    assert "'use'" in response.json()["detail"]
    assert 'error="insufficient_scope", scope="use"' in response.headers["www-authenticate"]


def test_a_job_is_its_owners(keyed: Stack) -> None:
    with (
        client_of(keyed.url, "alice") as alice,
        client_of(keyed.url, "bob") as bob,
        client_of(keyed.url, "root") as root,
    ):
        body = {"length": 1_000_000, "stop": []}
        where = alice.post("/generate", json=body, headers=ASYNC).raise_for_status().headers["location"]
        unknown = bob.get("/jobs/" + "A" * len(where.removeprefix("/jobs/")))
        for method, path in (("GET", where), ("DELETE", where), ("GET", where + "/events")):
            response = bob.request(method, path)
            assert response.status_code == 404
            # Only the id distinguishes it from a job that never was.
            assert response.json()["type"] == unknown.json()["type"]
        assert alice.get(where).json()["state"] in ("queued", "running")
        assert root.get(where).status_code == 200
        assert alice.delete(where).status_code == 202
        wait_until(lambda: root.get(where).json()["state"] == "cancelled", what="the cancellation by its owner")
        with alice.stream("GET", where + "/events") as events:
            assert "event: cancelled" in list(events.iter_lines())
        # One that was answered in place is a job as well.
        with alice.stream("POST", "/generate", json={"length": 5, "stream": True, "stop": []}) as events:
            streamed = events.headers["location"]
            events.read()
        assert alice.get(streamed).json()["state"] == "done"
        assert bob.get(streamed).status_code == 404


def test_a_key_that_was_replaced_leaves_the_jobs_to_the_new_one() -> None:
    old, new, other = keys.parse(f"alice:use:{'0' * 64}, alice:use+heads:{'1' * 64}, bob:use:{'2' * 64},")
    job = old.owned("A" * 24)
    assert new.may_see(job)
    assert not other.may_see(job)
    assert not old.may_see("A" * 24)  # made before there were keys


def test_keys_are_in_the_openapi_document(keyed: Stack, client: httpx.Client) -> None:
    document = httpx.get(keyed.url + "/openapi.json").json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert document["paths"]["/classify"]["post"]["security"] == [{"key": ["use"]}]
    assert "security" not in document["paths"]["/healthz"]["get"]
    assert "security" not in client.get("/openapi.json").json()["paths"]["/classify"]["post"]  # where keys are off


def test_keys_are_never_logged(keyed: Stack, stack: Stack) -> None:
    for name in SCOPES:
        httpx.post(keyed.url + "/classify", json={"text": "Good."}, headers=bearer(name), timeout=60)
    assert "NEURON_API_KEYS" in keyed.log.read_text()
    log = keyed.log.read_text() + stack.log.read_text()  # the gateway's and the worker's
    for secret, digest in SECRETS.values():
        assert secret not in log
        assert digest not in log


def test_a_new_key_works_as_printed(redis_url: str) -> None:
    shown = CliRunner().invoke(main, ["key", "new", "--name", "carol", "--scope", "use", "--scope", "heads"])
    assert shown.exit_code == 0, shown.output
    lines = dict(line.split() for line in shown.stdout.splitlines())
    (key,) = keys.parse(lines["entry"])
    assert (key.name, key.scopes) == ("carol", {"use", "heads"})
    assert keys.find([key], lines["key"]) is key
    with gateway(redis_url, NEURON_API_KEYS=lines["entry"]) as url:
        known = {"Authorization": f"bearer {lines['key']}"}  # the scheme's case is free (RFC 9110)
        assert httpx.get(url + "/models", headers=known).status_code == 200


def test_a_name_that_would_break_the_setting_is_refused() -> None:
    assert CliRunner().invoke(main, ["key", "new", "--name", "a:b"]).exit_code == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"NEURON_API_HOST": "0.0.0.0"}, "NEURON_API_KEYS names no key"),  # noqa: S104
        ({"NEURON_API_HOST": "::"}, "NEURON_INSECURE=true"),
        ({"NEURON_API_HOST": ""}, "NEURON_INSECURE=true"),
        ({"NEURON_API_HOST": "gateway.example"}, "NEURON_INSECURE=true"),
        ({"NEURON_API_KEYS": "alice:use:neuron_abc"}, "entry 1"),
        ({"NEURON_API_KEYS": f"alice:use:{'0' * 64},bob:read:{'0' * 64}"}, "entry 2: no scope 'read'"),
        ({"NEURON_API_KEY_REQUESTS_PER_S": "5"}, "NEURON_API_KEYS names none"),
    ],
)
def test_the_gateway_refuses_to_start_open_or_misread(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], said: str
) -> None:
    for name in [name for name in os.environ if name.startswith("NEURON_")]:
        monkeypatch.delenv(name)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        serve()
    # What Python writes to stderr, to return 1.
    assert isinstance(ended.value.code, str)
    assert said in ended.value.code
    assert "neuron_abc" not in ended.value.code  # a key in the place of its digest is still a key


def test_a_refusal_to_start_is_one_message_of_the_process() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NEURON_")}
    misread = {"NEURON_API_KEYS": "alice:use:neuron_abc"}
    command = [sys.executable, "-m", "api"]
    done = subprocess.run(command, env=environment | misread, capture_output=True, text=True, timeout=180)
    assert done.returncode == 1
    assert "entry 1" in done.stderr
    assert "Traceback" not in done.stderr
    assert "neuron_abc" not in done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_needs_no_keys(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("NEURON_API_HOST", host)
    assert ApiSettings().keys == []


def test_insecure_is_said_aloud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_API_HOST", "0.0.0.0")  # noqa: S104
    with pytest.raises(SettingError, match="NEURON_INSECURE"):
        ApiSettings()
    monkeypatch.setenv("NEURON_INSECURE", "true")
    assert ApiSettings().insecure


def test_requests_a_second(redis_url: str) -> None:
    # So slow a bucket that it does not fill up while the test runs.
    with gateway(redis_url, NEURON_API_KEYS=SETTING, NEURON_API_KEY_REQUESTS_PER_S="0.01") as url:
        counted = 'neuron_refused_requests_total{reason="rate-limited"}'
        before = metric(url, counted, bearer("root"))
        with client_of(url, "alice") as alice, client_of(url, "bob") as bob:
            assert alice.get("/models").status_code == 200
            refused = alice.post("/classify", json={"text": "Good."}, headers=ASYNC)
            assert refused.status_code == 429
            problem = refused.json()
            assert problem["type"].endswith(":rate-limited")
            assert (problem["limit"], problem["setting"]) == (0.01, "NEURON_API_KEY_REQUESTS_PER_S")
            assert 1 <= int(refused.headers["retry-after"]) <= 100
            assert bob.get("/models").status_code == 200  # each key has its own
            assert httpx.get(url + "/healthz").status_code == 200
        assert metric(url, counted, bearer("prometheus")) == before + 1


def test_a_bucket_fills_up_again(redis_url: str) -> None:
    with (
        gateway(redis_url, NEURON_API_KEYS=SETTING, NEURON_API_KEY_REQUESTS_PER_S="2") as url,
        client_of(url, "alice") as alice,
    ):
        refused = None
        for _ in range(50):
            refused = alice.get("/models")
            if refused.status_code == 429:
                break
        assert refused is not None
        assert refused.status_code == 429
        with redis.Redis.from_url(redis_url) as counts:
            # As if the time that the answer names had gone by.
            counts.hincrbyfloat(wire.rate("alice"), "at", -int(refused.headers["retry-after"]))
            assert alice.get("/models").status_code == 200
            # As if Redis' clock had been set back by an hour, with an empty bucket.
            counts.hset(wire.rate("alice"), "tokens", "0")
            counts.hincrbyfloat(wire.rate("alice"), "at", 3600)
        refused = alice.get("/models")
        assert refused.status_code == 429
        time.sleep(int(refused.headers["retry-after"]))
        assert alice.get("/models").status_code == 200


def test_bytes_a_day(redis_url: str) -> None:
    settings = {
        "NEURON_API_KEYS": SETTING,
        "NEURON_API_KEY_REQUESTS_PER_S": "1000",
        "NEURON_API_KEY_BYTES_PER_DAY": "100",
    }
    with gateway(redis_url, **settings) as url, client_of(url, "alice") as alice, client_of(url, "bob") as bob:
        assert alice.post("/classify", json={"text": "a" * 60}, headers=ASYNC).status_code == 202
        refused = alice.post("/generate", json={"prompt": "a", "length": 40, "stream": True})
        assert refused.status_code == 429
        problem = refused.json()
        assert problem["type"].endswith(":quota-used")
        assert (problem["limit"], problem["used"], problem["actual"]) == (100, 60, 41)
        assert problem["setting"] == "NEURON_API_KEY_BYTES_PER_DAY"
        assert 1 <= int(refused.headers["retry-after"]) <= 24 * 3600
        assert alice.post("/classify", json={"text": "a" * 40}, headers=ASYNC).status_code == 202  # what is left
        assert alice.get("/models").status_code == 200  # reads no bytes
        assert bob.post("/classify", json={"text": "a" * 100}, headers=ASYNC).status_code == 202
        assert bob.post("/classify", json={"text": "a" * 101}, headers=ASYNC).status_code == 413  # never fits


@pytest.mark.parametrize(
    ("name", "method", "path", "body", "status"),
    [
        ("fitter", "DELETE", "/heads/none", None, 404),
        ("alice", "POST", "/v1/completions", {"model": "tiny", "prompt": ["1", "2", "3"], "max_tokens": 5}, 200),
    ],
)
def test_a_request_of_any_kind_is_counted_once(
    stack: Stack, name: str, method: str, path: str, body: dict[str, object] | None, status: int
) -> None:
    settings = {"NEURON_API_KEYS": SETTING, "NEURON_API_KEY_BYTES_PER_DAY": "1000000"}
    url = stack.environment["NEURON_REDIS_URL"]
    # A bucket that holds one request, and does not fill up while the test runs.
    with gateway(url, **settings, NEURON_API_KEY_REQUESTS_PER_S="0.01") as address, client_of(address, name) as client:
        assert [client.request(method, path, json=body).status_code for _ in range(2)] == [status, 429]


def test_limits_need_redis(tmp_path: Path) -> None:
    with (
        redis_server(tmp_path) as server,
        gateway(server.connection_url + "/0", NEURON_API_KEYS=SETTING, NEURON_API_KEY_REQUESTS_PER_S="1000") as url,
        client_of(url, "alice") as alice,
    ):
        server.stop()
        response = alice.get("/jobs/" + "A" * 36)
        assert response.status_code == 503
        assert response.json()["type"].endswith(":unavailable")
