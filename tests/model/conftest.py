"""A published checkpoint, and a copy of it that a test may damage."""

import shutil
from pathlib import Path

import pytest
import torch

from model.checkpoints.volumes import publish
from tests.support.checkpoints import MANIFEST, tiny_model


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Never written to: a test that damages a checkpoint takes a copy."""
    return publish(tmp_path_factory.mktemp("volume"), tiny_model(), MANIFEST, torch.float32)


@pytest.fixture
def copied(published: Path, tmp_path: Path) -> Path:
    return shutil.copytree(published, tmp_path / "copy")
