"""A real Docker and the service as `docker compose up` brings it, for the tests that ask for them."""

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import free_port, wait_until

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Compose:
    """One project of docker compose."""

    environment: dict[str, str]

    def __call__(self, *arguments: str, patience_s: float = 900) -> str:
        """`docker compose ARGUMENTS`; fails with what it said on standard error."""
        command = ["docker", "compose", *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=patience_s
        )
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stderr[-4000:]}"
        return done.stdout

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.environment['API_PORT']}"

    @property
    def prometheus(self) -> str:
        return f"http://127.0.0.1:{self.environment['PROMETHEUS_PORT']}"

    @property
    def trainer(self) -> str:
        """The name for a container that trains."""
        return f"{self.environment['COMPOSE_PROJECT_NAME']}-training"

    def inspect(self, service: str) -> dict[str, Any]:
        """What Docker knows of the service's container."""
        name = self("ps", "--quiet", "--all", service).strip()
        found: dict[str, Any] = json.loads(docker("inspect", name))[0]
        return found

    def wait_ready(self) -> None:
        def ready() -> bool:
            try:
                return httpx.get(self.url + "/readyz", timeout=5).status_code == 200
            except httpx.TransportError:
                return False

        wait_until(ready, timeout_s=120, what="readiness")


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="session")
def compose() -> Iterator[Compose]:
    """The service on the model that we ship; Grafana's image cannot be had everywhere and is left out."""
    for needed in ("version", "compose version"):
        command = ["docker", *needed.split()]
        if shutil.which("docker") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip(f"`docker {needed}` fails here")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NEURON_")} | {
        "COMPOSE_FILE": f"docker-compose.yml{os.pathsep}tests/operations/without-grafana.yml",
        "COMPOSE_PROJECT_NAME": f"test-{uuid.uuid4().hex[:8]}",
        "API_PORT": str(free_port()),
        "PROMETHEUS_PORT": str(free_port()),
        # As pip is set up inside the base image.
        "TORCH_INDEX": os.environ.get("TORCH_INDEX", ""),
        "PROMETHEUS_TAG": os.environ.get("PROMETHEUS_TAG", "latest"),
    }
    running = Compose(environment)
    try:
        running("--profile", "train", "build", "--quiet", "trainer")
        running("up", "--detach", "--build", "--wait")
        yield running
    finally:
        running("--profile", "train", "down", "--volumes", "--timeout", "60")
