"""The panel that reads shows what POST /trace and POST /classify say, and asks for no more than is new."""

import json
import math
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, Request

from heatmaps import cells
from tests.api.page.conftest import Open, settled

MIXED = "Fish &amp; chips, \u4e2d \U0001f600\U0001f44d\U0001f3fd e\u0301  good.\nThen \u05e9\u05dc\u05d5\u05dd not"
FULL_ODDS = 6


def classes(page: Page) -> list[str]:
    """Of every UTF-16 unit of the text."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll("#ink span")].flatMap((span) =>
             Array.from({ length: span.textContent.length }, () => span.className))"""
    )
    return found


def step(value: float) -> int:
    """Of 21 colours."""
    return math.floor((max(-1.0, min(1.0, value)) + 1) * 10 + 0.5)


def traced(client: httpx.Client, text: str) -> list[dict[str, Any]]:
    body = {"text": text, "offsets": "utf-16", "head": "sentiment"}
    steps: list[dict[str, Any]] = client.post("/trace", json=body).raise_for_status().json()["bytes"]
    return steps


@pytest.mark.parametrize("text", [MIXED, "  white space at the ends \n", "x"])
def test_every_character_has_the_colour_of_its_trace(opened: Open, client: httpx.Client, text: str) -> None:
    page = opened()
    page.fill("#text", text)
    found = classes(settled(page))
    units = text.encode("utf-16-le")
    assert len(found) == len(units) // 2
    held: dict[int, dict[str, Any]] = {}
    for one in traced(client, text):
        held |= dict.fromkeys(range(one["start"], one["end"]), one)
    for place, one in held.items():
        # A mark is drawn with what it stands on, in that one's colour.
        character = units[2 * place : 2 * place + 2].decode("utf-16-le", errors="replace")
        if character in "\u0301\ufffd":
            continue
        assert f"u{step(one['sentiment'])}" in found[place].split(), (place, character)
        ends = place + 1 not in held or units[2 * place + 2 : 2 * place + 4].decode("utf-16-le", "replace").isspace()
        if ends and not character.isspace():
            negative, positive = one["probabilities"]
            assert f"h{step(math.log(positive / negative) / FULL_ODDS)}" in found[place].split(), (place, character)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_colours_are_those_of_the_scale(opened: Open, scheme: str) -> None:
    page = settled(opened(color_scheme=scheme))
    shown = page.evaluate(
        """() => {
          const span = document.createElement("span");
          document.querySelector("#ink").append(span);
          const colour = (name) => { span.className = name; return getComputedStyle(span).backgroundColor; };
          return ["u0", "u10", "u20"].map(colour);
        }"""
    )
    ends = {"light": (cells.NEGATIVE, cells.POSITIVE), "dark": (cells.DARK_NEGATIVE, cells.DARK_POSITIVE)}[scheme]
    numbers = [
        [float(part) for part in colour.split("(")[1].rstrip(")").replace("srgb", "").split()]
        for colour in (one.replace(",", " ").replace("/", " ") for one in shown)
    ]
    for found, end in zip((numbers[0], numbers[2]), ends, strict=True):
        assert tuple(round(255 * part) for part in found[:3]) == end
    assert numbers[1][-1] == 0  # nothing where the unit holds nothing


def test_the_verdict_is_that_of_the_classifier(opened: Open, client: httpx.Client) -> None:
    page = opened()
    page.fill("#text", MIXED)
    verdict = settled(page).inner_text("#verdict")
    said = client.post("/classify", json={"text": MIXED}).raise_for_status().json()["results"][0]
    assert said["label"] in verdict.lower()
    assert f"{100 * said['score']:.1f} % sure, margin {said['margin']:.2f}" in verdict
    assert f"{abs(said['unit_sentiment']):.2f}" in verdict
    page.wait_for_function("() => document.querySelector('#verdict-said').textContent.includes('sure')")


def test_only_what_is_new_is_read(opened: Open) -> None:
    page = settled(opened())
    asked: list[dict[str, Any]] = []
    page.on("request", lambda request: asked.append(json.loads(request.post_data or "{}")))
    text = page.input_value("#text")
    page.focus("#text")
    page.keyboard.press("Control+End")
    for key in (" ", "S", "o"):
        page.keyboard.type(key)
        # White space at the end is answered once something follows it.
        page.wait_for_timeout(500) if key == " " else settled(page)
    assert [one["start"] for one in asked] == [len(text), len(text), len(text) + 2]
    page.evaluate("document.querySelector('#text').setSelectionRange(7, 7)")
    page.keyboard.type("X")
    settled(page)
    assert asked[-1]["start"] == 7


def test_what_was_read_does_not_depend_on_how_it_was_typed(opened: Open) -> None:
    page, other = opened(), opened()
    page.fill("#text", "")
    page.type("#text", MIXED, delay=15)
    other.fill("#text", MIXED)
    assert classes(settled(page)) == classes(settled(other))


def test_a_request_that_was_outrun_is_given_up(opened: Open) -> None:
    page = settled(opened())
    gone: list[Request] = []
    page.on("requestfailed", lambda request: gone.append(request))
    held: list[Any] = []
    page.route("**/trace", lambda route: held.append(route) if not held else route.continue_())
    page.fill("#text", "first")
    page.wait_for_function("() => document.querySelector('#ink').textContent === 'first'")
    while not held:
        page.wait_for_timeout(10)
    page.fill("#text", "second")
    settled(page)
    assert [request.failure for request in gone] == ["net::ERR_ABORTED"]


def test_the_colours_lie_under_their_letters(opened: Open) -> None:
    """Field and colours break their lines alike, so both are equally high, at any width."""
    for width in (360, 1000):
        page = opened(viewport={"width": width, "height": 800})
        page.fill("#text", f"{MIXED} {'word ' * 200}{'x' * 300}\n\n")
        settled(page)
        field, ink = page.evaluate(
            "() => [document.querySelector('#text').scrollHeight, document.querySelector('#ink').scrollHeight]"
        )
        assert field == ink


def test_long_texts_change_little_where_little_is_typed(opened: Open, client: httpx.Client) -> None:
    text = ("It was great at first, and then it broke. I am not sure what to say about that. " * 250)[:20_000]
    page = opened()
    page.fill("#text", text)
    assert len(classes(settled(page))) == 20_000
    page.evaluate(
        """() => {
          window.changed = 0;
          new MutationObserver((all) => { for (const one of all) window.changed += one.addedNodes.length; })
            .observe(document.querySelector("#ink"), { childList: true });
        }"""
    )
    page.focus("#text")
    page.keyboard.press("Control+End")
    page.keyboard.type("! Well", delay=60)
    settled(page)
    assert 0 < page.evaluate("window.changed") < 100


def test_examples_and_the_value_under_the_cursor(opened: Open, client: httpx.Client) -> None:
    page = settled(opened())
    page.click("text=not recommended")
    settled(page)
    text = page.input_value("#text")
    assert text == "I would not recommend this."
    box = page.locator("#ink span").nth(2).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    said = page.inner_text("#point")
    place = text.index(said.split("“")[1].split("”")[0]) + len(said.split("“")[1].split("”")[0]) - 1
    (one,) = [one for one in traced(client, text) if one["start"] == place < one["end"]]
    assert f"{abs(one['sentiment']):.2f}" in said


def test_the_reading_is_shown_from_the_beginning_on(opened: Open) -> None:
    page = opened(reduced_motion="no-preference")
    page.wait_for_selector("#ink span.unread", state="attached")
    page.wait_for_function("() => document.querySelectorAll('#ink span.unread').length === 0")
    page.click("#replay")
    page.wait_for_selector("#ink span.unread", state="attached")
    page.type("#text", "!")  # typing ends it
    assert page.locator("#ink span.unread").count() == 0
    assert opened(reduced_motion="reduce").is_hidden("#replay")


def test_an_empty_text_has_no_verdict(opened: Open) -> None:
    page = settled(opened())
    page.fill("#text", " ")
    page.wait_for_function("() => document.querySelector('#verdict').textContent.trim() === ''")
    assert page.inner_text("#status") == ""
