"""A manifest and a tiny model for it, and changes to their files that anybody with write access could make."""

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from model.checkpoints import checkpoint
from model.checkpoints.manifest import WEIGHTS, Manifest
from model.heads.classifier import Calibrated, Head
from model.heads.familiarity import Familiarity
from model.heads.histogram import Histogram
from model.heads.unit import Calibration
from model.network.language_model import Architecture, LanguageModel

Json = dict[str, Any]

UNITS = 8
MANIFEST = Manifest(
    name="tiny-model.v1",
    step=120,
    architecture=Architecture("mlstm", UNITS, 4),
    bytes_seen=123_456_789_012,
    bits_per_byte=1.5,
    sha256={},
    sentiment=Calibration(unit=3, polarity=-1, center=0.125, scale=0.75),
    heads={
        "sentiment": Head(["negative", "positive"], {0: [0.5], 7: [-1.25]}, [0.25], 0.5, {"test_accuracy": 0.75}),
        "stars": Head(
            ["1", "2", "3"],
            {2: [1.0, 0.0, -1.0]},
            [0.0, 0.5, -0.5],
            calibration=Calibrated("temperature+bias", 80, "texts"),
        ),
    },
    feature_mean=[0.5] * UNITS,
    feature_scale=[1.5] * UNITS,
    familiarity=Familiarity([16, 64], [4.0, 2.5], 0.99, [900, 700], "texts"),
    notes="Made for a test: \u00fc.",
    unit_histogram=Histogram([-1.5, 0.25, 2.0], {"negative": [7, 2], "positive": [0, 8]}, "texts"),
)


def tiny_model(seed: int = 0, architecture: Architecture = MANIFEST.architecture) -> LanguageModel:
    model = LanguageModel(architecture)
    model.reset(torch.Generator().manual_seed(seed), embedding_std=1.0)
    return model


def forge(directory: Path, weights: bytes) -> None:
    """Other weights with the right SHA-256, as somebody with write access could make them."""
    (directory / WEIGHTS).write_bytes(weights)
    edit(directory, lambda record: record["sha256"].update({WEIGHTS: hashlib.sha256(weights).hexdigest()}))


def edit(directory: Path, change: Callable[[Json], object]) -> None:
    path = directory / checkpoint.MANIFEST
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def header_of(content: bytes) -> tuple[Json, bytes]:
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]
