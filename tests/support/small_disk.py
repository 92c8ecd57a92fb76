"""A file system of a few megabytes, to be filled: `small_disk`. Needs Linux, root, and the right to mount."""

import contextlib
import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(directory: Path, megabytes: int) -> Iterator[Path]:
    """Mount one at `directory`, which is made; skips the test where that is not permitted."""
    directory.mkdir(parents=True)
    try:
        options = f"size={megabytes}m"
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "neuron-test", str(directory)], capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


@contextlib.contextmanager
def full(directory: Path, but: int = 0) -> Iterator[None]:
    """Fill the file system that `directory` is on but for so many bytes, and make room again at the end."""
    filler = directory / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            size = 2**20
            while size:
                try:
                    file.write(b"\0" * size)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    size //= 2
            file.truncate(max(0, file.tell() - but))
        yield
    finally:
        filler.unlink()
