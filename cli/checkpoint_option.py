"""`--checkpoint`, the option of every command that runs a model by itself."""

from pathlib import Path

import click


def _place(_ctx: click.Context, _param: click.Parameter, given: Path | None) -> Path:
    from model.checkpoints.volumes import SHIPPED

    return SHIPPED if given is None else given


checkpoint_option = click.option(
    "--checkpoint",
    "directory",
    type=click.Path(path_type=Path),
    callback=_place,
    help="A checkpoint's directory, or a volume: then what its LATEST names. Default: the shipped model.",
)
