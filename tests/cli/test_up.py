"""`neuron up`: one command serves, and whatever ends it leaves no process behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import ROOT
from tests.conftest import free_port, wait_until


@contextmanager
def up(
    directory: Path, volume: Path, cwd: Path | None = None, **settings: str
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
            [sys.executable, "-P", "-m", "cli.main", "up"], env=environment, stdout=out, stderr=out, cwd=cwd
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_serves_and_stops_without_orphans(tmp_path: Path, tiny_volume: Path, number: signal.Signals) -> None:
    with up(tmp_path, tiny_volume) as (process, url, log):
        wait_greeting(process, log)
        assert url in log.read_text()
        assert httpx.post(url + "/classify", json={"text": "Good."}).json()["model"]["name"] == "tiny"
        assert len(family(tmp_path)) >= 4  # up, redis, worker, api
        process.send_signal(number)
        assert process.wait(60) == 0
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
        assert process.wait(60) == 1
        assert "worker ended by itself with code -9" in log.read_text()
        assert family(tmp_path) == []


def test_accepted_jobs_survive_a_restart(tmp_path: Path, tiny_volume: Path) -> None:
    later = {"Prefer": "respond-async"}
    with up(tmp_path, tiny_volume) as (process, url, log):
        wait_greeting(process, log)
        where = httpx.post(url + "/classify", json={"text": "Good."}, headers=later).headers["location"]
        wait_until(lambda: httpx.get(url + where).json()["state"] == "done", what="the job's end")
        process.terminate()
        assert process.wait(60) == 0
    with up(tmp_path, tiny_volume) as (process, url, log):
        wait_greeting(process, log)
        assert httpx.get(url + where).json()["state"] == "done"


def test_two_on_one_data_directory(tmp_path: Path, tiny_volume: Path) -> None:
    with up(tmp_path, tiny_volume) as (first, _, log):
        wait_greeting(first, log)
        with up(tmp_path, tiny_volume) as (second, _, other_log):
            assert second.wait(60) == 1
            assert "is in use by another server" in other_log.read_text()
        assert first.poll() is None


def test_up_serves_from_a_folder_that_has_modules_of_our_names(tmp_path: Path, tiny_volume: Path, decoys: Path) -> None:
    with up(tmp_path, tiny_volume, cwd=decoys) as (process, url, log):
        wait_greeting(process, log)
        assert httpx.post(url + "/classify", json={"text": "Good."}).json()["model"]["name"] == "tiny"
