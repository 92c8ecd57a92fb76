"""Prefixes that texts may have in common: where in a text they end, and the cache of the states after them. No torch.

A state depends on the bytes read so far, on the clamps, and on whether it includes a sum of hidden vectors; on nothing
else. So it is stored under a 128-bit hash of these, keyed by a secret of the process: nobody can construct two texts
that collide.
"""

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

StateT = TypeVar("StateT")

_KEY = secrets.token_bytes(16)

# At first a prefix ends this often. One costs about 1 us, a byte of a wide model 50 us on a CPU.
_SPACING = 64
# After this many prefixes they lie twice as far apart, then twice again: no more than an eighth of a long common prefix
# is read again, and a text of a megabyte has 97 prefixes.
_PREFIXES_PER_SPACING = 16

# What Python and torch keep beside the numbers of one state.
_ENTRY_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Prefix:
    """The first `length` bytes of a text, read under some clamps, with a sum or without."""

    length: int
    digest: bytes


def prefixes(
    text: bytes,
    clamps: Mapping[int, float],
    generates: bool,
    sums: bool = False,
    scored: bool = False,
    also: Collection[int] = (),
) -> list[Prefix]:
    """The prefixes of `text` after which a state may be found or kept, shortest first; the last one is the whole text.

    also: more lengths, each at least 1 and at most the text's.

    Where bytes will be generated after the text, the last prefix leaves out its last byte: every sample reads that one
    itself, because the first draw belongs to the step that reads it. sums, scored: whether the states include a sum of
    hidden vectors, and of scores: rows that ask for either share only with each other.
    """
    end = len(text) - 1 if generates else len(text)
    conditions = repr((sorted(clamps.items()), sums, scored)).encode() + b"\n"
    hashed = hashlib.blake2b(conditions, digest_size=16, key=_KEY)
    found, position = [], 0
    for length in sorted({*_lengths(end), *also}):
        hashed.update(memoryview(text)[position:length])
        found.append(Prefix(length, hashed.copy().digest()))
        position = length
    return found


def _lengths(end: int) -> Iterator[int]:
    length = spacing = _SPACING
    while length < end:
        yield length
        if length == _PREFIXES_PER_SPACING * spacing:
            spacing *= 2
        length += spacing
    if end > 0:
        yield end


class PrefixCache(Generic[StateT]):
    """States by the digest of the prefix that was read; the least recently used one is evicted first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._held: OrderedDict[bytes, tuple[StateT, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def find(self, digest: bytes) -> StateT | None:
        entry = self._held.get(digest)
        if entry is None:
            return None
        self._held.move_to_end(digest)
        return entry[0]

    def keep(self, digest: bytes, state: StateT, state_bytes: int) -> int:
        """Returns how many other states were evicted. One that is larger than the whole cache is not kept."""
        size = state_bytes + _ENTRY_BYTES
        if size > self.max_bytes:
            return 0
        if digest in self._held:
            self.held_bytes -= self._held.pop(digest)[1]
        evicted = 0
        while self.held_bytes + size > self.max_bytes:
            _, (_, freed) = self._held.popitem(last=False)
            self.held_bytes -= freed
            evicted += 1
        self._held[digest] = state, size
        self.held_bytes += size
        return evicted
