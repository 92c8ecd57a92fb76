"""`neuron metrics`: every metric of every process as a Markdown table, from the code that sets them."""

from collections.abc import Iterator

import click
from prometheus_client.metrics import MetricWrapperBase

import api.metrics
import worker.metrics
from trainer.run.metrics import Metrics as TrainingMetrics

_SUFFIX = {"counter": "_total"}


@click.command()
def metrics() -> None:
    """List every metric: of which process, its type, labels and meaning."""
    click.echo(table())


def table() -> str:
    lines = ["| metric | of | type | labels | meaning |", "|---|---|---|---|---|"]
    for process, metric in every():
        (described,) = metric.describe()
        labels = ", ".join(f"`{label}`" for label in metric._labelnames)
        name = described.name + _SUFFIX.get(described.type, "")
        lines.append(f"| `{name}` | {process} | {described.type} | {labels} | {described.documentation} |")
    return "\n".join(lines)


def every() -> Iterator[tuple[str, MetricWrapperBase]]:
    """Every metric with the process that has it."""
    for process, module in (("gateway", api.metrics), ("worker", worker.metrics)):
        for name, found in vars(module).items():
            if isinstance(found, MetricWrapperBase) and not name.startswith("_"):
                yield process, found
    for found in TrainingMetrics().every():
        yield "trainer", found
