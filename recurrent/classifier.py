"""A fitted network with its vocabulary and labels, and how one is made: `Recurrent`, `fit`."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from recurrent import targets
from recurrent.learning import ROWS, Epoch, Labelled, Learner, read
from recurrent.network import Network
from recurrent.options import OptionError, Options
from recurrent.targets import Answers, Kind
from recurrent.tokens import Ragged, Vocabulary, Words, vocabulary

Label = str | int | float | bool

MAX_PARAMETERS = 10**9  # of a network: 4 GB

_AT_ONCE = 8192  # texts whose tokens are held at once


@dataclass
class Recurrent:
    """labels: the classes in the order of the outputs; none where the answer is a number."""

    options: Options
    kind: Kind
    labels: list[Label]
    vocabulary: Vocabulary
    network: Network
    center: float = 0.0  # of numbers: outputs are (value - center) / spread
    spread: float = 1.0
    examples: int = 0  # texts that were learned from; of `partial_fit`, those of every call
    held_out: int = 0  # texts that chose the epoch
    history: list[Epoch] = field(default_factory=list)
    created: float = field(default_factory=time.time)  # Unix time in seconds
    cut: int = 0  # of the texts that were learned from, those longer than `max_tokens`

    @property
    def best(self) -> Epoch | None:
        """The pass that was kept; None where no texts were held out to choose it."""
        scored = [epoch for epoch in self.history if epoch.valid_loss is not None]
        return min(scored, key=lambda epoch: epoch.valid_loss or 0.0, default=None)

    @classmethod
    def new(
        cls,
        options: Options,
        kind: Kind,
        labels: list[Label],
        texts: Sequence[str],
        y: Answers,
        seed: int,
        device: str,
    ) -> "Recurrent":
        """One that knows the words of the texts and how numbers are spread, and has learned nothing else.

        y: (texts,), as of `labelled`. device: "auto", "cpu" or "cuda". Raises OptionError.
        """
        known = vocabulary(options, texts)
        if isinstance(known, Words) and not known.words:
            raise OptionError(
                f"no word is in min_df={options.min_df} or more of the {len(texts):,} texts: lower min_df"
            )
        with torch.device("meta"):  # else torch would draw weights from its own generator
            network = Network(options, known.size, targets.outputs_of(kind, len(labels)))
        if network.size > MAX_PARAMETERS:
            raise OptionError(
                f"the network would have {network.size:,} parameters, more than the {MAX_PARAMETERS:,} allowed: lower "
                "units, embedding, layers or max_features"
            )
        network.to_empty(device="cpu").reset(torch.Generator().manual_seed(seed))
        model = cls(options, kind, labels, known, network.to(chosen_device(device)))
        if kind == "value":
            model.center, model.spread = float(y.mean()), targets.deviation(y) or 1.0
        return model

    def outputs(self, texts: Sequence[str], advance: Callable[[int], None] | None = None) -> NDArray[np.float32]:
        """(texts, outputs): log-odds, or a number. advance: gets the number of texts just read."""
        parts = [
            read(self.network, Ragged.of(texts[begin : begin + _AT_ONCE], self.vocabulary), ROWS, advance)
            for begin in range(0, len(texts), _AT_ONCE)
        ]
        return np.concatenate(parts) if parts else np.empty((0, self.network.dense.out_features), dtype=np.float32)

    def probabilities(self, texts: Sequence[str], advance: Callable[[int], None] | None = None) -> Answers:
        """(texts, labels)."""
        return targets.probabilities(self.kind, self.outputs(texts, advance))

    def values(self, texts: Sequence[str], advance: Callable[[int], None] | None = None) -> Answers:
        """(texts,), where the answer is a number."""
        return self.outputs(texts, advance)[:, 0].astype(np.float64) * self.spread + self.center

    def labelled(
        self, texts: Sequence[str], y: Answers, weights: Answers | None = None, whole: bool = False
    ) -> Labelled:
        """Texts to learn from, or `whole` to judge by. y: (texts,), classes by their number, or numbers."""
        ragged = Ragged.of(texts, self.vocabulary, None if whole else self.options.max_tokens)
        self.cut += ragged.cut
        return Labelled(ragged, (y - self.center) / self.spread if self.kind == "value" else y, weights)


def chosen_device(name: str) -> str:
    """Raises ValueError."""
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is {name!r}, not one of auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', and torch finds no CUDA device here: use 'cpu' or 'auto'")
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def fit(
    options: Options,
    kind: Kind,
    labels: list[Label],
    texts: Sequence[str],
    y: Answers,
    weights: Answers | None = None,
    seed: int = 0,
    device: str = "auto",
    advance: Callable[[int], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Recurrent:
    """y: as of `Recurrent.labelled`; weights: (texts,), of their losses.

    The vocabulary is that of the texts that are learned from. advance: gets the number of texts just learned from.
    Raises DivergedError.
    """
    train, valid = split(kind, y, options.validation_fraction, seed)
    chosen = [texts[number] for number in train]
    model = Recurrent.new(options, kind, labels, chosen, y[train], seed, device)
    model.examples, model.held_out = len(train), len(valid)
    parts = [None if weights is None else weights[part] for part in (train, valid)]
    learned = model.labelled(chosen, y[train], parts[0])
    held_out = model.labelled([texts[number] for number in valid], y[valid], parts[1], whole=True)
    model.history = Learner(model.network, kind, options, seed).fit(
        learned, held_out if len(valid) else None, advance, on_epoch
    )
    return model


def split(kind: Kind, y: Answers, fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the texts to learn from and to hold out: of every class this fraction, but never the last text."""
    generator = np.random.default_rng(seed)
    groups = [np.arange(len(y))] if kind == "value" else [np.flatnonzero(y == label) for label in np.unique(y)]
    held = [generator.permutation(group)[: min(int(fraction * len(group)), len(group) - 1)] for group in groups]
    valid = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(y)), valid), valid
