"""A checkpoint reads back as it was written, or is refused by name."""

import hashlib
import json
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from model.checkpoints import checkpoint
from model.checkpoints.checkpoint import CheckpointError, read
from model.checkpoints.manifest import WEIGHTS
from model.checkpoints.volumes import latest, publish
from model.network.language_model import Architecture
from tests.support.checkpoints import MANIFEST, UNITS, forge, header_of, tiny_model
from tests.support.examples import examples


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cell", ["mlstm", "lstm", "gru"])
def test_round_trip(tmp_path: Path, cell: str, dtype: torch.dtype) -> None:
    architecture = Architecture(cell, UNITS, 4)  # type: ignore[arg-type]
    model = tiny_model(1, architecture)
    where = publish(tmp_path, model, replace(MANIFEST, architecture=architecture), dtype)
    assert where == tmp_path / "tiny-model.v1" / "step-120" == latest(tmp_path)
    found = read(where)
    digest = hashlib.sha256((where / "model.safetensors").read_bytes()).hexdigest()
    assert found.manifest == replace(MANIFEST, architecture=architecture, sha256={"model.safetensors": digest})
    assert found.model.architecture == architecture
    for name, tensor in model.state_dict().items():
        loaded = found.model.state_dict()[name]
        assert loaded.dtype == torch.float32
        assert torch.equal(loaded, tensor.to(dtype).float()), name


def test_bfloat16_is_what_is_published_by_default(tmp_path: Path) -> None:
    where = publish(tmp_path, tiny_model(), MANIFEST)
    assert {tensor.dtype for tensor in load_file(where / "model.safetensors").values()} == {torch.bfloat16}


@given(position=st.integers(0, 2**40), flip=st.integers(1, 255))
@settings(deadline=None, max_examples=examples(100), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_damaged_byte_of_the_weights_is_noticed(copied: Path, position: int, flip: int) -> None:
    path = copied / WEIGHTS
    content = path.read_bytes()
    position %= len(content)
    path.write_bytes(content[:position] + bytes([content[position] ^ flip]) + content[position + 1 :])
    with pytest.raises(CheckpointError, match="damaged"):
        read(copied)
    path.write_bytes(content)


def test_weights_larger_than_the_model_are_refused_unread(copied: Path) -> None:
    os.truncate(copied / WEIGHTS, 2**40)  # sparse: takes no space, but would take all memory
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors cannot be read: it has \d+ bytes, more than the \d+"
    ):
        read(copied)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1.1e5, -1e38])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_that_would_not_stay_finite_are_refused(copied: Path, value: float, dtype: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(copied / WEIGHTS).items()}
    for name, tensor in tensors.items():
        kept = tensor.flatten()[-1].item()
        tensor.view(-1)[-1] = value
        save_file(tensors, copied / "other")
        forge(copied, (copied / "other").read_bytes())
        with pytest.raises(CheckpointError, match=rf"{name}.*not finite or beyond 100000"):
            read(copied)
        tensor.view(-1)[-1] = kept


def test_truncated_or_longer_weights_are_refused(copied: Path) -> None:
    path = copied / WEIGHTS
    content = path.read_bytes()
    for other in (b"", content[:7], content[: len(content) // 2], content[:-1], content + b"\0"):
        path.write_bytes(other)
        with pytest.raises(CheckpointError, match="damaged"):
            read(copied)
        forge(copied, other)
        with pytest.raises(CheckpointError):
            read(copied)


@pytest.mark.parametrize("file", [WEIGHTS, checkpoint.MANIFEST])
def test_a_missing_file_is_refused(copied: Path, file: str) -> None:
    (copied / file).unlink()
    with pytest.raises(CheckpointError, match=file):
        read(copied)
    (copied / file).mkdir()
    with pytest.raises(CheckpointError, match=file):
        read(copied)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda tensors: tensors.update(output_b=torch.zeros(255)), "output_b.*shape"),
        (lambda tensors: tensors.update(output_b=torch.zeros(1, 256)), "output_b.*shape"),
        (lambda tensors: tensors.pop("cell.gmh"), "cell.gmh"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "extra"),
        (lambda tensors: tensors["cell.wh"].__setitem__((2, 5), float("nan")), "cell.wh.*not finite"),
        (lambda tensors: tensors["embedding"].__setitem__((255, 3), float("-inf")), "embedding.*not finite"),
        (lambda tensors: tensors.update(output_b=torch.zeros(256, dtype=torch.int64)), "output_b.*int64"),
        (lambda tensors: tensors.update(output_b=torch.zeros(256, dtype=torch.complex64)), "output_b.*complex64"),
        (lambda tensors: tensors.update(output_b=torch.zeros(256, dtype=torch.float8_e4m3fn)), "output_b.*float8"),
        (lambda tensors: tensors.clear(), "shape"),
    ],
)
def test_weights_of_another_shape_or_kind_are_refused(
    copied: Path, change: Callable[[dict[str, torch.Tensor]], object], fault: str
) -> None:
    tensors = load_file(copied / WEIGHTS)
    change(tensors)
    save_file(tensors, copied / "other")
    forge(copied, (copied / "other").read_bytes())
    with pytest.raises(CheckpointError, match=fault):
        read(copied)


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F8_E8M0", "U16", "BOOL", "F64", "nonsense", 5])
def test_types_that_no_weights_have_are_refused(copied: Path, dtype: object) -> None:
    """In a file that is otherwise well formed: one tensor's bytes are declared to be of another type."""
    header, data = header_of((copied / WEIGHTS).read_bytes())
    header["output_b"]["dtype"] = dtype
    spelled = json.dumps(header).encode()
    forge(copied, struct.pack("<Q", len(spelled)) + spelled + data)
    with pytest.raises(CheckpointError):
        read(copied)
    size = {"F4": 0.5, "F6_E2M3": 0.75, "U16": 2, "F64": 8}.get(str(dtype), 1)
    begin, end = header["output_b"]["data_offsets"]
    header["output_b"]["shape"] = [int((end - begin) / size)]
    spelled = json.dumps(header).encode()
    forge(copied, struct.pack("<Q", len(spelled)) + spelled + data)
    with pytest.raises(CheckpointError):
        read(copied)


@pytest.mark.parametrize(
    ("shape", "offsets"),
    [
        ([0, 2**63 - 1, 2**62], [0, 0]),
        ([2**64 - 1], [0, 2**64 - 1]),
        ([10**12, 10**12], [0, 10**24]),
        ([2**62, 4], [0, 0]),
        ([-1], [0, 4]),
        ([1] * 1000, [0, 4]),
        ([256], [0, 2**40]),
        ([256], [1024, 0]),
    ],
)
def test_headers_that_claim_too_much_are_refused(copied: Path, shape: list[int], offsets: list[int]) -> None:
    header, data = header_of((copied / WEIGHTS).read_bytes())
    for claimed in ({"extra": {}}, header):
        claimed = claimed | {"output_b": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}
        spelled = json.dumps({name: entry for name, entry in claimed.items() if entry}).encode()
        forge(copied, struct.pack("<Q", len(spelled)) + spelled + data)
        with pytest.raises(CheckpointError):
            read(copied)
        forge(copied, struct.pack("<Q", len(spelled)) + spelled)
        with pytest.raises(CheckpointError):
            read(copied)


@given(data=st.data())
@settings(deadline=None, max_examples=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_forged_weights_load_or_are_refused(published: Path, copied: Path, data: st.DataObject) -> None:
    content = bytearray((published / WEIGHTS).read_bytes())
    if data.draw(st.booleans(), label="garbage"):
        content = bytearray(data.draw(st.binary(max_size=300)))
    else:
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, 1200), label="position")] = data.draw(st.integers(0, 255), label="byte")
    forge(copied, bytes(content))
    with suppress(CheckpointError):
        read(copied)
