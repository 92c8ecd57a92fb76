"""What is known of files and batches, in storage. All functions wait for it, so a thread of their own calls them.

| path | holds |
|---|---|
| `OWNER/files/ID.jsonl`, `.json` | an uploaded file; its `StoredFile`, which is written last |
| `OWNER/batches/ID/batch.json` | the `Batch`, which is never changed |
| `OWNER/batches/ID/progress.json` | its `Progress`, which the gateway that runs it replaces |
| `OWNER/batches/ID/cancel` | there when the batch must stop |
| `OWNER/batches/ID/answers/NUMBER` | answers, a line each, to the lines from that number on |
| `open/OWNER ID` | there until the batch has ended |

OWNER is `of-` and the name of a key. Ids begin with the time, so that their order is that of their making.
"""

import contextlib
import hashlib
import logging
import re
import secrets
import time
from collections.abc import Iterator
from typing import Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from api.batches.chunks import Chunks
from api.batches.lines import has_completed
from api.batches.storage import Storage, Write, write

log = logging.getLogger(__name__)

ModelT = TypeVar("ModelT", bound=BaseModel)
Ended = Literal["done", "cancelled", "expired", "failed"]  # failed: its file is gone, or its answers have no room
ID = re.compile("[0-9a-f]{32}")
_OPEN = "open"
_UPLOAD_S = 86_400.0  # longer than any takes
_MAKING_S = 600.0  # longer than it takes to make a batch
_PIECE_BYTES = 2**20
_OWNER = "of-"


def new_id() -> str:
    """Unguessable, and later than those before."""
    return f"{int(time.time() * 1000):012x}{secrets.token_hex(10)}"


def made_at(file_or_batch_id: str) -> float:
    """When an id was made, as Unix time in seconds."""
    return int(file_or_batch_id[:12], 16) / 1000


class StoredFile(BaseModel):
    model_config = ConfigDict(frozen=True)

    id: str
    owner: str
    name: str  # as it was uploaded
    created: float
    bytes: int
    sha256: str
    lines: int
    chunks: list[tuple[int, int]]  # (bytes, lines) of each


class Batch(BaseModel):
    model_config = ConfigDict(frozen=True)

    id: str
    owner: str
    created: float
    expires: float  # what has no answer by then gets none
    file: StoredFile
    url: str | None  # the only one that its lines may name, in OpenAI's form
    metadata: dict[str, str] | None = None


class Progress(BaseModel):
    model_config = ConfigDict(frozen=True)

    completed: int = 0  # lines whose answers are kept
    failed: int = 0
    completed_bytes: int = 0  # of their answers
    failed_bytes: int = 0
    began: float | None = None
    ended: float | None = None
    state: Ended | None = None

    @property
    def lines(self) -> int:
        """Whose answers are kept: the first of the file."""
        return self.completed + self.failed

    def with_answers(self, answers: list[bytes]) -> Self:
        """When those to the next lines are kept as well."""
        failed = [answer for answer in answers if not has_completed(answer)]
        size, failed_size = sum(map(len, answers)), sum(map(len, failed))
        return self.model_copy(
            update={
                "completed": self.completed + len(answers) - len(failed),
                "failed": self.failed + len(failed),
                "completed_bytes": self.completed_bytes + size - failed_size,
                "failed_bytes": self.failed_bytes + failed_size,
            }
        )


class Upload:
    """A file on its way into storage. Must be ended by `finish` or `abandon`."""

    def __init__(self, storage: Storage, owner: str, chunks: Chunks) -> None:
        self._storage = storage
        self._owner = owner
        self._chunks = chunks
        self._id = new_id()
        self._digest = hashlib.sha256()
        self._writing = contextlib.ExitStack()
        self._write: Write = self._writing.enter_context(storage.writing(_content(owner, self._id)))

    def add(self, piece: bytes) -> None:
        """The next bytes. Raises Problem where a limit is passed."""
        self._chunks.add(piece)
        self._digest.update(piece)
        self._write(piece)

    def finish(self, name: str) -> StoredFile:
        chunks = self._chunks
        chunks.end()
        self._writing.close()
        file = StoredFile(
            id=self._id,
            owner=self._owner,
            name=name,
            created=time.time(),
            bytes=chunks.bytes,
            sha256=self._digest.hexdigest(),
            lines=chunks.lines,
            chunks=chunks.sizes,
        )
        write(self._storage, _about(self._owner, self._id), file.model_dump_json().encode())
        return file

    def abandon(self) -> None:
        """Leave nothing of it."""
        with contextlib.suppress(_Abandoned), self._writing:
            raise _Abandoned
        # Where it had been finished:
        self._storage.delete(_about(self._owner, self._id))
        self._storage.delete(_content(self._owner, self._id))


class _Abandoned(Exception):
    pass


def _content(owner: str, file_id: str) -> str:
    return f"{_OWNER}{owner}/files/{file_id}.jsonl"


def _about(owner: str, file_id: str) -> str:
    return f"{_OWNER}{owner}/files/{file_id}.json"


def _batch(owner: str, batch_id: str) -> str:
    return f"{_OWNER}{owner}/batches/{batch_id}"


class Ledger:
    """All methods raise OSError where the storage fails."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def upload(self, owner: str, chunks: Chunks) -> Upload:
        return Upload(self._storage, owner, chunks)

    def file(self, owner: str, file_id: str) -> StoredFile | None:
        return self._read(_about(owner, file_id), StoredFile)

    def files(self, owner: str) -> list[str]:
        """Ids, the newest first."""
        names = self._storage.names(f"{_OWNER}{owner}/files")
        return [name.removesuffix(".json") for name in reversed(names) if name.endswith(".json")]

    def content(self, file: StoredFile) -> Iterator[bytes]:
        for start in range(0, file.bytes, _PIECE_BYTES):
            yield self._storage.read(_content(file.owner, file.id), start, _PIECE_BYTES)

    def lines(self, file: StoredFile, first: int) -> Iterator[bytes]:
        """From that number on, without those that are blank. Raises FileNotFoundError."""
        start = 0
        for size, count in file.chunks:
            if first < count:
                content = self._storage.read(_content(file.owner, file.id), start, size)
                yield from [line for line in content.split(b"\n") if line.strip()][first:]
            first = max(0, first - count)
            start += size

    def stored_bytes(self, owner: str) -> int:
        """Of his files, batches and answers."""
        return self._storage.size(f"{_OWNER}{owner}")

    def delete_file(self, owner: str, file_id: str) -> None:
        self._storage.delete(_about(owner, file_id))
        self._storage.delete(_content(owner, file_id))

    def delete_unread(self, owner: str, file_id: str) -> str | None:
        """Delete a file, or return the id of a batch that has not ended and reads it."""
        reader = self.reader(owner, file_id)
        if reader is None:
            self.delete_file(owner, file_id)
        return reader

    def open_batch(self, batch: Batch) -> None:
        """From here on the batch is run until it has ended. The same batch may be opened twice."""
        # In this order: one that is there and not open would never be run. And once more, because a gateway whose clock
        # is ahead may have closed it between the two.
        self._mark_open(batch.owner, batch.id)
        write(self._storage, f"{_batch(batch.owner, batch.id)}/batch.json", batch.model_dump_json().encode())
        self._mark_open(batch.owner, batch.id)

    def _mark_open(self, owner: str, batch_id: str) -> None:
        write(self._storage, f"{_OPEN}/{owner} {batch_id}", b"")

    def batch(self, owner: str, batch_id: str) -> Batch | None:
        return self._read(f"{_batch(owner, batch_id)}/batch.json", Batch)

    def batches(self, owner: str) -> list[str]:
        """Ids, the newest first."""
        return list(filter(ID.fullmatch, reversed(self._storage.names(f"{_OWNER}{owner}/batches"))))

    def owners(self) -> list[str]:
        names = self._storage.names("")
        return [name.removeprefix(_OWNER) for name in names if name.startswith(_OWNER)]

    def open_batches(self) -> list[tuple[str, str]]:
        """(owner, id) of batches that have not ended, the oldest first."""
        found = [name.rpartition(" ") for name in self._storage.names(_OPEN)]
        known = ((owner, batch_id) for owner, _, batch_id in found if ID.fullmatch(batch_id))
        return sorted(known, key=lambda each: each[1])

    def progress(self, batch: Batch) -> Progress:
        return self._read(f"{_batch(batch.owner, batch.id)}/progress.json", Progress) or Progress()

    def put_progress(self, batch: Batch, progress: Progress) -> None:
        path = f"{_batch(batch.owner, batch.id)}/progress.json"
        write(self._storage, path, progress.model_dump_json().encode())

    def keep_answers(self, batch: Batch, first: int, answers: list[bytes]) -> None:
        """Those to the lines from number `first` on."""
        write(self._storage, f"{_batch(batch.owner, batch.id)}/answers/{first:012}", b"".join(answers))

    def answers(self, batch: Batch, count: int) -> Iterator[bytes]:
        """Those to the first lines, several at a time."""
        path = f"{_batch(batch.owner, batch.id)}/answers"
        for name in self._storage.names(path):
            if name.isdecimal() and int(name) < count:
                yield self._storage.read(f"{path}/{name}")

    def ask_to_cancel(self, batch: Batch) -> None:
        write(self._storage, f"{_batch(batch.owner, batch.id)}/cancel", b"")

    def cancel_is_asked(self, batch: Batch) -> bool:
        return self._storage.exists(f"{_batch(batch.owner, batch.id)}/cancel")

    def close_batch(self, owner: str, batch_id: str) -> None:
        """It has ended, and its `Progress` says how; or it is not there. One that was made meanwhile stays open."""
        self._storage.delete(f"{_OPEN}/{owner} {batch_id}")
        batch = self.batch(owner, batch_id)
        if batch is not None and self.progress(batch).state is None:
            self._mark_open(owner, batch_id)

    def delete_batch(self, owner: str, batch_id: str) -> None:
        self._storage.delete(_batch(owner, batch_id))

    def uploads(self, owner: str) -> set[str]:
        """Ids of files, also of those whose upload ended before they were known."""
        names = self._storage.names(f"{_OWNER}{owner}/files")
        return {file_id for name in names if ID.fullmatch(file_id := name.partition(".")[0])}

    def delete_unfinished(self) -> None:
        """What dead gateways had begun to write."""
        self._storage.delete_unfinished(_UPLOAD_S)

    def reader(self, owner: str, file_id: str) -> str | None:
        """The id of a batch that has not ended and reads the file."""
        for other, batch_id in self.open_batches():
            batch = self.batch(owner, batch_id) if other == owner else None
            if batch is not None and batch.file.id == file_id:
                return batch_id
        return None

    def is_being_made(self, batch_id: str) -> bool:
        """Of one that is open and not there."""
        return time.time() - made_at(batch_id) < _MAKING_S

    def _read(self, path: str, model: type[ModelT]) -> ModelT | None:
        try:
            return model.model_validate_json(self._storage.read(path))
        except FileNotFoundError:
            return None
        except ValidationError as error:
            if model is Progress:  # without it the batch would begin again
                raise OSError(f"{path} is damaged") from error
            log.error("%s is damaged", path)
            return None
