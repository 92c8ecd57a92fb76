"""What an evaluation writes: `report.json`, `report.md` with its tables and figures, and pages of HTML."""

import json
import re
import uuid
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from model.checkpoints.durable import replace_file

JSON, MARKDOWN = "report.json", "report.md"

# Colour-blind safe (Okabe & Ito 2008): blue, vermilion, green, purple, orange, sky.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


@dataclass(frozen=True)
class Table:
    caption: str
    header: list[str]
    rows: list[list[object]]

    def markdown(self) -> str:
        lines: list[list[object]] = [[*self.header], ["---"] * len(self.header), *self.rows]
        return f"{self.caption}\n\n" + "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


@dataclass(frozen=True)
class Report:
    """values: of report.json. figures: by file name without .png. pages: HTML by file name without .html."""

    protocol: str
    values: dict[str, Any]
    tables: list[Table]
    figures: dict[str, Figure] = field(default_factory=dict)
    pages: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # paragraphs of report.md

    def write(self, out: Path, about: dict[str, Any]) -> None:
        """Write all into `out`, report.json last. about: of checkpoint and command; goes before the values."""
        out.mkdir(parents=True, exist_ok=True)
        for name, figure in self.figures.items():
            temporary = out / f".{name}.{uuid.uuid4().hex}.partial"
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box stands for the character
                    figure.savefig(temporary, format="png", dpi=150)
                temporary.replace(out / f"{name}.png")
            finally:
                temporary.unlink(missing_ok=True)
        for name, page in self.pages.items():
            replace_file(out / f"{name}.html", page)
        replace_file(out / MARKDOWN, self._markdown(about))
        whole = {"protocol": self.protocol, **about, **self.values}
        replace_file(out / JSON, json.dumps(whole, indent=1, allow_nan=False) + "\n")

    def _markdown(self, about: dict[str, Any]) -> str:
        facts = [f"- {name}: {value}" for name, value in about.items()]
        parts = [f"# {self.protocol}", "\n".join(facts), *(table.markdown() for table in self.tables), *self.notes]
        parts += [f"![{name}]({name}.png)" for name in self.figures]
        parts += [f"[{name}]({name}.html)" for name in self.pages]
        return "\n\n".join(parts) + "\n"


def embedded(markdown: str, folder: str) -> str:
    """The tables, notes and figures of a `report.md`, for a page whose links reach its directory by `folder`."""
    _, _, body = markdown.split("\n\n", 2)  # its title and the facts about the checkpoint are left out
    return re.sub(r"\]\((\w+\.(?:png|html))\)", rf"]({folder}/\1)", body).strip()


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def plot(x_label: str, y_label: str, width: float = 7.0, height: float = 4.0) -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes; inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _cell(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|")
