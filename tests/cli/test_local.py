"""`neuron trace` and `neuron generate` on a tiny checkpoint, and what all commands share."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from api.schemas.requests import GenerateRequest
from api.schemas.responses import GenerateResponse
from cli import local
from cli.classify import classify
from cli.featurize import featurize
from contract.jobs import GenerateJob
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


@pytest.mark.parametrize("command", [["classify", "a"], ["trace", "a"], ["generate"]])
def test_a_checkpoint_that_is_not_there(neuron: Neuron, tmp_path: Path, command: list[str]) -> None:
    result = neuron(*command, "--checkpoint", tmp_path)
    assert result.exit_code == 1
    assert f"{tmp_path} holds no published model" in result.stderr


def test_the_shipped_model_is_the_default() -> None:
    for command in (classify, local.trace, local.generate, featurize):
        arguments = ["texts.txt", "--out", "features.npy"] if command is featurize else ["text"]
        assert command.make_context(command.name, arguments).params["directory"] == volumes.SHIPPED


def test_what_a_model_without_sentiment_cannot_do(neuron: Neuron, bare: Path) -> None:
    for command, message in (
        (["classify", "a"], "its heads: none"),
        (["trace", "a"], "name the units to trace"),
        (["generate", "--sentiment", "1"], "leave sentiment out"),
    ):
        result = neuron(*command, "--checkpoint", bare)
        assert result.exit_code == 1
        assert message in result.stderr
    assert neuron("trace", "a", "--unit", 3, "--checkpoint", bare).exit_code == 0


def test_generate_gives_what_a_worker_gives(neuron: Neuron, volume: Path, by_worker: Execute) -> None:
    """With nothing chosen but the seed, so the defaults are those of POST /generate."""
    body = GenerateRequest(prompt="It was", seed=7)
    fields = body.model_dump(exclude={"timeout_s", "webhook", "seed", "best_of"})
    expected = by_worker(GenerateJob(**BASE, **fields, seed=7, best_of=1))
    result = neuron("generate", "It was", "--seed", 7, "--checkpoint", volume, "--json")
    assert json.loads(result.stdout) == expected
    GenerateResponse.model_validate(expected)
    streamed = neuron("generate", "It was", "--seed", 7, "--checkpoint", volume)
    assert streamed.stdout == expected["results"][0]["text"] + "\n"
    assert neuron("generate", "It was", "--seed", 7, "--checkpoint", volume).stdout == streamed.stdout


def test_generate_passes_every_option_on(neuron: Neuron, volume: Path, by_worker: Execute) -> None:
    options = {"sentiment": 0.5, "length": 30, "temperature": 1.5, "top_k": 40, "top_p": 0.9, "seed": 3, "n": 2}
    job = GenerateJob(**BASE, **options, prompt="", clamp={3: 1.5, 4: -2.0}, best_of=3, stop=["e", "ab"])
    arguments = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    arguments += ["--clamp", "3=1.5", "--clamp", "4=-2", "--best-of", 3, "--stop", "e", "--stop", "ab"]
    expected = by_worker(job)
    assert json.loads(neuron("generate", "--checkpoint", volume, "--json", *arguments).stdout) == expected
    printed = neuron("generate", "--checkpoint", volume, *arguments).stdout
    first, second = expected["results"]
    assert first["mean_log_probability"] >= second["mean_log_probability"]
    assert printed == "".join(
        f"{number}  {sample['mean_log_probability']:+.3f}  {sample['text']}\n"
        for number, sample in ((1, first), (2, second))
    )


def test_generate_ranked_by_sentiment(neuron: Neuron, volume: Path, by_worker: Execute) -> None:
    options = {"sentiment": -1.0, "rank_by": "sentiment", "length": 30, "temperature": 1.5, "seed": 3, "n": 2}
    defaults = GenerateRequest().model_dump(exclude={"timeout_s", "webhook", *options})
    expected = by_worker(GenerateJob(**BASE, **defaults | options | {"best_of": 5}))
    GenerateResponse.model_validate(expected)
    arguments = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    printed = neuron("generate", "--checkpoint", volume, *arguments, "--best-of", 5).stdout
    first, second = expected["results"]
    assert first["positive"] <= second["positive"]
    assert printed == "".join(
        f"{number}  {sample['positive']:6.1%}  {sample['text']}\n" for number, sample in ((1, first), (2, second))
    )
    # One sample is printed at the end, too, because it cannot be ranked before.
    alone = by_worker(GenerateJob(**BASE, **defaults | options | {"n": 1, "best_of": 1}))["results"][0]
    shown = neuron("generate", "--checkpoint", volume, *arguments, "--n", 1).stdout
    assert shown == f"1  {alone['positive']:6.1%}  {alone['text']}\n"


def test_generate_without_any_stop(neuron: Neuron, volume: Path) -> None:
    result = neuron("generate", "--checkpoint", volume, "--seed", 1, "--length", 400, "--stop", "", "--json")
    (sample,) = json.loads(result.stdout)["results"]
    assert sample["finish_reason"] == "length"
    assert "\n" in sample["text"]


def test_a_terminal_is_shown_the_prompt_and_no_controls(neuron: Neuron, volume: Path) -> None:
    arguments = ["generate", "so\x1b", "--checkpoint", volume, "--seed", 1, "--length", 400, "--stop", ""]
    shown = neuron(*arguments, env={"FORCE_COLOR": "1", "NO_COLOR": "1"}).stdout
    assert "so␛" in shown
    assert controls(shown) <= {"\x1b"}  # from the dim prompt alone
    assert shown.count("\x1b") <= 2
    assert controls(neuron(*arguments).stdout)  # else none was hidden


def controls(text: str) -> set[str]:
    return {character for character in text if ord(character) < 32} - {"\n"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clamp", "3"], "'3' is not UNIT=VALUE"),
        (["--clamp", "x=1"], "'x=1' is not UNIT=VALUE"),
        (["--clamp", "3=nan"], "clamp 3:"),
        (["--clamp", "-1=1"], "clamp -1"),
        (["--clamp", "32=1"], "unit 32 does not exist"),
        (["--sentiment", "2"], "sentiment: Input should be less than or equal to 1"),
        (["--length", "0"], "length:"),
        (["--top-k", "257"], "top_k:"),
        (["--n", "3", "--best-of", "2"], "best_of is 2, less than n, which is 3"),
        (["--rank-by", "sentiment"], "no sentiment is asked for"),
        (["\udcff"], "not valid Unicode"),
    ],
)
def test_generate_refuses(neuron: Neuron, volume: Path, arguments: list[str], message: str) -> None:
    result = neuron("generate", "--checkpoint", volume, *arguments)
    assert result.exit_code != 0
    assert message in result.stderr
