"""Samples follow the distribution that was asked for, and a row's draw is its own: no neighbour can change it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from engine.sampling import Choice, sample, uniform
from tests.support.examples import examples

Floats = NDArray[np.float64]


def choice(
    rows: int,
    seed: int | Tensor = 0,
    position: int | Tensor = 0,
    temperature: float = 1.0,
    top_k: int = 256,
    top_p: float = 1.0,
) -> Choice:
    return Choice(
        seed=torch.as_tensor(seed).expand(rows).clone(),
        position=torch.as_tensor(position).expand(rows).clone(),
        temperature=torch.full((rows,), temperature),
        top_k=torch.full((rows,), top_k),
        top_p=torch.full((rows,), top_p),
    )


def random_logits(rows: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(rows, 256, generator=torch.Generator().manual_seed(seed))


def softmax(logits: Tensor, temperature: float = 1.0) -> Floats:
    z = logits.double().numpy() / temperature
    weights = np.exp(z - z.max(axis=-1, keepdims=True))
    probabilities: Floats = weights / weights.sum(axis=-1, keepdims=True)
    return probabilities


def draws(logits: Tensor, count: int, **how: float) -> NDArray[np.int64]:
    """`count` draws from one row of logits, each with its own seed."""
    byte, _ = sample(logits.expand(count, 256), choice(count, seed=torch.arange(count), **how))  # type: ignore[arg-type]
    drawn: NDArray[np.int64] = byte.numpy()
    return drawn


def assert_follows(drawn: NDArray[np.int64], probabilities: Floats) -> None:
    """Chi-square over the bytes that are expected at least five times, all others together."""
    assert (probabilities[drawn] > 0).all()
    expected = len(drawn) * probabilities
    counts = np.bincount(drawn, minlength=256)
    often = expected >= 5
    observed = np.append(counts[often], counts[~often].sum())
    wanted = np.append(expected[often], expected[~often].sum())
    used = wanted > 1e-9
    assert used.sum() >= 2
    statistic = ((observed[used] - wanted[used]) ** 2 / wanted[used]).sum()
    assert stats.chi2.sf(statistic, used.sum() - 1) > 1e-4


def test_greedy_takes_the_highest_whatever_the_seed() -> None:
    logits = random_logits(200)
    for seed in range(5):
        byte, _ = sample(logits, choice(200, seed=seed, temperature=0.0))
        assert torch.equal(byte, logits.argmax(dim=1))
    tie = torch.zeros(1, 256)
    assert int(sample(tie, choice(1, temperature=0.0))[0]) == 0  # the first of equals


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_many_seeds_follow_the_softmax(temperature: float) -> None:
    logits = random_logits(1, seed=1)
    assert_follows(draws(logits, 40_000, temperature=temperature), softmax(logits[0], temperature))


def test_many_positions_follow_the_softmax() -> None:
    logits, count = random_logits(1, seed=2), 40_000
    byte, _ = sample(logits.expand(count, 256), choice(count, seed=7, position=torch.arange(count)))
    assert_follows(byte.numpy(), softmax(logits[0]))


@pytest.mark.parametrize("top_k", [1, 2, 10])
def test_top_k_keeps_the_k_likeliest(top_k: int) -> None:
    logits = random_logits(1, seed=3, scale=1.0)
    drawn = draws(logits, 20_000, top_k=top_k)
    kept = np.argsort(-logits[0].numpy(), kind="stable")[:top_k]
    assert set(drawn) == set(kept)
    if top_k > 1:
        probabilities = np.zeros(256)
        probabilities[kept] = softmax(logits[0])[kept]
        assert_follows(drawn, probabilities / probabilities.sum())


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9])
def test_top_p_keeps_the_fewest_that_reach_it(top_p: float) -> None:
    logits = random_logits(1, seed=4, scale=2.0)
    probabilities = softmax(logits[0])
    order = np.argsort(-probabilities)
    fewest = int(np.searchsorted(probabilities[order].cumsum(), top_p)) + 1
    kept = order[:fewest]
    drawn = draws(logits, 40_000, top_p=top_p)
    assert set(drawn) <= set(kept)
    cut = np.zeros(256)
    cut[kept] = probabilities[kept]
    if fewest > 1:
        assert_follows(drawn, cut / cut.sum())
    else:
        assert set(drawn) == set(kept)


def test_the_likeliest_byte_always_stays() -> None:
    logits = random_logits(50, seed=5, scale=0.1)
    for top_p in (0.0, 1e-9):
        byte, _ = sample(logits, choice(50, seed=torch.arange(50), top_p=top_p))
        assert torch.equal(byte, logits.argmax(dim=1))


def test_top_p_looks_at_the_probabilities_after_temperature() -> None:
    logits = torch.full((1, 256), -30.0)
    logits[0, :4] = torch.tensor([3.0, 2.0, 1.0, 0.0])
    hot, cold = softmax(logits[0], 5.0), softmax(logits[0], 0.25)
    assert hot[0] < 0.5 < cold[0]
    assert len(set(draws(logits, 500, temperature=5.0, top_p=0.5))) == 2
    assert set(draws(logits, 500, temperature=0.25, top_p=0.5)) == {0}


@given(st.integers(0, 10_000), st.lists(st.integers(0, 99), min_size=1, max_size=30))
@settings(deadline=None, max_examples=examples(60))
def test_a_draw_depends_on_its_own_row_alone(seed: int, places: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = random_logits(100, seed=seed)
    everyone = Choice(
        seed=torch.randint(0, 2**62, (100,), generator=generator),
        position=torch.randint(0, 5000, (100,), generator=generator),
        temperature=torch.rand(100, generator=generator).mul(2.0).masked_fill(torch.arange(100) % 7 == 0, 0.0),
        top_k=torch.randint(1, 257, (100,), generator=generator),
        top_p=torch.rand(100, generator=generator),
    )
    byte, log_probability = sample(logits, everyone)
    some = torch.tensor(places)
    chosen = Choice(*(getattr(everyone, name)[some] for name in Choice.__dataclass_fields__))
    again, log_again = sample(logits[some], chosen)
    assert torch.equal(again, byte[some])
    torch.testing.assert_close(log_again, log_probability[some], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(1.0, 256, 1.0), (0.3, 5, 0.9), (0.0, 256, 1.0)])
def test_log_probability_is_that_of_the_model_itself(temperature: float, top_k: int, top_p: float) -> None:
    logits = random_logits(300, seed=6)
    byte, found = sample(logits, choice(300, torch.arange(300), 0, temperature, top_k, top_p))
    expected = np.log(softmax(logits))[np.arange(300), byte.numpy()]
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-4)


def test_impossible_bytes_are_never_drawn() -> None:
    logits = torch.full((1, 256), float("-inf"))
    logits[0, [65, 200]] = 0.0
    assert_follows(draws(logits, 5_000), softmax(logits[0]))
    drawn = draws(logits, 5_000)
    assert set(drawn) == {65, 200}


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**40))
@settings(deadline=None, max_examples=examples(300))
def test_uniform_lies_below_one(seed: int, position: int) -> None:
    value = uniform(torch.tensor([seed]), torch.tensor([position]))
    assert value.dtype == torch.float64
    assert 0.0 <= float(value) < 1.0


@pytest.mark.parametrize("stride", [1, 2**32, 0x4F1BBCDCBFA53E0B])
def test_uniform_is_uniform_over_seeds_and_positions(stride: int) -> None:
    count = torch.arange(100_000)
    bound = 2.2 / len(count) ** 0.5  # Kolmogorov: exceeded once in about 8,000 samples
    over_positions = uniform(torch.full_like(count, 42), count)
    over_seeds = uniform(count * stride, torch.full_like(count, 3))
    diagonal = uniform(count, count)
    for values in (over_positions, over_seeds, diagonal):
        assert stats.kstest(values.numpy(), "uniform").statistic < bound
        assert len(values.unique()) == len(values)
        # Neighbours know nothing of each other.
        assert abs(np.corrcoef(values[:-1].numpy(), values[1:].numpy())[0, 1]) < 0.02


def test_seeds_and_positions_are_not_interchangeable() -> None:
    grid = torch.arange(300)
    seed, position = grid.repeat_interleave(300), grid.repeat(300)
    assert len(uniform(seed, position).unique()) == 90_000


def test_a_sample_can_be_drawn_again() -> None:
    logits = random_logits(64, seed=8)
    chosen = choice(64, seed=torch.arange(64), position=9)
    first, second = sample(logits, chosen), sample(logits, chosen)
    assert torch.equal(first[0], second[0])
    other, _ = sample(logits, choice(64, seed=torch.arange(64), position=10))
    assert not torch.equal(first[0], other)
