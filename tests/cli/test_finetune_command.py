"""`neuron finetune`: what it publishes and prints, how it continues, and what it refuses."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from engine.reading import read_features
from model.checkpoints import checkpoint, volumes
from trainer.finetuning import tuned
from trainer.finetuning.finetune import Finetuning

Neuron = Callable[..., Result]

ROWS = [(f"thing {n % 9} is {('awful', 'great')[n % 2]}", n % 2) for n in range(60)]
QUICK = ("--rows", 8, "--epochs", 3, "--patience", 3, "--no-fuse", "--dtype", "float32", "--device", "cpu")


@pytest.fixture
def files(tmp_path: Path) -> list[object]:
    """The options that name three files of the same texts."""
    found: list[object] = []
    for name in ("train", "valid", "test"):
        path = tmp_path / f"{name}.csv"
        path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS))
        found += [f"--{name}", path]
    return found


def test_a_tuned_checkpoint_is_published_with_its_head(
    neuron: Neuron, volume: Path, files: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "a volume"
    done = neuron("finetune", "--from", volume, *files, "--out", out, *QUICK)
    assert done.exit_code == 0, done.output
    published = volumes.latest(out)
    manifest = checkpoint.read(published).manifest
    start = checkpoint.read_manifest(volumes.resolve(volume))
    assert manifest.name == f"{start.name}-tuned"
    assert manifest.heads["sentiment"].labels == ["0", "1"]
    for metric, value in manifest.heads["sentiment"].metrics.items():
        assert f"{metric:<20} {value:.4f}\n" in done.stdout
    assert "test_accuracy_unit" in done.stdout
    assert f"NEURON_CHECKPOINT_DIR='{out}' neuron up" in done.stdout
    assert '"epoch": 3' in done.stderr
    assert sorted(path.name for path in out.iterdir()) == [".lock", "LATEST", manifest.name], (
        "what it worked in is gone"
    )


def test_stopped_it_goes_on_by_the_same_command(
    neuron: Neuron, volume: Path, files: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ("finetune", "--from", volume, *files, "--out", tmp_path / "out", "--name", "mine", *QUICK)
    validate, calls = Finetuning.validate, 0

    def stop(tuning: Finetuning) -> object:
        nonlocal calls
        calls += 1
        if calls == 5:  # publishing looks once more, after epochs 0 and 1, then 2 and 3
            tuning.stop()
        scores = validate(tuning)
        if calls == 2:
            tuning.stop()
        return scores

    monkeypatch.setattr(Finetuning, "validate", stop)
    first = neuron(*line)
    assert first.exit_code == 1
    assert "stopped; the same command continues after epoch 1" in first.output
    second = neuron(*line)
    assert second.exit_code == 1
    assert '"epoch": 1' not in second.stderr
    assert '"epoch": 3' in second.stderr
    assert "stopped; the same command publishes what is done" in second.output
    third = neuron(*line)
    assert third.exit_code == 0, third.output
    assert '"epoch"' not in third.stderr
    assert volumes.latest(tmp_path / "out").parent.name == "mine"
    again = neuron(*line)
    assert again.exit_code == 1
    assert "mine is there already: choose another --name or --out" in again.output


def test_a_signal_ends_what_comes_after_the_training(
    neuron: Neuron, volume: Path, files: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ("finetune", "--from", volume, *files, "--out", tmp_path / "out", "--name", "mine", *QUICK)

    def interrupted(*given: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return read_features(*given)

    with monkeypatch.context() as patched:
        patched.setattr(tuned, "read_features", interrupted)
        stopped = neuron(*line)
    assert stopped.exit_code == 1
    assert not (tmp_path / "out" / "LATEST").exists()
    again = neuron(*line)
    assert again.exit_code == 0, again.output
    assert '"epoch"' not in again.stderr, "all is there but what is published"


def test_what_is_refused(neuron: Neuron, volume: Path, files: list[object], tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("text,label\nfine,2\n")
    whole = ("finetune", "--from", volume, *files, "--out", tmp_path / "out")
    for options, said in (
        (("--valid", other), "--valid: labels 2 are not among the training part's: 0, 1"),
        (("--label-field", "stars"), "the label field 'stars' is not there (--label-field)"),
        (("--rows", 0), "--rows is 0, it must be at least 1"),
        (("--name", "No Name"), "name 'No Name'"),
    ):
        failed = neuron(*whole, *options)
        assert failed.exit_code == 1
        assert said in failed.output
    assert not (tmp_path / "out").exists()
