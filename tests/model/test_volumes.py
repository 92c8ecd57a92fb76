"""A volume: what may be published in it, what LATEST names, and that no link leads out of it."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoints import durable, volumes
from model.checkpoints.checkpoint import CheckpointError, read, read_manifest
from model.checkpoints.manifest import WEIGHTS, Manifest
from model.checkpoints.volumes import latest, publish, resolve
from model.heads.unit import Calibration
from tests.support.checkpoints import MANIFEST, UNITS, tiny_model


def test_resolve_takes_a_checkpoint_or_a_volume(published: Path) -> None:
    assert resolve(published) == published
    assert resolve(published.parents[1]) == published


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
