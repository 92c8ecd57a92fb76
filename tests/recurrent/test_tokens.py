"""Words and bytes of texts, and many texts in one array."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recurrent.options import Options
from recurrent.tokens import UNKNOWN, Bytes, Ragged, Words, split, vocabulary
from texts.preparation import prepare


def test_words_are_lower_case_and_signs_stand_alone() -> None:
    assert split("Don't STOP!! It's 5.5/10 &amp; caf\u00e9\u2019s") == [
        "don't", "stop", "!", "!", "it's", "5", ".", "5", "/", "10", "&", "caf\u00e9\u2019s",
    ]  # fmt: skip
    assert split("One.<br /><BR/>Two\nthree") == ["one", ".", "two", "three"]
    assert split(" \n ") == []


def test_a_mark_belongs_to_the_letter_before_it() -> None:
    assert split("फिल्म अच्छी है।") == ["फिल्म", "अच्छी", "है", "।"]
    assert split("E\u0301te\u0301, d'e\u0301te\u0301") == ["\xe9t\xe9", ",", "d'\xe9t\xe9"]


def test_words_of_enough_texts_are_known_the_most_frequent_first() -> None:
    texts = ["b a a a", "b c", "c b d", "a"]
    assert Words.of(texts, min_df=2, max_features=100).words == ("b", "a", "c")
    assert Words.of(texts, min_df=2, max_features=2).words == ("b", "a")
    assert Words.of(texts, min_df=1, max_features=100).words == ("b", "a", "c", "d")
    words = Words.of(texts, min_df=2, max_features=100)
    assert words.size == 4
    assert words.encode("A z b").tolist() == [2, UNKNOWN, 1]
    assert words.encode("").tolist() == [UNKNOWN]


def test_bytes_are_those_that_the_language_model_reads() -> None:
    known = vocabulary(Options(tokens="bytes"), [])
    assert isinstance(known, Bytes)
    assert bytes(known.encode("Caf\u00e9").tolist()) == prepare("Caf\u00e9")


@given(st.lists(st.text("ab ", max_size=12), max_size=8), st.integers(1, 4))
def test_texts_come_back_from_the_array(texts: list[str], most: int) -> None:
    words = Words(["a", "b"])
    whole = [words.encode(text) for text in texts]
    ragged = Ragged.of(texts, words, most)
    assert ragged.cut == sum(len(text) > most for text in whole)
    assert ragged.lengths.tolist() == [min(most, len(text)) for text in whole]
    if texts:
        tokens, lengths = ragged.padded(np.arange(len(texts)))
        for row, (text, length) in enumerate(zip(whole, lengths, strict=True)):
            assert tokens[:length, row].tolist() == text[:most].tolist()
            assert not tokens[length:, row].any()
