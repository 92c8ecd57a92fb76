"""What endpoints do with batches: take in files and batches, show them, and ask them to stop."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal, ParamSpec, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from api import problems
from api.batches.chunks import Chunks
from api.batches.ledger import ID, Batch, Ledger, Progress, StoredFile, new_id
from api.batches.lines import Entrance, Lines, has_completed
from api.batches.run import STORED
from api.batches.runner import Runner
from api.batches.storage import open_storage
from api.batches.waiting import in_thread
from api.problems import Problem, over_timeout
from api.redis.batch_leases import BatchLeases
from api.redis.idempotency import IdempotentRequest
from api.settings import ApiSettings
from api.stopping import stop

log = logging.getLogger(__name__)

State = Literal["queued", "running", "cancelling", "done", "cancelled", "expired", "failed"]
P = ParamSpec("P")
T = TypeVar("T")
_BUFFER_BYTES = 2**20


@dataclass(frozen=True)
class Seen:
    """A batch as it is now."""

    batch: Batch
    state: State
    progress: Progress
    completed: int  # lines, also those whose answers are not kept yet
    failed: int


class Desk:
    """Raises Problem where the storage fails, and redis.RedisError when Redis is away."""

    def __init__(self, settings: ApiSettings, ledger: Ledger, leases: BatchLeases, runner: Runner) -> None:
        self._settings = settings
        self._ledger = ledger
        self._leases = leases
        self._runner = runner

    async def _kept(self, act: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """What a function of the ledger returns, called on a thread."""
        try:
            return await in_thread(act, *arguments, **named)
        except OSError as error:
            log.warning("the storage of batches: %s", error)
            retry = {"Retry-After": str(self._settings.api_retry_after_s)}
            raise Problem("unavailable", "the storage of batches does not answer, or is full", retry) from error

    async def take_file(self, owner: str, name: Callable[[], str | None], content: AsyncIterator[bytes]) -> StoredFile:
        """Keep a file of lines. name: called when the content has come. Raises what `content` raises.

        Raises Problem where a limit is passed, or the client goes away.
        """
        stored = await self._kept(self._ledger.stored_bytes, owner)
        self._check_room(stored)
        upload = await self._kept(self._ledger.upload, owner, Chunks(self._settings))
        try:
            buffer = bytearray()
            async for piece in content:
                stored += len(piece)
                self._check_room(stored)
                buffer += piece
                if len(buffer) >= _BUFFER_BYTES:
                    await self._kept(upload.add, bytes(buffer))
                    buffer.clear()
            await self._kept(upload.add, bytes(buffer))
            file = await self._kept(upload.finish, name() or "batch.jsonl")
            # Once more, with those that came meanwhile; this one is among them now.
            self._check_room(await self._kept(self._ledger.stored_bytes, owner))
            return file
        except BaseException as error:
            with contextlib.suppress(OSError):  # what is left goes with its time
                await asyncio.shield(in_thread(upload.abandon))
            if isinstance(error, ClientDisconnect):
                raise Problem("invalid-request", "the connection ended within the body") from None
            raise

    def _check_room(self, stored: int) -> None:
        limit = self._settings.api_max_stored_bytes
        if stored > limit:
            raise problems.too_large(STORED, stored, limit, "NEURON_API_MAX_STORED_BYTES")

    def lifetime(self, timeout_s: float | None) -> float:
        """How many seconds a batch has that asks for so many. Raises Problem where they are too many."""
        limit = self._settings.api_batch_timeout_s
        if timeout_s is not None and timeout_s > limit:
            raise over_timeout(timeout_s, limit, "NEURON_API_BATCH_TIMEOUT_S")
        return limit if timeout_s is None else timeout_s

    async def open(
        self,
        file: StoredFile,
        lifetime_s: float,
        idempotent: IdempotentRequest | None,
        url: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> tuple[Seen, bool]:
        """Make a batch of a file, which runs from now on. (it, whether an earlier request had made it)

        Raises Problem for a file without lines.
        """
        if not file.lines:
            raise Problem("invalid-request", "the file has no lines: each is a request")
        batch_id = new_id()
        if idempotent is not None:
            batch_id = await self._leases.first(idempotent, batch_id, self._settings.api_idempotency_ttl_s)
            # A gateway that died between the two has not made it.
            if (made := await self._kept(self._ledger.batch, file.owner, batch_id)) is not None:
                return await self._seen(made), True
        now = time.time()
        batch = Batch(
            id=batch_id,
            owner=file.owner,
            created=now,
            expires=now + lifetime_s,
            file=file,
            url=url,
            metadata=metadata,
        )
        await self._kept(self._ledger.open_batch, batch)
        await self.file(file.owner, file.id)  # it may have been deleted before the batch stood here as its reader
        self._runner.wake()
        return Seen(batch, "queued", Progress(), 0, 0), False

    async def file(self, owner: str, file_id: str) -> StoredFile:
        """Raises Problem where there is none."""
        file = await self._kept(self._ledger.file, owner, file_id) if ID.fullmatch(file_id) else None
        if file is None:
            raise Problem("unknown-file", f"there is no file {file_id[:64]!r}")
        return file

    async def files(self, owner: str, after: str | None, limit: int) -> tuple[list[StoredFile], bool]:
        """(files, whether there are more), the newest first, from the one behind `after` on."""

        def listed() -> tuple[list[StoredFile], bool]:
            ids = _behind(self._ledger.files(owner), after)
            found = (self._ledger.file(owner, file_id) for file_id in ids[:limit])
            return [file for file in found if file is not None], len(ids) > limit

        return await self._kept(listed)

    async def delete_file(self, owner: str, file_id: str) -> None:
        """Raises Problem where a batch that has not ended reads it."""
        await self.file(owner, file_id)
        if (batch_id := await self._kept(self._ledger.delete_unread, owner, file_id)) is not None:
            raise Problem(
                "file-in-use", f"the batch {batch_id} reads the file {file_id}: cancel it, or wait for its end"
            )

    async def drop_file(self, file: StoredFile) -> None:
        """One that came for a batch, unless that was made after all. If it cannot be deleted now, it goes later."""
        try:
            await in_thread(self._ledger.delete_unread, file.owner, file.id)
        except OSError as error:
            log.warning("the storage of batches: %s", error)

    async def find(self, owner: str, batch_id: str) -> Seen:
        """Raises Problem where there is none."""
        # What is no id of ours must not become a path.
        batch = await self._kept(self._ledger.batch, owner, batch_id) if ID.fullmatch(batch_id) else None
        if batch is None:
            raise Problem("unknown-batch", f"there is no batch {batch_id[:64]!r}")
        return await self._seen(batch)

    async def list(self, owner: str, after: str | None, limit: int, of_files: bool) -> tuple[list[Seen], bool]:
        """(batches, whether there are more), the newest first, from the one behind `after` on.

        of_files: those alone that were made of an uploaded file for one endpoint, or else all.
        """

        if after is not None and not ID.fullmatch(after):
            raise Problem("unknown-batch", f"after: there is no batch {after[:64]!r}: begin again without it")

        def listed() -> tuple[list[Batch], bool]:
            found: list[Batch] = []
            for batch_id in _behind(self._ledger.batches(owner), after):
                batch = self._ledger.batch(owner, batch_id)
                if batch is not None and (batch.url is not None or not of_files):
                    if len(found) == limit:
                        return found, True
                    found.append(batch)
            return found, False

        batches, more = await self._kept(listed)
        return [await self._seen(batch) for batch in batches], more

    async def _seen(self, batch: Batch) -> Seen:
        progress, cancelling = await self._kept(
            lambda: (self._ledger.progress(batch), self._ledger.cancel_is_asked(batch))
        )
        if progress.state is not None:
            return Seen(batch, progress.state, progress, progress.completed, progress.failed)
        counts = await self._leases.counts(batch.id)
        state: State = "cancelling" if cancelling else "running" if progress.began else "queued"
        completed = max(progress.completed, counts.completed if counts else 0)
        return Seen(batch, state, progress, completed, max(progress.failed, counts.failed if counts else 0))

    async def cancel(self, seen: Seen) -> Seen:
        """Ask a batch to stop. One that has ended stays as it is."""
        if seen.progress.state is None:
            await self._kept(self._ledger.ask_to_cancel, seen.batch)
            self._runner.cancel(seen.batch.id)
        return await self._seen(seen.batch)

    async def content(self, file: StoredFile) -> AsyncIterator[bytes]:
        async for piece in self._pieces(self._ledger.content(file)):
            yield piece

    async def answers(self, seen: Seen, completed: bool | None = None) -> AsyncIterator[bytes]:
        """Those that are kept by now, in the order of the lines. completed: only those of status 200, or the others."""
        async for piece in self._pieces(self._ledger.answers(seen.batch, seen.progress.lines)):
            if completed is None:
                yield piece
            else:
                yield b"".join(line for line in piece.splitlines(True) if has_completed(line) is completed)

    async def _pieces(self, pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
        while (piece := await self._kept(next, pieces, None)) is not None:
            yield piece


def _behind(ids: list[str], after: str | None) -> list[str]:
    """Ids come with the newest first, and an id is greater than those before it: it need not be there any more."""
    return ids if after is None else [one for one in ids if one < after]


@asynccontextmanager
async def open_desk(settings: ApiSettings, leases: BatchLeases, entrance: Entrance) -> AsyncIterator[Desk | None]:
    """With the runner at work. None without a storage."""
    if settings.api_batch_storage is None:
        yield None
        return
    ledger = Ledger(open_storage(settings.api_batch_storage))
    runner = Runner(ledger, leases, Lines(entrance), settings)
    running = asyncio.create_task(runner.run())
    try:
        yield Desk(settings, ledger, leases, runner)
    finally:
        await stop(running)


def desk_of(request: Request) -> Desk:
    """Raises Problem where the gateway has no storage for batches."""
    desk: Desk | None = request.app.state.desk
    if desk is None:
        raise Problem("not-found", "this gateway takes no batches: NEURON_API_BATCH_STORAGE is not set")
    return desk
