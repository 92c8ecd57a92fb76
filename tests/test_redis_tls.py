"""Redis over TLS, with a user of few rights: gateway, worker and queue do with those that SECURITY.md lists."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from cli.stack.children import free_port
from tests.conftest import run_stack, wait_until
from tests.faults.load import Load, left_behind, mixed

ROOT = Path(__file__).parent.parent
PASSWORD, WRONG, ADMIN = "correct-horse", "wrong-horse", "admin-horse"
SERVER = shutil.which("redis-server")
pytestmark = pytest.mark.skipif(
    SERVER is None or shutil.which("openssl") is None,
    reason="needs redis-server, for the embedded one speaks no TLS, and openssl",
)


def rights() -> str:
    """The user's rights, from SECURITY.md."""
    [found] = re.findall(r"^user neuron on >PASSWORD (.*?)^```", (ROOT / "SECURITY.md").read_text(), re.M | re.S)
    return " ".join(found.split())


@dataclass
class Secured:
    """A server that speaks TLS alone. own, other: certificates of the authority that signed its own, and of another."""

    port: int
    own: Path
    other: Path

    def url(self, user: str = "neuron", password: str = PASSWORD, authority: Path | None = None) -> str:
        return f"rediss://{user}:{password}@127.0.0.1:{self.port}/0?ssl_ca_certs={authority or self.own}"


def _openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


def _authority(directory: Path, name: str) -> Path:
    subject = ["-subj", f"/CN={name}", "-days", "2", "-nodes", "-newkey", "rsa:2048"]
    _openssl(directory, "req", "-x509", *subject, "-keyout", f"{name}.key", "-out", f"{name}.pem")
    return directory / f"{name}.pem"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    directory = tmp_path_factory.mktemp("secured")
    own, other, port = _authority(directory, "own"), _authority(directory, "other"), free_port()
    (directory / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    _openssl(directory, "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=redis", "-keyout", "key", "-out", "asked")
    signed_by = ["-CA", "own.pem", "-CAkey", "own.key", "-CAcreateserial", "-days", "2", "-extfile", "names"]
    _openssl(directory, "x509", "-req", "-in", "asked", *signed_by, "-out", "certificate")
    (directory / "users").write_text(
        f"user default off\nuser admin on >{ADMIN} ~* &* +@all\nuser neuron on >{PASSWORD} {rights()}\n"
    )
    options = {
        "port": "0",
        "tls-port": str(port),
        "tls-cert-file": "certificate",
        "tls-key-file": "key",
        "tls-ca-cert-file": "own.pem",
        "tls-auth-clients": "no",
        "aclfile": str(directory / "users"),
        "save": "",
    }
    with (directory / "log").open("wb") as log:
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        server = subprocess.Popen([SERVER or "", *arguments], cwd=directory, stdout=log, stderr=log)
    found = Secured(port, own, other)

    def answers() -> bool:
        assert server.poll() is None, (directory / "log").read_text()
        with contextlib.suppress(redis.ConnectionError), redis.Redis.from_url(found.url("admin", ADMIN)) as client:
            return bool(client.ping())
        return False

    try:
        wait_until(answers, what="Redis with TLS")
        yield found
    finally:
        server.terminate()
        server.wait(180)


@pytest.mark.slow
def test_a_stack_works_with_the_listed_rights_alone(secured: Secured, tiny_volume: Path, tmp_path: Path) -> None:
    admin = redis.Redis.from_url(secured.url("admin", ADMIN), decode_responses=True)
    admin.execute_command("ACL", "LOG", "RESET")
    settings = {"NEURON_CHECKPOINT_DIR": str(tiny_volume), "NEURON_REDIS_URL": secured.url()}
    with admin, run_stack(tmp_path, **settings) as stack:
        with Load([stack.url], mixed(), clients=20) as load:
            time.sleep(5)  # leases of running jobs are renewed every 4 s; for lost jobs a worker looks as it starts
        assert len(load.account().accepted) > 20
        assert not load.account().lost + load.account().wrong
        assert not load.account().failed
        neuron = [sys.executable, "-m", "cli.main", "jobs", "dead"]
        listed = subprocess.run(neuron, env=stack.environment, capture_output=True, text=True)
        assert listed.returncode == 0, listed.stderr
        denied = [(entry["reason"], entry["object"], entry["client-info"]) for entry in admin.acl_log()]
        assert not denied
        stack.stop()
        assert left_behind(secured.url("admin", ADMIN)) == {}
        log = (tmp_path / "log.txt").read_text()
        assert "NOPERM" not in log
        assert PASSWORD not in log
        stranger = redis.Redis.from_url(secured.url())
        for command in (("GET", "others"), ("CONFIG", "GET", "*"), ("FLUSHALL",), ("KEYS", "*")):
            with pytest.raises(redis.exceptions.NoPermissionError):
                stranger.execute_command(*command)


@pytest.mark.parametrize("process", ["api", "worker"])
@pytest.mark.parametrize(("fault", "says"), [("authority", "certificate verify failed"), ("password", "invalid")])
def test_who_is_not_let_in_says_so_in_a_line_and_ends(
    secured: Secured, tiny_volume: Path, process: str, fault: str, says: str
) -> None:
    url = secured.url(authority=secured.other) if fault == "authority" else secured.url(password=WRONG)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NEURON_")}
    environment |= {"NEURON_REDIS_URL": url, "NEURON_CHECKPOINT_DIR": str(tiny_volume)}
    environment |= {"NEURON_API_PORT": str(free_port())} if process == "api" else {"NEURON_WORKER_METRICS_PORT": "0"}
    done = subprocess.run([sys.executable, "-m", process], env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert "NEURON_REDIS_URL" in line
    assert says in line
    assert "Traceback" not in done.stderr
    assert PASSWORD not in done.stderr
    assert WRONG not in done.stderr
