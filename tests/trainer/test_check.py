"""`python -m trainer.check` tells a device that trains as a CPU does from one that does not."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from trainer import check
from trainer.check import ON_A_GPU, Trained, compared

GOOD = {"agrees": True, "loss_difference": 1e-3, "least_cosine": 0.99, "least_cosine_of": "a"}
BAD = {"agrees": False, "loss_difference": 1.0, "least_cosine": 0.5, "least_cosine_of": "a"}
SPEED = {
    "units": 64, "lanes": 4, "first_update_s": 9.0, "window_ms": 1.0, "update_ms": 2.0, "bytes_per_s": 1000, "mfu": 0.4,
    "memory_gib": 1.5,
}  # fmt: skip


def test_losses_and_directions_decide() -> None:
    gradients = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])}
    right = Trained([[8.0, 0.5]], gradients)
    assert compared(right, right)["agrees"]
    longer = Trained([[8.0, 0.5]], {name: 2 * gradient for name, gradient in gradients.items()})
    assert compared(longer, right)["agrees"]  # of another length, which a learning rate makes up for
    turned = compared(Trained([[8.0, 0.5]], gradients | {"b": torch.tensor([4.0, -3.0])}), right)
    assert (turned["agrees"], turned["least_cosine_of"]) == (False, "b")
    assert not compared(Trained([[8.0, 0.6]], gradients), right)["agrees"]
    assert not compared(Trained([[float("nan"), 0.5]], gradients), right)["agrees"]


def run(monkeypatch: pytest.MonkeyPatch, found: dict[tuple[str, ...], dict[str, Any]], *words: str) -> Any:
    """The command on a GPU whose trials report `found`; what is not in there fails."""
    monkeypatch.setattr("trainer.check.ALONE", type("World", (), {"device": lambda _, __: torch.device("cuda")})())
    monkeypatch.setattr("trainer.check._name", lambda _: "a GPU")

    def trial(flags: tuple[str, ...], _: torch.device, more: list[str], __: float) -> dict[str, Any]:
        return SPEED if "time" in more else found.get(flags, {"error": "CUDA error"})

    monkeypatch.setattr("trainer.check._trial", trial)
    return CliRunner().invoke(check.check, words)


def test_the_first_options_that_agree_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    report = tmp_path / "check.json"
    done = run(monkeypatch, {("--no-triton",): BAD, ("--no-graph",): GOOD}, "--json", str(report))
    assert done.exit_code == 0, done.output
    assert "fails: CUDA error" in done.output
    assert "DIFFERS: losses within 1.0e+00" in done.output
    assert done.output.splitlines()[-1].endswith("--lanes 128 --window 256 --optimizer adam --no-graph")
    assert "--device" not in done.output
    chosen = run(monkeypatch, {(): GOOD}, "--device", "cuda:1")
    assert "neuron train RUN --corpus CORPUS --device cuda:1 --units" in chosen.output
    kept = json.loads(report.read_text())
    assert [trial["options"] for trial in kept["trials"]] == ["", "--no-triton", "--no-graph"]
    assert kept["speed"] == SPEED


def test_a_device_on_which_nothing_agrees_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    report = tmp_path / "check.json"
    done = run(monkeypatch, dict.fromkeys(ON_A_GPU, BAD), "--json", str(report))
    assert done.exit_code == 1
    assert "no options train as a CPU does" in done.output
    assert len(json.loads(report.read_text())["trials"]) == len(ON_A_GPU)


def test_a_device_that_is_not_there_is_named() -> None:
    done = CliRunner().invoke(check.check, ["--device", "gpu"])
    assert done.exit_code == 1
    assert "--device gpu cannot be used: " in done.output


@pytest.mark.slow
def test_this_device_passes(tmp_path: Path) -> None:
    report = tmp_path / "check.json"
    words = ["--device", "cpu", "--units", "64", "--lanes", "4", "--window", "16", "--json", str(report)]
    done = CliRunner().invoke(check.check, words)
    assert done.exit_code == 0, done.output
    kept = json.loads(report.read_text())
    assert kept["trials"][-1]["agrees"]
    assert kept["speed"]["bytes_per_s"] > 0


def test_a_trial_that_hangs_or_dies_is_a_failure_with_its_reason() -> None:
    cpu = torch.device("cpu")
    assert check._trial((), cpu, ["--trial", "train"], 0.01) == {"error": "no answer within 0.01 s"}
    assert check._trial((), cpu, ["--trial", "time", "--units", "0"], 60)["error"] != ""
