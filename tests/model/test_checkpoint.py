"""A checkpoint reads back as it was published or is refused, and no crash leaves LATEST naming half of one."""

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from model.checkpoints import checkpoint, durable, volumes
from model.checkpoints.checkpoint import CheckpointError, read, read_manifest
from model.checkpoints.manifest import MAX_UNITS, WEIGHTS, Manifest
from model.checkpoints.volumes import latest, publish, resolve
from model.heads.classifier import Head
from model.heads.unit import Calibration
from model.network.language_model import Architecture, LanguageModel

Json = dict[str, Any]

ROOT = Path(__file__).parents[2]
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
        "stars": Head(["1", "2", "3"], {2: [1.0, 0.0, -1.0]}, [0.0, 0.5, -0.5]),
    },
    feature_mean=[0.5] * UNITS,
    feature_scale=[1.5] * UNITS,
    notes="Made for a test: \u00fc.",
)


def tiny_model(seed: int = 0, architecture: Architecture = MANIFEST.architecture) -> LanguageModel:
    model = LanguageModel(architecture)
    model.reset(torch.Generator().manual_seed(seed), embedding_std=1.0)
    return model


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Never written to: a test that damages a checkpoint takes a copy."""
    return publish(tmp_path_factory.mktemp("volume"), tiny_model(), MANIFEST, torch.float32)


@pytest.fixture
def copied(published: Path, tmp_path: Path) -> Path:
    return shutil.copytree(published, tmp_path / "copy")


def forge(directory: Path, weights: bytes) -> None:
    """Other weights with the right SHA-256, as somebody with write access could make them."""
    (directory / WEIGHTS).write_bytes(weights)
    edit(directory, lambda record: record["sha256"].update({WEIGHTS: hashlib.sha256(weights).hexdigest()}))


def edit(directory: Path, change: Callable[[Json], object]) -> None:
    path = directory / checkpoint.MANIFEST
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


# ---- round trip


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


def test_manifest_fields_on_disk(published: Path) -> None:
    record = json.loads((published / "manifest.json").read_text())
    assert record["format_version"] == 1
    assert record["architecture"] == {"cell": "mlstm", "units": UNITS, "embedding_size": 4, "steepness": 1.0}
    assert record["sentiment"] == {"unit": 3, "polarity": -1, "center": 0.125, "scale": 0.75}
    assert record["heads"]["sentiment"]["weights"] == {"0": [0.5], "7": [-1.25]}
    assert sorted(path.name for path in published.iterdir()) == ["manifest.json", "model.safetensors"]
    assert (published.parents[1] / "LATEST").read_text() == "tiny-model.v1/step-120\n"


def test_a_bare_manifest_reads_back(tmp_path: Path) -> None:
    bare = Manifest("bare", 0, MANIFEST.architecture, 0, None, sha256={})
    found = read(publish(tmp_path, tiny_model(), bare)).manifest
    assert (found.sentiment, found.heads, found.feature_mean, found.bits_per_byte) == (None, {}, None, None)


def test_a_manifest_from_before_steepness_reads_as_one(copied: Path) -> None:
    edit(copied, lambda record: record["architecture"].pop("steepness"))
    assert read(copied).manifest.architecture.steepness == 1.0


def test_resolve_takes_a_checkpoint_or_a_volume(published: Path) -> None:
    assert resolve(published) == published
    assert resolve(published.parents[1]) == published


def test_calibration_is_a_line_there_and_back() -> None:
    falling = Calibration(unit=0, polarity=-1, center=0.5, scale=2.0)
    assert falling.value(1.0) == -1.5
    assert falling.sentiment(-1.5) == 1.0
    assert falling.sentiment(0.5) == 0.0
    assert (falling.sentiment(99.0), falling.sentiment(-99.0)) == (-1.0, 1.0)


# ---- publishing


def test_a_step_is_published_once(tmp_path: Path) -> None:
    where = publish(tmp_path, tiny_model(0), MANIFEST)
    before = (where / WEIGHTS).read_bytes()
    with pytest.raises(CheckpointError, match="exists already with another sha256: "):
        publish(tmp_path, tiny_model(1), MANIFEST)
    with pytest.raises(CheckpointError, match="exists already with another sentiment, notes: "):
        publish(tmp_path, tiny_model(0), replace(MANIFEST, sentiment=None, notes=""))
    assert (where / WEIGHTS).read_bytes() == before
    assert read(where).manifest.notes == MANIFEST.notes


def test_the_same_step_with_the_same_content_is_only_made_latest(tmp_path: Path) -> None:
    where = publish(tmp_path, tiny_model(), MANIFEST)
    written = where.stat().st_mtime_ns
    for pointer in (None, "another/step-999\n", "tiny-model.v1/step-120\n"):
        if pointer is None:
            (tmp_path / "LATEST").unlink()
        else:
            (tmp_path / "LATEST").write_text(pointer)
        assert publish(tmp_path, tiny_model(), MANIFEST) == where == latest(tmp_path)
    assert where.stat().st_mtime_ns == written


def test_a_damaged_step_is_not_made_latest(tmp_path: Path) -> None:
    where = publish(tmp_path, tiny_model(), MANIFEST)
    (tmp_path / "LATEST").unlink()
    with (where / WEIGHTS).open("ab") as weights:
        weights.write(b"\0")
    with pytest.raises(CheckpointError, match="damaged"):
        publish(tmp_path, tiny_model(), MANIFEST)
    assert not (tmp_path / "LATEST").exists()


def test_latest_goes_back_only_on_purpose(tmp_path: Path) -> None:
    late = publish(tmp_path, tiny_model(), MANIFEST)
    early = replace(MANIFEST, step=7)
    with pytest.raises(CheckpointError, match=r"step 120 of tiny-model\.v1, later than step 7: .*--rollback"):
        publish(tmp_path, tiny_model(), early)
    assert latest(tmp_path) == late
    assert list(late.parent.iterdir()) == [late]
    assert publish(tmp_path, tiny_model(), early, rollback=True) == latest(tmp_path)
    publish(tmp_path, tiny_model(), replace(MANIFEST, step=8))
    assert publish(tmp_path, tiny_model(), MANIFEST) == late == latest(tmp_path)


def test_the_steps_of_another_name_do_not_count(tmp_path: Path) -> None:
    publish(tmp_path, tiny_model(), MANIFEST)
    other = publish(tmp_path, tiny_model(), replace(MANIFEST, name="other", step=1))
    assert latest(tmp_path) == other


@pytest.mark.parametrize("pointer", [b"tiny-model.v1/step-999\n", b"\xff nonsense", b""])
def test_a_latest_that_names_nothing_stops_nobody(tmp_path: Path, pointer: bytes) -> None:
    (tmp_path / "LATEST").write_bytes(pointer)
    where = publish(tmp_path, tiny_model(), MANIFEST)
    assert latest(tmp_path) == where


def test_what_killed_publishers_left_is_swept(tmp_path: Path) -> None:
    where = publish(tmp_path, tiny_model(), MANIFEST)
    left = where.parent / ".step-121.0123.partial"
    left.mkdir()
    (left / WEIGHTS).write_bytes(b"half")
    (tmp_path / ".LATEST.4567.partial").write_text("tiny-mo")
    second = publish(tmp_path, tiny_model(), replace(MANIFEST, step=121))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "LATEST", "tiny-model.v1"]
    assert sorted(where.parent.iterdir()) == [where, second]


def test_another_publisher_that_does_not_end_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "_PATIENCE_S", 0.05)
    with (
        durable.exclusively(tmp_path / ".lock", 0.0),
        pytest.raises(CheckpointError, match=r"another process has held .*\.lock for 0\.05 s"),
    ):
        publish(tmp_path, tiny_model(), MANIFEST)
    publish(tmp_path, tiny_model(), MANIFEST)


TAKE_TURNS = """
    import os, sys
    from dataclasses import replace
    from pathlib import Path
    import torch
    from model.checkpoints.checkpoint import CheckpointError, read
    from model.checkpoints.manifest import Manifest
    from model.checkpoints.volumes import latest, publish
    from model.network.language_model import Architecture, LanguageModel

    torch.set_num_threads(1)
    volume, publishers, stride = Path(sys.argv[1]), 3, int(sys.argv[2])
    architecture = Architecture("mlstm", 32, 8)
    model = LanguageModel(architecture)
    model.reset(torch.Generator().manual_seed(0))
    manifest = Manifest("loop", 0, architecture, 0, None, sha256={})
    gate = os.pipe()
    children = []
    for number in range(publishers):
        children.append(os.fork())
        if children[-1] == 0:
            os.close(gate[1])
            os.read(gate[0], 1)  # until all are there
            for step in range(number if stride > 1 else 0, 60, stride):
                try:
                    publish(volume, model, replace(manifest, step=step), torch.float32)
                    os.write(1, b"published\\n")
                except CheckpointError as error:
                    assert "later than step" in str(error), error
                read(latest(volume))
            os._exit(0)
    os.close(gate[1])
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * publishers
"""


@pytest.mark.parametrize("stride", [1, 3], ids=["the same steps", "steps in turn"])
def test_publishers_take_turns(tmp_path: Path, stride: int) -> None:
    script = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(TAKE_TURNS), str(tmp_path), str(stride)]
    done = subprocess.run(script, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert latest(tmp_path).name == "step-59"
    assert not list(tmp_path.rglob("*.partial"))
    steps = list(latest(tmp_path).parent.iterdir())
    for step in steps:
        read(step)
    published = done.stdout.count("published")
    if stride == 3:  # what was refused for coming late was not written
        assert published == len(steps)
    else:
        assert published >= len(steps) == 60


@pytest.mark.parametrize("name", ["", "..", "../evil", "a/b", "/abs", ".hidden", "UPPER", "a" * 65, "a\n", "ä"])
def test_names_that_are_no_plain_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="name"):
        publish(tmp_path, tiny_model(), replace(MANIFEST, name=name))
    assert list(tmp_path.iterdir()) == []


def test_latest_is_swapped_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path, tiny_model(0), MANIFEST)
    seen = []
    swap = durable.replace_file

    def look(path: Path, content: str) -> None:
        assert latest(tmp_path).name == "step-120"
        seen.append(read(tmp_path / content.strip()).manifest.step)
        swap(path, content)

    monkeypatch.setattr(volumes, "replace_file", look)
    publish(tmp_path, tiny_model(1), replace(MANIFEST, step=121))
    assert seen == [121]
    assert latest(tmp_path).name == "step-121"


@pytest.mark.parametrize(
    "manifest",
    [
        replace(MANIFEST, step=-1),
        replace(MANIFEST, architecture=replace(MANIFEST.architecture, units=9)),
        replace(MANIFEST, feature_mean=[0.0]),
        replace(MANIFEST, sentiment=Calibration(UNITS, 1, 0.0, 1.0)),
        replace(MANIFEST, bits_per_byte=float("nan")),
    ],
    ids=["negative step", "other architecture", "short mean", "no such unit", "not a number"],
)
def test_what_would_not_read_back_is_not_published(tmp_path: Path, manifest: Manifest) -> None:
    where = publish(tmp_path, tiny_model(), replace(MANIFEST, step=7))
    with pytest.raises(CheckpointError):
        publish(tmp_path, tiny_model(), manifest)
    assert latest(tmp_path) == where
    assert list(where.parent.iterdir()) == [where]


def test_a_diverged_model_is_not_published(tmp_path: Path) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.output_w[3, 200] = float("nan")
    with pytest.raises(CheckpointError, match=r"output_w.*not finite"):
        publish(tmp_path, model, MANIFEST)
    assert not (tmp_path / "LATEST").exists()


# ---- crashes


def test_no_failing_sync_leaves_latest_on_half_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path, tiny_model(0), MANIFEST)
    sync, calls, step = durable._sync, 0, 121
    for fails_at in range(8):
        calls = 0

        def fail(path: Path, fails_at: int = fails_at) -> None:
            nonlocal calls
            calls += 1
            if calls == fails_at + 1:
                raise OSError("input/output error")
            sync(path)

        monkeypatch.setattr(durable, "_sync", fail)
        step += 1
        try:
            publish(tmp_path, tiny_model(step), replace(MANIFEST, step=step))
        except OSError:
            assert read(latest(tmp_path)).manifest.step <= step
        else:
            assert fails_at == 6, "a publish has six syncs"
            assert latest(tmp_path).name == f"step-{step}"
            break


@pytest.mark.parametrize("place", ["os.rename", "os.replace", "model.checkpoints.durable._sync"])
@pytest.mark.parametrize("failure", [OSError, KeyboardInterrupt])
def test_a_crash_in_the_middle_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, failure: type[BaseException]
) -> None:
    old = publish(tmp_path, tiny_model(0), MANIFEST)

    def fail(*_: object) -> None:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(place, fail)
        with pytest.raises(failure):
            publish(tmp_path, tiny_model(1), replace(MANIFEST, step=121))
    assert latest(tmp_path) == old
    assert read(old).manifest.step == 120
    assert not list(tmp_path.rglob("*.partial"))
    # The same step goes through, whether it was written or not: only LATEST may have been left to do.
    assert latest(tmp_path) == old
    again = publish(tmp_path, tiny_model(1), replace(MANIFEST, step=121))
    assert latest(tmp_path) == again
    assert read(again).manifest.step == 121


PUBLISH_AND_KILL = """
    import os, random, signal, sys, time
    from dataclasses import replace
    from pathlib import Path
    import torch
    from model.checkpoints.checkpoint import read
    from model.checkpoints.manifest import Manifest
    from model.checkpoints.volumes import latest, publish
    from model.network.language_model import Architecture, LanguageModel

    torch.set_num_threads(1)
    volume, draw = Path(sys.argv[1]), random.Random(0)
    architecture = Architecture("mlstm", 32, 8)
    model = LanguageModel(architecture)
    model.reset(torch.Generator().manual_seed(0))
    manifest = Manifest("loop", 0, architecture, 0, None, sha256={})
    publish(volume, model, manifest, torch.float32)
    halves = 0
    for _ in range(40):
        first = 1 + read(latest(volume)).manifest.step  # which may be there already, if its publisher died early
        child = os.fork()
        if child == 0:
            for step in range(first, first + 10_000):
                publish(volume, model, replace(manifest, step=step), torch.float32)
            os._exit(1)
        time.sleep(draw.uniform(0.0, 0.06))
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        found = read(latest(volume))
        assert f"step-{found.manifest.step}" == latest(volume).name
        left = len(list((volume / "loop").glob("*.partial")))
        assert left <= 1, "what the kill before left was not swept"
        halves += left
        for whole in (volume / "loop").glob("step-*"):
            read(whole)
        print(found.manifest.step)
    assert halves, "no kill came while something was being written"
"""


def test_kill_9_while_publishing_never_leaves_half_a_checkpoint(tmp_path: Path) -> None:
    script = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(PUBLISH_AND_KILL), str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    steps = [int(line) for line in done.stdout.split()]
    assert len(steps) == 40
    assert steps == sorted(steps)
    assert steps[-1] > steps[0], "nothing was published between the kills"


# ---- LATEST


@pytest.mark.parametrize(
    "pointer",
    [
        b"../outside/step-1",
        b"/outside/step-1",
        b"tiny-model.v1/../../outside/step-1",
        b"tiny-model.v1/step-120/../../../outside",
        b"../step-1",
        b"./step-1",
        b"tiny-model.v1",
        b"tiny-model.v1/",
        b"tiny-model.v1/step-",
        b"tiny-model.v1/step-1x",
        b"tiny-model.v1/step--1",
        b"tiny-model.v1\\step-1",
        b"",
        b"\xff\xfe\x00",
        b"a" * 100_000,
    ],
)
def test_latest_outside_the_volume_is_refused(tmp_path: Path, published: Path, pointer: bytes) -> None:
    shutil.copytree(published, tmp_path / "outside" / "step-1")
    shutil.copytree(published.parents[1], tmp_path / "volume")
    (tmp_path / "volume" / "LATEST").write_bytes(pointer)
    with pytest.raises(CheckpointError, match="LATEST"):
        latest(tmp_path / "volume")


def test_a_volume_without_latest_is_refused(tmp_path: Path) -> None:
    for volume in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CheckpointError, match="no published model"):
            resolve(volume)
    (tmp_path / "LATEST").mkdir()
    with pytest.raises(CheckpointError, match="no published model"):
        latest(tmp_path)


def test_latest_naming_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "LATEST").write_text("gone/step-3\n")
    with pytest.raises(CheckpointError, match="gone"):
        read(latest(tmp_path))


# ---- links, pipes and names


@pytest.mark.parametrize(
    "file", ["LATEST", "tiny-model.v1/step-120/manifest.json", "tiny-model.v1/step-120/model.safetensors"]
)
@pytest.mark.parametrize("kind", ["link out", "link inside", "endless", "pipe", "directory"])
def test_what_is_no_plain_file_is_refused(tmp_path: Path, published: Path, file: str, kind: str) -> None:
    """Even if the content is right. A pipe that nobody writes to would be waited for, and /dev/zero has no end."""
    path = shutil.copytree(published.parents[1], tmp_path / "volume") / file
    content = path.read_bytes()
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    else:
        target = (tmp_path if kind == "link out" else path.parent) / "elsewhere"
        target.write_bytes(content)
        path.symlink_to(target)
    with pytest.raises(CheckpointError, match=f"{path.name} cannot be read"):
        read(latest(tmp_path / "volume"))


@pytest.mark.parametrize("place", ["tiny-model.v1", "tiny-model.v1/step-120"])
def test_a_folder_that_leads_out_of_the_volume_is_refused(tmp_path: Path, published: Path, place: str) -> None:
    volume = shutil.copytree(published.parents[1], tmp_path / "volume")
    (volume / place).rename(tmp_path / "outside")
    (volume / place).symlink_to(tmp_path / "outside")
    with pytest.raises(CheckpointError, match=r"is a link to .*outside.*, outside .*volume"):
        latest(volume)
    with pytest.raises(CheckpointError, match=r"is a link to .*outside.*, outside .*volume"):
        publish(volume, tiny_model(), replace(MANIFEST, step=120 if "/" in place else 121))
    (volume / place).unlink()
    (tmp_path / "outside").rename(volume / "inside")
    (volume / place).symlink_to(volume / "inside")
    assert read(latest(volume)).manifest.step == 120
    (tmp_path / "alias").symlink_to(volume)
    assert read(latest(tmp_path / "alias")).manifest.step == 120


def test_links_in_a_circle_are_refused(tmp_path: Path, published: Path) -> None:
    volume = shutil.copytree(published.parents[1], tmp_path / "volume")
    shutil.rmtree(volume / "tiny-model.v1")
    (volume / "tiny-model.v1").symlink_to(volume / "tiny-model.v1")
    with pytest.raises(CheckpointError, match=r"tiny-model\.v1"):
        read(latest(volume))


def test_a_publisher_follows_no_link(tmp_path: Path, published: Path) -> None:
    volume, outside = shutil.copytree(published.parents[1], tmp_path / "volume"), tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (volume / ".step-1.0.partial").symlink_to(outside)
    (volume / "LATEST").unlink()
    (volume / "LATEST").symlink_to(outside / "pointer")
    assert read(publish(volume, tiny_model(), replace(MANIFEST, step=121))).manifest.step == 121
    assert latest(volume).name == "step-121"
    (volume / ".lock").unlink()
    (volume / ".lock").symlink_to(outside / "lock")
    with pytest.raises(OSError, match=r"\.lock"):
        publish(volume, tiny_model(), replace(MANIFEST, step=122))
    assert [path.name for path in outside.iterdir()] == ["kept"]


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "x/" * 3000], ids=["zero byte", "long name", "long path"])
def test_paths_that_no_system_has_are_refused(tmp_path: Path, path: str) -> None:
    for use in (resolve, latest, read, read_manifest):
        with pytest.raises(CheckpointError):
            use(tmp_path / path)


@pytest.mark.parametrize("step", [-1, 10**15, True, 1.0, "../../x"])
def test_steps_that_are_none_are_refused(tmp_path: Path, step: Any) -> None:
    with pytest.raises(CheckpointError, match="step is"):
        publish(tmp_path / "volume", tiny_model(), replace(MANIFEST, step=step))
    assert list(tmp_path.iterdir()) == []


# ---- weights


@given(position=st.integers(0, 2**40), flip=st.integers(1, 255))
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


def test_a_head_that_says_nothing_of_its_features_takes_cells(copied: Path) -> None:
    edit(copied, lambda record: record["heads"]["sentiment"].pop("pooling"))
    assert read_manifest(copied).heads["sentiment"].pooling == "cell"


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


def header_of(content: bytes) -> tuple[Json, bytes]:
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


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
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


# ---- manifests


def put(*path: str) -> Callable[[Json, object], None]:
    def change(record: Json, value: object) -> None:
        for key in path[:-1]:
            record = record[key]
        record[path[-1]] = value

    return change


HOSTILE: list[tuple[tuple[str, ...], object]] = [
    (("name",), "../../etc"),
    (("name",), "/etc/passwd"),
    (("name",), "a/b"),
    (("name",), None),
    (("name",), ["tiny"]),
    (("step",), -1),
    (("step",), 1.5),
    (("step",), "120"),
    (("step",), True),
    (("step",), 10**400),
    (("bytes_seen",), "many"),
    (("bytes_seen",), -1),
    (("bits_per_byte",), float("nan")),
    (("bits_per_byte",), "low"),
    (("sha256",), None),
    (("sha256",), []),
    (("sha256",), "0" * 64),
    (("sha256",), {}),
    (("sha256",), {WEIGHTS: None}),
    (("sha256",), {WEIGHTS: "0" * 64, "../../etc/passwd": "0" * 64}),
    (("notes",), {"deep": []}),
    (("notes",), "half of a pair \ud83d"),
    (("notes",), "\x1b]0;a title for the terminal\x07"),
    (("format_version",), 2),
    (("format_version",), None),
    (("format_version",), True),
    (("format_version",), 1.0),
    (("format_version",), "1"),
    (("unknown",), 1),
    (("architecture",), None),
    (("architecture",), []),
    (("architecture",), "mlstm"),
    (("architecture", "cell"), "transformer"),
    (("architecture", "cell"), ["mlstm"]),
    (("architecture", "cell"), {}),
    (("architecture", "units"), UNITS + 1),
    (("architecture", "units"), UNITS - 1),
    (("architecture", "units"), 0),
    (("architecture", "units"), -8),
    (("architecture", "units"), 10**12),
    (("architecture", "units"), 8.0),
    (("architecture", "units"), True),
    (("architecture", "units"), "8"),
    (("architecture", "embedding_size"), 5),
    (("architecture", "embedding_size"), None),
    (("architecture", "layers"), 2),
    (("architecture", "units"), MAX_UNITS + 1),
    (("architecture", "steepness"), 0.0),
    (("architecture", "steepness"), 101.0),
    (("architecture", "steepness"), -1.0),
    (("architecture", "steepness"), float("inf")),
    (("architecture", "steepness"), True),
    (("architecture", "steepness"), "1"),
    (("architecture", "steepness"), None),
    (("sentiment",), []),
    (("sentiment",), {}),
    (("sentiment",), "3"),
    (("sentiment", "unit"), UNITS),
    (("sentiment", "unit"), -1),
    (("sentiment", "unit"), 2.0),
    (("sentiment", "polarity"), 0),
    (("sentiment", "polarity"), []),
    (("sentiment", "polarity"), True),
    (("sentiment", "center"), 1e31),
    (("sentiment", "scale"), 0.0),
    (("sentiment", "scale"), -1.0),
    (("sentiment", "scale"), float("inf")),
    (("sentiment", "scale"), 10**400),
    (("sentiment", "center"), float("nan")),
    (("sentiment", "center"), None),
    (("heads",), []),
    (("heads",), "sentiment"),
    (("heads",), None),
    (("heads", "../x"), {"labels": ["a", "b"], "weights": {}, "bias": [0.0]}),
    (("heads", "sentiment"), None),
    (("heads", "sentiment"), []),
    (("heads", "sentiment"), {}),
    (("heads", "sentiment", "labels"), ["only"]),
    (("heads", "sentiment", "labels"), ["same", "same"]),
    (("heads", "stars", "labels"), ["same", "same", "other"]),
    (("heads", "sentiment", "labels"), [1, 2]),
    (("heads", "sentiment", "labels"), [[], []]),
    (("heads", "sentiment", "labels"), "ab"),
    (("heads", "sentiment", "labels"), 2),
    (("heads", "sentiment", "labels"), ["good", "b\ud800d"]),
    (("heads", "sentiment", "labels"), ["good", "b\0d"]),
    (("heads", "sentiment", "labels"), ["good", "bad" * 30_000]),
    (("heads", "a" * 65), {"labels": ["a", "b"], "weights": {}, "bias": [0.0]}),
    (("heads", "a\0"), {"labels": ["a", "b"], "weights": {}, "bias": [0.0]}),
    (("heads", "sentiment", "weights"), []),
    (("heads", "sentiment", "weights"), None),
    (("heads", "sentiment", "weights"), {"8": [1.0]}),
    (("heads", "sentiment", "weights"), {"-1": [1.0]}),
    (("heads", "sentiment", "weights"), {"one": [1.0]}),
    (("heads", "sentiment", "weights"), {"01": [1.0]}),
    (("heads", "sentiment", "weights"), {" 1": [1.0]}),
    (("heads", "sentiment", "weights"), {"\u0661": [1.0]}),  # 1 in Arabic digits
    (("heads", "sentiment", "weights"), {"1" * 6000: [1.0]}),
    (("heads", "sentiment", "weights"), {"1": {"0": 1.0}}),
    (("heads", "sentiment", "weights"), {"1": [1e31]}),
    (("heads", "sentiment", "weights"), {"1": 1.0}),
    (("heads", "sentiment", "weights"), {"1": [1.0, 2.0]}),
    (("heads", "sentiment", "weights"), {"1": [None]}),
    (("heads", "sentiment", "weights"), {"1": [10**400]}),
    (("heads", "sentiment", "bias"), []),
    (("heads", "sentiment", "pooling"), "max"),
    (("heads", "sentiment", "pooling"), None),
    (("heads", "sentiment", "pooling"), ["cell"]),
    (("heads", "sentiment", "bias"), 0.0),
    (("heads", "sentiment", "bias"), [float("nan")]),
    (("heads", "sentiment", "c"), "strong"),
    (("heads", "sentiment", "metrics"), []),
    (("heads", "sentiment", "metrics"), {"accuracy": "good"}),
    (("heads", "sentiment", "extra"), 1),
    (("feature_mean",), [0.0] * (UNITS + 1)),
    (("feature_mean",), [[]] * UNITS),
    (("feature_mean",), 0.0),
    (("feature_mean",), "12345678"),
    (("feature_scale",), [float("inf")] * UNITS),
    (("feature_scale",), {str(unit): 1.0 for unit in range(UNITS)}),
]


@pytest.mark.parametrize(
    ("path", "value"), HOSTILE, ids=[f"{'.'.join(path)}={value!r}"[:60] for path, value in HOSTILE]
)
def test_hostile_manifests_are_refused(copied: Path, path: tuple[str, ...], value: object) -> None:
    edit(copied, lambda record: put(*path)(record, value))
    with pytest.raises(CheckpointError):
        read(copied)


@pytest.mark.parametrize(
    "field", ["name", "step", "architecture", "bytes_seen", "bits_per_byte", "sha256", "format_version"]
)
def test_a_manifest_without_a_field_that_it_needs_is_refused(copied: Path, field: str) -> None:
    edit(copied, lambda record: record.pop(field))
    with pytest.raises(CheckpointError, match="manifest"):
        read_manifest(copied)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe{}",
        b"[" * 1_000_000,
        b'{"heads":' * 100_000,
        b'{"step": ' + b"9" * 100_000 + b"}",
        b'{"format_version": 1, "format_version": 1}',
        b'{"heads": {"a": 1, "a": 1}}',
        b'{"step": Infinity}',
        '{"notes": "wide"}'.encode("utf-16"),
    ],
    ids=[
        *("empty", "open", "null", "list", "text", "not UTF-8", "deep list", "deep object", "long number"),
        *("a key twice", "an inner key twice", "no number", "UTF-16"),
    ],
)
def test_what_is_no_manifest_is_refused(copied: Path, content: bytes) -> None:
    (copied / checkpoint.MANIFEST).write_bytes(content)
    with pytest.raises(CheckpointError, match="not a valid manifest"):
        read_manifest(copied)


def test_a_huge_manifest_is_refused_unread(copied: Path) -> None:
    os.truncate(copied / checkpoint.MANIFEST, 2**34)  # sparse: takes no space, but would take all memory
    with pytest.raises(CheckpointError, match="more than"):
        read_manifest(copied)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = [
    *[(name,) for name in Manifest.__dataclass_fields__],
    *[("architecture", name) for name in Architecture.__dataclass_fields__],
    *[("sentiment", name) for name in Calibration.__dataclass_fields__],
    *[("heads", "stars", name) for name in Head.__dataclass_fields__],
    ("heads", "stars", "weights", "2"),
]


@given(path=st.sampled_from(FIELDS), value=ANYTHING)
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_in_any_field_reads_or_is_refused(
    published: Path, copied: Path, path: tuple[str, ...], value: object
) -> None:
    shutil.copy(published / checkpoint.MANIFEST, copied / checkpoint.MANIFEST)
    edit(copied, lambda record: put(*path)(record, value))
    with suppress(CheckpointError):
        read(copied)


@given(position=st.integers(0, 2**20), byte=st.integers(0, 255))
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_manifest_reads_or_is_refused(published: Path, copied: Path, position: int, byte: int) -> None:
    content = bytearray((published / checkpoint.MANIFEST).read_bytes())
    content[position % len(content)] = byte
    (copied / checkpoint.MANIFEST).write_bytes(content)
    with suppress(CheckpointError):
        read(copied)
