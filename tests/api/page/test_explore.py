"""The panel that explores: any unit beside the sentiment unit, and what holding it does."""

import json
import math
from typing import Any

import httpx
from playwright.sync_api import Page

from tests.api.page.conftest import Open
from tests.conftest import SENTIMENT_UNIT

TEXT = "Good \U0001f600 then bad"


def shown(page: Page, unit: int) -> Page:
    page.wait_for_function(f"() => document.querySelector('#unit-name').textContent.startsWith('Unit {unit}')")
    return page


def classes(page: Page, place: str) -> list[str]:
    found: list[str] = page.evaluate(
        f"""() => [...document.querySelectorAll("#{place} span")].flatMap((span) =>
             Array.from({{ length: span.textContent.length }}, () => span.className))"""
    )
    return found


def test_a_unit_beside_the_sentiment_unit(opened: Open, client: httpx.Client) -> None:
    page = opened("explore")
    assert shown(page, SENTIMENT_UNIT).input_value("[name=unit]") == str(SENTIMENT_UNIT)
    page.fill("#unit-form [name=text]", TEXT)
    page.fill("[name=unit]", "7")
    shown(page, 7)
    page.wait_for_function(f"() => document.querySelector('#unit-ink').textContent === {json.dumps(TEXT)}")
    body = {"text": TEXT, "units": [7, SENTIMENT_UNIT], "offsets": "utf-16"}
    steps = client.post("/trace", json=body).raise_for_status().json()["bytes"]
    for column, place in enumerate(("unit-ink", "sentiment-ink")):
        held = {place: one["values"][column] for one in steps for place in range(one["start"], one["end"])}
        bound = max(map(abs, held.values()))
        expected = [f"u{math.floor((value / bound + 1) * 10 + 0.5)}" for _, value in sorted(held.items())]
        assert classes(page, place) == expected


def test_the_heaviest_units_are_a_click_away(opened: Open, client: httpx.Client) -> None:
    page = opened("explore")
    shown(page, SENTIMENT_UNIT)
    (model,) = client.get("/models").raise_for_status().json()["models"]
    heaviest = model["top_units"]["sentiment"]
    buttons = page.locator("#neighbours button")
    assert [text.split(" ")[0] for text in buttons.all_inner_texts()] == [str(top["unit"]) for top in heaviest]
    buttons.nth(2).click()
    shown(page, heaviest[2]["unit"])


def test_the_histogram_of_the_sentiment_unit(opened: Open, client: httpx.Client) -> None:
    page = opened("explore")
    shown(page, SENTIMENT_UNIT)
    (model,) = client.get("/models").raise_for_status().json()["models"]
    known = model["unit_histogram"]
    most = max(max(of) for of in known["counts"].values())
    for label, of in known["counts"].items():
        bars = page.locator(f"#histogram .of-{label}")
        heights = [float(bars.nth(number).get_attribute("height") or "") for number in range(bars.count())]
        assert heights == [160 * count / most for count in of]
    assert known["data"] in page.inner_text("#histogram figcaption")


def test_a_held_unit_writes_beside_a_free_one(opened: Open) -> None:
    page = opened("explore?unit=3")
    shown(page, 3)
    bodies: list[dict[str, Any]] = []

    def note(request: Any) -> None:
        if request.url.endswith("/generate"):
            bodies.append(json.loads(request.post_data))

    page.on("request", note)
    page.click("#clamp button.main")
    page.wait_for_function("() => [2, 3].every((n) => document.querySelector(`#said-${n}`).textContent)")
    held = float(page.input_value("#clamp [name=value]"))
    assert [body.get("clamp") for body in bodies] == [{"3": held}, None]
    assert bodies[0]["seed"] == bodies[1]["seed"]
    texts = [page.locator(f"#written-{number}").text_content() for number in (2, 3)]
    assert texts[0] != texts[1]
    assert page.inner_text("#mood-2").startswith("Unit 3 held at")


def test_a_unit_that_does_not_exist_is_not_asked_for(opened: Open) -> None:
    page = opened("explore")
    shown(page, SENTIMENT_UNIT)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.post_data or ""))
    page.fill("[name=unit]", "48")
    page.wait_for_function("() => document.activeElement.matches(':invalid')")
    page.fill("[name=unit]", "11")
    shown(page, 11)
    assert [json.loads(body)["units"][0] for body in asked] == [11]
    page.fill("[name=unit]", "48")
    assert page.evaluate("document.querySelector('[name=unit]').validity.rangeOverflow")
    assert page.inner_text("#unit-name").startswith("Unit 11")
