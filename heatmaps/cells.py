"""What a heat map shows: `heat_maps`, its cells, and their colours."""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

# Red leans to orange and green to blue, so that the common colour blindnesses keep them apart. All three are light
# enough for black letters (contrast above 6), whatever the terminal's own background is.
NEUTRAL, NEGATIVE, POSITIVE = (238, 238, 238), (233, 108, 84), (64, 184, 140)
# The same for white letters.
DARK_NEGATIVE, DARK_POSITIVE = (166, 58, 38), (22, 112, 82)

LEGEND = [step / 10 - 1 for step in range(21)]  # shares of full colour, from one end to the other

_JOINER = "\u200d"
# Characters that a terminal or a page never gets as they are: a control becomes its picture, any space a space.
_PICTURES = {code: chr(0x2400 + code) for code in range(0x20)} | {0x7F: "\u2421"}
_PICTURES |= dict.fromkeys([*range(0x80, 0xA0), 0xFFFE, 0xFFFF], "\ufffd")
_PICTURES |= dict.fromkeys(map(ord, "\t\n\r\v\f\u2028\u2029"), " ")


@dataclass(frozen=True)
class Cell:
    """A character of the text as sent, with the marks joined to it; or the whole of a reference such as "&amp;"."""

    text: str
    value: float | None  # after its last byte; None where the model reads nothing: white space at the ends


@dataclass(frozen=True)
class HeatMap:
    """One unit over a text; the values are calibrated if it is the sentiment unit."""

    unit: int
    is_sentiment: bool
    cells: list[Cell]
    final: float  # after the whole text, with the space that ends it: what classifiers see
    bound: float  # the absolute value that has full colour

    @property
    def name(self) -> str:
        return f"unit {self.unit}" + (", sentiment" if self.is_sentiment else "")

    @cached_property
    def words(self) -> list[tuple[str, float]]:
        """Every word and the value after its last character."""
        found = []
        word, last = "", 0.0
        for cell in [*self.cells, Cell(" ", None)]:
            if cell.value is not None and not cell.text.isspace():
                word, last = word + cell.text, cell.value
            elif word:
                found.append((word, last))
                word = ""
        return found

    def share(self, cell: Cell) -> float:
        """Of full colour, in [-1, 1]; 0 where there is no value."""
        return 0.0 if cell.value is None else max(-1.0, min(1.0, cell.value / self.bound))


def heat_maps(text: str, answer: dict[str, Any]) -> list[HeatMap]:
    """One for each unit of `answer`, the result of a trace job (engine/traces.py) whose offsets count characters."""
    maps = []
    for column, unit in enumerate(answer["units"]):
        calibrated = unit == answer.get("sentiment_unit")
        values = [step["sentiment"] if calibrated else step["values"][column] for step in answer["bytes"]]
        spans: dict[tuple[int, int], float] = {}
        for step, value in zip(answer["bytes"], values, strict=True):
            if step["start"] < step["end"]:
                spans[step["start"], step["end"]] = value  # the last byte of a character has the last word
        cells = list(_joined(_cells(text, spans)))
        shown = [abs(cell.value) for cell in cells if cell.value is not None]
        bound = 1.0 if calibrated else max([abs(values[-1]), *shown]) or 1.0
        maps.append(HeatMap(unit, calibrated, cells, values[-1], bound))
    return maps


def visible(text: str) -> str:
    """One line without control characters; a picture stands for each."""
    return text.translate(_PICTURES)


def colour(value: float, bound: float = 1.0) -> tuple[int, int, int]:
    """Red, green and blue, each of 255, of `value` between -bound and bound."""
    share = max(-1.0, min(1.0, value / bound))
    end = POSITIVE if share > 0 else NEGATIVE
    red, green, blue = (round(a + (b - a) * abs(share)) for a, b in zip(NEUTRAL, end, strict=True))
    return red, green, blue


def _cells(text: str, spans: dict[tuple[int, int], float]) -> Iterator[Cell]:
    position = 0
    for (start, end), value in spans.items():
        yield from (Cell(character, None) for character in text[position:start])
        yield Cell(text[start:end], value)
        position = end
    yield from (Cell(character, None) for character in text[position:])


def _joined(cells: Iterator[Cell]) -> Iterator[Cell]:
    """Marks, emoji modifiers and what a joiner binds go with what they follow: apart they would be drawn apart."""
    held: Cell | None = None
    for cell in cells:
        if held is not None and held.value is not None and cell.value is not None and _binds(held.text, cell.text):
            held = Cell(held.text + cell.text, cell.value)
            continue
        if held is not None:
            yield held
        held = cell
    if held is not None:
        yield held


def _binds(before: str, text: str) -> bool:
    if before.endswith(_JOINER) or text == _JOINER:
        return True
    return len(text) == 1 and (unicodedata.category(text).startswith("M") or "\U0001f3fb" <= text <= "\U0001f3ff")
