"""Heat maps as SVG: letters on a grid, colours under them."""

import re
from xml.etree import ElementTree

import pytest

from heatmaps.cells import Cell, HeatMap, colour
from heatmaps.picture import svg

_SVG = "{http://www.w3.org/2000/svg}"


def drawn(text: str, values: list[float | None] | None = None) -> ElementTree.Element:
    given = values or [0.5] * len(text)
    cells = [Cell(character, value) for character, value in zip(text, given, strict=True)]
    return ElementTree.fromstring(svg(text, [HeatMap(7, True, cells, 0.25, 1.0)], "a model, step 3"))


def glyphs(root: ElementTree.Element) -> list[tuple[str, int, int]]:
    """(letter, column, line) of every one."""
    found = [one for one in root.iter(f"{_SVG}text") if one.get("fill") == "#111"]
    return [(one.text or "", int(one.attrib["x"]) // 10, (int(one.attrib["y"]) - 36) // 28) for one in found]


def test_lines_break_between_words_and_where_the_text_does() -> None:
    root = drawn("aaa " * 25 + "b\nc")
    letters = glyphs(root)
    assert letters[0] == ("a", 0, 0)
    assert next(letter for letter in letters if letter[2] == 1) == ("a", 0, 1)
    assert letters[-2:] == [("b", 20, 1), ("c", 0, 2)]
    assert max(column for _, column, _ in letters) < 80


def test_a_word_longer_than_a_line_goes_on_in_the_next() -> None:
    letters = glyphs(drawn("x" * 200))
    assert [(column, line) for _, column, line in letters] == [(n % 80, n // 80) for n in range(200)]


def test_wide_letters_take_two_columns() -> None:
    assert glyphs(drawn("a中b")) == [("a", 0, 0), ("中", 1, 0), ("b", 3, 0)]


@pytest.mark.parametrize(
    ("text", "columns"), [("&amp;", 5), ("&amp;\u0301", 5), ("\U0001f44d\U0001f3fd", 2), ("e\u0301", 1), ("\u200d", 1)]
)
def test_a_cell_is_as_wide_as_all_that_is_in_it(text: str, columns: int) -> None:
    cells = [Cell(text, 0.5), Cell("b", 0.5)]
    root = ElementTree.fromstring(svg(text + "b", [HeatMap(7, True, cells, 0.25, 1.0)], "a model, step 3"))
    assert glyphs(root)[1] == ("b", columns, 0)


def test_the_blank_at_the_end_of_a_full_line_is_left_out() -> None:
    letters = glyphs(drawn("x" * 80 + "  " + "yy"))
    assert letters[80:] == [("y", 0, 1), ("y", 1, 1)]


def test_words_that_run_from_right_to_left_are_whole_and_mirrored_with_their_colours() -> None:
    text = "ab שלום עולם, cd"
    values = [0.5] * 3 + [1.0] * 4 + [0.5] + [-1.0] * 4 + [0.5] * 4
    root = drawn(text, values)
    words = [one for one in root.iter(f"{_SVG}text") if one.get("direction") == "rtl"]
    assert [(one.text, one.get("x"), one.get("textLength")) for one in words] == [
        ("שלום", "120", "40"),
        ("עולם", "70", "40"),
    ]
    under = {one.get("fill"): one for one in root.iter(f"{_SVG}rect") if one.get("height") == "24"}
    green, red = (under["#{:02x}{:02x}{:02x}".format(*colour(value))] for value in (1, -1))
    assert [(one.get("x"), one.get("width")) for one in (green, red)] == [("80", "40"), ("30", "40")]
    assert glyphs(root)[-3:] == [(",", 12, 0), ("c", 14, 0), ("d", 15, 0)]


@pytest.mark.parametrize("text", ["", " ", "\n\n"])
def test_an_empty_text_has_a_picture(text: str) -> None:
    assert glyphs(drawn(text)) == []


def test_neighbours_of_one_colour_are_one_rectangle() -> None:
    root = drawn("abcd", [1.0, 1.0, -1.0, None])
    under = [one for one in root.iter(f"{_SVG}rect") if one.get("height") == "24"]
    assert [(one.get("x"), one.get("width")) for one in under] == [("0", "20"), ("20", "10")]
    assert [one.get("fill") for one in under] == ["#{:02x}{:02x}{:02x}".format(*colour(value)) for value in (1, -1)]


def test_it_says_what_it_shows_and_needs_nothing_else() -> None:
    cells = [Cell("good", 1.0), Cell(" ", 1.0), Cell("<b>", -0.5)]
    text = svg("good <b>", [HeatMap(7, True, cells, 0.25, 1.0)], "m & n")
    root = ElementTree.fromstring(text)
    assert root.findtext(f"{_SVG}title") == "+0.25 good <b>"
    described = root.findtext(f"{_SVG}desc") or ""
    assert described.startswith("Unit 7, sentiment: +0.25 after the whole text; lowest -0.50 after “<b>”")
    assert "highest +1.00 after “good”" in described
    assert "Model: m & n." in described
    assert not re.search(r"(src|href|@import|url)\s*[=(]", text)
