"""Heat maps in a terminal: `show`; `style` colours one value."""

from functools import lru_cache

from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from heatmaps.cells import LEGEND, HeatMap, colour, visible

_INK = Color.from_rgb(17, 17, 17)


def style(value: float, bound: float = 1.0) -> Style:
    """Black on the colour of `value` between -bound and bound."""
    return _style(round(max(-1.0, min(1.0, value / bound)) * 100))


@lru_cache(maxsize=201)
def _style(percent: int) -> Style:
    return Style(color=_INK, bgcolor=Color.from_rgb(*colour(percent / 100)))


def show(console: Console, maps: list[HeatMap]) -> None:
    """A block of lines per unit; where the console has no colour, a line per word."""
    coloured = console.color_system is not None and not console.no_color
    for number, heat_map in enumerate(maps):
        if number:
            console.print()
        console.print(Text.assemble((heat_map.name, "bold"), f": {heat_map.final:+.2f} after the whole text"))
        if not coloured:
            for word, value in heat_map.words:
                console.print(Text(f"{value:+8.2f}  {visible(word)}"))
            continue
        line = Text()
        for cell in heat_map.cells:
            line.append(visible(cell.text), None if cell.value is None else style(cell.value, heat_map.bound))
        console.print(line)
        legend = Text(f"{-heat_map.bound:+.2f} ")
        for share in LEGEND:
            legend.append(" ", style(share))
        console.print(legend.append(f" {heat_map.bound:+.2f}"))
