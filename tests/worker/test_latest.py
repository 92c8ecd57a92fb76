"""When a worker loads what LATEST names: at once, and after a refusal when the files have changed and come to rest."""

import shutil
from pathlib import Path

import pytest

from model.checkpoints.checkpoint import CheckpointError
from model.checkpoints.manifest import WEIGHTS
from tests.conftest import publish_tiny
from worker.latest import Latest


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    publish_tiny(tmp_path / "volume", step=1)
    return tmp_path / "volume"


@pytest.fixture
def latest(volume: Path) -> Latest:
    return Latest(volume, retry_s=3600.0)


def half_copied(volume: Path, step: int) -> tuple[Path, bytes]:
    """A checkpoint whose weights have come halfway, and all of them."""
    directory = publish_tiny(volume, step, seed=step)
    weights = (directory / WEIGHTS).read_bytes()
    (directory / WEIGHTS).write_bytes(weights[: len(weights) // 2])
    return directory, weights


def test_what_is_served_is_not_loaded_again(volume: Path, latest: Latest) -> None:
    assert latest.look() is None
    directory = publish_tiny(volume, step=2)
    assert latest.look() == directory
    latest.served = directory
    assert latest.look() is None


def test_a_refused_one_is_tried_again_when_its_files_have_changed_and_come_to_rest(
    volume: Path, latest: Latest
) -> None:
    directory, weights = half_copied(volume, 2)
    assert latest.look() == directory
    latest.give_up()
    assert [latest.look() for _ in range(3)] == [None] * 3
    for length in (len(weights) * 3 // 4, len(weights)):
        (directory / WEIGHTS).write_bytes(weights[:length])
        assert latest.look() is None, "the copy still grew"
    assert latest.look() == directory
    latest.give_up()
    assert latest.look() is None


def test_the_first_attempt_at_another_one_does_not_wait(volume: Path, latest: Latest) -> None:
    half_copied(volume, 2)
    latest.look()
    latest.give_up()
    directory = publish_tiny(volume, step=3)
    assert latest.look() == directory


def test_files_that_appear_later_are_a_change(volume: Path, latest: Latest, tmp_path: Path) -> None:
    elsewhere = publish_tiny(tmp_path / "elsewhere", step=2)
    (volume / "LATEST").write_text("tiny/step-2\n")
    assert latest.look() == volume / "tiny" / "step-2"
    assert latest.look() is None
    shutil.move(elsewhere, volume / "tiny")
    assert [latest.look() is None for _ in range(2)] == [True, False]


def test_what_may_pass_is_tried_now_and_then_and_what_will_not_is_not(volume: Path) -> None:
    latest = Latest(volume, retry_s=0.0)
    directory, _ = half_copied(volume, 2)
    assert [latest.look() for _ in range(3)] == [directory] * 3
    latest.give_up()
    assert latest.look() is None


def test_a_bad_pointer_is_reported_once(volume: Path, latest: Latest) -> None:
    (volume / "LATEST").write_text("../elsewhere/step-1\n")
    with pytest.raises(CheckpointError, match="not NAME/step-N"):
        latest.look()
    assert latest.look() is None
    (volume / "LATEST").write_text("/etc/passwd\n")
    with pytest.raises(CheckpointError, match="not NAME/step-N"):
        latest.look()
    directory = publish_tiny(volume, step=2)
    assert latest.look() == directory
