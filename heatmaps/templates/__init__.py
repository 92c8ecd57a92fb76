"""The templates of heat maps, and what they say of one in words."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from heatmaps.cells import DARK_NEGATIVE, DARK_POSITIVE, NEGATIVE, POSITIVE, HeatMap, visible

_TITLE = 60  # characters of a text in a title


def title(text: str, maps: list[HeatMap]) -> str:
    """What the sentiment unit holds at the end, and how the text begins."""
    sentiment = [f"{heat_map.final:+.2f} " for heat_map in maps if heat_map.is_sentiment]
    opening = visible(text.strip())
    return "".join(sentiment) + (opening if len(opening) <= _TITLE else opening[: _TITLE - 1] + "…")


def spoken(heat_map: HeatMap) -> str:
    """For those who do not see it."""
    said = f"{heat_map.final:+.2f} after the whole text"
    if heat_map.words:
        lowest, highest = (chosen(heat_map.words, key=lambda row: row[1]) for chosen in (min, max))
        said += f"; lowest {lowest[1]:+.2f} after “{visible(lowest[0])}”"
        said += f", highest {highest[1]:+.2f} after “{visible(highest[0])}”"
    return said


def points(heat_map: HeatMap) -> str:
    """The values as a line, in a box 1000 wide and 100 high with zero at half its height."""
    values = [cell.value for cell in heat_map.cells if cell.value is not None]
    step = 1000 / max(1, len(values) - 1)
    return " ".join(f"{index * step:.1f},{50 - 48 * value / heat_map.bound:.1f}" for index, value in enumerate(values))


def _shown(text: str) -> str:
    return "\n" if text == "\n" else visible(text)


TEMPLATES = Environment(
    loader=PackageLoader("heatmaps"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=False,
)
TEMPLATES.globals |= {
    name: " ".join(map(str, colour))
    for name, colour in {
        "negative": NEGATIVE,
        "positive": POSITIVE,
        "dark_negative": DARK_NEGATIVE,
        "dark_positive": DARK_POSITIVE,
    }.items()
}
TEMPLATES.filters |= {"visible": _shown, "spoken": spoken, "points": points}
