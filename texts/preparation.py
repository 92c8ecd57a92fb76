"""Text as the model reads it: `prepare` for reading, `prepare_prompt` for generation, `align` back to characters.

The preparation is that of the published system (Radford et al. 2017, arXiv 1704.01444, and its released
code): unescape HTML entities, newlines to spaces, strip, then a newline and a space before and a space after,
as UTF-8. A newline separates reviews in the training text, so the leading one says that a review starts.
"""

import functools
import html
import re
from dataclasses import dataclass

PREFIX = "\n "
SUFFIX = " "

# One character reference, as the HTML standard allows it; `html.unescape` decides what it stands for.
_REFERENCE = re.compile(r"&(#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)")


def clean(text: str) -> str:
    """Unescape HTML entities, turn newlines into spaces and strip the ends."""
    return _unescape(text).replace("\n", " ").strip()


def _unescape(text: str) -> str:
    """As html.unescape, in half its time."""
    return _REFERENCE.sub(lambda reference: _stands_for(reference.group()), text) if "&" in text else text


_stands_for = functools.lru_cache(4096)(html.unescape)  # references are few, and often the same


def prepare(text: str) -> bytes:
    """The bytes that the model reads to featurize `text`."""
    return (PREFIX + clean(text) + SUFFIX).encode("utf-8")


def prepare_prompt(prompt: str) -> bytes:
    """The bytes that the model reads before it continues `prompt`: as `prepare`, without the end space.

    A space at the end of the prompt is kept: the caller decides whether the next word starts there.
    """
    cleaned = _unescape(prompt).replace("\n", " ").lstrip()
    return (PREFIX + cleaned).encode("utf-8")


@dataclass(frozen=True)
class ByteOrigin:
    """Where one prepared byte came from: characters `start` (inclusive) to `end` (exclusive) of the text as sent.

    `start == end` for the bytes that preparation added.
    """

    byte: int
    start: int
    end: int


def align(text: str) -> list[ByteOrigin]:
    """For every byte of `prepare(text)`, the characters of `text` that it belongs to."""
    characters: list[tuple[str, int, int]] = []
    position = 0
    for match in _REFERENCE.finditer(text):
        unescaped = _stands_for(match.group())
        if unescaped == match.group():
            continue
        characters += [(text[i], i, i + 1) for i in range(position, match.start())]
        # Where only the start was a reference ("&notit;" is "¬it;"), the whole still belongs together.
        characters += [(character, match.start(), match.end()) for character in unescaped]
        position = match.end()
    characters += [(text[i], i, i + 1) for i in range(position, len(text))]

    characters = [(" " if character == "\n" else character, start, end) for character, start, end in characters]
    first, last = 0, len(characters)
    while first < last and characters[first][0].isspace():
        first += 1
    while last > first and characters[last - 1][0].isspace():
        last -= 1
    body = characters[first:last]
    begin = body[0][1] if body else 0
    finish = body[-1][2] if body else 0

    spelled = [(character, begin, begin) for character in PREFIX]
    spelled += body
    spelled += [(character, finish, finish) for character in SUFFIX]
    return [ByteOrigin(byte, start, end) for character, start, end in spelled for byte in character.encode("utf-8")]
