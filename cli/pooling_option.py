"""`--pooling`, the option of every command that makes feature vectors."""

import click

POOLINGS = ("cell", "tanh", "mean")

pooling_option = click.option(
    "--pooling",
    type=click.Choice(POOLINGS),
    default="cell",
    show_default=True,
    help="The final cell, its tanh, or the mean of the hidden vector over all bytes.",
)
