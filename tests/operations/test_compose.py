"""`docker compose up` with a real Docker: it serves, survives, trains, and is neither root nor writable."""

import json
import os
import signal
import time
from typing import Any

import httpx
import pytest

from monitoring.dashboard import ROWS
from tests.conftest import wait_until
from tests.faults.load import Load, Request
from tests.operations.conftest import Compose, docker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SERVICES = ("redis", "api", "worker", "prometheus")
OURS = ("api", "worker")


def test_it_classifies_generates_and_streams(compose: Compose) -> None:
    with httpx.Client(base_url=compose.url, timeout=120) as client:
        texts = ["What a lovely film, I love it.", "The worst film that I have ever seen, and boring as well."]
        answer = client.post("/classify", json={"texts": texts}).json()
        assert [result["label"] for result in answer["results"]] == ["positive", "negative"]
        body = {"prompt": "The film", "length": 40, "seed": 1, "stop": []}
        whole = client.post("/generate", json=body).json()["results"][0]["text"]
        with client.stream("POST", "/generate", json=body | {"stream": True}) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            events = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: ")]
        assert "".join(event["text"] for event in events[:-1]) == whole == events[-1]["results"][0]["text"]


def test_a_head_outlives_its_worker_and_is_all_that_a_worker_may_write(compose: Compose) -> None:
    examples = [{"text": f"{number} {word}", "label": word} for number in range(6) for word in ("good", "bad")]
    with httpx.Client(base_url=compose.url, timeout=120) as client:
        assert client.post("/heads", json={"name": "words", "examples": examples}).status_code == 200
        compose("restart", "worker")
        compose.wait_ready()
        assert client.get("/heads/words").json()["usable"]
        assert client.post("/classify", json={"text": "1 good", "head": "words"}).status_code == 200
        assert client.delete("/heads/words").status_code == 204
    with pytest.raises(AssertionError, match="Read-only file system"):
        compose("exec", "-T", "worker", "touch", "/volume/checkpoints/x")


def test_nothing_runs_as_root_or_can_change_its_image(compose: Compose) -> None:
    for service in SERVICES:
        found = compose.inspect(service)
        assert found["HostConfig"]["ReadonlyRootfs"], service
        assert found["HostConfig"]["CapDrop"] == ["ALL"], service
        assert found["HostConfig"]["SecurityOpt"] == ["no-new-privileges:true"], service
        # As the kernel sees them: no process of any container is root's, but Docker's own init where there is one.
        for line in docker("top", found["Id"], "-eo", "pid,uid,comm").splitlines()[1:]:
            _, uid, name = line.split(maxsplit=2)
            assert int(uid) != 0, f"{service}: {name}"
    for service in OURS:
        for path in ("/opt/neuron/bin/x", "/x", "/usr/x"):
            with pytest.raises(AssertionError, match="Read-only file system"):
                compose("exec", "-T", service, "touch", path)


def test_the_gateway_is_small_and_has_no_torch(compose: Compose) -> None:
    with pytest.raises(AssertionError, match="No module named 'torch'"):
        compose("exec", "-T", "api", "python", "-c", "import torch")
    ours = int(docker("image", "inspect", "--format", "{{.Size}}", compose.inspect("api")["Image"]))
    base = int(docker("image", "inspect", "--format", "{{.Size}}", "python:3.11-slim"))
    # The published python:3.11-slim has some 130 MB; a stand-in for it may have more. Numpy is half of ours; what draws
    # heat maps has 7 MB, most of them tables of how wide each version of Unicode draws what (wcwidth).
    assert ours - base < 135e6


@pytest.mark.faults
@pytest.mark.parametrize("service", SERVICES)
def test_a_container_that_dies_under_load_comes_back_and_nothing_is_lost(compose: Compose, service: str) -> None:
    texts = ["Good.", "A bad film, all in all.", "I could not stop reading this, and then I did."]
    requests = [Request("/classify", {"text": text}, "wait") for text in texts]
    requests += [Request("/generate", {"length": 60, "seed": seed, "stop": []}, "return") for seed in range(4)]
    requests += [Request("/generate", {"length": 60, "seed": 9, "stop": [], "stream": True}, "stream")]
    with Load([compose.url], requests, clients=16) as load:
        time.sleep(3)
        before = compose.inspect(service)
        # What Docker itself kills it does not restart.
        os.kill(before["State"]["Pid"], signal.SIGKILL)
        wait_until(lambda: compose.inspect(service)["RestartCount"] > before["RestartCount"], what="the restart")
        compose.wait_ready()
        time.sleep(3)
    account = load.account()
    assert not account.lost
    assert not account.wrong
    assert not account.failed


def test_what_the_trainer_publishes_is_served_without_a_restart(compose: Compose) -> None:
    """And every panel of the dashboard then has something to show."""
    script = (
        "import random; random.seed(1); words = 'a good bad film was it the plot never'.split();"
        "print('\\n'.join(' '.join(random.choices(words, k=20)) + '.' for _ in range(4000)))"
    )
    train = "--units 32 --lanes 8 --window 16 --no-fuse --snapshot-every-s 1000 --validate-every-bytes 3200"
    shell = f"""set -e
        python -c "{script}" > /tmp/reviews.txt
        neuron corpus build /tmp/reviews.txt --out /volume/corpus --shards 20
        neuron train /volume/runs/small --corpus /volume/corpus {train} --total-bytes 6400 \
            --publish-to /volume/checkpoints
        neuron train /volume/runs/watched --corpus /volume/corpus {train} --total-bytes 100000000 \
            --metrics-host 0.0.0.0 --metrics-port 9102"""
    started = {service: compose.inspect(service)["State"]["StartedAt"] for service in OURS}
    compose("run", "--detach", "--use-aliases", "--name", compose.trainer, "--entrypoint", "sh", "trainer", "-c", shell)

    def served() -> bool:
        models = httpx.get(compose.url + "/models", timeout=30).json()["models"]
        return any(model["step"] == 50 and model["units"] == 32 for model in models)

    wait_until(served, timeout_s=180, what="the new model")
    assert {service: compose.inspect(service)["State"]["StartedAt"] for service in OURS} == started

    expressions = {
        f"{panel.title}: {expression}": expression.replace("$__rate_interval", "1m")
        for row in ROWS.values()
        for panel in row
        for expression in panel.expressions.values()
    }

    def empty() -> list[str]:
        with httpx.Client(base_url=compose.prometheus) as client:

            def reported(expression: str) -> list[Any]:
                answer = client.get("/api/v1/query", params={"query": expression}).raise_for_status()
                found: list[Any] = answer.json()["data"]["result"]
                # A quantile of no observations is not a number.
                return [one for one in found if one["value"][1] != "NaN"]

            return [name for name, expression in expressions.items() if not reported(expression)]

    body = {"prompt": "The film", "length": 200, "stop": [], "stream": True}
    deadline = time.monotonic() + 120
    while empty() and time.monotonic() < deadline:
        httpx.post(compose.url + "/generate", json=body, timeout=60)
        httpx.post(compose.url + "/classify", json={"text": "Good."}, headers={"Prefer": "respond-async"}, timeout=60)
    assert empty() == []
    docker("rm", "--force", compose.trainer)


def test_the_gpu_file_gives_each_worker_a_device_and_the_cuda_images(compose: Compose) -> None:
    """No more than what Docker makes of the file: it starts nothing where there is no GPU."""
    files = ("-f", "docker-compose.yml", "-f", "docker-compose.gpu.yml")
    profiles = ("--profile", "two-gpus", "--profile", "train")
    services = json.loads(compose(*files, *profiles, "config", "--format", "json"))["services"]
    devices = []
    for name in ("worker", "worker-1"):
        assert services[name]["build"]["args"]["TORCH_INDEX"] == ""
        assert services[name]["environment"]["NEURON_WORKER_DEVICE"] == "cuda"
        assert services[name]["read_only"]
        (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        devices += device["device_ids"]
    assert devices == ["0", "1"]
    assert services["trainer"]["build"]["args"]["TORCH_INDEX"] == ""


def test_down_leaves_nothing(compose: Compose) -> None:
    """The last one: it takes the service away."""
    project = compose.environment["COMPOSE_PROJECT_NAME"]
    label = f"label=com.docker.compose.project={project}"
    assert docker("volume", "ls", "--quiet", "--filter", label)
    compose("down", "--volumes", "--timeout", "60")
    assert docker("volume", "ls", "--quiet", "--filter", label) == ""
    assert docker("ps", "--all", "--quiet", "--filter", label) == ""
    assert docker("network", "ls", "--quiet", "--filter", label) == ""
