"""A group of commands that knows which command a misspelt one is nearest to: `Group`."""

from typing import Any

import click

from contract.names import did_you_mean


class Group(click.Group):
    """Of every group here."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            ctx.fail(f"There is no command {name!r}{did_you_mean(name, self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)
