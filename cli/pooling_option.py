"""`--pooling`, the option of every command that makes feature vectors."""

from typing import get_args

import click

from model.heads.pooling import Pooling

pooling_option = click.option(
    "--pooling",
    type=click.Choice(get_args(Pooling)),
    default="cell",
    show_default=True,
    help="The final cell, its tanh, or the mean of the hidden vector over all bytes.",
)
