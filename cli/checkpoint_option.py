"""`--checkpoint`, the option of every command that runs a model by itself, and where the heads of it are."""

from pathlib import Path

import click

from contract.settings import SettingError
from model.checkpoints import volumes
from worker.settings import WorkerSettings

checkpoint_option = click.option(
    "--checkpoint",
    "directory",
    type=click.Path(path_type=Path),
    default=volumes.SHIPPED,
    show_default="the shipped model",
    help="A checkpoint's directory, or a volume: then what its LATEST names.",
)


def heads_directory(directory: Path) -> Path:
    """Where a worker that serves `directory`, a checkpoint or a volume, keeps heads. Raises click.ClickException."""
    try:
        if directory == volumes.SHIPPED:
            return WorkerSettings().heads_dir
    except SettingError as error:
        raise click.ClickException(str(error)) from error
    return (directory if (directory / volumes.LATEST).exists() else directory.parent.parent) / "heads"
