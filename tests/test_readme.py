"""README and the pages of what it introduces keep their promises: every block runs as written, in order.

Blocks run in a copy of the checkout. Those that speak to the service speak to what `make up` started there.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import free_port, wait_until
from tests.support.pages import READER, ROOT, blocks, run

README = "README.md"
SERVE = "make up\n"
BLOCKS = [(page, number, block) for page in READER for number, block in enumerate(blocks(page))]
PROGRAMS = [(page, number, block) for page in READER for number, block in enumerate(blocks(page, "python"))]
SHOWN = re.compile(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)

Clones = Callable[[str], Path]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NEURON_")}
    return environment | {
        "NEURON_API_PORT": str(free_port()),
        "NEURON_WORKER_METRICS_PORT": str(free_port()),
        "NEURON_WORKER_THREADS": "1",  # another process of tests has the other core
        "NEURON_DATA_DIR": str(tmp_path_factory.mktemp("data")),
    }


@pytest.fixture(scope="module")
def served(environment: dict[str, str], clones: Clones, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """`make up`, as written."""
    log = tmp_path_factory.mktemp("up") / "log.txt"
    clone = clones(README)
    # It would install the copy in the place of the checkout.
    done = subprocess.run(["make", "--question", "setup"], cwd=clone, env=environment, check=False)
    assert done.returncode == 0, "what is installed is older than what should be: run `make setup`"
    with log.open("wb") as out:
        process = subprocess.Popen(["bash", "-c", f"exec {SERVE}"], cwd=clone, env=environment, stdout=out, stderr=out)

    def greeted() -> bool:
        assert process.poll() is None, log.read_text()
        return "Sentiment Neuron is up." in log.read_text()

    wait_until(greeted, what="the greeting of make up")
    yield
    process.send_signal(signal.SIGTERM)
    assert process.wait(180) in (0, -signal.SIGTERM, 2)


def addressed(block: str, environment: dict[str, str]) -> str:
    """Only the ports are another's, so that a service that runs on this machine already is left alone."""
    block = block.replace(":8000", ":" + environment["NEURON_API_PORT"])
    return block.replace(":9101", ":" + environment["NEURON_WORKER_METRICS_PORT"])


def speaks_to_the_service(block: str) -> bool:
    return "http://127.0.0.1:" in block


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "block"),
    [pytest.param(page, block, id=f"{page}-{number}") for page, number, block in BLOCKS if block != SERVE],
)
def test_a_block_runs(
    page: str, block: str, environment: dict[str, str], clones: Clones, request: pytest.FixtureRequest
) -> None:
    if speaks_to_the_service(block):
        request.getfixturevalue("served")
    done = run(addressed(block, environment), clones(page), environment)
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    assert done.stdout.strip(), block
    # Errors are answered with status 200 to curl: only the block that shows an error may show one.
    assert ("urn:sentiment-neuron:problem" in done.stdout) == ('"text": ""' in block), done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("served")
def test_the_first_answers_are_those_that_the_readme_shows(environment: dict[str, str], clones: Clones) -> None:
    classify, generate = blocks(README)[1:3]
    shown = json.loads(blocks(README, "json")[0])

    def answered(block: str) -> str:
        done = run(addressed(block, environment), clones(README), environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    answer = json.loads(answered(classify))
    assert answer["model"] == shown["model"]
    for reported, promised in zip(answer["results"], shown["results"], strict=True):
        assert reported["label"] == promised["label"]
        assert reported["score"] == pytest.approx(
            promised["score"], abs=0.02
        )  # bfloat16 on one machine, float32 on another
        assert reported["unit_sentiment"] == pytest.approx(promised["unit_sentiment"], abs=0.05)
        assert reported.keys() - {"sentiment"} == promised.keys()
    texts = [json.loads(line)["results"][0]["text"] for line in answered(generate).replace("}{", "}\n{").splitlines()]
    assert len(texts) == 2
    assert texts[0] != texts[1]


@pytest.mark.parametrize(
    ("page", "program"),
    [
        pytest.param(
            page, block, id=f"{page}-{number}", marks=[pytest.mark.slow] if speaks_to_the_service(block) else []
        )
        for page, number, block in PROGRAMS
    ],
)
def test_a_program_prints_what_its_page_shows(
    page: str, program: str, clones: Clones, request: pytest.FixtureRequest
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NEURON_")}
    written, python = program, Path(sys.executable)
    if "langchain" in program or "llama_index" in program:
        python = ROOT / ".venv-clients" / "bin" / "python"
        if not python.exists():
            pytest.skip("`make test-all` installs these clients")
    if speaks_to_the_service(program):
        request.getfixturevalue("served")
        written = addressed(program, request.getfixturevalue("environment"))
    done = subprocess.run(
        [str(python), "-c", written], cwd=clones(page), env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip()
    shown = dict(SHOWN.findall((ROOT / page).read_text())).get(program)
    if shown is None:
        return
    printed, promised = done.stdout.splitlines(), shown.splitlines()
    if "stream" in program:  # which writes its text last; how it goes on depends on the last bits
        *printed, text = printed
        *promised, _ = promised
        assert text.strip()
    number = re.compile(r"[+-]?\d+(?:\.\d+)?")
    assert [number.sub("", line) for line in printed] == [number.sub("", line) for line in promised]
    values = [[float(found) for found in number.findall(" ".join(lines))] for lines in (printed, promised)]
    assert values[0] == pytest.approx(values[1], abs=0.05)  # bfloat16 on one machine, float32 on another


def test_blocks_are_found() -> None:
    assert SERVE in blocks(README)
    assert len(BLOCKS) > 15
    assert {page for page, _, block in BLOCKS if speaks_to_the_service(block)} == {README, "docs/api.md"}
    assert len(PROGRAMS) > 2
    assert len(SHOWN.findall((ROOT / "docs/python.md").read_text())) == len(blocks("docs/python.md", "python"))
