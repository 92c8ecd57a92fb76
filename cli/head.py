"""`neuron head`: its options. What its commands do is in cli/own_heads.py, which loads what runs a model."""

from pathlib import Path
from typing import Any

import click

from cli.checkpoint_option import checkpoint_option
from cli.groups import Group
from cli.heads_option import heads_option
from cli.pooling_option import POOLINGS
from cli.reading_options import reading_options
from cli.reported import reported


@click.group(cls=Group)
def head() -> None:
    """Classifiers of your own: fit them on labelled texts, list and delete them, without a server."""


@head.command("fit")
@click.argument("source", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", required=True, help="What `neuron classify --head` calls it.")
@click.option("--unit-only", is_flag=True, help="The single most telling unit and a threshold, for two labels.")
@click.option(
    "--pooling",
    type=click.Choice(POOLINGS),
    help="Features to fit on, as `neuron featurize` makes them. Default: mean; for --unit-only cell.",
)
@checkpoint_option
@heads_option
@click.option("--rows", type=click.IntRange(1), default=128, show_default=True, help="Texts read side by side.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer of POST /heads.")
@reading_options(label=True)
@reported()
def fit(**options: Any) -> None:
    """Fit a head on the labelled texts of FILE.

    All units with L1, C by cross-validation. It belongs to the checkpoint whose features it was fitted on.
    """
    from cli.own_heads import fit_head

    fit_head(**options)


@head.command("list")
@checkpoint_option
@heads_option
@click.option("--json", "as_json", is_flag=True, help="Print the answer of GET /heads.")
@reported()
def list_(directory: Path, heads: Path | None, as_json: bool) -> None:
    """The heads that were fitted, a line each, and whether they are of the checkpoint."""
    from cli.own_heads import list_heads

    list_heads(directory, heads, as_json)


@head.command("delete")
@click.argument("name")
@checkpoint_option
@heads_option
@reported()
def delete(name: str, directory: Path, heads: Path | None) -> None:
    """Delete a head for good."""
    from cli.own_heads import delete_head

    delete_head(name, directory, heads)
