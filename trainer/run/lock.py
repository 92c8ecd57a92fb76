"""The lock of a run or a fine-tuning: who holds it, alone changes its options and trains it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from model.checkpoints.durable import exclusively
from trainer.run.options import TrainingError

_PATIENCE_S = 10.0  # for a former process of the run to end


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold `directory/lock`. Raises TrainingError where another process goes on holding it."""
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusively(directory / "lock", _PATIENCE_S))
        except TimeoutError as error:
            raise TrainingError(f"{error}: it trains there, wait for it or stop it") from error
        yield
