"""Options of commands that read files of texts, alike everywhere: `reading_options`, and `Reading`, which they make."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from texts.dialect import Dialect
from texts.faults import Fault, Faults, TextsError
from texts.formats import Format
from texts.labelled import NEGATIVE, POSITIVE, Columns, Labelled, read_labelled
from texts.records import LABEL
from texts.sets import SentimentColumns

F = TypeVar("F", bound=Callable[..., Any])

_DIALECT = (
    click.option("--format", "format_", type=click.Choice(get_args(Format)), help="Default: by content and name."),
    click.option(
        "--delimiter", metavar="CHARACTER", help="Of CSV. Default: a comma; ; or a tab where the header has it."
    ),
    click.option("--quote", metavar="CHARACTER", help="Of CSV; '' for none. Default: \", in TSV none."),
    click.option(
        "--escape", metavar="CHARACTER", help="Before a quote within quotes, such as \\. Default: it is doubled."
    ),
    click.option("--encoding", help="Such as cp1252 or utf-16. Default: UTF-8."),
    click.option(
        "--header/--no-header", default=True, help="Without one, columns are called 1, 2, ... Default: --header."
    ),
    click.option("--strict", is_flag=True, help="Stop at the first record that cannot be used."),
)
_TEXT = click.option(
    "--text-field",
    metavar="NAME",
    help="Column or key, as in review.text. Default: `text`, or the only one.",
)
_LABEL = click.option("--label-field", metavar="NAME", default=LABEL, show_default=True, help="Of the label.")
_CLASSES = (
    click.option("--negative", metavar="VALUES", help=f"Labels that are negative. Default: {','.join(NEGATIVE)}."),
    click.option("--positive", metavar="VALUES", help=f"Labels that are positive. Default: {','.join(POSITIVE)}."),
)


class Reading:
    """How the files of a command are read; tells what is left out of them."""

    def __init__(
        self, columns: Columns, faults: Faults, negative: str | None = None, positive: str | None = None
    ) -> None:
        self.columns = columns
        self.faults = faults
        self.sentiment = SentimentColumns(columns, _values(negative, NEGATIVE), _values(positive, POSITIVE))

    def labelled(self, path: Path) -> Labelled:
        """Raises TextsError."""
        return read_labelled(path, self.faults, self.columns)

    def of_sentiment(self, path: Path) -> Labelled:
        """With labels 0 and 1. Raises TextsError."""
        return self.sentiment.read(path, self.faults)


def reading_options(text: bool = True, label: bool = False, classes: bool = False) -> Callable[[F], F]:
    """Hands a command its `reading: Reading`; an error of texts ends the command with its message.

    text, label, classes: whether there is an option for the field of texts, that of labels, and what labels mean.
    """

    def add(command: F) -> F:
        @wraps(command)
        def with_reading(*args: Any, **options: Any) -> Any:
            try:
                dialect = Dialect(
                    options.pop("format_"),
                    *(options.pop(name) for name in ("delimiter", "quote", "escape", "encoding", "header")),
                )
                faults = Faults(_tell, options.pop("strict"))
                columns = Columns(
                    options.pop("text_field") if text else None,
                    options.pop("label_field") if label else LABEL,
                    dialect,
                )
                named = {name: options.pop(name) for name in ("negative", "positive") if classes}
                result = command(*args, reading=Reading(columns, faults, **named), **options)
            except TextsError as error:
                raise click.ClickException(str(error)) from error
            if faults.untold:
                click.echo(f"left out: {faults.untold:,} more", err=True)
            return result

        chosen = (*((_TEXT,) if text else ()), *((_LABEL,) if label else ()), *(_CLASSES if classes else ()), *_DIALECT)
        for option in reversed(chosen):
            with_reading = option(with_reading)
        return with_reading  # type: ignore[return-value]

    return add


def _tell(fault: Fault) -> None:
    click.echo(f"left out: {fault}", err=True)


def _values(given: str | None, default: tuple[str, ...]) -> tuple[str, ...]:
    return default if given is None else tuple(value for part in given.split(",") if (value := part.strip()))
