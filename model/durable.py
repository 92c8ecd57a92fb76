"""Directories that appear whole or not at all, even if the process dies or the power fails while writing."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_directory(final: Path) -> Iterator[Path]:
    """Yields a temporary directory beside `final`; on success everything in it is synced and it takes the name.

    Raises FileExistsError if `final` exists: what was written once is never changed. On an error nothing is left.
    """
    if final.exists():
        raise FileExistsError(f"{final} exists already and is never overwritten")
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.parent / f".{final.name}.{uuid.uuid4().hex}.partial"
    temporary.mkdir()
    try:
        yield temporary
        for path in temporary.iterdir():
            _sync(path)
        _sync(temporary)
        _take_name(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync(final.parent)


def replace_file(path: Path, content: str) -> None:
    """Write a small file so that a reader sees the old content or the new, never a part."""
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.partial"
    try:
        temporary.write_text(content, encoding="utf-8")
        _sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _take_name(temporary: Path, final: Path) -> None:
    try:
        temporary.rename(final)
    except OSError as error:
        if final.exists():  # another process was first
            raise FileExistsError(f"{final} exists already and is never overwritten") from error
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
