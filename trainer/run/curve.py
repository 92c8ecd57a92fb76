"""The curve of a run's losses: `draw_curve`, from its log."""

import contextlib
import json
from pathlib import Path
from typing import Any

CURVE = "curve.png"
_FIELDS = {"bits_per_byte": "training", "validation_bits_per_byte": "held out"}
_WARMING = 0.02  # the share of a run whose high losses would flatten the rest


def draw_curve(directory: Path) -> Path | None:
    """Draw bits per byte against bytes, as `curve.png` in the run's directory.

    None if there is nothing to draw, or no matplotlib to draw with. Raises OSError where it cannot be written.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - optional
    except ModuleNotFoundError:
        return None
    records = updates(directory / "log.jsonl")
    if not records:
        return None
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for field, label in _FIELDS.items():
        points = [(record["bytes_seen"] / 1e6, record[field]) for record in records if record.get(field) is not None]
        axes.plot(*zip(*points, strict=True), label=label, linewidth=1, marker="." if len(points) < 30 else "")
    settled = [record["bits_per_byte"] for record in records[int(_WARMING * len(records)) :]]
    highest = max((value for value in settled if value is not None), default=8.0)
    axes.set(xlabel="MB read", ylabel="bits per byte", ylim=(None, highest + 0.05))
    axes.grid(alpha=0.3)
    axes.legend()
    path = directory / CURVE
    figure.savefig(path, dpi=150)
    return path


def updates(log: Path) -> list[dict[str, Any]]:
    """The records of updates, by bytes: those after a snapshot that a crash went back to are the later ones.

    A process that was killed may have left a part of a line, which is left out.
    """
    found: list[dict[str, Any]] = []
    for line in log.read_text().splitlines():
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if "bytes_seen" in record:
                while found and found[-1]["bytes_seen"] > record["bytes_seen"]:
                    found.pop()
                found.append(record)
    return found
