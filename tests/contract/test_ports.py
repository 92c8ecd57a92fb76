"""A port that is taken is told at the start, by the setting that names it."""

import os
import socket
import subprocess
import sys

import pytest

from contract.ports import check_port
from contract.setting_error import SettingError
from tests.conftest import free_port


def test_a_free_port_is_one() -> None:
    for host in ("127.0.0.1", "localhost", "0.0.0.0", ""):  # noqa: S104
        check_port(host, free_port(), "NEURON_API_PORT")
    check_port("127.0.0.1", 0, "NEURON_WORKER_METRICS_PORT")  # any


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])  # noqa: S104
def test_a_port_that_is_taken_is_none(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(SettingError, match=rf"NEURON_API_PORT is {port}, where .* cannot listen: Address already"):
            check_port(host, port, "NEURON_API_PORT")


def test_an_address_of_another_machine_is_none() -> None:
    with pytest.raises(SettingError, match=r"NEURON_API_PORT is 8000, where 192\.0\.2\.1 cannot listen"):
        check_port("192.0.2.1", 8000, "NEURON_API_PORT")


@pytest.mark.parametrize(
    ("command", "setting"),
    [
        (["-m", "api"], "NEURON_API_PORT"),
        (["-m", "worker"], "NEURON_WORKER_METRICS_PORT"),
        (["-m", "cli.main", "up"], "NEURON_API_PORT"),
        (["-m", "cli.main", "up"], "NEURON_WORKER_METRICS_PORT"),
    ],
)
def test_whoever_needs_it_ends_and_says_so(command: list[str], setting: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NEURON_")}
    ports = {"NEURON_API_PORT": str(free_port()), "NEURON_WORKER_METRICS_PORT": str(free_port())}
    with socket.create_server(("127.0.0.1", int(ports[setting]))):
        done = subprocess.run(
            [sys.executable, *command], env=environment | ports, capture_output=True, text=True, timeout=180
        )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"{setting} is {ports[setting]}, where 127.0.0.1 cannot listen: Address already in use" in line
