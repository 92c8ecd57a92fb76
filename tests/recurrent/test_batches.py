"""Batches: every text once, within the limits, texts of about one length together."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recurrent.batches import batches


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 8), st.integers(1, 100), st.none() | st.integers(0, 9))
def test_every_text_once_and_no_batch_too_large(lengths: list[int], size: int, most: int, seed: int | None) -> None:
    given_lengths = np.array(lengths, dtype=np.int64)
    made = list(batches(given_lengths, size, most, None if seed is None else np.random.default_rng(seed)))
    assert sorted(text for batch in made for text in batch.tolist()) == list(range(len(lengths)))
    for batch in made:
        assert 1 <= len(batch) <= size
        assert len(batch) == 1 or len(batch) * given_lengths[batch].max() <= most


def test_little_is_spent_on_padding_and_no_two_epochs_are_alike() -> None:
    lengths = np.random.default_rng(0).integers(1, 1000, 2000)
    generator = np.random.default_rng(1)
    first, second = (list(batches(lengths, 32, 65_536, generator)) for _ in range(2))
    for made in (first, second):
        padded = sum(len(batch) * lengths[batch].max() for batch in made)
        assert padded < 1.25 * lengths.sum()  # batches by chance: 1.9
    assert {tuple(sorted(batch)) for batch in first} != {tuple(sorted(batch)) for batch in second}
    again = list(batches(lengths, 32, 65_536, np.random.default_rng(1)))
    assert all((one == other).all() for one, other in zip(first, again, strict=True))
