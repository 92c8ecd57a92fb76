"""What a recurrent classifier is made of and how it is trained: `Options`, which are valid or are not made."""

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from model.checkpoints.untrusted import MAX_NUMBER, is_finite

Tokens = Literal["words", "bytes"]
Cell = Literal["gru", "lstm", "mlstm", "rnn"]
Pooling = Literal["last", "mean", "max"]
Initialization = Literal["orthogonal", "identity", "uniform"]
Optimizer = Literal["sgd", "momentum", "nag", "rmsprop", "adagrad", "adadelta", "adam"]
Schedule = Literal["linear", "constant"]

MAX_UNITS = 16_384
MAX_LAYERS = 16
MAX_FEATURES = 1_000_000
MAX_STEEPNESS = 100

# Of a batch with its padding, where no layer is wider than `_WIDTH`: they bound its memory, some 16 KB a token.
_MOST_TOKENS = 65_536
_WIDTH = 2048

# Texts up to which small batches, whose updates are many, are worth their time.
_FEW = 10_000


# Of these the same network can be trained by others; the rest is what it is made of.
OF_TRAINING = frozenset(
    ("optimizer", "learning_rate", "schedule", "clip", "epochs", "patience", "validation_fraction", "batch_size")
)


class OptionError(ValueError):
    """An option has a value that it cannot have; the message names it, the value and what is allowed."""


@dataclass(frozen=True)
class Options:
    """Raises OptionError when one is made that is not valid."""

    tokens: Tokens = "words"
    min_df: int = 3  # texts that a word must be in to be known
    max_features: int = 100_000  # words that are known at most, those in the most texts
    cell: Cell = "gru"  # rnn: tanh without gates
    embedding: int = 128  # numbers of a token
    units: int = 128  # of a layer and direction
    layers: int = 1
    bidirectional: bool = True  # a second stack of layers reads from the end
    pooling: Pooling = "max"  # of the hidden vectors of a text, which one dense layer then reads
    dropout: float = 0.5  # of what every layer reads, the dense one too
    steepness: float = 1.0  # gates are σ(steepness * a); 3.75 in Radford's slides
    initialization: Initialization = "orthogonal"  # of recurrent matrices
    optimizer: Optimizer = "adam"
    learning_rate: float | None = None  # None: `optimizers.DEFAULTS`
    schedule: Schedule = "linear"  # to zero over all epochs, or constant
    clip: float | None = 1.0  # most norm of an update's gradient; None: not clipped
    epochs: int | None = None  # at most; None: `epochs_for`
    patience: int | None = None  # epochs without a lower validation loss before it stops; None: a quarter, 3 at least
    validation_fraction: float = 0.1  # of the texts, which choose the epoch; 0: all are learned from
    batch_size: int | None = None  # texts of an update, fewer where they are long; None: `batch_size_for`
    max_tokens: int = 8192  # of a text that is learned from: the rest of a longer one is not; all of it is predicted on

    def __post_init__(self) -> None:
        kinds = {
            "tokens": Tokens,
            "cell": Cell,
            "pooling": Pooling,
            "initialization": Initialization,
            "optimizer": Optimizer,
            "schedule": Schedule,
        }
        for name, kind in kinds.items():
            if getattr(self, name) not in get_args(kind):
                raise OptionError(f"{name} is {getattr(self, name)!r}, not one of {', '.join(get_args(kind))}")
        self._whole("min_df", 1)
        self._whole("max_features", 1, MAX_FEATURES)
        self._whole("embedding", 1, MAX_UNITS)
        self._whole("units", 1, MAX_UNITS)
        self._whole("layers", 1, MAX_LAYERS)
        for name in ("epochs", "patience", "batch_size"):
            if getattr(self, name) is not None:
                self._whole(name, 1)
        self._whole("max_tokens", 1)
        if not isinstance(self.bidirectional, bool):
            raise OptionError(f"bidirectional is {self.bidirectional!r}, neither true nor false")
        self._number("dropout", 0, 1)
        self._number("validation_fraction", 0, 1)
        self._number("steepness", 0, MAX_STEEPNESS, above=True)
        for name in ("learning_rate", "clip"):
            if getattr(self, name) is not None:
                self._number(name, 0, above=True)

    @property
    def most_tokens(self) -> int:
        """Of a batch with its padding, by its memory."""
        return _MOST_TOKENS * _WIDTH // max(_WIDTH, self.embedding, 4 * self.units)

    def epochs_for(self, texts: int) -> int:
        """Passes over so many texts, where no other number was given: 1,500 updates, but 3 passes to 50."""
        if self.epochs is not None:
            return self.epochs
        return max(3, min(50, round(1500 * self.batch_size_for(texts) / max(1, texts))))

    def batch_size_for(self, texts: int) -> int:
        """Texts of an update where so many are learned from, if no other number was given: 16, or 32 of many."""
        if self.batch_size is not None:
            return self.batch_size
        return 16 if texts <= _FEW else 32

    def _whole(self, name: str, least: int, most: int | None = None) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least or (most and value > most):
            upper = f" to {most:,}" if most else " or more"
            raise OptionError(f"{name} is {value!r}, not a whole number of {least}{upper}")

    def _number(self, name: str, least: float, below: float | None = None, above: bool = False) -> None:
        value = getattr(self, name)
        low = not is_finite(value) or value < least or (above and value == least)
        if low or (below is not None and value >= below):
            lower = f"above {least:g}" if above else f"of {least:g} or more"
            upper = f"up to {MAX_NUMBER:g}" if below is None else f"below {below:g}"
            raise OptionError(f"{name} is {value!r}, not a number {lower} and {upper}")


def parse(raw: dict[str, Any]) -> Options:
    """Options from JSON that anybody may have written. Raises OptionError."""
    known = {field.name for field in fields(Options)}
    if wrong := sorted(raw.keys() ^ known):
        raise OptionError(f"options that are unknown or missing: {', '.join(wrong)}")
    return Options(**raw)
