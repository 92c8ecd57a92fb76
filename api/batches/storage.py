"""Where batches lie: a directory that all gateways share, or a bucket of S3 by fsspec.

Nothing of a batch lies in Redis but who runs it, so a batch outlives a Redis that forgets.
"""

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from contract.setting_error import SettingError

Write = Callable[[bytes], object]
_UNFINISHED = ".unfinished"
_PART_BYTES = 8 * 2**20  # of an upload to S3; it is in memory


class Storage(Protocol):
    """Files by paths such as `a/b`. What is written appears whole or not at all. All methods raise OSError."""

    def writing(self, path: str) -> contextlib.AbstractContextManager[Write]:
        """What is written appears when the context ends, durable, in the place of what was there; not if it raises."""

    def read(self, path: str, start: int = 0, size: int | None = None) -> bytes:
        """So many bytes from `start` on, or all. Raises FileNotFoundError."""

    def exists(self, path: str) -> bool: ...

    def names(self, path: str) -> list[str]:
        """Of what lies under the path, sorted; none where there is nothing."""

    def size(self, path: str) -> int:
        """Bytes of all that lies under the path."""

    def delete(self, path: str) -> None:
        """A file, or all under the path; nothing where there is nothing."""

    def delete_unfinished(self, age_s: float) -> None:
        """What was begun so long ago, and whose writer has died."""


def write(storage: Storage, path: str, content: bytes) -> None:
    with storage.writing(path) as file:
        file(content)


class Directory:
    def __init__(self, root: Path) -> None:
        """It is made now, if it can be, and never again: one that is away later may be a volume that comes back."""
        self._root = root
        with contextlib.suppress(OSError):
            root.mkdir(parents=True, exist_ok=True)

    def _at(self, path: str) -> Path:
        """Raises OSError where the directory itself is away: what lies in it is not known then."""
        if not self._root.is_dir():
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), str(self._root))
        return self._root / path

    @contextlib.contextmanager
    def writing(self, path: str) -> Iterator[Write]:
        target = self._at(path)
        unfinished = self._at(_UNFINISHED) / secrets.token_hex(16)
        for parent in (target.parent, unfinished.parent):
            parent.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished.open("xb") as file:
                yield file.write
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(target)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        directory = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def read(self, path: str, start: int = 0, size: int | None = None) -> bytes:
        with self._at(path).open("rb") as file:
            file.seek(start)
            return file.read(-1 if size is None else size)

    def exists(self, path: str) -> bool:
        return self._at(path).exists()

    def names(self, path: str) -> list[str]:
        try:
            found = [entry.name for entry in self._at(path).iterdir()]
        except FileNotFoundError:
            return []
        return sorted(name for name in found if name != _UNFINISHED)

    def size(self, path: str) -> int:
        total = 0
        for directory, _, names in os.walk(self._at(path)):
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    total += (Path(directory) / name).stat().st_size
        return total

    def delete(self, path: str) -> None:
        target = self._at(path)
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    def delete_unfinished(self, age_s: float) -> None:
        with contextlib.suppress(FileNotFoundError):
            for file in self._at(_UNFINISHED).iterdir():
                if time.time() - file.stat().st_mtime > age_s:
                    file.unlink()


class Bucket:
    """A bucket of S3. Where it is and who may write to it is said by the variables that AWS' own tools read."""

    def __init__(self, url: str) -> None:
        """Raises SettingError where fsspec's S3 is not installed."""
        try:
            import aiohttp  # noqa: PLC0415 - the extra `s3`, here and below
            import botocore.exceptions  # noqa: PLC0415
            import fsspec  # noqa: PLC0415
            import s3fs  # noqa: F401, PLC0415 - what fsspec asks for later, if it is there
        except ImportError as error:
            raise SettingError(
                f"NEURON_API_BATCH_STORAGE is {url!r}, and {error.name} is not installed: "
                'pip install "sentiment-neuron[s3]"'
            ) from None
        self._faults = botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, aiohttp.ClientError
        # Others write there too, so what was listed before says nothing.
        self._files: Any = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)
        self._root = url.removeprefix("s3://").rstrip("/")

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}"

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What fsspec lets through as it is becomes an OSError as well."""
        try:
            yield
        except self._faults as error:
            raise OSError(f"{self._root}: {error}") from error

    @contextlib.contextmanager
    def writing(self, path: str) -> Iterator[Write]:
        with self._told():
            file = self._files.open(self._path(path), "wb", block_size=_PART_BYTES)
            try:
                yield file.write
                file.close()
            except BaseException:
                with contextlib.suppress(OSError, *self._faults):
                    file.discard()
                raise
            finally:
                file.closed = True  # or what was not finished would be when it is collected

    def read(self, path: str, start: int = 0, size: int | None = None) -> bytes:
        end = None if size is None else start + size
        with self._told():
            content: bytes = self._files.cat_file(self._path(path), start=start or None, end=end)
            return content

    def exists(self, path: str) -> bool:
        with self._told():
            return bool(self._files.exists(self._path(path)))

    def names(self, path: str) -> list[str]:
        try:
            with self._told():
                found = self._files.ls(self._path(path), detail=False)
        except FileNotFoundError:
            return []
        return sorted(name.rstrip("/").rpartition("/")[2] for name in found)

    def size(self, path: str) -> int:
        try:
            with self._told():
                found = self._files.find(self._path(path), detail=True)
        except FileNotFoundError:
            return 0
        return sum(int(about["size"]) for about in found.values())

    def delete(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError), self._told():
            self._files.rm(self._path(path), recursive=True)

    def delete_unfinished(self, age_s: float) -> None:
        """Nothing: a rule of the bucket's life cycle ends uploads that were left."""


def open_storage(where: str) -> Storage:
    """where: a directory, or `s3://BUCKET/PREFIX`. Raises SettingError."""
    if where.startswith("s3://"):
        return Bucket(where)
    if "://" in where:
        raise SettingError(f"NEURON_API_BATCH_STORAGE is {where!r}: neither a directory nor s3://BUCKET/PREFIX")
    return Directory(Path(where))
