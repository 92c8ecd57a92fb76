"""Whatever stands in a snapshot, even with hashes that match: a run continues from it, or it is a SnapshotError."""

import hashlib
import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from model.network.language_model import LanguageModel
from model.network.objective import Objective
from tests.support.hostile import damaged, distorted
from tests.support.runs import LANES, ignore, options, write_corpus
from trainer.run import snapshot
from trainer.run.snapshot import PROGRESS, TENSORS, SnapshotError
from trainer.run.train import Run

FUZZ = settings(deadline=None, max_examples=200, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """With one snapshot, after its second step."""
    directory = tmp_path_factory.mktemp("fuzzed")
    run = Run.create(directory / "run", options(write_corpus(directory / "corpus")), ignore)
    run.step()
    run.step()
    run.save()
    return run


@pytest.fixture
def whole(run: Run) -> Path:
    return run.directory / "snapshots" / "step-2"


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "step-2")


def write(directory: Path, tensors: bytes, progress: dict[str, Any]) -> None:
    """With the hash that fits."""
    (directory / TENSORS).write_bytes(tensors)
    progress = progress | {"sha256": {TENSORS: hashlib.sha256(tensors).hexdigest()}}
    (directory / PROGRESS).write_text(json.dumps(progress))


def go_on(run: Run, directory: Path) -> bool:
    """Whether a run takes it up. Torch's generator is left as it was."""
    kept = torch.get_rng_state()
    model = LanguageModel(run.options.architecture)
    try:
        snapshot.verify(directory)
        state, cursors, progress = snapshot.load(directory, Objective(model), [torch.optim.Adam(model.parameters())])
        assert state.cell.shape == state.hidden.shape == (len(cursors), run.options.units)
        assert min(progress.step, progress.bytes_seen, *(cursor.offset for cursor in cursors)) >= 0
        assert all(parameter.isfinite().all() for parameter in model.parameters())
        snapshot.read_model(directory, run.options.architecture)
    except SnapshotError:
        return False
    finally:
        torch.set_rng_state(kept)
        snapshot.best(directory.parent)  # looks at all, damaged ones as well
    return True


def test_a_whole_one_is_gone_on_from(run: Run, whole: Path) -> None:
    assert go_on(run, whole)
    assert len(snapshot.read_progress(whole)[1]) == LANES


@given(data=st.data(), way=st.sampled_from(["bytes", "record"]))
@FUZZ
def test_any_progress(run: Run, whole: Path, copied: Path, data: st.DataObject, way: str) -> None:
    content = (whole / PROGRESS).read_bytes()
    changed = data.draw(damaged(content) if way == "bytes" else distorted(json.loads(content)))
    (copied / PROGRESS).write_bytes(changed)
    go_on(run, copied)


@given(data=st.data(), way=st.sampled_from(["damaged", "forged", "header"]))
@FUZZ
def test_any_tensors(run: Run, whole: Path, copied: Path, data: st.DataObject, way: str) -> None:
    content, progress = (whole / TENSORS).read_bytes(), json.loads((whole / PROGRESS).read_text())
    (length,) = struct.unpack("<Q", content[:8])
    if way == "header":
        spelled = data.draw(distorted(json.loads(content[8 : 8 + length])))
        changed = struct.pack("<Q", len(spelled)) + spelled + content[8 + length :]
    else:
        changed = data.draw(damaged(content, within=data.draw(st.sampled_from([length + 100, None]), label="within")))
    if way == "damaged":
        (copied / TENSORS).write_bytes(changed)
        (copied / PROGRESS).write_text(json.dumps(progress))
        assert go_on(run, copied) == (changed == content)
    else:
        write(copied, changed, progress)
        go_on(run, copied)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("state.cell", None),
        ("state.cell", torch.zeros(LANES, 15)),
        ("state.hidden", torch.zeros(LANES + 1, 16)),
        ("state.hidden", torch.zeros(LANES, 16, dtype=torch.int64)),
        ("state.cell", torch.full((LANES, 16), float("nan"))),
        ("random.cpu", None),
        ("random.cpu", torch.zeros(16, dtype=torch.uint8)),
        ("random.cpu", torch.zeros(5056)),
        ("model.output_b", None),
        ("model.output_b", torch.zeros(255)),
        ("model.output_b", torch.full((256,), float("inf"))),
        ("model.output_b", torch.zeros(256, dtype=torch.int64)),
        ("optimizer", torch.zeros(1)),
        ("optimizer.exp_avg", torch.zeros(1)),
        ("optimizer.exp_avg.nothing", torch.zeros(1)),
        ("optimizer.exp_avg.output_b", torch.zeros(255)),
        ("optimizer.exp_avg.output_b", torch.full((256,), float("nan"))),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    run: Run, whole: Path, copied: Path, name: str, value: torch.Tensor | None
) -> None:
    tensors = load_file(whole / TENSORS)
    if value is None:
        del tensors[name]
    else:
        tensors[name] = value
    save_file(tensors, copied / "other")
    write(copied, (copied / "other").read_bytes(), json.loads((whole / PROGRESS).read_text()))
    snapshot.verify(copied)
    model = LanguageModel(run.options.architecture)
    with pytest.raises(SnapshotError, match=TENSORS):
        snapshot.load(copied, Objective(model), [torch.optim.Adam(model.parameters())])


@pytest.mark.parametrize("file", [TENSORS, PROGRESS])
@pytest.mark.parametrize("kind", ["link", "endless", "pipe", "folder"])
def test_what_is_no_plain_file_is_refused(copied: Path, tmp_path: Path, file: str, kind: str) -> None:
    (copied / file).rename(tmp_path / "elsewhere")
    match kind:
        case "pipe":
            os.mkfifo(copied / file)
        case "folder":
            (copied / file).mkdir()
        case _:
            (copied / file).symlink_to(tmp_path / "elsewhere" if kind == "link" else "/dev/zero")
    with pytest.raises(SnapshotError, match=f"{file} cannot be read"):
        snapshot.verify(copied)
    assert snapshot.best(copied.parent) is None
