"""docs/operations.md: every command in it is run as written, or what stands in for it is named here."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.operations.conftest import ROOT, Compose

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed"),
]

TEXT = (ROOT / "docs" / "operations.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [command.strip() for block in BLOCKS for command in block.replace("\\\n", "").splitlines()]
NO_CLUSTER = "no cluster: test_kubernetes.py renders the overlays, validates them, and looks into them"
STANDS_IN = {
    "docker compose -f docker-compose.yml -f docker-compose.gpu.yml up --detach --build --wait": "no GPU: "
    "test_compose.py looks at what Compose makes of the files",
    "kubectl apply -k k8s/overlays/cpu": NO_CLUSTER,
    "kubectl -n sentiment-neuron rollout status deployment/worker": NO_CLUSTER,
    "kubectl -n sentiment-neuron rollout undo deployment/worker": NO_CLUSTER,
    "kubectl apply -k k8s/overlays/rollback": NO_CLUSTER,
    "kubectl -n sentiment-neuron wait --for=condition=complete job/rollback": NO_CLUSTER,
    "kubectl apply -k k8s/overlays/training": NO_CLUSTER,
}
INSTEAD = {
    "127.0.0.1:8000": "127.0.0.1:$API_PORT",
    # A run of ten million bytes is for who has the patience.
    "--units 1024 --total-bytes 10000000": "--units 32 --lanes 8 --total-bytes 20480",
    "reviews-mlstm-1024/step-610": "reviews-mlstm-32/step-10",
    "docker build": 'docker build --build-arg "TORCH_INDEX=$TORCH_INDEX"',
    "> checkpoints.tar": "> $BACKUP",
    "< checkpoints.tar": "< $BACKUP",
}


def test_commands_run_as_they_are_written(compose: Compose, tmp_path: Path) -> None:
    reviews = tmp_path / "reviews.txt"
    reviews.write_text("".join(f"Film {number} was good, all in all, and long. " * 15 + "\n" for number in range(8000)))
    tmp_path.chmod(0o755)  # the container's user is not ours
    environment = compose.environment | {"CORPUS": str(tmp_path), "BACKUP": str(tmp_path / "checkpoints.tar")}
    assert STANDS_IN.keys() <= set(COMMANDS)
    for command in COMMANDS:
        if command in STANDS_IN:
            continue
        for written, run in INSTEAD.items():
            command = command.replace(written, run)
        done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


@pytest.mark.parametrize("written", INSTEAD)
def test_what_is_put_in_place_is_in_the_document(written: str) -> None:
    assert any(written in command for command in COMMANDS)
