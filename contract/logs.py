"""The log of every process: lines of text or, with NEURON_LOG_FORMAT=json, of JSON with a field for each value.

In JSON each job that ends has a line: its id, kind, state, model, sizes, and durations. In text it has none.
"""

import logging
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

JOBS = logging.getLogger("neuron.jobs")


def set_up(form: Literal["text", "json"]) -> None:
    """Log the whole process to standard error."""
    handler = logging.StreamHandler()
    if form == "json":
        names = {"levelname": "level", "name": "logger"}
        fields = ["levelname", "name", "message"]
        handler.setFormatter(JsonFormatter(fields, style=None, rename_fields=names, timestamp="time"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(True)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells whole URLs, and those of webhooks may be secret
    JOBS.setLevel(logging.INFO if form == "json" else logging.WARNING)
