"""`options.json` is read as what somebody else may have written, and asks for nothing that could not be published."""

import json
import os
from pathlib import Path

import pytest

from model.checkpoints.manifest import MAX_UNITS
from trainer.run.options import OPTIONS, Options, TrainingError


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"units": MAX_UNITS + 1}, f"--units is {MAX_UNITS + 1}, it must be at most {MAX_UNITS}"),
        ({"embedding_size": MAX_UNITS + 1}, "--embedding-size"),
        ({"steepness": 100.5}, "--steepness is 100.5, it must be at most 100"),
        ({"clip_norm": float("inf")}, "--clip-norm is inf, it must be a finite number"),
    ],
)
def test_what_could_not_be_published_or_kept_is_refused(changes: dict[str, float], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        Options(corpus="c", **changes)  # type: ignore[arg-type]


def test_the_greatest_are_taken() -> None:
    assert Options(corpus="c", units=MAX_UNITS, steepness=100.0).units == MAX_UNITS


@pytest.mark.parametrize(
    "content",
    [
        b'{"corpus": "c", "learning_rate": NaN}',
        b'{"corpus": "c", "seed": 1, "seed": 2}',
        b'{"corpus": "c", "units": "8"}',
        b'{"corpus": "c", "units": 100000}',
        b'{"corpus": "\xff"}',
        b"[" * 100_000,
        b" " * 2**21 + b'{"corpus": "c"}',
    ],
)
def test_a_hostile_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / OPTIONS).write_bytes(content)
    with pytest.raises(TrainingError, match=OPTIONS):
        Options.read(tmp_path)


def test_only_a_plain_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text(json.dumps({"corpus": "c"}))
    (tmp_path / OPTIONS).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TrainingError, match="cannot be read: it is a link"):
        Options.read(tmp_path)
    (tmp_path / OPTIONS).unlink()
    os.mkfifo(tmp_path / OPTIONS)
    with pytest.raises(TrainingError, match="cannot be read: it is not a plain file"):
        Options.read(tmp_path)
