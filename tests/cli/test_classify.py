"""`neuron classify` on a tiny checkpoint; tests/cli/test_rows.py has its files and stdin."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from api.schemas.responses import ClassifyResponse
from cli import classification as classifying
from contract.jobs import ClassifyJob
from engine import serving
from engine.engine import Engine
from engine.execute import execute
from model.checkpoints import volumes

Neuron = Callable[..., Result]
Execute = Callable[[Any], dict[str, Any]]

BASE: dict[str, Any] = {"id": "a-job-of-the-test", "timeout_s": float("inf")}


@pytest.fixture(scope="module")
def by_worker(volume: Path) -> Iterator[Execute]:
    """What a worker makes of a job."""
    served = serving.load(volumes.latest(volume), "auto", "auto", 8)
    engine = Engine(8)
    engine.start()
    yield lambda job: execute(job, served, engine)
    engine.close()


def test_classify_prints_a_line_for_every_text(neuron: Neuron, volume: Path, by_worker: Execute) -> None:
    texts = ["A fine film.", "Dreadful"]
    result = neuron("classify", "--checkpoint", volume, *texts)
    assert result.exit_code == 0
    expected = by_worker(ClassifyJob(**BASE, texts=texts, head="sentiment"))["results"]
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    for line, text, answer in zip(lines, texts, expected, strict=True):
        assert line.split(maxsplit=3) == [
            answer["label"],
            f"{answer['score']:.1%}",
            f"{answer['sentiment']:+.2f}",
            text,
        ]


def test_classify_warns_of_texts_unlike_the_models_own(neuron: Neuron, volume: Path, tmp_path: Path) -> None:
    shutil.copytree(volume, tmp_path / "volume")
    manifest = volumes.latest(tmp_path / "volume") / "manifest.json"
    limits = {"lengths": [16], "bits": [0.0], "share": 0.99, "texts": [900], "data": "a test"}
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"familiarity": limits}))
    texts = ["Short.", "A text of some thirty-four bytes. " * 3]
    result = neuron("classify", "--checkpoint", tmp_path / "volume", *texts)
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 2
    (warning,) = result.stderr.splitlines()
    assert warning.startswith(texts[1][:60] + ": unlike the text that the model has learnt from: ")


def test_classify_json_has_the_shape_of_the_service(neuron: Neuron, volume: Path, by_worker: Execute) -> None:
    result = neuron("classify", "--checkpoint", volume, "--json", "good", "bad")
    answer = json.loads(result.stdout)
    assert answer == by_worker(ClassifyJob(**BASE, texts=["good", "bad"], head="sentiment"))
    ClassifyResponse.model_validate(answer)


def test_classify_reads_stdin_in_batches(neuron: Neuron, volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifying, "_AT_ONCE", 2)
    together = neuron("classify", "--checkpoint", volume, "--json", "a", "bö", "c", "d", "e")
    piped = neuron("classify", "--checkpoint", volume, "--json", input="a\r\nbö\nc\nd\ne")
    scores = [
        [result["probabilities"]["positive"] for result in json.loads(output.stdout)["results"]]
        for output in (together, piped)
    ]
    assert scores[1] == pytest.approx(scores[0], abs=1e-3)  # rows side by side may change the last digits


def test_classify_shows_controls_as_pictures(neuron: Neuron, volume: Path) -> None:
    result = neuron("classify", "--checkpoint", volume, "a\x1b[31m\nb")
    assert result.stdout.rstrip("\n").endswith("  a␛[31m b")


def test_classify_colours_a_terminal(neuron: Neuron, volume: Path) -> None:
    result = neuron("classify", "--checkpoint", volume, "a", env={"FORCE_COLOR": "1"})
    assert "\x1b[1m" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", " "], "texts 1: the text is empty"),
        (["a", "--head", "topic"], "the model has no head 'topic'; its heads: sentiment"),
        (["a\udcff"], "not valid Unicode"),
        ([], "no text: name some"),
    ],
)
def test_classify_refuses(neuron: Neuron, volume: Path, arguments: list[str], message: str) -> None:
    result = neuron("classify", "--checkpoint", volume, *arguments)
    assert result.exit_code != 0
    assert message in result.stderr
