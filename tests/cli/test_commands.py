"""docs/cli.md lists every command of `neuron` with the line of its help."""

from collections.abc import Iterator

import click

from cli.main import COMMANDS, main
from tests.cli.conftest import ROOT

_WHOLE = 200  # characters of a help line; click cuts a longer one with dots


def table() -> str:
    rows = [f"| `neuron {name}` | {line} |" for name, line in commands(main)]
    return "\n".join(["| command | what it does |", "|---|---|", *rows])


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, str]]:
    """Every command with its line, groups before what is in them."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield path + name, COMMANDS[name][1] if group is main else command.get_short_help_str(_WHOLE)
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")


def test_the_page_lists_every_command() -> None:
    assert f"\n\n{table()}\n" in (ROOT / "docs" / "cli.md").read_text(), f"docs/cli.md must hold this table:\n{table()}"


def test_no_line_is_cut() -> None:
    assert [name for name, line in commands(main) if line.endswith("...")] == []


def test_commands_of_groups_are_listed() -> None:
    names = [name for name, _ in commands(main)]
    assert len(names) == len(set(names)) > len(COMMANDS)
    assert {"up", "corpus build", "checkpoint fetch", "bench engine", "key new"} < set(names)
