"""`python monitoring/dashboard.py`: write the Grafana dashboard, grafana/dashboards/sentiment-neuron.json.

A panel is a line here; what it asks Prometheus is asked of a real one by tests/operations.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "grafana" / "dashboards" / "sentiment-neuron.json"
_SOURCE = {"type": "prometheus", "uid": "prometheus"}
_WIDTH, _HEIGHT = 8, 7  # of a panel; a dashboard is 24 wide


@dataclass(frozen=True)
class Panel:
    """expressions: PromQL by the legend of what they give. unit: as Grafana names it."""

    title: str
    unit: str
    expressions: dict[str, str]
    kind: str = "timeseries"
    about: str = ""


def _quantiles(metric: str, by: str = "") -> dict[str, str]:
    labels, legend = (f"le, {by}", f" {{{{{by}}}}}") if by else ("le", "")
    buckets = f"sum by ({labels}) (rate({metric}_bucket[$__rate_interval]))"
    return {f"p{percent}{legend}": f"histogram_quantile({percent / 100}, {buckets})" for percent in (50, 99)}


def _rate(metric: str, by: str) -> dict[str, str]:
    return {f"{{{{{by}}}}}": f"sum by ({by}) (rate({metric}[$__rate_interval]))"}


ROWS: dict[str, list[Panel]] = {
    "Traffic": [
        Panel("Requests", "reqps", {"{{route}} {{status}}": "neuron:requests:rate1m"}),
        Panel("Jobs accepted", "ops", _rate("neuron_accepted_jobs_total", "kind")),
        Panel(
            "Refused and cancelled",
            "ops",
            {
                "refused: {{reason}}": "sum by (reason) (rate(neuron_refused_requests_total[$__rate_interval]))",
                "cancelled: {{reason}}": "sum by (reason) (rate(neuron_cancelled_jobs_total[$__rate_interval]))",
            },
        ),
    ],
    "Latency": [
        Panel("Requests: median", "s", {"{{route}}": "neuron:request_seconds:p50"}),
        Panel("Requests: p99", "s", {"{{route}}": "neuron:request_seconds:p99"}),
        Panel("Wait in the queue", "s", _quantiles("neuron_queue_wait_seconds", "queue")),
    ],
    "Queue": [
        Panel("Jobs that wait", "short", {"{{queue}}": "neuron:queue_jobs:max"}),
        Panel("Age of the oldest", "s", {"{{queue}}": "neuron:queue_age_seconds:max"}),
        Panel(
            "Redelivered, given back, given up",
            "short",
            {
                "redelivered: {{reason}}": "sum by (reason) (increase(neuron_redeliveries_total[5m]))",
                "given back: {{reason}}": "sum by (reason) (increase(neuron_given_back_total[5m]))",
                "dead letters": "max(neuron_dead_jobs)",
            },
        ),
    ],
    "Engine": [
        Panel(
            "Rows a step",
            "short",
            {
                "{{instance}}": "sum by (instance) (rate(neuron_step_rows_sum[$__rate_interval]))"
                " / sum by (instance) (rate(neuron_step_rows_count[$__rate_interval]))"
            },
        ),
        Panel("Bytes a second", "Bps", {"{{kind}}": "neuron:bytes:rate1m"}),
        Panel(
            "Share of the ceiling",
            "percentunit",
            {
                "{{instance}}": "sum by (instance) (rate(neuron_bytes_total[$__rate_interval]))"
                " / on (instance) neuron_engine_ceiling_bytes_per_second"
            },
            about="Of the bytes a second that full steps would give, as long as steps take lately.",
        ),
        Panel(
            "Rows in the engine",
            "short",
            {"active {{instance}}": "neuron_rows_active", "waiting {{instance}}": "neuron_rows_waiting"},
        ),
        Panel("Time of a step", "s", _quantiles("neuron_step_seconds")),
        Panel("Last moved", "s", {"{{instance}}": "neuron_engine_age_seconds"}),
        Panel("Prefixes found in the cache", "ops", _rate("neuron_prefix_cache_lookups_total", "outcome")),
        Panel(
            "Memory",
            "bytes",
            {
                "{{instance}} {{job}}": 'process_resident_memory_bytes{job=~"api|worker|trainer"}',
                "device {{instance}}": "neuron_device_memory_bytes",
            },
        ),
        Panel(
            "Jobs ended",
            "ops",
            {"{{kind}} {{state}}": "sum by (kind, state) (rate(neuron_jobs_total[$__rate_interval]))"},
        ),
    ],
    "Generation": [
        Panel("Streams that are read", "short", {"streams": "sum(neuron_open_streams)"}),
        Panel("Time to the first character", "s", _quantiles("neuron_first_character_seconds")),
        Panel("Between characters", "s", _quantiles("neuron_between_characters_seconds")),
    ],
    "Model": [
        Panel("Model served", "short", {"{{name}} step {{step}}": "count by (name, step) (neuron_model_info)"}, "stat"),
        Panel("Workers ready", "short", {"workers": "max(neuron_workers_ready)"}, "stat"),
        Panel("Reloads", "short", {"{{outcome}}": "sum by (outcome) (increase(neuron_reloads_total[1h]))"}),
    ],
    "Training": [
        Panel("Bits per byte", "short", {"{{split}}": "neuron_training_bits_per_byte"}),
        Panel("Bytes a second in training", "Bps", {"{{instance}}": "neuron_training_bytes_per_second"}),
        Panel("Share of the peak (MFU)", "percentunit", {"{{instance}}": "neuron_training_mfu_ratio"}),
        Panel("Gradient norm", "short", {"{{instance}}": "neuron_training_gradient_norm"}),
        Panel("Learning rate", "sci", {"{{instance}}": "neuron_training_learning_rate"}),
        Panel("Published", "short", {"{{outcome}}": "sum by (outcome) (neuron_training_publishes_total)"}),
    ],
}


def dashboard() -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    y = 0
    for row, members in ROWS.items():
        panels.append(
            {"type": "row", "title": row, "id": len(panels) + 1, "collapsed": False, "panels": []}
            | {"gridPos": {"x": 0, "y": y, "w": 24, "h": 1}}
        )
        y += 1
        for number, panel in enumerate(members):
            at = {"x": number % 3 * _WIDTH, "y": y + number // 3 * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}
            panels.append(_panel(panel, len(panels) + 1, at))
        y += (len(members) + 2) // 3 * _HEIGHT
    return {
        "uid": "sentiment-neuron",
        "title": "Sentiment Neuron",
        "schemaVersion": 41,
        "tags": [],
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "panels": panels,
    }


def _panel(panel: Panel, number: int, at: dict[str, int]) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": expression, "legendFormat": legend}
        for index, (legend, expression) in enumerate(panel.expressions.items())
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "gridPos": at,
        "targets": targets,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {},
    }


def main() -> None:
    FILE.write_text(json.dumps(dashboard(), indent=1) + "\n")


if __name__ == "__main__":
    main()
