"""Redis by a Unix socket: gateway, worker and queue work through it, and `neuron jobs` too."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import redis

from tests.conftest import run_stack, wait_until
from tests.support.pages import ROOT

SERVER = shutil.which("redis-server")
PASSWORD = "horse battery"  # noqa: S105 - of this test alone
pytestmark = pytest.mark.skipif(SERVER is None, reason="needs redis-server")


@pytest.fixture
def socket_path(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(path), "--dir", str(tmp_path), "--requirepass", PASSWORD]
    process = subprocess.Popen([str(SERVER), *options])
    try:
        wait_until(path.exists, what="the socket")
        yield path
    finally:
        process.terminate()
        process.wait()


def test_a_stack_on_a_socket(socket_path: Path, tiny_volume: Path, tmp_path: Path) -> None:
    url = f"unix://{socket_path}?db=1&password={quote(PASSWORD)}"
    with run_stack(tmp_path, NEURON_CHECKPOINT_DIR=str(tiny_volume), NEURON_REDIS_URL=url) as stack:
        with stack.client() as client:
            assert client.post("/classify", json={"text": "Good."}).status_code == 200
            streamed = client.post("/generate", json={"length": 20, "stop": [], "stream": True})
            assert "event: done" in streamed.text
        with redis.Redis(unix_socket_path=str(socket_path), db=1, password=PASSWORD) as found:
            assert found.exists("neuron:workers")
        command = [sys.executable, "-m", "cli.main", "jobs", "dead"]
        listed = subprocess.run(command, env=stack.environment, cwd=ROOT, capture_output=True, text=True, check=False)
        assert listed.returncode == 0, listed.stderr
        assert PASSWORD not in stack.log.read_text()
