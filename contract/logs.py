"""How every process logs: a line of text, or (NEURON_LOG_FORMAT=json) of JSON, in which what a line knows is a field.

Each job that ends has a line in JSON: its id, kind, state, model, sizes, and where its time went. Text leaves it out.
"""

import logging
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

JOBS = logging.getLogger("neuron.jobs")


def set_up(form: Literal["text", "json"]) -> None:
    """For the whole process, on standard error."""
    handler = logging.StreamHandler()
    if form == "json":
        names = {"levelname": "level", "name": "logger"}
        fields = ["levelname", "name", "message"]
        handler.setFormatter(JsonFormatter(fields, style=None, rename_fields=names, timestamp="time"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(True)
    JOBS.setLevel(logging.INFO if form == "json" else logging.WARNING)
