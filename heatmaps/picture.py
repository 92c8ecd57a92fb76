"""Heat maps as a picture for reports: SVG that needs nothing but itself.

The letters are set in cells of one width, and those that East Asian scripts draw twice as wide take two, so that a
colour lies under its letter whatever font the reader has. Scripts that run from right to left are joined in writing, so
each of their words is set as one, stretched to its cells.
"""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby

import wcwidth

from heatmaps.cells import LEGEND, Cell, HeatMap, colour, visible
from heatmaps.templates import TEMPLATES, title

_COLUMNS = 80
_COLUMN, _LINE = 10, 28  # px
_MARGIN, _HEADING, _CURVE, _LEGEND, _FOOT = 20, 36, 84, 64, 32


@dataclass(frozen=True)
class _Placed:
    cell: Cell
    line: int
    column: int
    columns: int

    @property
    def end(self) -> int:
        return self.column + self.columns


def svg(text: str, maps: list[HeatMap], model: str) -> str:
    """model: its name, for the reader."""
    parts, top = [], _MARGIN
    for heat_map in maps:
        placed = _mirrored(list(_placed(heat_map.cells)))
        curve_top = _HEADING + _LINE * (1 + max((one.line for one in placed), default=0)) + 12
        part = {
            "map": heat_map,
            "top": top,
            "runs": list(_coloured(heat_map, placed)),
            "glyphs": list(_glyphs(placed)),
            "curve_top": curve_top,
            "legend_top": curve_top + _CURVE,
        }
        parts.append(part)
        top += curve_top + _CURVE + _LEGEND
    steps = [{"x": number * _COLUMN, "fill": _hex(share, 1.0)} for number, share in enumerate(LEGEND)]
    inner = _COLUMNS * _COLUMN
    return TEMPLATES.get_template("picture.svg").render(
        title=title(text, maps),
        model=model,
        parts=parts,
        legend=steps,
        column=_COLUMN,
        inner=inner,
        width=inner + 2 * _MARGIN,
        height=top + _FOOT,
        margin=_MARGIN,
    )


def _placed(cells: list[Cell]) -> Iterator[_Placed]:
    """The cells on lines that break between words, and within one that is longer than a line."""
    line = column = 0
    for blank, group in groupby(cells, key=lambda cell: cell.text.isspace()):
        word = list(group)
        if not blank and column and column + sum(map(_columns, word)) > _COLUMNS:
            line, column = line + 1, 0
        for cell in word:
            over = column + _columns(cell) > _COLUMNS
            if cell.text == "\n" or (over and not blank):
                line, column = line + 1, 0
            if cell.text != "\n" and not (over and blank):  # a blank that does not fit is the end of its line
                yield _Placed(cell, line, column, _columns(cell))
                column += _columns(cell)


def _columns(cell: Cell) -> int:
    """How wide it is. A reference such as "&amp;" is as wide as it is written; marks and what is joined add nothing."""
    return max(1, wcwidth.wcswidth(visible(cell.text)))


def _runs(one: _Placed, *ways: str) -> bool:
    """Whether a character of it runs in one of these ways (bidirectional classes of Unicode)."""
    return any(unicodedata.bidirectional(character) in ways for character in one.cell.text)


def _runs_left(one: _Placed) -> bool:
    return _runs(one, "R", "AL")


def _mirrored(placed: list[_Placed]) -> list[_Placed]:
    """Turn around, line by line, what lies between letters that run from right to left."""
    turned = list(placed)
    for _, group in groupby(range(len(placed)), key=lambda number: placed[number].line):
        run: list[int] = []  # numbers of cells: those that run left, and what may lie between two of them
        for number in group:
            if _runs_left(placed[number]) or (run and not _runs(placed[number], "L", "EN")):
                run.append(number)
            else:
                _turn(turned, run)
                run = []
        _turn(turned, run)
    return turned


def _turn(placed: list[_Placed], numbers: list[int]) -> None:
    while numbers and not _runs_left(placed[numbers[-1]]):
        numbers.pop()
    if numbers:
        ends = placed[numbers[0]].column + placed[numbers[-1]].end
        for number in numbers:
            placed[number] = replace(placed[number], column=ends - placed[number].end)


def _glyphs(placed: list[_Placed]) -> Iterator[dict[str, object]]:
    """The letters one by one; of a word that runs from right to left all in one, from its right end on."""
    for (line, left, blank), group in groupby(
        placed, key=lambda one: (one.line, _runs_left(one), one.cell.text.isspace())
    ):
        word = list(group)
        y = _HEADING + line * _LINE
        if left:
            x, width = word[0].end * _COLUMN, sum(one.columns for one in word) * _COLUMN
            yield {"x": x, "y": y, "width": width, "text": "".join(visible(one.cell.text) for one in word)}
        elif not blank:
            yield from ({"x": one.column * _COLUMN, "y": y, "text": visible(one.cell.text)} for one in word)


def _coloured(heat_map: HeatMap, placed: list[_Placed]) -> Iterator[dict[str, object]]:
    """Cells of one colour that stand side by side, as one rectangle."""
    coloured = sorted((one for one in placed if one.cell.value is not None), key=lambda one: (one.line, one.column))
    for (line, fill), group in groupby(coloured, key=lambda one: (one.line, _hex(one.cell.value or 0, heat_map.bound))):
        run = list(group)
        yield {
            "x": run[0].column * _COLUMN,
            "y": _HEADING + line * _LINE - 18,
            "width": sum(one.columns for one in run) * _COLUMN,
            "fill": fill,
        }


def _hex(value: float, bound: float) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour(value, bound))
