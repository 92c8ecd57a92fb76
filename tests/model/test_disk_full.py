"""A publisher that runs out of room says where, and leaves the volume as it was, wherever the disk says so."""

import errno
import os
from pathlib import Path

import pytest

from model.checkpoints.checkpoint import CheckpointError, read
from model.checkpoints.volumes import latest
from tests.conftest import publish_tiny


@pytest.mark.parametrize("place", ["os.fsync", "os.rename", "os.replace", "pathlib.Path.write_bytes"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_it_is_told_what_has_no_room_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, number: int
) -> None:
    old = publish_tiny(tmp_path, step=1)

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(place, fail)
        with pytest.raises(CheckpointError) as refused:
            publish_tiny(tmp_path, step=2)
    assert f"{tmp_path / 'tiny' / 'step-2'} is not published, because {tmp_path} is full" in str(refused.value)
    assert latest(tmp_path) == old
    assert not list(tmp_path.rglob("*.partial"))
    assert read(publish_tiny(tmp_path, step=2)).manifest.step == 2
