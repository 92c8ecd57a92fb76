"""What is wrong with files of texts: `TextsError` for a file that cannot be used, `Faults` for records left out."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

REPORTED = 20  # records that are told one by one; the others are only counted

_NAMES = 10
_NAME_CHARACTERS = 40


class TextsError(Exception):
    """Texts cannot be used as they are; the message names the file and the fault."""


@dataclass(frozen=True)
class Fault:
    """A record that is left out. place: where it is, such as `line 3`."""

    file: str
    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, {self.place}: {self.reason}"


class Faults:
    """Counts the records that are left out, and tells the first of them. first: the very first."""

    def __init__(self, tell: Callable[[Fault], None] = lambda _fault: None, strict: bool = False) -> None:
        """tell: gets each of the first `REPORTED`. strict: the first is an error instead."""
        self.count = 0
        self.first: Fault | None = None
        self._tell = tell
        self.strict = strict

    def add(self, fault: Fault) -> None:
        """Raises TextsError where it is strict."""
        if self.strict:
            raise TextsError(f"{fault} (--strict)")
        self.count += 1
        self.first = self.first or fault
        if self.count <= REPORTED:
            self._tell(fault)

    @property
    def untold(self) -> int:
        return max(0, self.count - REPORTED)


def quoted(name: str) -> str:
    """One name or value from a file or a user, as a message may hold it."""
    return f"'{shown([name])}'"


def shown(names: Iterable[str]) -> str:
    """Names from a file, as a message may hold them: the first ten, each cut."""
    names = list(names)
    cut = [name if len(name) <= _NAME_CHARACTERS else f"{name[:_NAME_CHARACTERS]}..." for name in names[:_NAMES]]
    more = f" and {len(names) - _NAMES:,} more" if len(names) > _NAMES else ""
    return (", ".join(repr(name)[1:-1] for name in cut) or "none") + more
