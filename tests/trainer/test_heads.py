"""The heads of a checkpoint: what each stands for, and that the texts it is fitted to are the right ones."""

import numpy as np
import pytest

from engine.folded import FoldedModel
from model.heads.checks import HeadError
from model.heads.classifier import head_probabilities
from model.heads.unit import Calibration
from tests.support.carrier import UNIT, carrier
from trainer.publishing.examples import Examples
from trainer.publishing.heads import SENTIMENT, HeadSpec, Read, Rows, fit, judged

SENTIMENT3 = HeadSpec.parse("sentiment3:negative=1,2,- neutral=3 positive=4,5,+")


def test_a_spec_as_it_is_written() -> None:
    assert SENTIMENT3.name == "sentiment3"
    assert SENTIMENT3.labels == {"negative": ("1", "2", "-"), "neutral": ("3",), "positive": ("4", "5", "+")}
    assert SENTIMENT3.values == {"1", "2", "3", "4", "5", "+", "-"}
    useful = HeadSpec.parse("useful:1=4,5 0=1,2")
    assert [useful.label_of(value) for value in ("1", "5", "0")] == [1, 0, 1]  # what is listed goes before a name
    assert [SENTIMENT3.label_of(value) for value in ("2", "3", "+", "positive", "6")] == [0, 1, 2, 2, None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sentiment", "write NAME:LABEL=VALUE,VALUE"),
        ("sentiment:negative=1", "two labels or more"),
        ("sentiment:negative=1 positive=", "write NAME:"),
        ("sentiment:negative=1 negative=2", "write NAME:"),
        ("sentiment:negative=1 positive", "write NAME:"),
        ("sentiment:negative=1,2 positive=2,3", "a value stands for two labels"),
        ("Sentiment:negative=1 positive=5", "a name is 1 to 64 of a-z"),
        ("sentiment:=1 positive=5", "a label is empty or not text"),
        ("sentiment:neg\x1bative=1 positive=5", "a label is empty or not text"),
    ],
)
def test_what_is_not_a_spec(text: str, message: str) -> None:
    with pytest.raises(HeadError, match=message):
        HeadSpec.parse(text)


def read(rows: int, seed: int) -> Read:
    """Texts of two sources whose mark is the sign of their label: 1, 2 and - against 4, 5 and +; 3 has none."""
    draw = np.random.default_rng(seed)
    values = [["1", "2", "-", "3", "4", "5", "+", "?"][number % 8] for number in range(rows)]
    marks = ["-" if value in "12-" else "+" if value in "45+" else "=" for value in values]
    texts = [f"\n text {mark} {draw.integers(1000)} ".encode() for mark in marks]
    sources = [("films", "books")[number // 8 % 2] for number in range(rows)]
    return Read.by(FoldedModel(carrier()), Examples(texts, values, sources, of_corpus=True), None)


def test_a_head_is_fitted_to_the_texts_that_have_its_labels() -> None:
    train, valid, test = read(160, 1), read(80, 2), read(80, 3)
    for spec, rows in ((SENTIMENT3, 70), (HeadSpec.parse("sentiment:negative=1,2 positive=4,5"), 40)):
        head = judged(fit(spec, train, valid, "80 texts"), spec, test, Calibration(UNIT, 1, 0.0, 1.0))
        assert head.labels == list(spec.labels)
        assert head.metrics["train_accuracy"] > 0.95
        assert head.metrics["test_accuracy"] > 0.95
        assert head.calibration is not None
        assert (head.calibration.rows, head.calibration.data) == (rows, "80 texts")
        assert 0 <= head.metrics["test_calibration_error"] < 0.2
        assert ("test_accuracy_unit" in head.metrics) == (head.labels == ["negative", "positive"])
    assert head.metrics["test_accuracy_unit"] == head.metrics["test_unit_agreement"] == 1.0
    probabilities = head_probabilities(head, test.labelled(spec).features(head.pooling))
    assert (probabilities.argmax(axis=1) == test.labelled(spec).labels).all()


def test_the_labels_of_a_corpus_source_weigh_the_same() -> None:
    labels, sources = np.array([0, 0, 0, 1, 1, 1]), np.array(["a", "a", "a", "a", "b", "b"])
    none = np.zeros((6, 1), np.float32)
    # The second source has one label, which says nothing of it.
    assert Rows(none, none, labels, sources, True).balance == pytest.approx([4 / 6, 4 / 6, 4 / 6, 2, 0, 0])
    one, skewed = np.full(6, "a"), np.array([0, 0, 0, 0, 0, 1])
    assert Rows(none, none, skewed, one, True).balance == pytest.approx([0.6] * 5 + [3])
    # A labelled file is as it was made; and of sources of one label each, none says which weigh more.
    assert Rows(none, none, skewed, one, False).balance == pytest.approx(np.ones(6))
    assert Rows(none, none, labels, np.array(["a", "a", "a", "b", "b", "b"]), True).balance == pytest.approx(np.ones(6))


def test_no_text_has_a_label_of_the_head() -> None:
    with pytest.raises(HeadError, match="head sentiment: none of 8 texts has one of its labels"):
        read(8, 1).labelled(SENTIMENT)
