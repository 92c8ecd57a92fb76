"""Heat maps: what colours which character, in a terminal and in HTML."""

import re
from html import unescape
from typing import Any

from heatmaps.cells import Cell, HeatMap, heat_maps, visible
from heatmaps.html import html_fragment, html_page
from sentiment_neuron.terminal import style
from texts.preparation import align

TEXT = ' <script>alert("1 & 2")</script> næsten\n&amp; 👩🏽‍🚀e\u0301\x1b\' '


def traced(text: str, units: list[int], sentiment_unit: int | None = None) -> dict[str, Any]:
    """As a worker answers, the value of unit u after byte number i being i + 100 u, and sentiment -1 / (i + 1)."""
    steps = []
    for number, origin in enumerate(align(text)):
        step: dict[str, Any] = {"byte": origin.byte, "start": origin.start, "end": origin.end}
        step["values"] = [float(number + 100 * unit) for unit in units]
        if sentiment_unit in units:
            step["sentiment"] = -1 / (number + 1)
        steps.append(step)
    return {"units": units, "sentiment_unit": sentiment_unit, "bytes": steps}


def shown(page: str) -> str:
    """The text of the heat map of a page, as a browser shows it."""
    (paragraph,) = re.findall(r'<p class="text"[^>]*>(.*?)</p>', page, re.DOTALL)
    return unescape(re.sub(r"<[^>]*>", "", paragraph))


def test_a_character_takes_the_value_after_its_last_byte() -> None:
    (heat_map,) = heat_maps("aæ🙂b", traced("aæ🙂b", [0]))
    # Bytes 0 and 1 are what begins a review; then 1, 2, 4 and 1 bytes, and 10 is the space at the end.
    assert heat_map.cells == [Cell("a", 2), Cell("æ", 4), Cell("🙂", 8), Cell("b", 9)]
    assert (heat_map.final, heat_map.bound, heat_map.is_sentiment) == (10, 10, False)


def test_references_are_one_cell_and_what_is_not_read_has_no_value() -> None:
    (heat_map,) = heat_maps(" a&amp;b\n", traced(" a&amp;b\n", [0]))
    assert heat_map.cells == [Cell(" ", None), Cell("a", 2), Cell("&amp;", 3), Cell("b", 4), Cell("\n", None)]


def test_joined_characters_stay_together() -> None:
    text = "e\u0301👩🏽‍🚀x"
    (heat_map,) = heat_maps(text, traced(text, [0]))
    assert [cell.text for cell in heat_map.cells] == ["e\u0301", "👩🏽‍🚀", "x"]
    assert heat_map.cells[0].value == 4


def test_the_sentiment_unit_is_calibrated_and_others_are_not() -> None:
    plain, sentiment = heat_maps("ab", traced("ab", [3, 5], sentiment_unit=5))
    assert [cell.value for cell in plain.cells] == [302, 303]
    assert [cell.value for cell in sentiment.cells] == [-1 / 3, -1 / 4]
    assert (plain.bound, sentiment.bound) == (304, 1)
    assert (plain.name, sentiment.name) == ("unit 3", "unit 5, sentiment")


def test_a_unit_that_is_always_zero_has_a_scale() -> None:
    answer = traced("ab", [0])
    for step in answer["bytes"]:
        step["values"] = [0.0]
    (heat_map,) = heat_maps("ab", answer)
    assert heat_map.bound == 1
    assert "nan" not in html_page("ab", [heat_map], "m")


def test_words() -> None:
    cells = [Cell(" ", None), Cell("a", 1.0), Cell("b", 2.0), Cell(" ", 3.0), Cell("\n", 4.0), Cell("c", 5.0)]
    assert HeatMap(0, False, cells, 5.0, 1.0).words == [("ab", 2.0), ("c", 5.0)]
    assert HeatMap(0, False, [], 0.0, 1.0).words == []


def test_visible_leaves_no_control() -> None:
    every = "".join(map(chr, range(0x100)))
    assert len(visible(every)) == len(every)
    assert visible(every).isprintable() or set(visible(every)) - set(every) != set()
    assert not any(ord(character) < 32 or 0x7F <= ord(character) < 0xA0 for character in visible(every))


def test_the_scale_runs_from_red_over_grey_to_green() -> None:
    def rgb(value: float) -> tuple[int, int, int]:
        background = style(value, 2.0).bgcolor
        assert background is not None
        assert background.triplet is not None
        return background.triplet

    assert len(set(rgb(0))) == 1
    assert rgb(-2)[0] > rgb(-2)[1]
    assert rgb(2)[1] > rgb(2)[0]
    assert rgb(-5) == rgb(-2)
    assert rgb(-2)[1] < rgb(-1)[1] < rgb(0)[1]


def test_html_escapes_every_character() -> None:
    maps = heat_maps(TEXT, traced(TEXT, [0]))
    page = html_page(TEXT, maps, "<model>")
    assert shown(page) == TEXT.replace("\x1b", "␛")
    assert "<script" not in page
    assert "<model>" not in page
    spans = dict(re.findall(r'<span[^>]*title="([^"]*)">([^<]*)</span>', page))
    assert spans["+2.000"] == "&lt;"
    assert "&amp;amp;" in spans.values()
    assert "👩🏽‍🚀" in spans.values()
    assert "&#34;" in spans.values()


def test_html_needs_nothing_else() -> None:
    text = "It was fine"
    page = html_page(text, heat_maps(text, traced(text, [3, 5], 5)), "m")
    assert not re.search(r"(src|href|@import|url)\s*[=(]", page)
    assert "http:" not in page
    assert "https:" not in page
    assert "<title>-0.07 It was fine</title>" in page
    assert "prefers-color-scheme: dark" in page
    assert page.count("<section") == 2
    assert page.count('id="unit-') == 2


def test_a_fragment_colours_itself_alone_and_escapes_every_character() -> None:
    fragment = html_fragment(heat_maps(TEXT, traced(TEXT, [3, 5], sentiment_unit=5)))
    assert "<script" not in fragment
    assert fragment.count("after the whole text") == 2
    (rules,) = re.findall(r"<style>(.*?)</style>", fragment, re.DOTALL)
    selectors = [rule.rpartition("}")[2].strip() for rule in rules.split("{")[:-1]]
    assert all(selector.startswith(".neuron-heat-maps") for selector in selectors)
    for paragraph in re.findall(r'<p class="text"[^>]*>(.*?)</p>', fragment, re.DOTALL):
        assert unescape(re.sub(r"<[^>]*>", "", paragraph)) == TEXT.replace("\x1b", "␛")
