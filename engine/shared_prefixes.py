"""Prefixes that rows have in common are read once: which row reads one, which rows wait for it, which start after it.

The state of a prompt is kept at its end and at its last prefix but one (prefix_cache.py), and that of any row where its
request says so; the state after any other prefix is kept when the prefix is seen for the second time, so texts that
never come again cost no copy. While an active row reads a prefix whose state will be kept, it leads: rows with the same
prefix follow it, which means that they stand still until it has read the prefix and then take over its state. Since all
rows advance side by side, that is no later than if they had read it themselves, unless the row that leads is further
back than they could be: it must trace bytes that they find in a kept state, say. Where it ends before it has read the
prefix, the first row that follows it goes on from where it stood.

A row follows at a prefix that is shorter than any it leads, so no two rows wait for each other.
"""

from collections import OrderedDict
from collections.abc import Iterable

from engine.backend import Backend, RowState
from engine.observer import Observer
from engine.prefix_cache import Prefix, PrefixCache
from engine.rows import Row

# Prefixes that are remembered as seen, some 200 bytes each: those of some thousand texts.
_SEEN_AT_MOST = 2**15


class SharedPrefixes:
    """The prefixes that the rows of one backend share. Used by the engine's thread alone."""

    def __init__(self, max_bytes: int, observer: Observer) -> None:
        """max_bytes: of the states that are kept beside those of active rows."""
        self._cache: PrefixCache[RowState] = PrefixCache(max_bytes)
        self._observer = observer
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._led: dict[bytes, list[Row]] = {}  # digest of a prefix that an active row leads: the rows that follow it

    @property
    def held_bytes(self) -> int:
        return self._cache.held_bytes

    def join(self, backend: Backend, row: Row) -> None:
        """Let a row that has just got its slot start after a kept prefix, or follow the row that reads one."""
        if not row.prefixes:
            return
        known = self._start(backend, row)
        ahead = [prefix for prefix in row.prefixes if prefix.length > known]
        wanted = [prefix for prefix in ahead if prefix.digest in self._seen][-1:]
        if row.request.generate:
            wanted += ahead[-2:]
        wanted += [prefix for prefix in ahead if prefix.length in row.request.kept]
        for prefix in sorted(set(wanted), key=lambda prefix: prefix.length):
            if prefix.digest not in self._led:  # by a row that a trace may not follow
                row.keeps.append(prefix)
                self._led[prefix.digest] = []
        self._remember(row.prefixes)
        self._observer.prefix_lookup("shared" if row.follows else "hit" if known else "miss")

    def passed(self, backend: Backend, row: Row) -> list[Row]:
        """Keep the row's state if the row has just read a prefix that it leads. Returns the rows that followed it."""
        if not row.keeps or row.keeps[0].length != row.read:
            return []
        prefix = row.keeps.popleft()
        state = backend.state(row.slot)
        self._observer.prefixes_evicted(self._cache.keep(prefix.digest, state, state.nbytes))
        followers = self._led.pop(prefix.digest)
        for follower in followers:
            follower.follows = None
            self._take_over(backend, follower, prefix.length, state)
        return followers

    def leads_interactive(self, row: Row) -> bool:
        """Whether an interactive row waits for `row`, which therefore must not stand still for other bulk rows."""
        return any(
            follower.request.priority == "interactive" or self.leads_interactive(follower)
            for prefix in row.keeps
            for follower in self._led[prefix.digest]
        )

    def leave(self, backend: Backend, row: Row, failed: bool) -> None:
        """The row has ended. Of those that followed it, the first reads on for the others.

        failed: whether its last block did, after which its state counts for nothing.
        """
        stood = 0 if failed else row.read
        if row.follows is not None:
            self._led[row.follows.digest].remove(row)
        for prefix in row.keeps:
            followers = self._led.pop(prefix.digest)
            if followers:
                heir, *others = followers
                heir.keeps.appendleft(prefix)
                self._led[prefix.digest] = others
                if not self._start(backend, heir, stood) and stood:
                    self._take_over(backend, heir, stood, backend.state(row.slot))
        row.keeps.clear()

    def _start(self, backend: Backend, row: Row, least: int = 0) -> int:
        """Take over or follow the longest prefix that is kept or led, shorter than any that the row leads: its length,
        0 where there is no such prefix of more than `least` bytes."""
        row.follows = None
        for prefix in reversed(row.prefixes):
            if prefix.length <= least:
                break
            if prefix.length > row.may_start_at or (row.keeps and prefix.length >= row.keeps[0].length):
                continue
            if (state := self._cache.find(prefix.digest)) is not None:
                self._take_over(backend, row, prefix.length, state)
                return prefix.length
            if (followers := self._led.get(prefix.digest)) is not None:
                followers.append(row)
                row.follows = prefix
                return prefix.length
        return 0

    def _take_over(self, backend: Backend, row: Row, length: int, state: RowState) -> None:
        backend.restore(row.slot, state)
        row.read = length
        self._observer.prefix_spared(length)

    def _remember(self, prefixes: Iterable[Prefix]) -> None:
        for prefix in prefixes:
            self._seen[prefix.digest] = None
            self._seen.move_to_end(prefix.digest)
        while len(self._seen) > _SEEN_AT_MOST:
            self._seen.popitem(last=False)
