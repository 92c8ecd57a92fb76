"""A model as it is served: checkpoint manifest, backend and heads together. `load` builds one from a directory."""

from dataclasses import dataclass
from pathlib import Path

import torch

from contract.jobs import ModelInfo
from model import checkpoint
from model.checkpoint import Manifest
from model.folded import FoldedModel
from worker.backends import Backend, BlockRow, TorchBackend
from worker.rows import Sampling


@dataclass(frozen=True)
class ServedModel:
    manifest: Manifest
    backend: Backend
    info: ModelInfo


def load(directory: Path, device: str, dtype: str, max_rows: int) -> ServedModel:
    """Read, verify and warm up a checkpoint. device: "auto", "cpu", "cuda"; dtype: "auto", "float32", "bfloat16".

    Raises model.checkpoint.CheckpointError if anything in the directory does not match its manifest.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = checkpoint.read(directory)
    manifest = loaded.manifest
    folded = FoldedModel(loaded.model, device, None if dtype == "auto" else getattr(torch, dtype))
    backend = TorchBackend(folded, max_rows)
    _warm_up(backend)
    info = ModelInfo(
        name=manifest.name,
        step=manifest.step,
        cell=manifest.architecture.cell,
        units=manifest.architecture.units,
        bytes_seen=manifest.bytes_seen,
        bits_per_byte=manifest.bits_per_byte,
        sentiment_unit=None if manifest.sentiment is None else manifest.sentiment.unit,
        heads={name: head.labels for name, head in manifest.heads.items()},
        dtype=str(folded.dtype).removeprefix("torch."),
        device=device,
    )
    return ServedModel(manifest, backend, info)


def _warm_up(backend: TorchBackend) -> None:
    """A few steps, so that the first request does not pay for what is initialised lazily."""
    slot = backend.open()
    text = torch.zeros(4, dtype=torch.uint8).numpy()
    backend.run([BlockRow(slot, 5, text, 3, 0, Sampling(), {}, (0,))])
    backend.close(slot)
