"""Whatever stands in the files of a checkpoint: it is read and computes finite numbers, or it is a CheckpointError."""

import hashlib
import json
import math
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine.folded import FoldedModel
from model.checkpoints import checkpoint, volumes
from model.checkpoints.checkpoint import MANIFEST, Checkpoint, CheckpointError
from model.checkpoints.manifest import WEIGHTS
from model.checkpoints.volumes import LATEST
from model.heads.classifier import head_probabilities
from tests.support.checkpoints import MANIFEST as VALID
from tests.support.checkpoints import UNITS, forge, header_of, tiny_model
from tests.support.examples import examples
from tests.support.hostile import SPITEFUL, damaged, distorted

FUZZ = settings(deadline=None, max_examples=examples(250), suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return volumes.publish(tmp_path_factory.mktemp("whole"), tiny_model(), VALID, torch.float32)


@pytest.fixture(scope="module")
def scratch(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the volume: every example writes the files that it damages anew."""
    return shutil.copytree(published.parents[1], tmp_path_factory.mktemp("damaged") / "volume")


def place(volume: Path) -> Path:
    return volume / VALID.name / f"step-{VALID.step}"


def outcome(volume: Path) -> Checkpoint | None:
    """What a worker gets, and None where it is refused."""
    try:
        directory = volumes.latest(volume)
        found = checkpoint.read(directory)
    except CheckpointError as error:
        refusal = str(error)
    else:
        refusal = ""
    # It goes into a log.
    assert refusal.isprintable()
    assert len(refusal) < 1500
    if refusal:
        return None
    assert directory.resolve().is_relative_to(volume.resolve())
    assert_serves(found)
    return found


def assert_serves(found: Checkpoint) -> None:
    """Finite numbers from the first byte to the answer, and nothing that JSON cannot hold."""
    manifest, model = found.manifest, FoldedModel(found.model, dtype=torch.float32)
    state = model.zero_state(2)
    for byte in b"\n A":
        state = model.step(torch.tensor([byte, 255 - byte]), state)
    assert model.logits(state.hidden).isfinite().all()
    features = state.cell.numpy()
    assert np.isfinite(features).all()
    for head in manifest.heads.values():
        assert head_probabilities(head, features).sum(axis=1) == pytest.approx(1.0)
    if manifest.sentiment is not None:
        assert -1.0 <= manifest.sentiment.sentiment(float(features[0, manifest.sentiment.unit])) <= 1.0
        assert math.isfinite(np.float32(manifest.sentiment.value(-1.0)))
    reported = [manifest.name, manifest.notes, *(label for head in manifest.heads.values() for label in head.labels)]
    assert "\x1b" not in json.dumps(reported, ensure_ascii=False).encode().decode()


@given(data=st.data())
@FUZZ
def test_damaged_manifest(published: Path, scratch: Path, data: st.DataObject) -> None:
    content = (published / MANIFEST).read_bytes()
    (place(scratch) / MANIFEST).write_bytes(data.draw(damaged(content)))
    outcome(scratch)


@given(data=st.data())
@FUZZ
def test_distorted_manifest(published: Path, scratch: Path, data: st.DataObject) -> None:
    record = json.loads((published / MANIFEST).read_text())
    (place(scratch) / MANIFEST).write_bytes(data.draw(distorted(record)))
    outcome(scratch)


@given(data=st.data())
@FUZZ
def test_damaged_weights_are_refused_and_forged_ones_too_unless_they_serve(
    published: Path, scratch: Path, data: st.DataObject
) -> None:
    whole = (published / WEIGHTS).read_bytes()
    changed = data.draw(damaged(whole, within=data.draw(st.sampled_from([1300, None]), label="within")))
    shutil.copy(published / MANIFEST, place(scratch))
    (place(scratch) / WEIGHTS).write_bytes(changed)
    try:
        assert (outcome(scratch) is None) == (changed != whole)
        forge(place(scratch), changed)
        outcome(scratch)
    finally:
        shutil.copy(published / WEIGHTS, place(scratch))


@given(data=st.data())
@FUZZ
def test_distorted_header_of_forged_weights(published: Path, scratch: Path, data: st.DataObject) -> None:
    header, tensors = header_of((published / WEIGHTS).read_bytes())
    spelled = data.draw(distorted(header))
    length = data.draw(st.sampled_from([len(spelled)] * 9 + [0, 7, 2**20, 2**40, 2**64 - 1]), label="length")
    shutil.copy(published / MANIFEST, place(scratch))
    forge(place(scratch), struct.pack("<Q", length) + spelled + tensors)
    try:
        outcome(scratch)
    finally:
        shutil.copy(published / WEIGHTS, place(scratch))


@given(values=st.lists(st.floats(width=32), min_size=1, max_size=4), seed=st.integers(0, 99))
@example(values=[1e5, -1e5], seed=0)
@example(values=[-1e5], seed=0)
@example(values=[5e-324], seed=0)
@example(values=[3e38], seed=0)
@FUZZ
def test_any_weights_compute_finite_numbers_or_are_refused(
    published: Path, scratch: Path, values: list[float], seed: int
) -> None:
    """In the steepest model that is allowed."""
    record = json.loads((published / MANIFEST).read_text())
    record["architecture"]["steepness"] = 100.0
    (place(scratch) / MANIFEST).write_text(json.dumps(record))
    header, tensors = header_of((published / WEIGHTS).read_bytes())
    chosen = np.random.default_rng(seed).choice(np.array(values, "<f4"), len(tensors) // 4)
    spelled = json.dumps(header).encode()
    forge(place(scratch), struct.pack("<Q", len(spelled)) + spelled + chosen.tobytes())
    try:
        assert (outcome(scratch) is not None) == bool((np.abs(chosen) <= np.float32(1e5)).all())
    finally:
        shutil.copy(published / WEIGHTS, place(scratch))


@given(content=st.binary(max_size=300) | st.sampled_from([str(name).encode(errors="replace") for name in SPITEFUL]))
@example(content=f"{VALID.name}/step-{VALID.step}\nother/step-1\n".encode())
@FUZZ
def test_any_pointer_stays_in_the_volume(published: Path, scratch: Path, content: bytes) -> None:
    shutil.copy(published / MANIFEST, place(scratch))
    (scratch / LATEST).write_bytes(content)
    try:
        found = outcome(scratch)
    finally:
        (scratch / LATEST).write_text(f"{VALID.name}/step-{VALID.step}\n")
    assert found is None or content.strip() == f"{VALID.name}/step-{VALID.step}".encode()


@given(data=st.data())
@FUZZ
def test_damaged_pointer(published: Path, scratch: Path, data: st.DataObject) -> None:
    shutil.copy(published / MANIFEST, place(scratch))
    (scratch / LATEST).write_bytes(data.draw(damaged(f"{VALID.name}/step-{VALID.step}\n".encode())))
    try:
        outcome(scratch)
    finally:
        (scratch / LATEST).write_text(f"{VALID.name}/step-{VALID.step}\n")


def test_what_the_fuzzers_begin_with_is_read(scratch: Path, published: Path) -> None:
    shutil.copytree(published.parents[1], scratch, dirs_exist_ok=True)
    found = outcome(scratch)
    assert found is not None
    assert found.manifest.architecture.units == UNITS
    assert found.manifest.sha256[WEIGHTS] == hashlib.sha256((published / WEIGHTS).read_bytes()).hexdigest()
