"""The README keeps its promises: every `sh` block runs as written, in order, against what `make up` started."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.settings import table
from tests.conftest import free_port, wait_until

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
SERVE = "make up\n"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NEURON_")}
    return environment | {
        "NEURON_API_PORT": str(free_port()),
        "NEURON_WORKER_METRICS_PORT": str(free_port()),
        "NEURON_DATA_DIR": str(tmp_path_factory.mktemp("data")),
    }


@pytest.fixture(scope="module")
def served(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """`make up`, as written."""
    log = tmp_path_factory.mktemp("up") / "log.txt"
    with log.open("wb") as out:
        process = subprocess.Popen(["bash", "-c", f"exec {SERVE}"], cwd=ROOT, env=environment, stdout=out, stderr=out)

    def greeted() -> bool:
        assert process.poll() is None, log.read_text()
        return "Sentiment Neuron is up." in log.read_text()

    wait_until(greeted, what="the greeting of make up")
    yield
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) in (0, -signal.SIGTERM, 2)


@pytest.mark.slow
@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("number", [number for number, block in enumerate(BLOCKS) if block != SERVE])
def test_a_block_runs(number: int, environment: dict[str, str]) -> None:
    # Only the ports are another's, so that a service that runs on this machine already is left alone.
    block = BLOCKS[number].replace(":8000", ":" + environment["NEURON_API_PORT"])
    block = block.replace(":9101", ":" + environment["NEURON_WORKER_METRICS_PORT"])
    if "runs/example" in block:
        subprocess.run(["rm", "-rf", "runs/example"], cwd=ROOT, check=True)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    assert done.stdout.strip(), block
    # Errors are answered with status 200 to curl: only the block that shows an error may show one.
    assert ("urn:sentiment-neuron:problem" in done.stdout) == ('"text": ""' in block), done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("served")
def test_the_first_answers_are_those_that_the_readme_shows(environment: dict[str, str]) -> None:
    classify, generate = BLOCKS[1], BLOCKS[2]
    shown = json.loads(re.findall(r"^```json\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)[0])

    def run(block: str) -> str:
        command = block.replace(":8000", ":" + environment["NEURON_API_PORT"])
        return subprocess.run(
            ["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        ).stdout

    answer = json.loads(run(classify))
    assert answer["model"] == shown["model"]
    for reported, promised in zip(answer["results"], shown["results"], strict=True):
        assert reported["label"] == promised["label"]
        assert reported["score"] == pytest.approx(
            promised["score"], abs=0.02
        )  # bfloat16 on one machine, float32 on another
        assert reported["sentiment"] == pytest.approx(promised["sentiment"], abs=0.05)
    texts = [json.loads(line)["results"][0]["text"] for line in run(generate).replace("}{", "}\n{").splitlines()]
    assert len(texts) == 2
    assert texts[0] != texts[1]


def test_the_program_prints_what_the_readme_shows() -> None:
    ((program, shown),) = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NEURON_")}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    *printed, text = done.stdout.splitlines()
    *promised, _ = shown.splitlines()
    number = re.compile(r"[+-]?\d+(?:\.\d+)?")
    assert [number.sub("", line) for line in printed] == [number.sub("", line) for line in promised]
    values = [[float(found) for found in number.findall(" ".join(lines))] for lines in (printed, promised)]
    assert values[0] == pytest.approx(values[1], abs=0.05)  # bfloat16 on one machine, float32 on another
    assert text.strip()


def test_blocks_are_found() -> None:
    assert SERVE in BLOCKS
    assert len(BLOCKS) > 10


def test_the_settings_table_is_that_of_the_code() -> None:
    assert table() in README
