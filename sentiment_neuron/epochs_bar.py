"""`epochs_bar`: how far the fit of a recurrent network is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from recurrent.learning import Epoch
from sentiment_neuron.bars import bars

Advance = Callable[[int], None] | None
OnEpoch = Callable[[Epoch], None] | None


@contextmanager
def epochs_bar(shown: bool, epochs: int, texts: int) -> Iterator[tuple[Advance, OnEpoch]]:
    """Progress on stderr: a bar, and a line after every pass."""
    if not shown:
        yield None, None
        return
    console = Console(stderr=True, highlight=False)
    with bars("texts", console) as bar:
        task = bar.add_task("", total=epochs * texts)

        def on_epoch(epoch: Epoch) -> None:
            line = f"epoch {epoch.number} of {epochs}: loss {epoch.loss:.4f}"
            if epoch.valid_loss is not None:
                line += f", held out {epoch.valid_loss:.4f}, score {epoch.valid_score:.4f}"
            console.print(f"{line}, {epoch.seconds:,.0f} s", soft_wrap=True)
            bar.update(task, completed=epoch.number * texts)

        yield lambda count: bar.advance(task, count), on_epoch
