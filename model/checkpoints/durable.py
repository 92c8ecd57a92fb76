"""Directories that appear whole or not at all, even if the process dies or the power fails while writing.

`exclusively` lets one writer at a time into a shared directory, `sweep` deletes what killed writers left there.
"""

import glob
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_directory(final: Path) -> Iterator[Path]:
    """Yields a temporary directory beside `final`; on success everything in it is synced and it takes the name.

    Raises FileExistsError if `final` exists: it is never changed. On an error nothing is left.
    """
    if final.exists():
        raise FileExistsError(f"{final} exists already and is never overwritten")
    make(final.parent)
    temporary = _beside(final)
    temporary.mkdir()
    try:
        yield temporary
        for path in temporary.iterdir():
            sync(path)
        sync(temporary)
        _take_name(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync(final.parent)


def replace_file(path: Path, content: str) -> None:
    """Write a small file so that a reader sees the old content or the new, never a part."""
    temporary = _beside(path)
    try:
        temporary.write_text(content, encoding="utf-8")
        sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sweep(directory: Path, final: str = "") -> None:
    """Delete what killed writers left in `directory`, or of what would have been `final` there alone.

    Only for callers that know that no other process writes there.
    """
    left_of = f".{glob.escape(final)}.{'[0-9a-f]' * 32}.partial" if final else ".*.partial"
    for left in directory.glob(left_of):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink()


@contextmanager
def exclusively(lock: Path, patience_s: float) -> Iterator[None]:
    """Hold the file `lock`, which is made if needed and stays. It is free again when its holder ends, even by kill -9.

    Raises TimeoutError if another still holds it after `patience_s`.
    """
    import fcntl  # noqa: PLC0415 - not on Windows, where checkpoints can be read all the same

    # A link is not followed: it would lead to another volume's lock, or make a file anywhere.
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    deadline = time.monotonic() + patience_s
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"another process has held {lock} for {patience_s:g} s") from error
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def _beside(final: Path) -> Path:
    return final.parent / f".{final.name}.{uuid.uuid4().hex}.partial"


def make(directory: Path) -> None:
    """Make a directory and its parents, and sync their names, which must last as long as their content."""
    missing = [place for place in (directory, *directory.parents) if not place.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync(made.parent)


def _take_name(temporary: Path, final: Path) -> None:
    try:
        temporary.rename(final)
    except OSError as error:
        if final.exists():  # another process was first
            raise FileExistsError(f"{final} exists already and is never overwritten") from error
        raise


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
