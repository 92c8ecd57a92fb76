"""A real checkpoint, tiny and untrained, and a way to call `neuron` on it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from cli.main import main
from model.checkpoints import volumes
from model.checkpoints.manifest import Manifest
from model.heads.classifier import Head
from model.heads.unit import Calibration
from model.network.language_model import Architecture, LanguageModel
from tests.support.decoys import write_decoys

Neuron = Callable[..., Result]

ROOT = Path(__file__).parents[2]
UNITS = 32
SENTIMENT_UNIT = 5


def untrained(cell: str = "mlstm", seed: int = 0) -> LanguageModel:
    model = LanguageModel(Architecture(cell, UNITS, 8))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    model.reset(generator, embedding_std=1.0)
    with torch.no_grad():
        # Far from uniform, so that a sample is not the same by chance.
        model.output_w.normal_(0.0, 2.0, generator=generator)
    return model


@pytest.fixture(scope="session")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume with a calibrated model, 32 units, and its head `sentiment`."""
    model = untrained()
    draw = np.random.default_rng(0)
    head = Head(
        labels=["negative", "positive"],
        weights={unit: [float(draw.normal())] for unit in range(0, UNITS, 3)},
        bias=[0.1],
        c=0.25,
        metrics={"valid_accuracy": 0.75},
    )
    manifest = Manifest(
        name="tiny",
        step=12,
        architecture=model.architecture,
        bytes_seen=3456,
        bits_per_byte=7.9876,
        sha256={},
        sentiment=Calibration(SENTIMENT_UNIT, polarity=-1, center=0.05, scale=0.4),
        heads={"sentiment": head},
        notes="Made up for tests.",
    )
    path = tmp_path_factory.mktemp("volume")
    volumes.publish(path, model, manifest)
    return path


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a GRU with neither sentiment unit nor heads."""
    model = untrained("gru", seed=1)
    return volumes.publish(
        tmp_path_factory.mktemp("bare"), model, Manifest("bare", 0, model.architecture, 0, None, sha256={})
    )


@pytest.fixture(scope="session")
def neuron() -> Neuron:
    """Call `neuron` in this process: `neuron("classify", "text", input=..., env=...)`."""

    def call(*arguments: object, **settings: object) -> Result:
        surroundings = {"FORCE_COLOR": None, "NO_COLOR": None, "TTY_COMPATIBLE": None}
        result = CliRunner(env=surroundings).invoke(main, list(map(str, arguments)), **settings)  # type: ignore[arg-type]
        # Whatever a user can do wrong ends in a message, never in a traceback.
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result

    return call


@pytest.fixture
def decoys(tmp_path: Path) -> Path:
    """A folder whose modules are named like ours and must not be imported."""
    directory = tmp_path / "decoys"
    directory.mkdir()
    return write_decoys(directory)
