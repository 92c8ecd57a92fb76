"""`neuron bench`: the measurements behind this project's numbers, on this machine. They are in a checkout alone."""

import importlib
import sys
from pathlib import Path

import click

from cli.groups import Group

_CHECKOUT = Path(__file__).parent.parent  # where the wheel is installed, site-packages
# Each has a command of its name.
_MODULES = ("training", "cells", "recipes", "engine", "service", "long_texts", "rows", "recurrent", "page", "soak")


class _Measurements(Group):
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if not self.commands:
            command = f"neuron bench {cmd_name}"
            raise click.ClickException(
                f"`{command}` needs benchmarks/, which a checkout of the repository has and {_CHECKOUT} has not: clone "
                f"the repository, run `make setup` there, then `.venv/bin/{command}`"
            )
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Measurements)
def bench() -> None:
    """Measure speed on this machine, as ratios in one run. Needs a checkout of the repository."""


# site-packages may hold a package of this name that is not ours.
if (_CHECKOUT / "benchmarks" / "own_engine.py").is_file():
    if str(_CHECKOUT) not in sys.path:
        sys.path.append(str(_CHECKOUT))
    for _module in _MODULES:
        bench.add_command(getattr(importlib.import_module(f"benchmarks.{_module}"), _module))
