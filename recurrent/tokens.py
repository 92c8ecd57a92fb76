"""Texts as numbers: the words that a classifier knows, or bytes, and many texts in one flat array."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from recurrent.options import Options
from texts.preparation import clean, prepare

UNKNOWN = 0  # the token of every word that is not known, and of a text without any
BYTES = 256

# Line breaks of HTML say nothing; else a word with what follows an apostrophe, or one sign.
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
_MARKS = range(0x300, 0x1F000)  # where Unicode has marks that combine with the letter before them: accents, vowel signs

Ids = NDArray[np.int32]


def split(text: str) -> list[str]:
    """The words of a text in lower case, and its signs."""
    lower = unicodedata.normalize("NFC", _BREAK.sub(" ", clean(text)).lower())
    return (_WORD if lower.isascii() else _word_with_marks()).findall(lower)


@cache
def _word_with_marks() -> re.Pattern[str]:
    r"""As `_WORD`, which is twice as quick. For Python's re a mark is no part of a word (\w)."""
    marks = "".join(mark for mark in map(chr, _MARKS) if unicodedata.category(mark).startswith("M"))
    word = rf"\w+(?:[{marks}]\w*)*"
    return re.compile(rf"{word}(?:['’]{word})*|[^\w\s]")


class Words:
    """The words of the texts that a classifier was fitted on. Token 0 is any other word."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self._ids = {word: number for number, word in enumerate(self.words, start=UNKNOWN + 1)}

    @classmethod
    def of(cls, texts: Iterable[str], min_df: int, max_features: int) -> "Words":
        """Words that are in `min_df` texts or more, those in the most texts first."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(set(split(text)))
        known = sorted((word for word, texts_ in counts.items() if texts_ >= min_df), key=lambda w: (-counts[w], w))
        return cls(known[:max_features])

    @property
    def size(self) -> int:
        return len(self.words) + 1

    def encode(self, text: str) -> Ids:
        """(tokens,), one at least."""
        ids = self._ids
        return np.array([ids.get(word, UNKNOWN) for word in split(text)] or [UNKNOWN], dtype=np.int32)


class Bytes:
    """The bytes of a text, prepared as for the language model."""

    words: tuple[str, ...] = ()
    size = BYTES

    def encode(self, text: str) -> Ids:
        """(bytes,)."""
        return np.frombuffer(prepare(text), dtype=np.uint8).astype(np.int32)


Vocabulary = Words | Bytes


def vocabulary(options: Options, texts: Iterable[str]) -> Vocabulary:
    """What texts are made of: for words it is learned from these."""
    return Bytes() if options.tokens == "bytes" else Words.of(texts, options.min_df, options.max_features)


@dataclass(frozen=True)
class Ragged:
    """Texts of different lengths, one after another."""

    flat: Ids  # (tokens of all texts,)
    starts: NDArray[np.int64]  # (texts + 1,)
    cut: int = 0  # texts that have more tokens than are here

    @classmethod
    def of(cls, texts: Iterable[str], known: Vocabulary, most: int | None = None) -> "Ragged":
        """most: tokens of a text that are kept."""
        whole = [known.encode(text) for text in texts]
        return cls.joined([part[:most] for part in whole], sum(len(part) > (most or len(part)) for part in whole))

    @classmethod
    def joined(cls, parts: Sequence[Ids], cut: int = 0) -> "Ragged":
        """Of the tokens of every text."""
        starts = np.zeros(len(parts) + 1, dtype=np.int64)
        np.cumsum([len(part) for part in parts], out=starts[1:])
        flat = np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)
        return cls(flat, starts, cut)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(texts,)."""
        return np.diff(self.starts)

    def padded(self, chosen: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The tokens of these texts, (longest, texts), zero after the end of each, and their lengths, (texts,)."""
        lengths = self.lengths[chosen]
        tokens = np.zeros((len(chosen), lengths.max()), dtype=np.int64)
        for row, (text, length) in enumerate(zip(chosen, lengths, strict=True)):
            tokens[row, :length] = self.flat[self.starts[text] : self.starts[text] + length]
        return tokens.T, lengths
