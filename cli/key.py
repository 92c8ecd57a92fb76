"""`neuron key`: keys for the gateway."""

import click

from api import keys
from cli.groups import Group
from contract.setting_error import SettingError


@click.group(cls=Group)
def key() -> None:
    """Make keys for the gateway."""


@key.command()
@click.option("--name", required=True, help="Whose key it is; keys of one name see the same jobs.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    default=["use"],
    show_default=True,
    type=click.Choice(keys.SCOPES),
    help="What it may do: use (all but the rest), heads (fit and delete heads), metrics (/metrics), admin (everything, "
    "and the jobs of every key). Give it several times for several.",
)
def new(name: str, scopes: tuple[str, ...]) -> None:
    """Print a new key, which is kept nowhere, and its line for NEURON_API_KEYS."""
    secret, digest = keys.generate()
    try:
        entry = keys.entry(name, scopes, digest)
    except SettingError:
        raise click.BadParameter(
            f"{name!r} is not 1 to 64 of letters, digits, '.', '_' and '-'", param_hint="--name"
        ) from None
    click.echo(f"key    {secret}")
    click.echo(f"entry  {entry}")
    click.echo("Give the key to its owner now: it is shown once. Add the entry to NEURON_API_KEYS.", err=True)
