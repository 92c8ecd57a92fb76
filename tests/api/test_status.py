"""What the service says of itself: models, readiness, metrics, documentation, settings."""

import os
import subprocess
import sys

import httpx
import pytest

from api.settings import ApiSettings
from contract.settings import UnknownSettingError
from tests.conftest import Stack, wait_until
from worker.settings import WorkerSettings


def test_models(client: httpx.Client) -> None:
    (model,) = client.get("/models").raise_for_status().json()["models"]
    assert (model["name"], model["step"], model["units"], model["cell"]) == ("tiny", 1, 48, "mlstm")
    assert model["sentiment_unit"] == 5
    assert model["heads"] == {"length": ["short", "medium", "long"], "sentiment": ["negative", "positive"]}
    assert model["dtype"] == "float32"


def test_healthz_readyz_and_docs(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready", "workers": 1}
    assert "swagger" in client.get("/docs").text.lower()
    paths = client.get("/openapi.json").json()["paths"]
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
    stack.processes["worker"].terminate()
    stack.processes["worker"].wait(30)
    assert stack.processes["worker"].returncode == 0
    response = client.get("/readyz")
    assert response.status_code == 503
    assert "no worker has sent a heartbeat" in response.json()["detail"]
    stack.spawn("worker")
    stack.wait_ready()


def test_a_hung_engine_is_not_ready(stack: Stack, client: httpx.Client) -> None:
    import signal

    stack.processes["worker"].send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: client.get("/readyz").status_code == 503, what="the stopped worker's absence")
    finally:
        stack.processes["worker"].send_signal(signal.SIGCONT)
    stack.wait_ready()


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (ApiSettings, "NEURON_API_PROT"),
        (WorkerSettings, "NEURON_WORKER_ROWS"),
        (ApiSettings, "NEURON_REDIS"),
        (WorkerSettings, "NEURON_CHECKPOINTS"),
    ],
)
def test_a_misspelt_setting_is_refused(
    monkeypatch: pytest.MonkeyPatch, settings: type[ApiSettings | WorkerSettings], name: str
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(UnknownSettingError, match=name):
        settings()


def test_settings_of_a_neighbour_are_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_WORKER_MAX_ROWS", "8")
    monkeypatch.setenv("NEURON_API_PORT", "1234")
    assert ApiSettings().api_port == 1234
    assert WorkerSettings().worker_max_rows == 8


def test_the_password_of_redis_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_REDIS_URL", "redis://user:secret@example.test:6379/0")
    assert "secret" not in str(ApiSettings().effective())


def test_the_gateway_never_imports_torch() -> None:
    program = "import sys, api.server; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], env=dict(os.environ), check=False).returncode == 0
