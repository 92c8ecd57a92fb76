"""Choosing the next byte: temperature, top-k, top-p, greedy, with a draw per row independent of its neighbours.

Draw number n of seed s is a hash of (s, n): counter-based, as Salmon et al. 2011 argue for parallel use. So a row's
draws depend on its own seed and position alone, and any of them can be made again without the ones before.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Choice:
    """How each row of a batch chooses its next byte, (rows,) each."""

    seed: Tensor  # int64
    position: Tensor  # int64: number of the draw
    temperature: Tensor  # float32; below 1e-4 is greedy
    top_k: Tensor  # int64, at least 1; 256 keeps every byte
    top_p: Tensor  # float32; 1 keeps every byte


# Colder than this, dividing by it could overflow, and the likeliest byte is as good as certain anyway.
_GREEDY_BELOW = 1e-4


def uniform(seed: Tensor, position: Tensor) -> Tensor:
    """Draw `position` of `seed`, float64 in [0, 1): splitmix64's finalizer (Steele et al. 2014), twice."""
    # int64 arithmetic wraps like uint64; its right shift copies the sign, so the copies are masked off.
    mixed = _mix(_mix(seed + _GOLDEN_GAMMA) + (position + 1) * _GOLDEN_GAMMA)
    return _shift(mixed, 11).double() * 2.0**-53


def sample(logits: Tensor, choice: Choice) -> tuple[Tensor, Tensor]:
    """The chosen byte and its log-probability (nats) under the model itself, (rows,) each.

    logits: (rows, 256) float32. The log-probability is that at temperature 1 with nothing cut off, so that samples
    drawn in different ways can be compared.
    """
    log_probability = torch.log_softmax(logits, dim=1)
    greedy = choice.temperature < _GREEDY_BELOW
    scaled = logits / torch.where(greedy, 1.0, choice.temperature)[:, None]
    ordered, order = scaled.sort(dim=1, descending=True, stable=True)
    probability = torch.softmax(ordered.double(), dim=1)
    rank = torch.arange(logits.shape[1], device=logits.device)
    before = probability.cumsum(dim=1) - probability
    # The first byte always stays, however small top_p is.
    keep = (rank < choice.top_k[:, None]) & ((before < choice.top_p[:, None].double()) | (rank == 0))
    keep &= ~greedy[:, None] | (rank == 0)
    cumulative = (probability * keep).cumsum(dim=1)
    threshold = uniform(choice.seed, choice.position)[:, None] * cumulative[:, -1:]
    place = (cumulative <= threshold).sum(dim=1, keepdim=True)
    last_kept = keep.sum(dim=1, keepdim=True) - 1
    byte = order.gather(1, torch.minimum(place, last_kept))
    return byte[:, 0], log_probability.gather(1, byte)[:, 0]


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


_GOLDEN_GAMMA = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _shift(value: Tensor, bits: int) -> Tensor:
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mix(value: Tensor) -> Tensor:
    value = (value ^ _shift(value, 30)) * _MIX_1
    value = (value ^ _shift(value, 27)) * _MIX_2
    return value ^ _shift(value, 31)
