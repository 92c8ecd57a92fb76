"""NEURON_LOG_FORMAT=json: every line is an object, every job that ends has one, and none holds a text."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import run_stack, wait_until


def test_json_lines(tiny_volume: Path, tmp_path: Path) -> None:
    settings = {"NEURON_CHECKPOINT_DIR": str(tiny_volume), "NEURON_LOG_FORMAT": "json"}
    with run_stack(tmp_path, **settings) as stack, stack.client() as client:
        answer = client.post("/classify", json={"texts": ["A secret text.", "Another: ä."]})
        client.post("/generate", json={"prompt": "secret", "length": 30, "n": 2, "best_of": 3})
        wait_until(lambda: stack.log.read_text().count("job ended") == 2, what="both lines")
    # What Celery writes to standard output at a signal to stop is not a line of the log.
    text = stack.log.read_text().replace("worker: Warm shutdown (MainProcess)", "")
    lines = [json.loads(line) for line in text.splitlines() if line]
    assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, lines))
    first, second = (line for line in lines if line["message"] == "job ended")
    assert first["job_id"] == answer.headers["x-job-id"]
    known = {"kind": "classify", "state": "done", "model": "tiny step 1", "texts": 2, "bytes": 26, "generated": 0}
    assert known.items() <= first.items()
    assert {"kind": "generate", "texts": 1, "bytes": 6, "generated": 90}.items() <= second.items()
    for line in (first, second):
        durations = [line[f"{name}_s"] for name in ("queued", "waited", "computed", "answered")]
        assert all(0 <= duration < 60 for duration in durations)
        assert durations[2] > 0
    assert "secret" not in stack.log.read_text()


@pytest.mark.parametrize(("module", "what"), [("api", "The gateway"), ("worker", "The worker")])
def test_a_bad_setting_is_one_line_that_names_it(module: str, what: str, tmp_path: Path) -> None:
    environment = {"NEURON_LOG_FORMAT": "xml", "PATH": ""}
    done = subprocess.run([sys.executable, "-m", module], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{what} cannot start: NEURON_LOG_FORMAT: ")
    assert len(done.stderr.splitlines()) == 1
