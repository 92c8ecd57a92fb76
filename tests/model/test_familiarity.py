"""Limits of bits per byte: what a share of texts of a length stays below, and between lengths."""

import numpy as np
import pytest

from model.heads.familiarity import Familiarity, find_limits

POSITIONS = np.arange(3, 512, 2)


def test_a_limit_is_what_most_texts_of_a_length_stay_below() -> None:
    draw = np.random.default_rng(0)
    lengths = np.array([20] * 3000 + [100] * 5000 + [600] * 1000)
    bits = draw.normal(2.0, 1.0, (9000, len(POSITIONS))).astype(np.float32)
    for row, length in zip(bits, lengths, strict=True):
        row[length <= POSITIONS] = np.nan
    found = find_limits(bits, POSITIONS, lengths, "a test")
    assert found is not None
    assert (found.lengths, found.share, found.data) == ([16, 32, 64], 0.99, "a test")
    assert found.texts == [9000, 6000, 6000]
    # Means of 7, 15 and 31 numbers: the fewer, the wider they are spread.
    expected = [2.0 + 2.33 / np.sqrt(count) for count in (7, 15, 31)]
    assert found.bits == pytest.approx(expected, abs=0.06)
    by_hand = np.quantile(bits[lengths >= 32][:, POSITIONS < 32].mean(axis=1), 0.99)
    assert found.bits[1] == pytest.approx(by_hand)


def test_too_few_texts_give_none() -> None:
    bits = np.ones((1999, len(POSITIONS)), dtype=np.float32)
    assert find_limits(bits, POSITIONS, np.full(1999, 600), "") is None
    assert find_limits(np.ones((3000, len(POSITIONS)), np.float32), POSITIONS, np.full(3000, 10), "") is None


def test_between_lengths_and_beyond_them() -> None:
    familiarity = Familiarity([16, 64], [4.0, 3.0], 0.99, [1000, 900], "")
    assert familiarity.limit(15) is None
    assert [familiarity.limit(length) for length in (16, 32, 64, 10**6)] == pytest.approx([4.0, 3.5, 3.0, 3.0])
