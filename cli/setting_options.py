"""Options of the commands that serve, each another way to give a setting: `setting_option`."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def setting_option(option: str, setting: str, **attributes: Any) -> Callable[[F], F]:
    """An option whose value is put into the environment as `setting`, which this process and its children read."""

    def give(_context: click.Context, _parameter: click.Parameter, value: object) -> None:
        if value is not None:
            os.environ[setting] = str(value)

    attributes["help"] = f"{attributes['help']} ({setting})"
    return click.option(option, expose_value=False, callback=give, **attributes)


port_option = setting_option("--port", "NEURON_API_PORT", type=click.IntRange(1, 65535), help="Port of the gateway.")
host_option = setting_option("--host", "NEURON_API_HOST", help="Address that the gateway listens on.")
checkpoint_option = setting_option(
    "--checkpoint",
    "NEURON_CHECKPOINT_DIR",
    type=click.Path(exists=True, file_okay=False, resolve_path=True),
    help="Volume of checkpoints, whose LATEST is served.",
)
metrics_port_option = setting_option(
    "--metrics-port", "NEURON_WORKER_METRICS_PORT", type=click.IntRange(0, 65535), help="Port of the worker's metrics."
)
