"""Processes killed, stopped, hung and short of memory under load: each accepted job ends as it does in calm times.

The tests share one cluster, and each leaves it whole.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from cli.stack.children import workers_ready
from contract import wire
from tests.conftest import Stack, free_port, run_stack, wait_until
from tests.faults.conftest import Accounted
from tests.faults.figures import MADE
from tests.faults.load import CALM_S, Load, mixed
from tests.worker.test_dead_letters import neuron

WORKERS = "worker 1", "worker 2"
GATEWAYS = "api", "api 2"
ASYNC = {"Prefer": "respond-async"}
AWAY_S = 5.0 if MADE else 2.0  # Redis
REFUSED_S = 30.0  # half the time that a request has for its job


class Cluster:
    """Two gateways and two workers on one Redis. All of them are on `stack`, by the names above."""

    def __init__(self, stack: Stack, harm: Path) -> None:
        """harm: the file that tells the workers what befalls them, see tests/worker/sabotaged.py."""
        self.stack = stack
        self.redis_url = stack.environment["NEURON_REDIS_URL"]
        self.harm = harm
        self.metrics_ports = {name: str(free_port()) for name in WORKERS}
        self._ports = dict(zip(GATEWAYS, (stack.environment["NEURON_API_PORT"], str(free_port())), strict=True))
        self.urls = {name: f"http://127.0.0.1:{port}" for name, port in self._ports.items()}

    def start(self, name: str) -> None:
        if name in GATEWAYS:
            self.stack.spawn(name, "api", NEURON_API_PORT=self._ports[name])
        else:
            port = self.metrics_ports[name]
            sabotage = {"SABOTAGE_FILE": str(self.harm), "NEURON_WORKER_METRICS_PORT": port}
            self.stack.spawn(name, f"tests.worker.{'sabotaged' if MADE else 'hurried'}", **sabotage)

    def terminate(self, name: str) -> int:
        """SIGTERM. Returns the exit status."""
        process = self.stack.processes.pop(name)
        process.terminate()
        return process.wait(180)

    def mend(self) -> None:
        """Undo what a test that failed has left."""
        self.harm.unlink(missing_ok=True)
        for name in (*GATEWAYS, *WORKERS):
            process = self.stack.processes.get(name)
            if process is None or process.poll() is not None:
                self.start(name)

    def wait_whole(self) -> None:
        """Until both gateways find both workers ready. Fails where a process has ended unasked."""
        self.stack.wait_ready()
        for url in self.urls.values():
            wait_until(lambda url=url: workers_ready(url) == len(WORKERS), what="readiness of all")

    @contextlib.contextmanager
    def loaded(self) -> Iterator[Load]:
        """The load, steady before and after; when this ends all its jobs have been seen through."""
        self.wait_whole()
        with Load(list(self.urls.values()), mixed()) as load:
            time.sleep(CALM_S)
            yield load
            time.sleep(CALM_S)

    @contextlib.contextmanager
    def supervised(self) -> Iterator[list[int]]:
        """Workers that end are started again. Gives the exit statuses that there have been.

        Leases of the dead, and of nobody else, lapse at once: the tests of killed workers wait for that.
        """
        ends: list[int] = []
        over = threading.Event()

        def supervise() -> None:
            while not over.wait(0.1):
                for name in WORKERS:
                    process = self.stack.processes[name]
                    if (status := process.poll()) is not None:
                        self._let_leases_lapse(process.pid)
                        self.start(name)
                        ends.append(status)

        thread = threading.Thread(target=supervise)
        thread.start()
        try:
            yield ends
        finally:
            over.set()
            thread.join()

    def _let_leases_lapse(self, pid: int) -> None:
        with redis.Redis.from_url(self.redis_url, decode_responses=True) as client:
            held = [str(job_id) for job_id in client.zrange(wire.LEASES, 0, -1)]  # type: ignore[union-attr]
            for job_id in held:
                if f"-{pid}-" in str(client.hget(wire.job(job_id), "holder")):
                    client.zadd(wire.LEASES, {job_id: 0}, xx=True)


@pytest.fixture(scope="module")
def shared_cluster(tiny_volume: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("cluster")
    with run_stack(directory, worker=False, NEURON_CHECKPOINT_DIR=str(tiny_volume)) as stack:
        cluster = Cluster(stack, directory / "harm")
        for name in (*WORKERS, GATEWAYS[1]):
            cluster.start(name)
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Iterator[Cluster]:
    yield shared_cluster
    shared_cluster.mend()


@pytest.mark.parametrize(
    ("killed", "started"), [(WORKERS[:1], ()), (WORKERS, WORKERS)], ids=["one of two", "all, and started again"]
)
def test_jobs_of_a_killed_worker_run_again(
    cluster: Cluster, accounted: Accounted, killed: tuple[str, ...], started: tuple[str, ...]
) -> None:
    with cluster.loaded() as load:
        moment = time.monotonic()
        for name in killed:
            cluster.stack.kill(name)
        for name in started:
            cluster.start(name)
    accounted(f"kill -9 of {'all workers' if started else 'a worker'}", load, cluster.redis_url, moment)
    assert load.account().recovery_s(moment) <= 30
    for name in set(killed) - set(started):
        cluster.start(name)


def test_redis_killed_comes_back_with_all_jobs_and_is_missed_at_once(cluster: Cluster, accounted: Accounted) -> None:
    server = cluster.stack.redis

    def refused(url: str, method: str, path: str) -> None:
        body = {"text": "Good."} if method == "POST" else None
        answer = httpx.request(method, url + path, json=body, timeout=REFUSED_S)
        assert answer.status_code == 503, (method, path)
        assert answer.json()["type"].endswith(":unavailable")
        assert int(answer.headers["retry-after"]) > 0

    with cluster.loaded() as load:
        moment = time.monotonic()
        server.terminate()  # kill -9
        while time.monotonic() < moment + AWAY_S:
            for url in cluster.urls.values():
                refused(url, "POST", "/classify")
                refused(url, "GET", "/jobs/no-such-job-0123456789")
                refused(url, "GET", "/readyz")
            time.sleep(0.2)
        server.start()
        cluster.wait_whole()
    accounted("kill -9 and restart of Redis", load, cluster.redis_url, moment)
    # Who had asked before hears of it too, not only when the time of the request is over.
    assert load.refusals
    assert all(answered - max(sent, moment) < REFUSED_S for sent, answered in load.refusals)


def test_what_a_killed_gateway_took_is_fetched_through_the_next(cluster: Cluster, accounted: Accounted) -> None:
    with cluster.loaded() as load:
        moment = time.monotonic()
        cluster.stack.kill("api")
        time.sleep(1)
        cluster.start("api")
        cluster.wait_whole()
    accounted("kill -9 of a gateway", load, cluster.redis_url, moment)


def test_a_job_that_kills_its_workers_harms_no_other(cluster: Cluster, accounted: Accounted) -> None:
    url = cluster.urls["api"]
    cluster.harm.write_text("kill")
    with cluster.loaded() as load, cluster.supervised() as ends:
        moment = time.monotonic()
        where = httpx.post(url + "/classify", json={"text": "A \1 text."}, headers=ASYNC).headers["location"]
        wait_until(lambda: httpx.get(url + where).json()["state"] == "failed", 200, what="the poison's end")
    assert ends == [-signal.SIGKILL] * 3
    job_id = where.removeprefix("/jobs/")
    (dead,) = neuron(cluster.stack, "dead").splitlines()
    assert dead.split()[:3] == [job_id, "classify", "3"]
    cluster.harm.unlink()
    assert neuron(cluster.stack, "retry", job_id) == f"{job_id} is queued\n"
    wait_until(lambda: httpx.get(url + where).json()["state"] == "done", what="the end of its second life")
    assert neuron(cluster.stack, "dead") == ""
    accounted("a job that kills its workers", load, cluster.redis_url, moment)


def test_workers_live_on_when_rows_do_not_fit_into_memory(cluster: Cluster, accounted: Accounted) -> None:
    def halved(name: str) -> float:
        return cluster.stack.worker_metric("neuron_out_of_memory_total", port=cluster.metrics_ports[name])

    with cluster.loaded() as load:
        workers = {name: cluster.stack.processes[name].pid for name in WORKERS}
        moment = time.monotonic()
        cluster.harm.write_text("oom 12")
        wait_until(lambda: all(halved(name) >= 2 for name in WORKERS), what="blocks of half as many rows")
        time.sleep(CALM_S)
        cluster.harm.unlink()
    accounted("out of memory in the engine", load, cluster.redis_url, moment)
    cluster.wait_whole()
    assert {name: cluster.stack.processes[name].pid for name in WORKERS} == workers


def test_hung_workers_say_so_and_exit_and_their_jobs_run_again(cluster: Cluster, accounted: Accounted) -> None:
    with cluster.loaded() as load:
        moment = time.monotonic()
        cluster.harm.write_text("hang all")
        hung = [cluster.stack.processes.pop(name) for name in WORKERS]
        for url in cluster.urls.values():
            wait_until(lambda url=url: httpx.get(url + "/readyz").status_code == 503, what="unreadiness")
        assert "has not moved for" in httpx.get(url + "/readyz").json()["detail"]
        assert [process.wait(180) for process in hung] == [os.EX_SOFTWARE] * 2
        cluster.harm.unlink()
        for name in WORKERS:
            cluster.start(name)
        cluster.wait_whole()
    accounted("hung engines", load, cluster.redis_url, moment)


def test_no_request_fails_while_workers_are_replaced(cluster: Cluster, accounted: Accounted) -> None:
    url = cluster.urls["api"]
    with cluster.loaded() as load:
        moment = time.monotonic()
        for name in WORKERS:
            worker = cluster.stack.processes.pop(name)
            worker.terminate()
            wait_until(lambda: workers_ready(url) == 1, what="unreadiness")
            assert worker.wait(180) == 0
            cluster.start(name)
            cluster.wait_whole()
    accounted("rolling restart of two workers", load, cluster.redis_url, moment)
    assert not load.account().faults


def test_no_request_fails_while_gateways_are_replaced(cluster: Cluster, accounted: Accounted) -> None:
    with cluster.loaded() as load:
        moment = time.monotonic()
        for name in GATEWAYS:
            load.urls.remove(cluster.urls[name])  # as a load balancer does first
            time.sleep(1)
            assert cluster.terminate(name) == 0
            cluster.start(name)
            cluster.wait_whole()
            load.urls.append(cluster.urls[name])
    accounted("rolling restart of two gateways", load, cluster.redis_url, moment)
    assert not load.account().faults
