"""`neuron bench recipes`: sizes, rates, batches and optimizers of training, compared in equal time on one corpus.

A recipe is the options of one `neuron train`. The recipe that learns most from each byte may lose in equal time to one
that reads more bytes, so every recipe gets the same time.
"""

import shlex
from pathlib import Path
from typing import Any

import click

from benchmarks import contest, report
from trainer.command import train
from trainer.run.distributed import ALONE
from trainer.run.options import Options


@click.command()
@click.option("--recipe", "recipes", multiple=True, required=True, help="Options of `neuron train`. Repeatable.")
@click.option("--corpus", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--common", default="", help="Options of `neuron train` that all recipes begin with.")
@click.option("--seconds", default=240.0, show_default=True, help="Training time of each run.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures to this file.")
def recipes(recipes: tuple[str, ...], corpus: Path, common: str, seconds: float, path: Path | None) -> None:
    """Train by each recipe for equal time, and rank them by held-out bits per byte.

    For example: --recipe '--optimizer adam' --recipe '--optimizer muon --lanes 128'
    """
    entries = [(recipe, options(f"{common} {recipe}", corpus)) for recipe in recipes]
    results = contest.hold(entries, seconds)
    for result in sorted(results, key=lambda result: result["validation_bits_per_byte"]):
        click.echo(
            f"{result['validation_bits_per_byte']:.4f} bits per byte held out, {result['bits_per_byte']:.4f} in the "
            f"last tenth, after {result['bytes'] / 1e6:.2f} MB in {result['seconds']:.0f} s: {result['label']}"
        )
    machine = report.machine(ALONE.device(entries[0][1].device))
    report.write(path, {"seconds": seconds, "common": common, "runs": results, "machine": machine})


def options(flags: str, corpus: Path) -> Options:
    """What `neuron train --corpus CORPUS` would make of `flags`."""
    params: dict[str, Any] = train.make_context("recipe", ["RUN", *shlex.split(flags)]).params
    given = {name: params[name] for name in Options.__dataclass_fields__ if params.get(name) is not None}
    if "start_from" in given:
        given["start_from"] = str(given["start_from"])
    return Options(**given | {"corpus": str(corpus)})
