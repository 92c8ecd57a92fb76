"""`neuron bench`: the measurements behind this project's numbers, on this machine."""

import click

from benchmarks.cells import cells
from benchmarks.engine import engine
from benchmarks.long_texts import long_texts
from benchmarks.recipes import recipes
from benchmarks.service import service
from benchmarks.soak import soak
from benchmarks.training import training


@click.group()
def bench() -> None:
    """Measure speed on this machine, as ratios in one run."""


bench.add_command(training)
bench.add_command(cells)
bench.add_command(recipes)
bench.add_command(engine)
bench.add_command(service)
bench.add_command(long_texts)
bench.add_command(soak)
