"""What the service says of itself: models, readiness, metrics, documentation."""

import json
import os
import subprocess
import sys

import httpx
import redis

from contract import wire
from contract.jobs import WorkerStatus
from tests.conftest import Stack, wait_until
from tests.support.gateway import gateway


def test_models(client: httpx.Client) -> None:
    (model,) = client.get("/models").raise_for_status().json()["models"]
    assert (model["name"], model["step"], model["units"], model["cell"]) == ("tiny", 1, 48, "mlstm")
    assert model["sentiment_unit"] == 5
    assert model["heads"] == {"length": ["short", "medium", "long"], "sentiment": ["negative", "positive"]}
    assert model["dtype"] == "float32"
    assert model["top_units"]["length"] == [
        {"unit": 7, "weights": [0.0, 2.0, 1.0]},
        {"unit": 3, "weights": [1.0, 0.0, -1.0]},
    ]
    counts = {"negative": [3, 5, 1], "positive": [0, 4, 8]}
    assert model["unit_histogram"] == {"edges": [-1.0, 0.0, 0.5, 1.0], "counts": counts, "data": "21 texts"}


def test_healthz_readyz_and_docs(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready", "workers": 1}
    assert "swagger" in client.get("/docs").text.lower()
    paths = client.get("/openapi.json").json()["paths"]
    assert "503" in paths["/models"]["get"]["responses"]
    assert "application/x-npy" in paths["/jobs/{job_id}"]["get"]["responses"]["200"]["content"]
    assert {"/classify", "/featurize", "/trace", "/generate", "/jobs/{job_id}", "/models"} <= set(paths)


def test_metrics_of_gateway_and_worker(client: httpx.Client, stack: Stack) -> None:
    read = stack.worker_metric("neuron_bytes_total", '{kind="read"}')
    steps = stack.worker_metric("neuron_step_rows_count")
    text = "A text that nobody has sent before."  # so that none of its states is kept
    client.post("/classify", json={"text": text}).raise_for_status()
    assert stack.worker_metric("neuron_bytes_total", '{kind="read"}') == read + len(f"\n {text} ")
    assert stack.worker_metric("neuron_step_rows_count") == steps + len(f"\n {text} ")
    text = client.get("/metrics").text
    assert 'neuron_requests_total{method="POST",route="/classify",status="200"}' in text
    assert "neuron_request_seconds_bucket" in text


def test_readiness_ends_with_the_last_worker(stack: Stack, client: httpx.Client) -> None:
    endless = {"length": 1_000_000, "stop": []}
    where = client.post("/generate", json=endless, headers={"Prefer": "respond-async"}).headers["location"]
    wait_until(lambda: client.get(where).json()["state"] == "running", what="the job's start")
    stack.processes["worker"].terminate()
    wait_until(lambda: client.get("/readyz").status_code == 503, what="unreadiness")
    assert client.get("/readyz").json()["detail"].endswith(" is stopping")
    client.delete(where)
    stack.processes["worker"].wait(180)
    assert stack.processes["worker"].returncode == 0
    response = client.get("/readyz")
    assert response.status_code == 503
    assert "no worker has sent a heartbeat" in response.json()["detail"]
    stack.spawn("worker")
    stack.wait_ready()


def test_a_record_of_another_version_hides_no_other(stack: Stack, client: httpx.Client) -> None:
    with redis.Redis.from_url(stack.environment["NEURON_REDIS_URL"]) as records:
        known = client.get("/heads").raise_for_status().json()
        records.set(wire.worker("of-tomorrow"), '{"id": "of-tomorrow"}', ex=wire.HEARTBEAT_TTL_S)
        records.sadd(wire.WORKERS, "of-tomorrow")
        records.hset(wire.HEADS, "of-tomorrow", "{")
        try:
            assert client.get("/readyz").json() == {"status": "ready", "workers": 1}
            assert len(client.get("/models").raise_for_status().json()["models"]) == 1
            assert client.get("/heads").raise_for_status().json() == known
            missing = client.get("/heads/of-tomorrow")
            assert missing.status_code == 404
            assert "is damaged or of another version" in missing.json()["detail"]
            examples = [{"text": text, "label": text} for text in ("yes", "no") * 5]
            assert client.post("/heads", json={"name": "of-tomorrow", "examples": examples}).status_code == 409
            told = client.get("/metrics").raise_for_status().text
        finally:
            records.hdel(wire.HEADS, "of-tomorrow")
            records.srem(wire.WORKERS, "of-tomorrow")
    assert "\nneuron_workers_ready 1.0\n" in told
    for kind in ("worker", "head"):
        assert f'neuron_unreadable_records_total{{kind="{kind}"}} 0.0' not in told


def test_a_hung_engine_is_not_ready(stack: Stack, client: httpx.Client) -> None:
    with stack.paused("worker"), redis.Redis.from_url(stack.environment["NEURON_REDIS_URL"]) as heartbeats:
        known = [name.decode() for name in heartbeats.smembers(wire.WORKERS)]
        (name,) = [name for name in known if f"-{stack.processes['worker'].pid}-" in name]
        heartbeat = wire.worker(name)
        assert 0 < heartbeats.pttl(heartbeat) <= 1000 * wire.HEARTBEAT_TTL_S  # type: ignore[operator]
        heartbeats.pexpire(heartbeat, 100)  # as after most of that time
        wait_until(lambda: client.get("/readyz").status_code == 503, what="the stopped worker's absence")
    stack.wait_ready()


def test_every_worker_that_is_not_ready_has_its_reason(redis_url: str) -> None:
    with gateway(redis_url) as url, redis.Redis.from_url(redis_url) as heartbeats:
        for name, stopping, age_s in (("one", True, 0.1), ("two", False, 12.4), ("zero", False, 0.2)):
            status = WorkerStatus(
                id=name,
                ready=False,
                stopping=stopping,
                model=None,
                engine_age_s=age_s,
                rows_active=1,
                rows_waiting=0,
            )
            heartbeats.sadd(wire.WORKERS, name)
            heartbeats.set(wire.worker(name), status.model_dump_json())
        detail = httpx.get(url + "/readyz").json()["detail"]
        assert detail.split("; ") == [
            "worker one is stopping",
            "worker two has an engine that has not moved for 12 s",
            "worker zero has an engine that has failed: the worker's log says how",
        ]


def test_what_a_newer_worker_tells_beside_what_is_known_does_no_harm(stack: Stack, redis_url: str) -> None:
    """As while the workers of a service are replaced, which are first."""
    with redis.Redis.from_url(stack.environment["NEURON_REDIS_URL"]) as known:
        (name, *_) = known.smembers(wire.WORKERS)
        status = json.loads(known.get(wire.worker(name.decode())))
    status["model"]["top_units"]["length"][0]["new"] = status["model"]["new"] = status["new"] = 1
    head = {"name": "mine", "checkpoint": {"name": "tiny", "step": 1, "new": 1}, "labels": ["a", "b"], "examples": 2}
    head |= {"unit_only": False, "pooling": "cell", "accuracy": None, "accuracy_deviation": None, "folds": 0, "c": 1.0}
    head |= {"nonzero_units": 0, "top_units": [], "created": 0.0, "new": 1}
    job_id = "A" * 32
    record = {"kind": "classify", "state": "failed", "created": 1, "timeout_s": 60, "encoding": "float"}
    outcome = {"state": "failed", "error": {"code": "unknown-head", "detail": "none", "new": 1}, "new": 1}
    with gateway(redis_url) as url, redis.Redis.from_url(redis_url) as direct:
        direct.sadd(wire.WORKERS, status["id"])
        direct.set(wire.worker(status["id"]), json.dumps(status))
        direct.hset(wire.HEADS, "mine", json.dumps(head))
        direct.hset(wire.job(job_id), mapping=record)
        direct.set(wire.result(job_id), json.dumps(outcome))
        for path in ("/readyz", "/models", "/v1/models", "/heads", "/heads/mine", "/metrics", f"/jobs/{job_id}"):
            assert httpx.get(url + path).status_code == 200, path
        assert "new" not in httpx.get(f"{url}/models").json()["models"][0]


def test_the_gateway_never_imports_torch() -> None:
    program = "import sys, api.server; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], env=dict(os.environ), check=False).returncode == 0
