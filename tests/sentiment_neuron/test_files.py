"""Files of features appear whole or not at all; tests/cli/test_featurize.py has their formats."""

from pathlib import Path

import numpy as np
import pytest

from sentiment_neuron import FileError, files


def test_a_file_that_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    out.write_bytes(b"earlier")

    def write_one_of_two(fault: Exception | None) -> None:
        with files.features_file(out, "text", 2, 4) as write:
            write(["a"], np.zeros((1, 4), dtype=np.float32))
            if fault is not None:
                raise fault

    with pytest.raises(RuntimeError):
        write_one_of_two(RuntimeError())
    with pytest.raises(FileError, match="the input changed while it was read: 1 texts, 2 before"):
        write_one_of_two(None)
    with pytest.raises(FileError, match="cannot be written: No space left on device"):
        write_one_of_two(OSError(28, "No space left on device"))
    assert list(tmp_path.iterdir()) == [out]
    assert out.read_bytes() == b"earlier"
