"""`neuron bench`: the measurements behind this project's numbers, on this machine."""

import click

from benchmarks.cells import cells
from benchmarks.training import training


@click.group()
def bench() -> None:
    """Measure speed on this machine, as ratios in one run."""


bench.add_command(training)
bench.add_command(cells)
