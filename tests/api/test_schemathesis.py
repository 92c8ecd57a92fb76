"""A running stack keeps what its OpenAPI document says, whatever is sent: the checks of schemathesis, all but one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from api import keys
from tests.conftest import run_stack

HERE = Path(__file__).parent


@pytest.mark.slow
def test_the_openapi_document_is_kept(tiny_volume: Path, tmp_path: Path) -> None:
    secret, digest = keys.generate()
    settings = {
        "NEURON_CHECKPOINT_DIR": str(tiny_volume),
        "NEURON_API_KEYS": keys.entry("tester", ["admin"], digest),
        # What is generated asks for as much as the document allows.
        "NEURON_API_MAX_LENGTH": "1000",
        "NEURON_API_MAX_SAMPLES": "4",
    }
    with run_stack(tmp_path, **settings) as stack:
        command = [
            *(str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(HERE / "schemathesis.toml")),
            *("run", f"{stack.url}/openapi.json", "--checks", "all", "--max-examples", "20", "--seed", "1"),
            # DELETE cancels a job, which is still there then, to say that it was cancelled.
            # Its requests without a key get the one of --header; tests/api/test_keys.py asks without.
            *("--exclude-checks", "use_after_free,missing_required_header"),
            *("--continue-on-failure", "--header", f"Authorization: Bearer {secret}"),
        ]
        environment = os.environ | {"SCHEMATHESIS_HOOKS": str(HERE / "schemathesis_hooks.py")}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2000:]
        assert "Tested: 33" in done.stdout
        assert "Traceback" not in stack.log.read_text()
