"""Fitting a network: passes over labelled texts, and the pass that was best on texts held out."""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from recurrent import targets
from recurrent.batches import batches
from recurrent.network import Network
from recurrent.optimizers import optimizer
from recurrent.options import Options
from recurrent.targets import Kind
from recurrent.tokens import Ragged

MAX_PARAMETER = 1e5  # a larger one has diverged, and is not stored

ROWS = 64  # texts side by side where nothing is learned

_WARM_UP = 100  # updates over which the learning rate rises, where it later falls


class DivergedError(Exception):
    """The loss is not a number any more."""


@dataclass(frozen=True)
class Labelled:
    """Texts and what the network is to answer to each."""

    texts: Ragged
    y: NDArray[np.float64]  # (texts,): the number of its class, or its value
    weights: NDArray[np.float64] | None = None  # (texts,) of the losses

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Epoch:
    """One pass. score: accuracy, or R²; of a pass without texts held out, None as the loss."""

    number: int
    loss: float
    valid_loss: float | None
    valid_score: float | None
    seconds: float


def read(
    network: Network,
    texts: Ragged,
    size: int,
    advance: Callable[[int], None] | None = None,
    check: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """The network's outputs, (texts, outputs) float32, in the order of the texts.

    size: texts of a batch. check: as `Network.forward` calls it.
    """
    outputs = np.empty((len(texts.lengths), network.dense.out_features), dtype=np.float32)
    device = network.dense.weight.device
    network.eval()
    with torch.no_grad():
        for chosen in batches(texts.lengths, size, network.options.most_tokens):
            tokens, lengths = (torch.from_numpy(part).to(device) for part in texts.padded(chosen))
            outputs[chosen] = network(tokens, lengths, check).cpu().numpy()
            if advance is not None:
                advance(len(chosen))
    return outputs


class Learner:
    """A network in training. The same calls give the same network on a CPU, if no other thread draws meanwhile.

    Dropout draws from torch's own generator, which all threads share; it is left as it was found.
    """

    def __init__(self, network: Network, kind: Kind, options: Options, seed: int) -> None:
        self.network = network
        self._kind = kind
        self._options = options
        self._seed = seed
        self._passes = 0
        self._optimizer = optimizer(options.optimizer, network.parameters(), options.learning_rate)
        self._rate = float(self._optimizer.param_groups[0]["lr"])

    def pass_over(
        self,
        part: Labelled,
        advance: Callable[[int], None] | None = None,
        fraction: Callable[[int], float] = lambda _update: 1.0,
    ) -> float:
        """Learn from every text once; the mean loss. fraction: of the learning rate, by the number of the update.

        Raises DivergedError, and ValueError where no text has any weight.
        """
        if part.weights is not None and not part.weights.any():
            raise ValueError("all weights are 0, so there is nothing to learn")
        generator = np.random.default_rng([self._seed, self._passes])
        self._passes += 1
        device = self.network.dense.weight.device
        total, weight = 0.0, 0.0
        self.network.train()
        with _seeded(int(generator.integers(2**63)), device):
            for update, chosen in enumerate(self._batches(part, generator)):
                for group in self._optimizer.param_groups:
                    group["lr"] = self._rate * fraction(update)
                tokens, lengths = (torch.from_numpy(found).to(device) for found in part.texts.padded(chosen))
                y = torch.from_numpy(part.y[chosen]).to(device)
                weights = np.ones(len(chosen)) if part.weights is None else part.weights[chosen]
                each = targets.losses(self._kind, self.network(tokens, lengths), y)
                loss = (each * torch.from_numpy(weights).to(each)).sum() / len(chosen)
                self._optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                if self._options.clip is not None:
                    nn.utils.clip_grad_norm_(self.network.parameters(), self._options.clip)
                self._optimizer.step()
                total, weight = total + float(loss.detach()) * len(chosen), weight + float(weights.sum())
                if not np.isfinite(total):
                    raise DivergedError(
                        f"the loss is not a number after {update + 1:,} updates of pass {self._passes}: lower "
                        f"learning_rate ({self._rate:g}) or clip ({self._options.clip})"
                    )
                if advance is not None:
                    advance(len(chosen))
        self.network.forget()
        largest = max(float(parameter.detach().abs().max()) for parameter in self.network.parameters())
        if not largest <= MAX_PARAMETER:
            raise DivergedError(
                f"a weight is {largest:.3g} after pass {self._passes}, more than {MAX_PARAMETER:g}: lower "
                f"learning_rate ({self._rate:g})"
            )
        return total / weight

    def _batches(self, part: Labelled, generator: np.random.Generator | None = None) -> Iterator[NDArray[np.int64]]:
        return batches(
            part.texts.lengths, self._options.batch_size_for(len(part)), self._options.most_tokens, generator
        )

    def fit(
        self,
        train: Labelled,
        valid: Labelled | None,
        advance: Callable[[int], None] | None = None,
        on_epoch: Callable[[Epoch], None] | None = None,
    ) -> list[Epoch]:
        """All epochs, or fewer where `valid` gets no better; the network is then that of the best. Raises as above."""
        began = time.monotonic()
        options = self._options
        updates = sum(1 for _ in self._batches(train))
        epochs = options.epochs_for(len(train))
        patience = options.patience or max(3, epochs // 4)
        history: list[Epoch] = []
        best, kept, waited = np.inf, None, 0
        for number in range(1, epochs + 1):
            done = (number - 1) * updates
            loss = self.pass_over(train, advance, partial(self._fraction, epochs * updates, done))
            valid_loss, valid_score = (None, None) if valid is None else self._evaluate(valid)
            epoch = Epoch(number, loss, valid_loss, valid_score, time.monotonic() - began)
            history.append(epoch)
            if on_epoch is not None:
                on_epoch(epoch)
            if valid_loss is None:
                continue
            if valid_loss < best:
                best, waited, kept = valid_loss, 0, copy.deepcopy(self.network.state_dict())
                continue
            waited += 1
            if waited >= patience:
                break
        if kept is not None:
            self.network.load_state_dict(kept)
        return history

    def _fraction(self, total: int, done: int, update: int) -> float:
        """Of the learning rate. There may be some updates more or fewer than `total`."""
        if self._options.schedule == "constant":
            return 1.0
        update += done
        return max(0.0, min(1.0, (update + 1) / min(_WARM_UP, total)) * (1 - update / total))

    def _evaluate(self, valid: Labelled) -> tuple[float, float]:
        outputs = read(self.network, valid.texts, ROWS)
        each = targets.losses(self._kind, torch.from_numpy(outputs).double(), torch.from_numpy(valid.y))
        weights = None if valid.weights is None or not valid.weights.any() else valid.weights
        return float(np.average(each.numpy(), weights=weights)), targets.score(self._kind, outputs, valid.y)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's own generators, which dropout draws from, start from `seed`; afterwards they are as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
