"""`python monitoring/render.py PROMETHEUS_URL MINUTES FILE.png`: panels of the dashboard, drawn from real data."""

import json
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from monitoring.dashboard import ROWS, Panel

SHOWN = ("Requests", "Requests: p99", "Wait in the queue", "Rows a step", "Bytes a second", "Between characters")
_STEP_S = 5


def series(url: str, expression: str, minutes: float) -> list[dict[str, Any]]:
    """What Prometheus answers for the last minutes: label sets with their values."""
    now = time.time()
    asked = {"query": expression.replace("$__rate_interval", "30s"), "step": _STEP_S, "end": now}
    asked["start"] = now - 60 * minutes
    with urllib.request.urlopen(f"{url}/api/v1/query_range?{urllib.parse.urlencode(asked)}") as answer:  # noqa: S310 - its URL is the caller's
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found


def draw(axes: Any, panel: Panel, url: str, minutes: float) -> None:
    for legend, expression in panel.expressions.items():
        for found in series(url, expression, minutes):
            label = legend
            for name, value in found["metric"].items():
                label = label.replace(f"{{{{{name}}}}}", value)
            start = found["values"][0][0]
            axes.plot([at - start for at, _ in found["values"]], [float(y) for _, y in found["values"]], label=label)
    axes.set_title(f"{panel.title} ({panel.unit})", fontsize=9, loc="left")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("s", fontsize=7)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=6, frameon=False)


def main() -> None:
    url, minutes, path = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3])
    panels = [panel for row in ROWS.values() for panel in row if panel.title in SHOWN]
    figure, grid = plt.subplots(2, 3, figsize=(12, 5), layout="constrained")
    for axes, panel in zip(grid.flat, panels, strict=True):
        draw(axes, panel, url, minutes)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
