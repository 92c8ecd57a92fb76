"""Heat maps of units over a text: made by `heat_maps`, in a terminal by `show`, HTML by `html_page`."""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from string import Template
from typing import Any

from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

# Red leans to orange and green to blue, so that the common colour blindnesses keep them apart. All three are light
# enough for black letters (contrast above 6), whatever the terminal's own background is.
_NEUTRAL, _NEGATIVE, _POSITIVE = (238, 238, 238), (233, 108, 84), (64, 184, 140)
_INK = Color.from_rgb(17, 17, 17)
_LEGEND_STEPS = 21

_JOINER = "\u200d"
# Characters that a terminal or a page never gets as they are: a control becomes its picture, any space a space.
_PICTURES = {code: chr(0x2400 + code) for code in range(0x20)} | {0x7F: "\u2421"}
_PICTURES |= dict.fromkeys(range(0x80, 0xA0), "\ufffd") | dict.fromkeys(map(ord, "\t\n\r\v\f\u2028\u2029"), " ")


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


def heat_maps(text: str, answer: dict[str, Any], sentiment_unit: int | None) -> list[HeatMap]:
    """One for each unit of `answer`, the result of a trace job (engine/plans.py)."""
    maps = []
    for column, unit in enumerate(answer["units"]):
        calibrated = unit == sentiment_unit
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


def words(cells: list[Cell]) -> Iterator[tuple[str, float]]:
    """Every word and the value after its last character."""
    word, last = "", 0.0
    for cell in [*cells, Cell(" ", None)]:
        if cell.value is not None and not cell.text.isspace():
            word, last = word + cell.text, cell.value
        elif word:
            yield word, last
            word = ""


def visible(text: str) -> str:
    """One line without control characters; a picture stands for each."""
    return text.translate(_PICTURES)


def style(value: float, bound: float = 1.0) -> Style:
    """Black on the colour of `value` between -bound and bound."""
    return _style(round(max(-1.0, min(1.0, value / bound)) * 100))


@lru_cache(maxsize=201)
def _style(percent: int) -> Style:
    end, share = (_POSITIVE if percent > 0 else _NEGATIVE), abs(percent) / 100
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(_NEUTRAL, end, strict=True))
    return Style(color=_INK, bgcolor=Color.from_rgb(red, green, blue))


def show(console: Console, maps: list[HeatMap]) -> None:
    """A block of lines per unit; where the console has no colour, a line per word."""
    coloured = console.color_system is not None and not console.no_color
    for number, heat_map in enumerate(maps):
        if number:
            console.print()
        console.print(Text.assemble((heat_map.name, "bold"), f": {heat_map.final:+.2f} after the whole text"))
        if not coloured:
            for word, value in words(heat_map.cells):
                console.print(Text(f"{value:+8.2f}  {visible(word)}"))
            continue
        line = Text()
        for cell in heat_map.cells:
            line.append(visible(cell.text), None if cell.value is None else style(cell.value, heat_map.bound))
        console.print(line)
        legend = Text(f"{-heat_map.bound:+.2f} ")
        for step in range(_LEGEND_STEPS):
            legend.append(" ", style(2 * step / (_LEGEND_STEPS - 1) - 1))
        console.print(legend.append(f" {heat_map.bound:+.2f}"))


def html_page(text: str, maps: list[HeatMap], model: str) -> str:
    """A page that needs nothing but itself. model: its name, for the reader."""
    sentiment = [f"{heat_map.final:+.2f} " for heat_map in maps if heat_map.is_sentiment]
    opening = visible(text.strip())
    title = "".join(sentiment) + (opening if len(opening) <= 60 else opening[:59] + "…")
    body = "\n".join(_section(heat_map) for heat_map in maps)
    return _PAGE.substitute(title=escape(title), model=escape(model), body=body)


def html_fragment(maps: list[HeatMap]) -> str:
    """The heat maps alone, for the page of somebody else, whose colours they leave alone."""
    return _FRAGMENT.substitute(body="".join(_part(heat_map) for heat_map in maps))


def _part(heat_map: HeatMap) -> str:
    return _PART.substitute(
        name=escape(heat_map.name),
        final=f"{heat_map.final:+.2f}",
        text=_spans(heat_map),
        low=f"{-heat_map.bound:+.2f}",
        high=f"{heat_map.bound:+.2f}",
    )


def _section(heat_map: HeatMap) -> str:
    rows = list(words(heat_map.cells))
    spoken = f"{heat_map.final:+.2f} after the whole text"
    if rows:
        lowest, highest = min(rows, key=lambda row: row[1]), max(rows, key=lambda row: row[1])
        spoken += f"; lowest {lowest[1]:+.2f} after “{visible(lowest[0])}”"
        spoken += f", highest {highest[1]:+.2f} after “{visible(highest[0])}”"
    return _SECTION.substitute(
        id=f"unit-{heat_map.unit}",
        name=escape(heat_map.name.capitalize()),
        spoken=escape(spoken),
        points=_points(heat_map),
        text=_spans(heat_map),
        low=f"{-heat_map.bound:+.2f}",
        high=f"{heat_map.bound:+.2f}",
        rows="".join(f"<tr><td>{escape(visible(word))}<td>{value:+.3f}" for word, value in rows),
    )


def _spans(heat_map: HeatMap) -> str:
    return "".join(_span(cell, heat_map.bound) for cell in heat_map.cells)


def _span(cell: Cell, bound: float) -> str:
    text = "\n" if cell.text == "\n" else escape(visible(cell.text))
    if cell.value is None:
        return text
    share = max(-1.0, min(1.0, cell.value / bound))
    side = "p" if share > 0 else "n"
    return f'<span class="{side}" style="--v:{abs(share):.2f}" title="{cell.value:+.3f}">{text}</span>'


def _points(heat_map: HeatMap) -> str:
    """The values as a line, in a box 1000 wide and 100 high with zero at half its height."""
    values = [cell.value for cell in heat_map.cells if cell.value is not None]
    step = 1000 / max(1, len(values) - 1)
    return " ".join(f"{index * step:.1f},{50 - 48 * value / heat_map.bound:.1f}" for index, value in enumerate(values))


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


_SECTION = Template("""<section aria-labelledby="$id">
<h2 id="$id">$name</h2>
<p>$spoken</p>
<svg viewBox="0 0 1000 100" preserveAspectRatio="none" aria-hidden="true"><path d="M0 50H1000"/><polyline
 points="$points"/></svg>
<p class="text" lang="" dir="auto">$text</p>
<p class="scale">$low <span aria-hidden="true"></span> $high</p>
<details><summary>The value after every word</summary>
<table><thead><tr><th scope="col">Word<th scope="col">Value<tbody>$rows</table></details>
</section>""")

_PART = Template("""<div><b>$name</b>: $final after the whole text
<p class="text" lang="" dir="auto">$text</p><small>$low <span class="scale"></span> $high</small></div>""")

_FRAGMENT = Template("""<div class="neuron-heat-maps"><style>
.neuron-heat-maps { background: #fff; color: #1b1d1f; padding: .5rem; --p: 64 184 140; --n: 233 108 84; }
.neuron-heat-maps .text { margin: .25rem 0; font-size: 1.125rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.neuron-heat-maps .p { background: rgb(var(--p) / var(--v)); }
.neuron-heat-maps .n { background: rgb(var(--n) / var(--v)); }
.neuron-heat-maps .scale { display: inline-block; width: 10rem; height: .75rem;
  background: linear-gradient(90deg, rgb(var(--n)), #fff, rgb(var(--p))); }
</style>$body</div>""")

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ink: #1b1d1f; --soft: #5b6269; --paper: #fff; --rule: #d9dde1;
  --p: 64 184 140; --n: 233 108 84; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #f2f4f5; --soft: #a9b1b8; --paper: #15181b; --rule: #363c42; --p: 22 112 82; --n: 166 58 38; }
}
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
main { max-width: 46rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { margin: 0; font-size: 1.5rem; line-height: 1.25; }
h2 { margin: 0 0 .25rem; font-size: 1.125rem; }
p { margin: 0 0 .75rem; }
section { margin-top: 2rem; padding-top: 1.5rem; border-top: 1px solid var(--rule); }
.model, .scale, summary { color: var(--soft); }
.text { font-size: 1.25rem; line-height: 1.75; white-space: pre-wrap; overflow-wrap: anywhere; }
.p { background: rgb(var(--p) / var(--v)); }
.n { background: rgb(var(--n) / var(--v)); }
svg { display: block; width: 100%; height: 4.5rem; margin: 0 0 .75rem; }
path, polyline { fill: none; stroke: var(--rule); vector-effect: non-scaling-stroke; }
polyline { stroke: var(--ink); stroke-width: 1.5; stroke-linejoin: round; }
.scale { font-variant-numeric: tabular-nums; font-size: .875rem; }
.scale span { display: inline-block; width: 10rem; height: .75rem; vertical-align: -.05rem;
  background: linear-gradient(90deg, rgb(var(--n)), rgb(var(--n) / 0) 50%, rgb(var(--p) / 0) 50%, rgb(var(--p))); }
summary { cursor: pointer; }
summary:focus-visible { outline: 2px solid; outline-offset: 2px; }
table { margin-top: .75rem; border-collapse: collapse; }
th, td { padding: .125rem 1.5rem .125rem 0; border-bottom: 1px solid var(--rule); text-align: left; }
td:last-child { font-variant-numeric: tabular-nums; text-align: right; padding-right: 0; }
</style>
</head>
<body>
<main>
<h1>What a unit holds, character by character</h1>
<p class="model">Model: $model. Point at a character for the value after it.</p>
$body
</main>
</body>
</html>
""")
