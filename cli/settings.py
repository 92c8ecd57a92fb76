"""`neuron settings`: every setting of every process, from the code that reads them.

Laid out for a terminal, or as the Markdown of docs/settings.md.
"""

import json
import shutil
import textwrap
from dataclasses import dataclass
from typing import Literal

import click
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from api.settings import ApiSettings
from contract.settings import PREFIX, ProcessSettings
from worker.settings import WorkerSettings

Format = Literal["terminal", "markdown"]

_MEANING = " " * 4
_MIN_WIDTH = 40  # the longest names take nearly as much


@dataclass(frozen=True)
class _Group:
    """The settings of one process. fields: by their name in the environment."""

    title: str
    sentence: str
    fields: dict[str, FieldInfo]


@click.command()
@click.option("--effective", is_flag=True, help="The values in force in this environment; secrets are masked.")
@click.option("--json", "as_json", is_flag=True, help="Print those as JSON, by process.")
@click.option(
    "--format",
    "layout",
    type=click.Choice(["terminal", "markdown"]),
    default="terminal",
    show_default=True,
    help="markdown: the tables of docs/settings.md.",
)
def settings(effective: bool, as_json: bool, layout: Format) -> None:
    """List every setting (an environment variable), its default and what it trades off."""
    if effective or as_json:
        found = {one.process: one.effective() for one in (ApiSettings(), WorkerSettings())}
        lines = [f"{name}={value}" for name, value in (found["api"] | found["worker"]).items()]
        click.echo(json.dumps(found, indent=2) if as_json else "\n".join(lines))
        return
    click.echo(markdown() if layout == "markdown" else terminal(shutil.get_terminal_size().columns))


def markdown() -> str:
    """A section and a table for each group."""
    return "\n\n".join(_section(group) for group in _groups())


def terminal(width: int) -> str:
    """A paragraph for each setting, its meaning wrapped to `width` characters."""
    return "\n\n".join(_paragraphs(group, max(width, _MIN_WIDTH)) for group in _groups())


def _groups() -> list[_Group]:
    shared = ProcessSettings.model_fields
    groups = (
        (
            "Shared",
            "Gateway and worker both know these: give both the same values. `neuron up` hands its own to both.",
            shared,
        ),
        (
            "Gateway",
            "`neuron api` reads these: where it listens, who may call, and how much a request and the queue may hold.",
            ApiSettings.model_fields,
        ),
        (
            "Worker",
            "`neuron worker` reads these: its device, how rows share a step, and what becomes of jobs and results.",
            WorkerSettings.model_fields,
        ),
    )
    return [
        _Group(
            title,
            sentence,
            {PREFIX + name.upper(): field for name, field in fields.items() if fields is shared or name not in shared},
        )
        for title, sentence, fields in groups
    ]


def _section(group: _Group) -> str:
    lines = [f"## {group.title}", "", group.sentence, "", "| setting | default | meaning |", "|---|---|---|"]
    for name, field in group.fields.items():
        default = _default(field)
        lines.append(f"| `{name}` | {f'`{default}`' if default else 'unset'} | {field.description} |")
    return "\n".join(lines)


def _paragraphs(group: _Group, width: int) -> str:
    paragraphs = [click.style(group.title, bold=True) + "\n" + _wrapped(group.sentence, width)]
    for name, field in group.fields.items():
        default = _default(field)
        paragraphs.append(
            click.style(name, bold=True)
            + (f" = {default}" if default else " (unset)")
            + "\n"
            + _wrapped(field.description or "", width, _MEANING)
        )
    return "\n\n".join(paragraphs)


def _wrapped(text: str, width: int, indent: str = "") -> str:
    """A name is never broken."""
    return textwrap.fill(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _default(field: FieldInfo) -> str:
    """Empty where the setting is unset."""
    return "" if field.default in (None, PydanticUndefined) else str(field.default)
