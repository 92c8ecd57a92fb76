"""`neuron checkpoint`: list, show, verify, serve, import-openai and fetch."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result

from cli import checkpoints
from model.checkpoints import checkpoint, volumes
from model.checkpoints.manifest import WEIGHTS
from model.checkpoints.openai_weights import import_openai
from model.heads.unit import Calibration
from model.network.language_model import Architecture
from trainer.publishing.download import FetchError

Neuron = Callable[..., Result]


@pytest.fixture
def copied(volume: Path, tmp_path: Path) -> Path:
    """A checkpoint's directory that a test may damage."""
    return Path(shutil.copytree(volumes.latest(volume), tmp_path / "copy"))


def write_parameters(directory: Path, n: int, e: int) -> Path:
    """Random parameters in the layout of the published ones (model/checkpoints/openai_weights.py)."""
    draw = np.random.default_rng(0)
    directory.mkdir()
    matrices: list[tuple[int, ...]] = [(256, e), (e, 4 * n), (n, n), (n, n), (n, n), (n, n), (e, n), (n, n)]
    vectors: list[tuple[int, ...]] = [(4 * n,), (4 * n,), (4 * n,), (n,), (n,), (n, 256), (256,)]
    for number, shape in enumerate([*matrices, *vectors]):
        np.save(directory / f"{number}.npy", draw.normal(size=shape).astype(np.float32))
    return directory


def test_show(neuron: Neuron, volume: Path) -> None:
    result = neuron("checkpoint", "show", volume)
    assert result.exit_code == 0
    for fact in (
        "tiny, step 12",
        "mlstm, 32 units, embeddings of size 8",
        "17,344",
        "7.9876 on held-out text",
        "3,456",
        "5, polarity -1, center 0.05, scale 0.4",
        "negative, positive; 11 units, C 0.25",
        "valid_accuracy 0.75",
        "Made up for tests.",
    ):
        assert fact in result.stdout


def test_list_and_serve_an_older_step(neuron: Neuron, volume: Path, tmp_path: Path) -> None:
    """Also what lies there by mistake does no harm."""
    there = Path(shutil.copytree(volume, tmp_path / "volume"))
    older = volumes.latest(there)
    read = checkpoint.read(older)
    volumes.publish(there, read.model, replace(read.manifest, step=100))
    (there / "tiny" / "step-5").mkdir()
    result = neuron("checkpoint", "list", there)
    assert result.exit_code == 0
    first, second = result.stdout.splitlines()
    assert first.split()[:3] == ["tiny/step-12", "32", "units"]
    assert second.split()[:2] == ["*", "tiny/step-100"]
    assert "tiny/step-5" in result.stderr
    assert neuron("checkpoint", "serve", older).exit_code == 0
    assert volumes.latest(there) == older
    assert neuron("checkpoint", "list", there).stdout.splitlines()[0].startswith("* tiny/step-12")
    (older / WEIGHTS).write_bytes(b"damaged")
    volumes.make_latest(there / "tiny" / "step-100")
    for directory in (older, there / "tiny" / "step-5", tmp_path):
        assert neuron("checkpoint", "serve", directory).exit_code == 1
        assert volumes.latest(there) == there / "tiny" / "step-100"


def test_list_of_an_empty_volume(neuron: Neuron, tmp_path: Path) -> None:
    result = neuron("checkpoint", "list", tmp_path)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no published model" in result.stderr


def test_show_json(neuron: Neuron, volume: Path) -> None:
    summary = json.loads(neuron("checkpoint", "show", volume, "--json").stdout)
    model = checkpoint.read(volumes.latest(volume)).model
    assert summary["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert summary["sentiment"] == {"unit": 5, "polarity": -1, "center": 0.05, "scale": 0.4}
    head = {"labels": ["negative", "positive"], "units": 11, "c": 0.25, "metrics": {"valid_accuracy": 0.75}}
    assert summary["heads"] == {"sentiment": head}
    assert (summary["name"], summary["step"], summary["cell"], summary["units"]) == ("tiny", 12, "mlstm", 32)


def test_show_of_a_model_that_little_is_known_of(neuron: Neuron, bare: Path) -> None:
    lines = [line.split(maxsplit=1) for line in neuron("checkpoint", "show", bare).stdout.splitlines()]
    assert ["heads", "none"] in lines
    assert ["bits", "per byte   not measured"] in lines
    assert ["sentiment", "unit  none"] in lines


def test_verify(neuron: Neuron, volume: Path) -> None:
    for path in (volume, volumes.latest(volume)):
        result = neuron("checkpoint", "verify", path)
        assert result.exit_code == 0
        assert result.stdout == f"ok: {volumes.latest(volume)}, 17,344 parameters\n"


def test_verify_finds_a_changed_byte(neuron: Neuron, copied: Path) -> None:
    weights = copied / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    result = neuron("checkpoint", "verify", copied)
    assert result.exit_code == 1
    assert f"{weights} is damaged" in result.stderr
    assert neuron("checkpoint", "show", copied).exit_code == 0


def test_verify_finds_another_shape(neuron: Neuron, copied: Path) -> None:
    manifest = copied / checkpoint.MANIFEST
    manifest.write_text(manifest.read_text().replace('"embedding_size": 8', '"embedding_size": 9'))
    result = neuron("checkpoint", "verify", copied)
    assert result.exit_code == 1
    assert "has shape" in result.stderr


@pytest.mark.parametrize("command", ["show", "verify"])
def test_a_folder_without_a_checkpoint(neuron: Neuron, tmp_path: Path, command: str) -> None:
    result = neuron("checkpoint", command, tmp_path)
    assert result.exit_code == 1
    assert "holds no published model" in result.stderr


def test_import_openai(neuron: Neuron, tmp_path: Path) -> None:
    source, out = write_parameters(tmp_path / "model", 12, 4), tmp_path / "a volume"
    result = neuron("checkpoint", "import-openai", source, "--out", out)
    assert result.exit_code == 0, result.output
    assert f"NEURON_CHECKPOINT_DIR='{out}' neuron up" in result.stdout
    published = checkpoint.read(volumes.latest(out))
    manifest = published.manifest
    assert (manifest.name, manifest.step, manifest.sentiment) == ("openai", 1_000_000, None)
    expected = import_openai(source).state_dict()
    for name, tensor in published.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), "float32 is kept, to the last digit"
    again = neuron("checkpoint", "import-openai", source, "--out", out)
    assert again.exit_code == 0, "the same content is only made LATEST"


def test_import_openai_rounds_where_it_is_asked_to(neuron: Neuron, tmp_path: Path) -> None:
    source, out = write_parameters(tmp_path / "model", 12, 4), tmp_path / "volume"
    assert neuron("checkpoint", "import-openai", source, "--out", out, "--dtype", "bfloat16").exit_code == 0
    expected = import_openai(source).state_dict()
    for name, tensor in checkpoint.read(volumes.latest(out)).model.state_dict().items():
        assert torch.equal(tensor, expected[name].bfloat16().float())


def test_a_model_of_the_papers_size_gets_its_sentiment_unit() -> None:
    architecture = Architecture("mlstm", 4096, 64)
    calibration = checkpoints._imported(architecture).sentiment
    assert calibration == Calibration(2388, 1, 0.0, 1.0)


def test_import_openai_names_what_is_missing(neuron: Neuron, tmp_path: Path) -> None:
    source = write_parameters(tmp_path / "model", 12, 4)
    (source / "7.npy").unlink()
    result = neuron("checkpoint", "import-openai", source, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "7.npy is missing" in result.stderr
    assert not (tmp_path / "out").exists()


def test_import_openai_where_nothing_can_be_written(neuron: Neuron, tmp_path: Path) -> None:
    source = write_parameters(tmp_path / "model", 12, 4)
    (tmp_path / "file").write_text("")
    result = neuron("checkpoint", "import-openai", source, "--out", tmp_path / "file" / "out")
    assert result.exit_code == 1
    assert "Not a directory" in result.stderr


def test_fetch_says_how_to_serve(neuron: Neuron, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fetched(out: Path, mirror: str | None, on_progress: Any, on_message: Any, *, dtype: torch.dtype) -> Path:
        calls.append((out, mirror))
        on_progress("0.npy", 10, None)
        on_progress("0.npy", 20, 20)
        on_message("2 files [verified]")
        return out / "openai" / "step-1000000"

    monkeypatch.setattr(checkpoints, "fetch_openai", fetched)
    result = neuron("checkpoint", "fetch", "openai", "--out", tmp_path, "--mirror", "https://mirror.invalid")
    assert result.exit_code == 0, result.output
    assert calls == [(tmp_path, "https://mirror.invalid")]
    assert "2 files [verified]" in result.stderr
    assert result.stdout.endswith(f"NEURON_CHECKPOINT_DIR={tmp_path} neuron up\n")


@pytest.mark.parametrize(
    "error", [FetchError("no such mirror"), checkpoint.CheckpointError("no such mirror"), OSError(28, "no such mirror")]
)
def test_fetch_that_fails(neuron: Neuron, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def failing(*_: object, **_more: object) -> Path:
        raise error

    monkeypatch.setattr(checkpoints, "fetch_openai", failing)
    result = neuron("checkpoint", "fetch", "openai", "--out", tmp_path)
    assert result.exit_code == 1
    assert "no such mirror" in result.stderr


def test_fetch_from_a_folder_that_lacks_the_files(neuron: Neuron, tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    result = neuron("checkpoint", "fetch", "openai", "--out", tmp_path / "out", "--mirror", tmp_path / "mirror")
    assert result.exit_code == 1
    assert "is missing" in result.stderr


def test_fetch_knows_one_release(neuron: Neuron, tmp_path: Path) -> None:
    result = neuron("checkpoint", "fetch", "another", "--out", tmp_path)
    assert result.exit_code == 2
    assert "'another' is not 'openai'" in result.stderr
