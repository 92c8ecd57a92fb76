"""A model as it is served: checkpoint manifest, backend and heads together. `load` builds one from a directory."""

import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from contract.jobs import ModelInfo, TopUnit, UnitHistogram
from engine.backend import Backend
from engine.folded import FoldedModel
from engine.graph_backend import GraphBackend
from engine.openmp import on_passing_thread
from engine.torch_backend import TorchBackend
from model.checkpoints import checkpoint
from model.checkpoints.manifest import Manifest

_MOST_WEIGHTS = 4096  # of top units, because a worker reports them with every heartbeat


@dataclass(frozen=True)
class ServedModel:
    manifest: Manifest
    backend: Backend
    info: ModelInfo

    @property
    def version(self) -> str:
        return f"{self.info.name} step {self.info.step}"


def load(directory: Path, device: str, dtype: str, max_rows: int, scores: bool = True) -> ServedModel:
    """Read, verify and warm up a checkpoint. device: "auto", "cpu", "cuda"; dtype: "auto", "float32", "bfloat16".

    scores: whether the bits per byte of texts are measured, where the checkpoint knows which texts are familiar.
    Raises CheckpointError (model/checkpoints/checkpoint.py) if anything in the directory does not match its manifest.
    """
    # Only the engine's thread may keep a team of OpenMP threads (openmp.py).
    return on_passing_thread(_load, directory, device, dtype, max_rows, scores)


def _load(directory: Path, device: str, dtype: str, max_rows: int, scores: bool) -> ServedModel:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = checkpoint.read(directory)
    manifest = loaded.manifest if scores else replace(loaded.manifest, familiarity=None)
    folded = FoldedModel(loaded.model, device, None if dtype == "auto" else getattr(torch, dtype))
    backend = backend_for(folded, 2 * max_rows)  # as many interactive rows as bulk rows
    backend.warm_up(max_rows, scores=manifest.familiarity is not None)
    histogram = manifest.unit_histogram
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
        top_units=_top_units(manifest),
        unit_histogram=None if histogram is None else UnitHistogram(**asdict(histogram)),
    )
    return ServedModel(manifest, backend, info)


def _top_units(manifest: Manifest) -> dict[str, list[TopUnit]]:
    """By head. Of other features than the cell the manifest knows no deviations, without which weights say little."""
    found: dict[str, list[TopUnit]] = {}
    left = _MOST_WEIGHTS
    for name, head in manifest.heads.items():
        units = head.top_units(manifest.feature_scale) if head.pooling == "cell" else []
        weights = len(units) * len(head.bias)
        if 0 < weights <= left:
            left -= weights
            found[name] = [TopUnit(unit=unit, weights=head.weights[unit]) for unit in units]
    return found


def device_memory_bytes(device: str) -> int:
    """What this process holds of the device's memory; on a CPU, of the machine's, or 0 where it is not known."""
    if device == "cuda":
        return torch.cuda.memory_reserved()
    if sys.platform != "linux":
        return 0
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def backend_for(model: FoldedModel, max_rows: int) -> TorchBackend:
    """The backend of the model's device, not warmed up. max_rows: that may have a slot at once."""
    return (GraphBackend if model.device.type == "cuda" else TorchBackend)(model, max_rows)
