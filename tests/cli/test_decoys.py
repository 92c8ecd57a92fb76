"""Commands in a folder that has modules of our names: none of theirs is run. tests/cli/test_up.py has `neuron up`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT

# As the script `neuron` starts: without the working directory on its path.
_NEURON = [sys.executable, "-P", "-m", "cli.main"]


def neuron(cwd: Path, *arguments: object) -> str:
    command = [*_NEURON, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_they_are_decoys(decoys: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "worker"], cwd=decoys, capture_output=True, text=True)
    assert "the decoy" in done.stderr


def test_a_model_in_this_process(decoys: Path, volume: Path) -> None:
    assert "Good." in neuron(decoys, "classify", "Good.", "--checkpoint", volume)


@pytest.mark.slow
def test_a_training_publishes_from_its_child(decoys: Path, tmp_path: Path) -> None:
    """The child that publishes is started by multiprocessing, not by us."""
    (decoys / "reviews.txt").write_text("".join(f"Review {number} is good.\n" for number in range(600)))
    neuron(decoys, "corpus", "build", "reviews.txt", "--out", "corpus", "--shards", 8)
    sizes = ("--units", 16, "--lanes", 2, "--window", 16, "--total-bytes", 640, "--validation-bytes", 256)
    neuron(decoys, "train", "run", "--corpus", "corpus", *sizes, "--no-fuse", "--publish-to", tmp_path / "published")
    assert (tmp_path / "published" / "LATEST").is_file()
