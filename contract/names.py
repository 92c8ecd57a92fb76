"""Names that people type: which known one a misspelt one is nearest to."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean NAME?` with the known name that is nearest, or nothing where none is near."""
    near = difflib.get_close_matches(name[:64], list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
