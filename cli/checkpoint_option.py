"""`--checkpoint`, the option of every command that runs a model by itself."""

from pathlib import Path

import click

from model.checkpoints import volumes

checkpoint_option = click.option(
    "--checkpoint",
    "directory",
    type=click.Path(path_type=Path),
    default=volumes.SHIPPED,
    show_default="the shipped model",
    help="A checkpoint's directory, or a volume: then what its LATEST names.",
)
