"""Beginnings that rows have in common are read once: which row reads one, which wait for it, which start behind it.

A prompt's state is kept at its end and at its last mark (state_cache.py); any other beginning is kept when it is seen
for the second time, so texts that never come again cost no copy. While an active row reads a beginning that will be
kept, it leads: rows with the same beginning follow it, which means that they stand still until it has passed there and
then take over its state. That is never later than if they had read it themselves, for all rows advance side by side.

A row follows at a beginning that is shorter than any it leads, so no two rows wait for each other.
"""

from collections import OrderedDict
from collections.abc import Iterable

from engine.backend import Backend, RowState
from engine.prefix_cache import Beginning, StateCache
from engine.rows import Row
from worker import metrics

# Beginnings that are remembered as seen, some 200 bytes each: those of some thousand texts.
_SEEN_AT_MOST = 2**15


class SharedReading:
    """What the rows of one backend read together. Used by the engine's thread alone."""

    def __init__(self, max_bytes: int) -> None:
        """max_bytes: of the states that are kept beyond the rows that run."""
        self._cache: StateCache[RowState] = StateCache(max_bytes)
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._led: dict[bytes, list[Row]] = {}  # what an active row reads for others: those that follow it

    @property
    def held_bytes(self) -> int:
        return self._cache.held_bytes

    def join(self, backend: Backend, row: Row) -> None:
        """Let a row that has just got its slot start behind what is known, or follow the row that reads it."""
        if not row.beginnings:
            return
        known = self._start(backend, row)
        ahead = [beginning for beginning in row.beginnings if beginning.length > known]
        wanted = [beginning for beginning in ahead if beginning.digest in self._seen][-1:]
        if row.request.generate:
            wanted += ahead[-2:]
        for beginning in sorted(set(wanted), key=lambda beginning: beginning.length):
            row.keeps.append(beginning)
            self._led[beginning.digest] = []
        self._remember(row.beginnings)
        metrics.STATE_CACHE_LOOKUPS.labels("shared" if row.follows else "hit" if known else "miss").inc()

    def passed(self, backend: Backend, row: Row) -> list[Row]:
        """Keep the row's state if it stands where that is wanted. Returns the rows that followed it until here."""
        if not row.keeps or row.keeps[0].length != row.read:
            return []
        beginning = row.keeps.popleft()
        state = backend.state(row.slot)
        evicted = self._cache.keep(beginning.digest, state, state.nbytes)
        metrics.STATE_CACHE_EVICTIONS.inc(evicted)
        followers = self._led.pop(beginning.digest)
        for follower in followers:
            follower.follows = None
            _put(backend, follower, beginning, state)
        return followers

    def leads_interactive(self, row: Row) -> bool:
        """Whether an interactive row follows `row`, which therefore must not stand still for others of its kind."""
        return any(
            follower.request.priority == "interactive"
            for beginning in row.keeps
            for follower in self._led[beginning.digest]
        )

    def leave(self, backend: Backend, row: Row) -> None:
        """The row has ended. Of those that followed it, the first reads on for the others."""
        if row.follows is not None:
            self._led[row.follows.digest].remove(row)
        for beginning in row.keeps:
            followers = self._led.pop(beginning.digest)
            if followers:
                heir, *others = followers
                heir.keeps.appendleft(beginning)
                self._led[beginning.digest] = others
                self._start(backend, heir)
        row.keeps.clear()

    def _start(self, backend: Backend, row: Row) -> int:
        """Restore or follow the longest beginning that is kept or led, before any that the row leads: its length."""
        row.follows = None
        for beginning in reversed(row.beginnings):
            if row.keeps and beginning.length >= row.keeps[0].length:
                continue
            if (state := self._cache.find(beginning.digest)) is not None:
                _put(backend, row, beginning, state)
                return beginning.length
            if (followers := self._led.get(beginning.digest)) is not None:
                followers.append(row)
                row.follows = beginning
                return beginning.length
        return 0

    def _remember(self, beginnings: Iterable[Beginning]) -> None:
        for beginning in beginnings:
            self._seen[beginning.digest] = None
            self._seen.move_to_end(beginning.digest)
        while len(self._seen) > _SEEN_AT_MOST:
            self._seen.popitem(last=False)


def _put(backend: Backend, row: Row, beginning: Beginning, state: RowState) -> None:
    backend.restore(row.slot, state)
    row.read = beginning.length
    metrics.STATE_CACHE_SPARED.inc(beginning.length)
