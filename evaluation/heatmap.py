"""Units after every character of chosen texts (Radford et al. 2017, figure 4)."""

import textwrap
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from evaluation.features import Reader
from evaluation.report import Report, Table
from evaluation.traces import read_traces
from texts.preparation import align, prepare

_COLUMNS = 90
_COLOURS = LinearSegmentedColormap.from_list("sentiment", ["#e96c54", "#eeeeee", "#40b88c"])


@dataclass(frozen=True)
class Traced:
    """A text as sent, and the values of the traced units after every byte of the prepared text, (bytes, units)."""

    text: str
    values: NDArray[np.float32]


def trace(reader: Reader, texts: list[str], units: list[int]) -> list[Traced]:
    """Raises EvaluationError for an unknown unit."""
    values = read_traces(reader, [prepare(text) for text in texts], units)
    return [Traced(text, of) for text, of in zip(texts, values, strict=True)]


def report(reader: Reader, traced: list[Traced], units: list[int], pages: dict[str, str]) -> Report:
    """A figure of characters for every text. pages: HTML of the same, by name."""
    found = [
        {"text": one.text, "final": dict(zip(map(str, units), one.values[-1].tolist(), strict=True))} for one in traced
    ]
    table = Table(
        "Value after the whole text.",
        ["text", *(f"unit {unit}" for unit in units)],
        [[textwrap.shorten(one.text, 80), *one.values[-1].tolist()] for one in traced],
    )
    figures = {f"text_{number}": _figure(reader, one, units) for number, one in enumerate(traced, start=1)}
    return Report("heatmap", {"traced_units": units, "texts": found}, [table], figures, pages)


def _figure(reader: Reader, traced: Traced, units: list[int]) -> Figure:
    """A panel for each unit; the sentiment unit in its calibrated range, others in the range of their own values."""
    last = {origin.start: byte for byte, origin in enumerate(align(traced.text)) if origin.start < origin.end}
    characters = [(traced.text[start], byte) for start, byte in sorted(last.items())]
    lines = max(1, -(-len(characters) // _COLUMNS))
    figure = Figure(figsize=(10, len(units) * (0.45 + 0.24 * lines)), layout="constrained")
    known = reader.manifest.sentiment
    for column, unit in enumerate(units):
        axes = figure.add_subplot(len(units), 1, column + 1)
        values = np.array([traced.values[byte, column] for _, byte in characters], dtype=np.float64)
        if known is not None and known.unit == unit:
            values = known.polarity * (values - known.center) / known.scale
            name, bound = f"unit {unit}, sentiment", 1.0
        else:
            name, bound = f"unit {unit}", float(np.abs(values).max(initial=0.0)) or 1.0
        cells = np.full(lines * _COLUMNS, np.nan)
        cells[: len(values)] = values
        axes.imshow(cells.reshape(lines, _COLUMNS), cmap=_COLOURS, vmin=-bound, vmax=bound, aspect="auto")
        for place, (character, _) in enumerate(characters):
            if character.isprintable():
                # A pair of $ would be parsed as mathematics.
                axes.text(
                    place % _COLUMNS,
                    place // _COLUMNS,
                    character,
                    ha="center",
                    va="center",
                    family="monospace",
                    size=8,
                    parse_math=False,
                )
        axes.set_title(name, loc="left", size=9)
        axes.set_axis_off()
    return figure
