"""How a file of texts is to be read, where its name and content leave that open: `Dialect`."""

import codecs
from dataclasses import dataclass

from texts.faults import TextsError
from texts.formats import Format


@dataclass(frozen=True)
class Dialect:
    """What is None is found out, or is what the format says.

    delimiter, quote, escape: of CSV and TSV, a character each; quote "" for none. encoding: any that Python knows;
    UTF-8 by default, with or without a byte order mark. header: whether the first row of CSV and TSV names the
    columns; without one they are called 1, 2 and so on. Raises TextsError.
    """

    format: Format | None = None
    delimiter: str | None = None
    quote: str | None = None
    escape: str | None = None
    encoding: str | None = None
    header: bool = True

    def __post_init__(self) -> None:
        for name in ("delimiter", "quote", "escape"):
            value = getattr(self, name)
            if value is not None and (len(value) > 1 or value in ("\n", "\r") or (not value and name != "quote")):
                raise TextsError(f"--{name} is {value!r}: it must be one character, and no line end")
        given = [value for value in (self.delimiter, self.quote, self.escape) if value]
        if len(set(given)) < len(given):
            raise TextsError("--delimiter, --quote and --escape must differ")
        if self.quote is None and self.escape == '"':
            raise TextsError("--escape is the quote itself: leave it out, and a doubled quote is one")
        if not _decodes(self.encoding or "utf-8"):
            raise TextsError(f"--encoding {self.encoding}: Python knows no such encoding of texts")


def _decodes(encoding: str) -> bool:
    """Whether it is one of texts, and not of bytes in other bytes, as base64 is."""
    try:
        codecs.getincrementaldecoder(encoding)("surrogateescape").decode(b"a", final=True)
    except UnicodeError:
        return True
    except Exception:  # noqa: BLE001 - each of those encodings fails in its own way
        return False
    return bool(getattr(codecs.lookup(encoding), "_is_text_encoding", True))


AS_IT_IS = Dialect()
