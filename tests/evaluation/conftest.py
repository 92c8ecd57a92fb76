"""A checkpoint whose right answers are known (tests/support/carrier.py), and its reader."""

from pathlib import Path

import pytest
import torch

from evaluation.features import Reader
from model.checkpoints import volumes
from model.checkpoints.manifest import Manifest
from model.heads.unit import Calibration
from tests.support.carrier import UNIT, carrier


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = carrier()
    manifest = Manifest("carrier", 3, model.architecture, 1000, 2.5, {}, Calibration(UNIT, 1, 0.0, 1.0))
    return volumes.publish(tmp_path_factory.mktemp("volume"), model, manifest, torch.float32)


@pytest.fixture(scope="module")
def reader(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return Reader(directory, tmp_path_factory.mktemp("cache"), dtype=torch.float32)
