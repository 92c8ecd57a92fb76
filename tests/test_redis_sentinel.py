"""Redis behind Sentinels: when the master dies, gateway and workers go on with the replica that takes its place."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from tests.conftest import free_port, publish_tiny, run_stack, wait_until

SERVER = shutil.which("redis-server") or shutil.which("valkey-server")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(SERVER is None, reason="there is no redis-server here")]


class Replicated:
    """A master, its replica and a Sentinel, each a process on a port."""

    def __init__(self, directory: Path, closing: ExitStack) -> None:
        self._directory, self._closing = directory, closing
        self.master, self.replica, self.sentinel = free_port(), free_port(), free_port()
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        common = f"appendonly yes\nmaxmemory-policy noeviction\ndir {directory}\nrepl-diskless-sync-delay 0\n"
        self._start(self.master, common + "appendfilename master.aof\ndbfilename master.rdb\n")
        follows = f"replicaof 127.0.0.1 {self.master}\n"
        self._start(self.replica, common + "appendfilename replica.aof\ndbfilename replica.rdb\n" + follows)
        wait_until(lambda: self.info(self.replica).get("master_link_status") == "up", what="the replica")
        watched = f"sentinel monitor watched 127.0.0.1 {self.master} 1\nsentinel down-after-milliseconds watched 500\n"
        self._start(self.sentinel, f"dir {directory}\n{watched}sentinel failover-timeout watched 2000\n", "--sentinel")
        wait_until(self._sees_the_replica, what="the Sentinel's view")

    def _start(self, port: int, settings: str, *options: str) -> None:
        file = self._directory / f"{port}.conf"
        file.write_text(f"port {port}\nbind 127.0.0.1\n{settings}")
        process = subprocess.Popen([str(SERVER), str(file), *options], stdout=subprocess.DEVNULL)
        self.processes[port] = process
        self._closing.callback(process.wait)
        self._closing.callback(process.kill)

    def info(self, port: int) -> dict[str, object]:
        try:
            with redis.Redis(port=port) as client:
                return client.info("replication")  # type: ignore[return-value]
        except redis.RedisError:
            return {}

    def _sees_the_replica(self) -> bool:
        try:
            with redis.Redis(port=self.sentinel) as client:
                return len(client.sentinel_slaves("watched")) == 1  # type: ignore[no-untyped-call]
        except redis.RedisError:
            return False


@pytest.fixture
def replicated(tmp_path: Path) -> Iterator[Replicated]:
    with ExitStack() as closing:
        directory = tmp_path / "redis-replicated"
        directory.mkdir()
        yield Replicated(directory, closing)


def test_a_stack_follows_its_sentinel(tmp_path: Path, replicated: Replicated) -> None:
    publish_tiny(tmp_path / "volume", step=1)
    settings = {
        "NEURON_CHECKPOINT_DIR": str(tmp_path / "volume"),
        "NEURON_REDIS_URL": f"redis+sentinel://127.0.0.1:{replicated.sentinel}/1?master=watched",
    }
    with run_stack(tmp_path, **settings) as stack, stack.client() as client:
        body, later = {"text": "Good."}, {"Prefer": "respond-async"}
        before = client.post("/classify", json=body).raise_for_status().json()
        job = client.post("/classify", json=body, headers=later).raise_for_status().headers["location"]
        wait_until(lambda: client.get(job).json()["state"] == "done", what="the job")
        replicated.processes[replicated.master].kill()
        wait_until(lambda: replicated.info(replicated.replica).get("role") == "master", what="the new master")
        wait_until(lambda: client.post("/classify", json=body).status_code == 200, what="an answer")
        assert client.post("/classify", json=body).json() == before
        assert client.get(job).json()["result"] == before
