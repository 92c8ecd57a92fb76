"""`neuron up`: one command serves, and whatever ends it leaves no process behind."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import ROOT
from tests.conftest import free_port, wait_until
from tests.support.decoys import write_decoys


@contextlib.contextmanager
def up(
    directory: Path, volume: Path, cwd: Path | None = None, arguments: Sequence[str] = (), **settings: str
) -> Iterator[tuple[subprocess.Popen[bytes], str, Path]]:
    """The process, its URL and its log."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NEURON_")}
    port = free_port()
    environment |= {
        "PYTHONPATH": str(ROOT),
        "NEURON_API_PORT": str(port),
        "NEURON_WORKER_METRICS_PORT": str(free_port()),
        "NEURON_CHECKPOINT_DIR": str(volume),
        "NEURON_DATA_DIR": str(directory / "data"),
        **settings,
    }
    log = directory / f"up-{port}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cli.main", "up", *arguments], env=environment, stdout=out, stderr=out, cwd=cwd
        )
    try:
        yield process, f"http://127.0.0.1:{port}", log
    finally:
        process.kill()
        process.wait()


def family(directory: Path) -> list[int]:
    """Every live process that was given this data directory, in its environment or its arguments."""
    marker = os.fsencode(str(directory / "data"))
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z" and marker in (process / "environ").read_bytes() + (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue  # it has just ended
    return found


def wait_greeting(process: subprocess.Popen[bytes], log: Path) -> None:
    def greeted() -> bool:
        assert process.poll() is None, log.read_text()
        return "Sentiment Neuron is up." in log.read_text()

    wait_until(greeted, what="the greeting")


@dataclass
class Serving:
    process: subprocess.Popen[bytes]
    url: str
    directory: Path


@pytest.fixture(scope="module")
def among_decoys(tiny_volume: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """It serves, from a folder that has modules of our names. For tests that leave it as it is."""
    directory, decoys = tmp_path_factory.mktemp("up"), write_decoys(tmp_path_factory.mktemp("decoys"))
    with up(directory, tiny_volume, cwd=decoys) as (process, url, log):
        wait_greeting(process, log)
        yield Serving(process, url, directory)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_serves_and_stops_without_orphans(tmp_path: Path, tiny_volume: Path, number: signal.Signals) -> None:
    with up(tmp_path, tiny_volume) as (process, url, log):
        wait_greeting(process, log)
        assert url in log.read_text()
        assert httpx.post(url + "/classify", json={"text": "Good."}).json()["model"]["name"] == "tiny"
        assert len(family(tmp_path)) >= 4  # up, redis, worker, api
        process.send_signal(number)
        assert process.wait(180) == 0
        assert family(tmp_path) == []


def test_kill_9_leaves_nothing_behind(tmp_path: Path, tiny_volume: Path) -> None:
    with up(tmp_path, tiny_volume) as (process, _, log):
        wait_greeting(process, log)
        process.kill()
        process.wait()
        wait_until(lambda: family(tmp_path) == [], what="the children's end")


def test_a_child_that_dies_ends_the_rest_with_an_error(tmp_path: Path, tiny_volume: Path) -> None:
    with up(tmp_path, tiny_volume) as (process, _, log):
        wait_greeting(process, log)
        worker = next(pid for pid in family(tmp_path) if b"-m\0worker\0" in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.kill(worker, signal.SIGKILL)
        assert process.wait(180) == 1
        assert "worker ended by itself with code -9" in log.read_text()
        assert family(tmp_path) == []


@pytest.mark.slow
def test_accepted_jobs_survive_a_restart(tmp_path: Path, tiny_volume: Path) -> None:
    later = {"Prefer": "respond-async"}
    with up(tmp_path, tiny_volume) as (process, url, log):
        wait_greeting(process, log)
        where = httpx.post(url + "/classify", json={"text": "Good."}, headers=later).headers["location"]
        wait_until(lambda: httpx.get(url + where).json()["state"] == "done", what="the job's end")
        process.terminate()
        assert process.wait(180) == 0
    with up(tmp_path, tiny_volume) as (process, url, log):

        def answer() -> httpx.Response | None:
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(url + where)
            return None

        wait_until(answer, what="the gateway")  # which needs no worker to tell
        assert httpx.get(url + where).json()["state"] == "done"


def test_two_on_one_data_directory(among_decoys: Serving, tiny_volume: Path) -> None:
    with up(among_decoys.directory, tiny_volume) as (second, _, other_log):
        assert second.wait(180) == 1
        assert "is in use by another server" in other_log.read_text()
    assert among_decoys.process.poll() is None


def test_up_serves_from_a_folder_that_has_modules_of_our_names(among_decoys: Serving) -> None:
    answered = httpx.post(among_decoys.url + "/classify", json={"text": "Good."})
    assert answered.json()["model"]["name"] == "tiny"


def test_options_in_place_of_settings(tmp_path: Path, tiny_volume: Path) -> None:
    port, metrics = free_port(), free_port()
    options = ["--port", str(port), "--checkpoint", str(tiny_volume), "--workers", "2", "--metrics-port", str(metrics)]
    with up(tmp_path, tiny_volume, arguments=options, NEURON_CHECKPOINT_DIR=str(tmp_path)) as (process, _, log):
        wait_until(lambda: "is up" in log.read_text() or process.poll() is not None, what="the greeting")
        url = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{url}/readyz").json()["workers"] == 2
        assert httpx.get(f"{url}/models").json()["models"][0]["name"] == "tiny"
        assert {httpx.get(f"http://127.0.0.1:{metrics + n}/healthz").status_code for n in range(2)} == {200}
        greeting = log.read_text().partition("Sentiment Neuron is up.")[2]
        assert f"http://127.0.0.1:{metrics + 1}/metrics" in greeting
        assert "NEURON_API_MAX_TEXTS" not in log.read_text()  # as by default
        process.terminate()
        process.wait()


def test_a_port_that_is_taken_names_its_setting(tmp_path: Path, tiny_volume: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with up(tmp_path, tiny_volume, arguments=["--port", str(port)]) as (process, _, log):
            assert process.wait(180) == 1
            assert f"NEURON_API_PORT is {port}" in log.read_text()
            assert "is up" not in log.read_text()
