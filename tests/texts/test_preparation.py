"""Preparation is the published one, and `align` leads every prepared byte back to the characters it came from."""

import html
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.examples import examples
from texts.preparation import align, clean, prepare, prepare_prompt

REFERENCES = ["&amp;", "&amp", "&lt;br&gt;", "&#10;", "&#x1F600;", "&nbsp;", "&notit;", "&NotEqualTilde;", "&#1;", "&;"]
REFERENCES += ["&bogus;", "&amp;amp;", "&#xD800;", "&#0;", "& amp;", "&ThickSpace;", "&#"]
PIECES = st.one_of(
    st.text(max_size=6),
    st.sampled_from(REFERENCES),
    st.sampled_from(["\n", " ", "\t", "\r\n", "\u00a0", "\u2028", "😀", "é", "e\u0301", "👩‍🚀", "&", ";", "a"]),
)
TEXTS = st.lists(PIECES, max_size=12).map("".join)


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ("good", b"\n good "),
        ("  good\t\r\n", b"\n good "),
        ("one\ntwo\n\nthree", b"\n one two  three "),
        ("salt &amp; vinegar &lt;3", b"\n salt & vinegar <3 "),
        ("&amp;amp;", b"\n &amp; "),  # unescaped once
        ("a&#10;b", b"\n a b "),  # the newline that a reference stands for is a newline
        ("&nbsp;&nbsp;x&nbsp;", b"\n x "),
        ("caf\u00e9 😀", b"\n caf\xc3\xa9 \xf0\x9f\x98\x80 "),
        ("", b"\n  "),
        (" \n\t ", b"\n  "),
    ],
)
def test_preparation_is_the_published_one(text: str, prepared: bytes) -> None:
    assert prepare(text) == prepared


@given(TEXTS)
@example("&#x110000;&#xD800;&#0;&#128;&notin;&notinva;&amp" + 40 * "x")
@settings(max_examples=300)
def test_references_are_those_of_the_standard_library(text: str) -> None:
    assert clean(text) == html.unescape(text).replace("\n", " ").strip()


@pytest.mark.parametrize(
    ("prompt", "prepared"),
    [
        ("The movie", b"\n The movie"),
        ("The mov", b"\n The mov"),
        ("  The\nmovie &amp; I ", b"\n The movie & I "),  # the caller's own end space says that the next word begins
        ("", b"\n "),
        ("\n\n", b"\n "),
    ],
)
def test_no_end_space_is_put_behind_a_prompt(prompt: str, prepared: bytes) -> None:
    assert prepare_prompt(prompt) == prepared


@given(TEXTS)
@settings(deadline=None)
def test_a_prompt_is_the_text_without_its_end_space(text: str) -> None:
    assert prepare_prompt(text).decode().rstrip() == prepare(text).decode().rstrip()
    assert prepare(text).count(b"\n") == 1  # a newline inside would say that another review begins


@given(TEXTS)
@settings(deadline=None, max_examples=examples(500))
@example("")
@example(" \n ")
@example("&nbsp;")
@example("&#1;")
@example("x&notit; y")
@example("&NotEqualTilde;")
def test_align_spells_the_prepared_bytes(text: str) -> None:
    assert bytes(origin.byte for origin in align(text)) == prepare(text)


@given(TEXTS)
@settings(deadline=None, max_examples=examples(500))
def test_spans_run_forward_inside_the_text(text: str) -> None:
    origins = align(text)
    assert all(0 <= origin.start <= origin.end <= len(text) for origin in origins)
    for before, after in pairwise(origins):
        # Either the bytes of one character or reference, or the next one, never one that overlaps.
        assert (before.start, before.end) == (after.start, after.end) or before.end <= after.start
    for added in (*origins[:2], origins[-1]):
        assert added.start == added.end
    assert all(origin.start < origin.end for origin in origins[2:-1])


@given(TEXTS)
@settings(deadline=None, max_examples=examples(500))
def test_spans_cover_every_character_that_was_not_stripped(text: str) -> None:
    body = align(text)[2:-1]
    if not body:
        assert not html.unescape(text).strip()
        return
    first, last = body[0].start, body[-1].end
    assert not html.unescape(text[:first]).strip()
    assert not html.unescape(text[last:]).strip()
    covered = {place for origin in body for place in range(origin.start, origin.end)}
    missing = sorted(set(range(first, last)) - covered)
    # Only a reference to a character that HTML forbids stands for nothing: "&#1;".
    left_out = "".join(text[place] for place in missing)
    assert html.unescape(left_out) == ""


def test_spans_of_accents_emoji_and_references() -> None:
    assert [(origin.byte, origin.start, origin.end) for origin in align(" é&amp;\n😀x\n")] == [
        (0x0A, 1, 1),
        (0x20, 1, 1),
        (0xC3, 1, 2),
        (0xA9, 1, 2),
        (ord("&"), 2, 7),
        (0x20, 7, 8),
        *[(byte, 8, 9) for byte in "😀".encode()],
        (ord("x"), 9, 10),
        (0x20, 10, 10),
    ]


def test_a_reference_that_only_begins_one_keeps_its_whole_span() -> None:
    body = align("&notit;")[2:-1]
    assert bytes(origin.byte for origin in body) == "¬it;".encode()
    assert {(origin.start, origin.end) for origin in body} == {(0, 7)}
