"""Heat maps as HTML: a page, or a fragment of somebody else's."""

from heatmaps.cells import HeatMap
from heatmaps.templates import TEMPLATES, title


def html_page(text: str, maps: list[HeatMap], model: str) -> str:
    """A page that needs nothing but itself. model: its name, for the reader."""
    return TEMPLATES.get_template("page.html").render(title=title(text, maps), model=model, maps=maps)


def html_fragment(maps: list[HeatMap]) -> str:
    """The heat maps alone, for the page of somebody else, whose colours they leave alone."""
    return TEMPLATES.get_template("fragment.html").render(maps=maps)
