"""`neuron publish`: which snapshot, which labelled texts, what it says."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result

from model.checkpoints.checkpoint import read_manifest
from model.checkpoints.volumes import latest
from tests.support.snapshots import UNITS, RunOnDisk
from trainer.run.options import Options

Neuron = Callable[..., Result]

ROWS = "".join(f"{n % 2},thing {n} is {('awful', 'great')[n % 2]}\n" for n in range(60))


@pytest.fixture
def run(tmp_path: Path) -> RunOnDisk:
    """Steps 10, 20 and 30, of which 20 was the best. The corpus is gone."""
    options = Options(str(tmp_path / "gone"), units=UNITS, embedding_size=8, device="cpu")
    run = RunOnDisk(tmp_path / "run", options)
    run.directory.mkdir()
    options.write(run.directory)
    for step, bits in ((10, 3.5), (20, 3.25), (30, 3.375)):
        run.save(step, (step, bits))
    return run


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    directory = tmp_path / "labelled"
    directory.mkdir()
    for name in ("train", "valid", "test"):
        (directory / f"{name}.csv").write_text("label,text\n" + ROWS)
    return directory


@pytest.mark.parametrize(
    ("options", "step"), [((), 30), (("--step", 10), 10), (("--best",), 20)], ids=["newest", "named", "best"]
)
def test_which_snapshot(neuron: Neuron, run: RunOnDisk, tmp_path: Path, options: tuple[object, ...], step: int) -> None:
    volume = tmp_path / "a volume"
    result = neuron("publish", run.directory, "--to", volume, *options)
    assert result.exit_code == 0, result.output
    assert latest(volume).name == f"step-{step}"
    bits = {10: "3.5000", 20: "3.2500", 30: "3.3750"}[step]
    assert f"{latest(volume)}: {bits} bits per byte on held-out text\n" in result.stdout
    assert "no sentiment unit and no head" in result.stdout
    assert f"NEURON_CHECKPOINT_DIR='{volume}' neuron up" in result.stdout


def test_labelled_texts_in_a_directory(neuron: Neuron, run: RunOnDisk, labelled: Path, tmp_path: Path) -> None:
    result = neuron(
        "publish", run.directory, "--to", tmp_path / "to", "--eval", labelled, "--name", "mine", "--notes", "A note."
    )
    assert result.exit_code == 0, result.output
    manifest = read_manifest(latest(tmp_path / "to"))
    assert (manifest.name, manifest.notes) == ("mine", "A note.")
    assert manifest.sentiment is not None
    assert f"sentiment unit {manifest.sentiment.unit}, polarity " in result.stdout
    assert "test_accuracy_unit" in result.stdout


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("sentiment", "head 'sentiment': write NAME:LABEL=VALUE,VALUE"),
        ("sentiment:negative=1 positive=5", "gone is not a corpus"),
    ],
)
def test_heads_that_cannot_be_fitted(neuron: Neuron, run: RunOnDisk, tmp_path: Path, head: str, message: str) -> None:
    result = neuron("publish", run.directory, "--to", tmp_path / "to", "--head", head)
    assert result.exit_code == 1
    assert message in result.stderr
    assert not (tmp_path / "to").exists()


def test_labelled_texts_by_file(neuron: Neuron, run: RunOnDisk, labelled: Path, tmp_path: Path) -> None:
    train, valid = labelled / "train.csv", labelled / "valid.csv"
    files = ("--train", train, "--train", valid, "--limit", 20, "--valid", valid)
    result = neuron("publish", run.directory, "--to", tmp_path / "to", *files)
    assert result.exit_code == 0, result.output
    head = read_manifest(latest(tmp_path / "to")).heads["sentiment"]
    assert "test_accuracy" not in head.metrics
    assert (head.metrics["train_accuracy"] * 40) % 1 == pytest.approx(0.0)  # of 2 x 20 rows


def test_labelled_texts_are_named_in_one_way(neuron: Neuron, run: RunOnDisk, labelled: Path, tmp_path: Path) -> None:
    train, valid = ("--train", labelled / "train.csv"), ("--valid", labelled / "valid.csv")
    for options, said in (
        (("--eval", labelled, *train), "--eval names all labelled texts"),
        (("--eval", labelled, "--limit", 3), "--eval names all labelled texts"),
        (train, "need --train and --valid"),
        (valid, "need --train and --valid"),
        (("--test", labelled / "test.csv"), "need --train and --valid"),
        (("--step", 10, "--best"), "exclude each other"),
    ):
        result = neuron("publish", run.directory, "--to", tmp_path / "to", *options)
        assert result.exit_code == 2
        assert said in result.stderr
    assert not (tmp_path / "to").exists()


def test_going_back_on_purpose(neuron: Neuron, run: RunOnDisk, tmp_path: Path) -> None:
    to = ("publish", run.directory, "--to", tmp_path / "to")
    assert neuron(*to).exit_code == 0
    refused = neuron(*to, "--best")
    assert refused.exit_code == 1
    assert "--rollback" in refused.stderr
    assert neuron(*to, "--best", "--rollback").exit_code == 0
    assert latest(tmp_path / "to").name == "step-20"
    assert neuron(*to).exit_code == 0, "what is there already is only made LATEST"
    assert latest(tmp_path / "to").name == "step-30"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--step", 11),
            "step-11 does not exist; a run keeps its newest snapshots and its best, now: step-10, step-20",
        ),
        (("--name", "../evil"), "name '../evil'"),
        (("--eval", "."), "or train.csv (nor the same in another format, or packed)"),
    ],
)
def test_what_does_not_go_is_said(
    neuron: Neuron, run: RunOnDisk, tmp_path: Path, options: tuple[object, ...], said: str
) -> None:
    result = neuron("publish", run.directory, "--to", tmp_path / "to", *options)
    assert result.exit_code == 1
    assert said in result.stderr
    assert not (tmp_path / "to").exists()


def test_a_run_without_a_validated_snapshot_has_no_best(neuron: Neuron, run: RunOnDisk, tmp_path: Path) -> None:
    other = replace(run, directory=tmp_path / "other")
    other.directory.mkdir()
    other.options.write(other.directory)
    other.save(5, (4, 3.0))
    result = neuron("publish", other.directory, "--to", tmp_path / "to", "--best")
    assert result.exit_code == 1
    assert "was validated" in result.stderr


def test_no_run_and_no_place(neuron: Neuron, run: RunOnDisk, tmp_path: Path) -> None:
    assert "holds no run" in neuron("publish", tmp_path, "--to", tmp_path / "to").stderr
    (tmp_path / "file").write_text("")
    result = neuron("publish", run.directory, "--to", tmp_path / "file" / "to")
    assert result.exit_code == 1
    assert "Not a directory" in result.stderr
