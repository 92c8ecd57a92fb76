"""A batch whose gateway dies, stands still, or looks at the wrong moment, on a real Redis and a real disk."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis

from api import metrics
from api.batches.chunks import Chunks
from api.batches.ledger import Batch, Ledger, Progress, new_id
from api.batches.run import Lost, Run
from api.batches.runner import Runner
from api.batches.storage import open_storage
from api.redis.batch_leases import BatchLeases
from api.settings import ApiSettings
from api.stopping import stop
from contract import wire

LINES = 600


class Lines:
    """Answers every line with its number. asked: how often. held: what all but the first `at_once` lines wait for."""

    def __init__(self, held: asyncio.Event | None = None, at_once: int = 0) -> None:
        self.asked = 0
        self._held = held
        self._at_once = at_once

    async def answer(self, raw: bytes, *_: Any) -> bytes:
        self.asked += 1
        if self._held is not None and self.asked > self._at_once:
            await self._held.wait()
        number = json.loads(raw)["custom_id"]
        about = {"status_code": 200, "request_id": "x", "body": {}}
        answer = {"error": None, "response": about, "custom_id": number}
        return json.dumps(answer, separators=(",", ":")).encode() + b"\n"


class Place:
    """A ledger with a batch, and gateways' leases."""

    def __init__(self, directory: Path, client: redis.Redis) -> None:
        self.client = client
        self.settings = ApiSettings()
        self.ledger = Ledger(open_storage(str(directory)))
        upload = self.ledger.upload("", Chunks(self.settings))
        for number in range(LINES):
            upload.add(json.dumps({"url": "/classify", "body": {}, "custom_id": str(number)}).encode() + b"\n")
        now = time.time()
        file = upload.finish("lines")
        self.batch = Batch(id=new_id(), owner="", created=now, expires=now + 60, file=file, url=None)
        self.ledger.open_batch(self.batch)

    async def take(self) -> BatchLeases:
        leases = BatchLeases(self.client)
        assert await leases.take(self.batch.id)
        return leases

    def run(self, leases: BatchLeases, lines: Lines) -> Run:
        limit = self.settings.api_max_stored_bytes
        progress = self.ledger.progress(self.batch)
        return Run(self.batch, progress, self.ledger, leases, lines, None, limit)  # type: ignore[arg-type]

    def answered(self) -> list[str]:
        answers = b"".join(self.ledger.answers(self.batch, self.ledger.progress(self.batch).lines))
        return [json.loads(line)["custom_id"] for line in answers.splitlines()]


Scenario = Callable[[Place], Awaitable[None]]
ALL = [str(number) for number in range(LINES)]


def play(directory: Path, redis_url: str, scenario: Scenario) -> None:
    async def on_redis() -> None:
        async with redis.Redis.from_url(redis_url) as client:
            await scenario(Place(directory, client))

    asyncio.run(on_redis())


def test_a_gateway_whose_lease_has_lapsed_writes_nothing(redis_url: str, tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        held = asyncio.Event()
        stopped = asyncio.create_task(place.run(await place.take(), Lines(held)).run())
        await until(lambda: place.ledger.progress(place.batch).began is not None)
        await place.client.delete(wire.batch(place.batch.id))  # as after its time
        other = await place.take()
        await place.run(other, Lines()).run()
        await other.release(place.batch.id)
        ended = place.ledger.progress(place.batch)
        held.set()
        with pytest.raises(Lost):
            await stopped
        assert place.ledger.progress(place.batch) == ended
        assert (ended.state, place.answered(), place.ledger.open_batches()) == ("done", ALL, [])

    play(tmp_path, redis_url, scenario)


@pytest.mark.parametrize("state", ["cancelled", "expired", "done"])
def test_an_end_that_was_written_stays(redis_url: str, tmp_path: Path, state: Any) -> None:
    async def scenario(place: Place) -> None:
        ended = Progress(began=1.0, ended=2.0, state=state)
        place.ledger.put_progress(place.batch, ended)
        lines = Lines()
        await place.run(await place.take(), lines).run()
        assert (place.ledger.progress(place.batch), lines.asked) == (ended, 0)
        assert place.ledger.open_batches() == []

    play(tmp_path, redis_url, scenario)


def test_giving_up_is_taken_up_again(redis_url: str, tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        place.ledger.ask_to_cancel(place.batch)
        some = [await Lines().answer(f'{{"custom_id": "{number}"}}'.encode()) for number in range(10)]
        place.ledger.keep_answers(place.batch, 0, some)
        place.ledger.put_progress(place.batch, Progress().with_answers(some))
        lines = Lines()
        await place.run(await place.take(), lines).run()
        ended = place.ledger.progress(place.batch)
        assert (ended.state, ended.completed, ended.failed, lines.asked) == ("cancelled", 10, LINES - 10, 0)
        assert place.answered() == ALL

    play(tmp_path, redis_url, scenario)


def test_a_batch_that_is_opened_twice_runs_once(redis_url: str, tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        lines = Lines()
        leases = await place.take()
        await place.run(leases, lines).run()
        await leases.release(place.batch.id)
        place.ledger.open_batch(place.batch)  # by a request with the same Idempotency-Key, which saw nothing of it yet
        await place.run(await place.take(), lines).run()
        assert lines.asked == LINES
        assert (place.answered(), place.ledger.open_batches()) == (ALL, [])

    play(tmp_path, redis_url, scenario)


@pytest.mark.parametrize("looked_at", ["before it is there", "before it is closed"])
def test_a_batch_that_is_looked_for_while_it_is_made_stays_open(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looked_at: str
) -> None:
    """By a gateway that takes it for one whose making was broken off, because its id is old or its clock is ahead."""

    async def scenario(place: Place) -> None:
        storage = place.ledger._storage
        late = place.batch.model_copy(update={"id": "0" * 32})
        runner = Runner(place.ledger, BatchLeases(place.client), Lines(), place.settings)  # type: ignore[arg-type]
        loop = asyncio.get_running_loop()
        writes, deletes = storage.writing, storage.delete

        async def look() -> None:
            runner._running[late.id] = late.owner, asyncio.current_task()  # type: ignore[assignment]
            await runner._run(late.owner, late.id)

        def writing(path: str) -> Any:
            if path.endswith("batch.json"):
                asyncio.run_coroutine_threadsafe(look(), loop).result()
            return writes(path)

        def delete(path: str) -> None:
            monkeypatch.setattr(storage, "delete", deletes)
            place.ledger.open_batch(late)
            deletes(path)

        if looked_at == "before it is there":
            monkeypatch.setattr(storage, "writing", writing)
            await asyncio.to_thread(place.ledger.open_batch, late)
        else:
            monkeypatch.setattr(storage, "delete", delete)
            await look()
        assert place.ledger.open_batches() == [(late.owner, late.id), (place.batch.owner, place.batch.id)]

    play(tmp_path, redis_url, scenario)


def test_a_batch_whose_file_is_gone_ends(redis_url: str, tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        place.ledger.delete_file("", place.batch.file.id)
        await place.run(await place.take(), Lines()).run()
        ended = place.ledger.progress(place.batch)
        assert (ended.state, ended.failed) == ("failed", LINES)
        assert place.answered() == [None] * LINES
        assert place.ledger.open_batches() == []

    play(tmp_path, redis_url, scenario)


def test_a_batch_whose_answers_have_no_room_keeps_those_that_it_has(redis_url: str, tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        room = 100  # for the first part of the answers, more or less
        place.settings = ApiSettings(api_max_stored_bytes=place.ledger.stored_bytes("") + room)
        # The last lines have no answer yet when a part of the others turns out to be too much.
        await place.run(await place.take(), Lines(asyncio.Event(), at_once=LINES - 100)).run()
        ended = place.ledger.progress(place.batch)
        assert (ended.state, ended.lines) == ("failed", LINES)
        assert room < ended.completed_bytes
        assert 0 < ended.completed < LINES
        assert place.answered() == ALL
        *_, last = b"".join(place.ledger.answers(place.batch, LINES)).splitlines()
        assert json.loads(last)["error"]["code"] == "batch-failed"
        assert "(setting NEURON_API_MAX_STORED_BYTES)" in json.loads(last)["error"]["message"]

    play(tmp_path, redis_url, scenario)


def test_what_is_damaged_or_not_ours_keeps_nothing_from_its_turn(redis_url: str, tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        ended = Progress(began=1.0, ended=2.0, state="done")
        old = [place.batch.model_copy(update={"id": f"{number:032x}", "owner": "a"}) for number in range(3)]
        for batch in old:
            place.ledger.open_batch(batch)
            place.ledger.put_progress(batch, ended)
            place.ledger.close_batch("a", batch.id)
        (tmp_path / f"of-a/batches/{old[1].id}/progress.json").write_bytes(b"{")
        for folder in ("of-/files", "of-a/batches", "open"):
            (tmp_path / folder / ".nfs0001").touch()
        left = tmp_path / f"of-/files/{0:032x}.jsonl"
        left.touch()
        counted = metrics.BATCH_ERRORS._value.get()
        lines = Lines()
        runner = Runner(place.ledger, BatchLeases(place.client), lines, place.settings)  # type: ignore[arg-type]
        running = asyncio.create_task(runner.run())
        try:
            await until(lambda: place.ledger.batches("a") == [old[1].id] and not left.exists())
            await until(lambda: place.ledger.progress(place.batch).state == "done")
        finally:
            await stop(running)
        assert metrics.BATCH_ERRORS._value.get() == counted + 1

    play(tmp_path, redis_url, scenario)


def test_owners_share_the_places_and_nobody_waits_to_be_cancelled(redis_url: str, tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        batches = [place.batch]
        for expires in (60.0, 60.0, 0.0):
            other = place.batch.model_copy(update={"id": new_id(), "expires": time.time() + expires})
            place.ledger.open_batch(other)
            batches.append(other)
        held = asyncio.Event()
        runner = Runner(place.ledger, BatchLeases(place.client), Lines(held), place.settings)  # type: ignore[arg-type]
        running = asyncio.create_task(runner.run())
        try:
            states = ["", "", "", "expired"]
            await until(lambda: [place.ledger.progress(batch).state or "" for batch in batches] == states)
            await until(lambda: sum(place.ledger.progress(batch).began is not None for batch in batches) == 3)
            (waits,) = [batch for batch in batches if place.ledger.progress(batch).began is None]
            place.ledger.ask_to_cancel(waits)
            runner.wake()
            await until(lambda: place.ledger.progress(waits).state == "cancelled")
            held.set()
            await until(lambda: place.ledger.open_batches() == [])
        finally:
            await stop(running)

    play(tmp_path, redis_url, scenario)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - it is on the disk
            await asyncio.sleep(0.02)
