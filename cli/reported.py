"""`reported`: an error of the front door ends a command with its message."""

from collections.abc import Iterator
from contextlib import contextmanager

import click


@contextmanager
def reported() -> Iterator[None]:
    """A context, or the decorator next to a command's function. Raises click.ClickException for NeuronError."""
    from sentiment_neuron.errors import NeuronError

    try:
        yield
    except NeuronError as error:
        raise click.ClickException(str(error)) from error
