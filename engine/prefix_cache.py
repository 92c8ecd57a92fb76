"""States of texts that may begin alike: the cache that holds them, and where in a text one may be held. No torch.

A state depends on the bytes read so far and on the clamps, and has a sum of hidden vectors or has not; on nothing else.
So it is found by a 128-bit hash of these, keyed by a secret of the process: nobody can make two texts meet.
"""

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

StateT = TypeVar("StateT")

_KEY = secrets.token_bytes(16)

# The first bytes of a text are marked this often. A mark costs about 1 us, a byte of a wide model 50 us on a CPU.
_SPACING = 64
# From so many marks on they lie twice as far apart, then twice again: no more than an eighth of a long beginning is
# read again, and a megabyte has 97 marks.
_MARKS_PER_SPACING = 16

# What Python and torch keep beside the numbers of one state.
_ENTRY_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Beginning:
    """The first `length` bytes of a text, read under some clamps, with a sum or without."""

    length: int
    digest: bytes


def beginnings(text: bytes, clamps: Mapping[int, float], generates: bool, sums: bool = False) -> list[Beginning]:
    """The places in `text` where a state may be found or kept, shortest first; the last one is the end of the text.

    Where bytes are to be generated after it, it is the last byte but one: the last is read by every sample, for the
    first draw belongs to the step that reads it. sums: whether the states have a sum, so rows that ask for a mean share
    with each other alone.
    """
    end = len(text) - 1 if generates else len(text)
    conditions = repr((sorted(clamps.items()), sums)).encode() + b"\n"
    hashed = hashlib.blake2b(conditions, digest_size=16, key=_KEY)
    found, position = [], 0
    for length in _lengths(end):
        hashed.update(memoryview(text)[position:length])
        found.append(Beginning(length, hashed.copy().digest()))
        position = length
    return found


def _lengths(end: int) -> Iterator[int]:
    length = spacing = _SPACING
    while length < end:
        yield length
        if length == _MARKS_PER_SPACING * spacing:
            spacing *= 2
        length += spacing
    if end > 0:
        yield end


class StateCache(Generic[StateT]):
    """States by the digest of what was read; the one that was used longest ago goes first when room is short."""

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
        """Returns how many other states had to go. One that is larger than the whole cache is not kept."""
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
