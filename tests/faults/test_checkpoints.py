"""What is no checkpoint appears in the volume under load: refused, counted and logged, and the old model serves on."""

import hashlib
import json
import os
import pickle
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import save

from model.checkpoints.checkpoint import MANIFEST
from model.checkpoints.manifest import WEIGHTS
from model.checkpoints.volumes import LATEST
from tests.conftest import Stack, publish_tiny, run_stack, wait_until
from tests.faults.conftest import Accounted
from tests.faults.load import CALM_S, Load, mixed

_HUGE = 2**40  # bytes, of a file with holes


class _Runs:
    """What unpickling would run."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._trace,)


def _forge(directory: Path, weights: bytes) -> None:
    """Weights with their right SHA-256, as anyone can make them who may write to the volume."""
    manifest = json.loads((directory / MANIFEST).read_text())
    manifest["sha256"] = {WEIGHTS: hashlib.sha256(weights).hexdigest()}
    (directory / MANIFEST).write_text(json.dumps(manifest))
    (directory / WEIGHTS).write_bytes(weights)


def _edit(directory: Path, **changes: object) -> None:
    manifest = json.loads((directory / MANIFEST).read_text())
    (directory / MANIFEST).write_text(json.dumps(manifest | changes))


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flipped(directory: Path) -> None:
    weights = bytearray((directory / WEIGHTS).read_bytes())
    weights[-5] ^= 1
    (directory / WEIGHTS).write_bytes(weights)


def _other_width(directory: Path) -> None:
    _edit(directory, architecture={"cell": "mlstm", "units": 64, "embedding_size": 16, "steepness": 1.0})


def _not_finite(directory: Path) -> None:
    weights = bytearray((directory / WEIGHTS).read_bytes())
    weights[-4:] = struct.pack("<f", float("nan"))
    _forge(directory, bytes(weights))


def _enormous_tensor(directory: Path) -> None:
    header = json.dumps({"hidden_w": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}}).encode()
    _forge(directory, struct.pack("<Q", len(header)) + header)


def _enormous_header(directory: Path) -> None:
    _forge(directory, struct.pack("<Q", 2**63 - 1) + b"{}")


def _with_holes(directory: Path) -> None:
    with (directory / WEIGHTS).open("r+b") as weights:
        weights.truncate(_HUGE)


def _enormous_manifest(directory: Path) -> None:
    with (directory / MANIFEST).open("r+b") as manifest:
        manifest.truncate(_HUGE)


def _pickle(directory: Path) -> None:
    _forge(directory, pickle.dumps(_Runs(directory.parent.parent / "unpickled")))


def _pickled_by_torch(directory: Path) -> None:
    torch.save({"hidden_w": _Runs(directory.parent.parent / "unpickled")}, directory / "model.pt")
    _forge(directory, (directory / "model.pt").read_bytes())


def _link_out(directory: Path) -> None:
    outside = directory.parent.parent.parent / "outside"
    outside.mkdir(exist_ok=True)
    (directory / WEIGHTS).rename(outside / WEIGHTS)
    (directory / WEIGHTS).symlink_to(outside / WEIGHTS)


def _directory_link_out(directory: Path) -> None:
    outside = directory.parent.parent.parent / "elsewhere"
    shutil.move(directory, outside)
    directory.symlink_to(outside)


def _pipe(directory: Path) -> None:
    (directory / WEIGHTS).unlink()
    os.mkfifo(directory / WEIGHTS)


def _name_that_leaves(directory: Path) -> None:
    _edit(directory, name="../../etc")


def _latest_that_leaves(directory: Path) -> None:
    (directory.parent.parent / LATEST).write_text("../outside/step-1\n")


def _other_tensors(directory: Path) -> None:
    _forge(directory, save({"../../etc/passwd": torch.zeros(3)}))


_DAMAGE: list[Callable[[Path], object]] = [
    lambda directory: _half(directory / WEIGHTS),
    lambda directory: _half(directory / MANIFEST),
    lambda directory: (directory / WEIGHTS).write_bytes(b""),
    lambda directory: (directory / WEIGHTS).unlink(),
    *(_flipped, _other_width, _not_finite, _enormous_tensor, _enormous_header, _with_holes, _enormous_manifest),
    lambda directory: _edit(directory, architecture={"cell": "mlstm", "units": 10**9, "embedding_size": 10**9}),
    *(_pickle, _pickled_by_torch, _link_out, _directory_link_out, _pipe, _name_that_leaves, _latest_that_leaves),
    _other_tensors,
]


def _appear(volume: Path, step: int, damage: Callable[[Path], object]) -> None:
    """Put a damaged checkpoint into the volume, and then have LATEST name it, as no publisher of ours would."""
    aside = publish_tiny(volume.parent / f"aside-{step}" / "volume", step, seed=step)
    damage(aside)
    pointer = (aside.parent.parent / LATEST).read_text()
    shutil.move(aside, volume / "tiny")  # a link moves as a link
    (volume / ".new").write_text(pointer)
    (volume / ".new").replace(volume / LATEST)


def _refused(stack: Stack) -> float:
    return stack.worker_metric("neuron_reloads_total", '{outcome="refused"}')


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    publish_tiny(tmp_path / "volume", step=1)
    return tmp_path / "volume"


def test_what_is_no_checkpoint_is_refused_under_load(volume: Path, tmp_path: Path, accounted: Accounted) -> None:
    settings = {"NEURON_CHECKPOINT_DIR": str(volume), "NEURON_WORKER_POLL_S": "0.1"}
    with run_stack(tmp_path / "stack", **settings) as stack:
        with Load([stack.url], mixed()) as load:
            time.sleep(CALM_S)
            moment = time.monotonic()
            for step, damage in enumerate(_DAMAGE, 2):
                before = _refused(stack)
                _appear(volume, step, damage)
                wait_until(lambda before=before: _refused(stack) > before, what=f"refusal of damage {step - 2}")  # type: ignore[misc]
            began = time.monotonic()
            wait_until(lambda: load.ended_since(began) > 10, what="answers by the old model")
        accounted("20 bad checkpoints in the volume", load, stack.environment["NEURON_REDIS_URL"], moment)
        models = httpx.get(stack.url + "/models").json()["models"]
        assert [model["step"] for model in models] == [1]
        assert stack.worker_metric("neuron_reloads_total", '{outcome="served"}') == 0
        assert stack.log.read_text().count("kept tiny step 1: ") >= len(_DAMAGE)
    assert not (volume / "unpickled").exists()


def test_a_copy_that_is_completed_under_load_is_served(volume: Path, tmp_path: Path) -> None:
    """LATEST and a part of the files come first, as where a volume is synchronised without care for their order."""
    settings = {"NEURON_CHECKPOINT_DIR": str(volume), "NEURON_WORKER_POLL_S": "0.1"}
    with run_stack(tmp_path / "stack", **settings) as stack:
        with Load([stack.url], mixed(), clients=20) as load:
            for step, name in enumerate((WEIGHTS, MANIFEST), 2):
                copied = volume / "tiny" / f"step-{step}" / name
                before, whole = _refused(stack), []

                def cut(directory: Path, name: str = name, whole: list[bytes] = whole) -> None:
                    whole.append((directory / name).read_bytes())
                    _half(directory / name)

                _appear(volume, step, cut)
                wait_until(lambda before=before: _refused(stack) > before, what="refusal of the half copy")  # type: ignore[misc]
                with copied.open("ab") as rest:
                    rest.write(whole[0][copied.stat().st_size :])
                served = f'{{name="tiny",step="{step}"}}'
                wait_until(lambda served=served: stack.worker_metric("neuron_model_info", served) == 1, what=served)  # type: ignore[misc]
        assert not load.account().lost
        assert not load.account().failed
