"""`--heads`, the option of commands that read or write the directory of fitted heads."""

from pathlib import Path

import click

heads_option = click.option(
    "--heads",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of heads. Default: where a worker that serves the same keeps them.",
)
