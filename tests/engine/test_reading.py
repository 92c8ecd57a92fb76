"""`read_features` gives every text the vector it would have alone, in the order of the texts, whatever the batch."""

import tracemalloc
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine import reading
from engine.folded import FoldedModel
from engine.reading import read_features, read_texts
from model.heads.pooling import Pooling, pool
from model.network.language_model import Architecture, LanguageModel
from tests.support.exact import mean_hidden
from tests.support.examples import examples
from texts.preparation import prepare

UNITS = 16


def language_model(cell: str = "mlstm") -> LanguageModel:
    model = LanguageModel(Architecture(cell, UNITS, 6))  # type: ignore[arg-type]
    model.reset(torch.Generator().manual_seed(0), embedding_std=1.0)
    return model


def folded(cell: str = "mlstm") -> FoldedModel:
    return FoldedModel(language_model(cell), dtype=torch.float32)


MODEL = folded()


def read_alone(model: FoldedModel, text: bytes) -> NDArray[np.float32]:
    state = model.zero_state(1)
    for byte in text:
        state = model.step(torch.tensor([byte]), state)
    cell: NDArray[np.float32] = state.cell[0].numpy()
    return cell


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=12), st.integers(1, 14))
@settings(deadline=None, max_examples=examples(40))
def test_every_text_in_its_own_place(texts: list[bytes], rows: int) -> None:
    features = read_features(MODEL, texts, rows=rows)
    assert features.dtype == np.float32
    assert features.shape == (len(texts), UNITS)
    for text, found in zip(texts, features, strict=True):
        np.testing.assert_allclose(found, read_alone(MODEL, text), rtol=0, atol=1e-5)


@pytest.mark.parametrize("cell", ["mlstm", "lstm", "gru"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_the_mean_is_that_of_every_byte_of_the_text(cell: str, dtype: torch.dtype, tolerance: float) -> None:
    model, texts = language_model(cell), [prepare(text) for text in ("a long text, rather", "short", "", "middle one")]
    features = read_features(FoldedModel(model, dtype=dtype), texts, "mean", rows=3)
    assert features.dtype == np.float32
    for text, found in zip(texts, features, strict=True):
        np.testing.assert_allclose(found, mean_hidden(model, text), rtol=0, atol=tolerance)


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=12), st.integers(1, 14))
@settings(deadline=None, max_examples=examples(20))
def test_a_mean_is_the_same_to_the_bit_in_any_batch(texts: list[bytes], rows: int) -> None:
    alone = [read_features(MODEL, [text], "mean")[0] for text in texts]
    np.testing.assert_array_equal(read_features(MODEL, texts, "mean", rows=rows), alone)


def test_one_reading_gives_what_every_pooling_needs() -> None:
    texts = [prepare(text) for text in ("a long text, rather", "short", "", "middle one")]
    seen: list[int] = []
    cells, means = read_texts(MODEL, texts, rows=3, on_progress=seen.append)
    assert seen == [3, 1]
    for pooling in get_args(Pooling):
        np.testing.assert_array_equal(pool(cells, means, pooling), read_features(MODEL, texts, pooling, rows=3))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_other_cells(cell: str) -> None:
    model, texts = folded(cell), [prepare(text) for text in ("a long text, rather", "short", "", "middle one")]
    features = read_features(model, texts, rows=3)
    for text, found in zip(texts, features, strict=True):
        np.testing.assert_allclose(found, read_alone(model, text), rtol=0, atol=1e-5)


def test_many_texts_of_one_length() -> None:
    texts = [f"{number:04d}".encode() for number in range(50)]
    features = read_features(MODEL, texts, rows=16)
    np.testing.assert_allclose(features[37], read_alone(MODEL, texts[37]), rtol=0, atol=1e-5)
    assert len(np.unique(features.round(4), axis=0)) == 50


def test_one_long_text_among_short_ones_takes_no_memory_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_PART_STEPS", 64)
    texts = [bytes(range(256)) * 4, bytes(64), bytes(65), *[b"short"] * 997]
    tracemalloc.start()
    features = read_features(MODEL, texts, rows=1000)
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most_bytes < 2e6  # a number for each step and row takes 8 MB
    for number in (0, 1, 2, 999):
        np.testing.assert_allclose(features[number], read_alone(MODEL, texts[number]), rtol=0, atol=1e-5)


def test_a_text_of_no_bytes_is_the_zero_state() -> None:
    features = read_features(MODEL, [b"", b"abc", b""])
    assert not features[[0, 2]].any()
    np.testing.assert_allclose(features[1], read_alone(MODEL, b"abc"), rtol=0, atol=1e-5)
    assert not read_features(MODEL, [b""]).any()
    means = read_features(MODEL, [b"", b"abc"], "mean")
    assert not means[0].any()
    assert means[1].any()


def test_no_texts() -> None:
    assert read_features(MODEL, []).shape == (0, UNITS)


def test_progress_counts_every_text_once() -> None:
    finished: list[int] = []
    read_features(MODEL, [b"x" * length for length in range(1, 24)], rows=10, on_progress=finished.append)
    assert finished == [10, 10, 3]


def test_pooling_names_raw_cell_its_tanh_or_the_mean() -> None:
    cell = np.array([[-2.0, 0.0, 0.5, 3.0]], dtype=np.float32)
    mean = np.array([[-0.5, 0.25, 0.5, 0.75]], dtype=np.float32)
    for given_mean in (mean, None):
        np.testing.assert_array_equal(pool(cell, given_mean, "cell"), cell)
        np.testing.assert_allclose(pool(cell, given_mean, "tanh"), np.tanh(cell.astype(np.float64)), rtol=1e-6)
    np.testing.assert_array_equal(pool(cell, mean, "mean"), mean)
    with pytest.raises(ValueError, match="not read"):
        pool(cell, None, "mean")
