"""Options that several commands of `neuron evaluate` share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cli.checkpoint_option import checkpoint_option
from cli.pooling_option import pooling_option
from cli.reading_options import Reading, reading_options
from evaluation.sets import Sets

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)
_DTYPES = ["auto", "float32", "bfloat16"]


def _options(*chosen: Callable[[F], F]) -> Callable[[F], F]:
    def add(command: F) -> F:
        for option in reversed(chosen):
            command = option(command)
        return command

    return add


cache_option = click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/features"),
    show_default=True,
    help="Cache of features, by checkpoint and texts, and of what `showdown` measured; may be deleted at any time.",
)
checkpoint_options = _options(
    click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Directory."),
    checkpoint_option,
    cache_option,
    click.option("--dtype", type=click.Choice(_DTYPES), default="auto", show_default=True, help="Of the products."),
)
model_options = _options(checkpoint_options, pooling_option)
column_options = reading_options(label=True)
train_option = click.option("--train", required=True, type=FILE, help="Labelled texts.")
valid_option = click.option("--valid", type=FILE, help="What C is chosen on; without it, folds of --train.")
test_option = click.option("--test", required=True, type=FILE, help="What accuracy is measured on, and nothing else.")
part_options = _options(train_option, valid_option, test_option, column_options)
folds_option = click.option(
    "--folds",
    type=click.IntRange(1, 5),
    default=5,
    show_default=True,
    help="Without --valid: how many of five parts of --train are held out in turn. 1 is five times as fast.",
)
data_option = click.option("--data", required=True, type=DIRECTORY, help="Directory of the set's files.")


def parts_of(options: dict[str, Any]) -> tuple[Callable[[], Sets], dict[str, Any]]:
    """A function that reads the parts, and the other options."""
    reading: Reading = options.pop("reading")
    parts = {name: options.pop(name) for name in ("train", "valid", "test")}
    return lambda: Sets(**{name: path and reading.labelled(path) for name, path in parts.items()}), options
