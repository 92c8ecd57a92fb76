"""`neuron settings`: every setting of every process as a Markdown table, from the code that reads them."""

from collections.abc import Iterator

import click
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from api.settings import ApiSettings
from contract.settings import PREFIX, ProcessSettings
from worker.settings import WorkerSettings


@click.command()
def settings() -> None:
    """List every setting (an environment variable), its default and what it trades off."""
    click.echo(table())


def table() -> str:
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    lines += [f"| `{name}` | {_default(field)} | {field.description} |" for name, field in _fields()]
    return "\n".join(lines)


def _fields() -> Iterator[tuple[str, FieldInfo]]:
    """The shared ones first."""
    shared = ProcessSettings.model_fields
    for fields in (shared, ApiSettings.model_fields, WorkerSettings.model_fields):
        for name, field in fields.items():
            if fields is shared or name not in shared:
                yield PREFIX + name.upper(), field


def _default(field: FieldInfo) -> str:
    if field.default in (None, PydanticUndefined):
        return "unset"
    return f"`{field.default}`"
