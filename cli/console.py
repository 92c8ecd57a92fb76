"""What commands print: `console` for stdout, and `on_terminal` for who types."""

import sys

import click
from rich.console import Console


def console() -> Console:
    """stdout; a line is never cut or wrapped by us, so that what a pipe gets does not depend on a width."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def on_terminal(words: str) -> None:
    """Say something to whoever types what stdin is read from."""
    if sys.stdin.buffer.isatty():
        click.echo(words, err=True)
