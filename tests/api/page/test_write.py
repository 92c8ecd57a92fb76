"""The panel that writes: two moods at once, by streams that can be stopped, and links that say it again."""

import json
import math
from typing import Any

import httpx
from playwright.sync_api import Page, Response, Route

from tests.api.page.conftest import Open
from tests.conftest import wait_until

DONE = """() => document.querySelector("#halt").disabled
    && [0, 1].every((n) => document.querySelector(`#said-${n}`).textContent)"""


def written(page: Page) -> list[str]:
    page.wait_for_function(DONE)
    return [page.locator(f"#written-{number}").text_content() or "" for number in (0, 1)]


def asked(page: Page) -> list[dict[str, Any]]:
    """The bodies of POST /generate from now on."""
    bodies: list[dict[str, Any]] = []

    def note(request: Any) -> None:
        if request.url.endswith("/generate"):
            bodies.append(json.loads(request.post_data))

    page.on("request", note)
    return bodies


def test_two_columns_write_in_opposite_moods(opened: Open, client: httpx.Client) -> None:
    page = opened("write")
    bodies = asked(page)
    page.fill("[name=prompt] >> visible=true", "The film")
    page.fill("#wishes [name=length]", "60")
    page.fill("#wishes [name=sentiment]", "0.5")
    page.click("#go")
    texts = written(page)
    assert page.inner_text("#mood-0") == "Held at +0.50"
    assert page.inner_text("#mood-1") == "Held at −0.50"
    assert [body["sentiment"] for body in bodies] == [0.5, -0.5]
    assert all(body["stream"] for body in bodies)
    for body, text in zip(bodies, texts, strict=True):
        again = client.post("/generate", json=body | {"stream": False}).raise_for_status().json()
        assert text == "The film" + again["results"][0]["text"]


def test_written_characters_have_the_colour_of_the_unit(opened: Open, client: httpx.Client) -> None:
    page = opened("write")
    page.fill("#wishes [name=length]", "40")
    page.click("#go")
    text = written(page)[0]
    steps = client.post("/trace", json={"text": text, "offsets": "utf-16"}).raise_for_status().json()["bytes"]
    last = [one for one in steps if one["start"] < one["end"]][-1]
    found = page.locator("#written-0 span").last.get_attribute("class") or ""
    assert f"u{math.floor((last['sentiment'] + 1) * 10 + 0.5)}" in found.split()


def test_written_characters_have_the_colour_of_their_likelihood(opened: Open, client: httpx.Client) -> None:
    page = opened("write")
    bodies = asked(page)
    page.fill("#wishes [name=prompt]", "Good")
    page.fill("#wishes [name=length]", "60")
    page.select_option("#wishes [name=colours]", "likelihood")
    page.click("#go")
    written(page)
    sample = client.post("/generate", json=bodies[0] | {"stream": False}).raise_for_status().json()["results"][0]
    found: list[list[str]] = page.evaluate(
        """() => [...document.querySelectorAll("#written-0 span")].flatMap((span) =>
             Array.from(span.textContent, (letter) => [letter, span.className]))"""
    )
    # The tiny model writes bytes that make no character, too; one of ASCII is a character by itself, wherever it is.
    alone = [one for one in sample["bytes"] if one["byte"] < 128]
    colours = [math.floor((min(1.0, -one["log_probability"] / 5) + 1) * 10 + 0.5) - 10 for one in alone]
    expected = [[chr(one["byte"]), f"l{colour}"] for one, colour in zip(alone, colours, strict=True)]
    assert [letter for letter in found[len("Good") :] if letter[0].isascii()] == expected
    assert 0 < len(alone) < len(sample["bytes"])
    assert {name for _, name in found[: len("Good")]} == {"begun"}
    assert all(name.startswith("l") for _, name in found[len("Good") :])


def test_stop_cancels_the_jobs(opened: Open, client: httpx.Client) -> None:
    page = opened("write")
    answers: list[Response] = []
    page.on("response", lambda response: answers.append(response))

    def endless(route: Route) -> None:  # the tiny model writes a new line soon, which ends a text
        body = json.loads(route.request.post_data or "") | {"stop": [], "length": 1_000_000}
        route.continue_(post_data=json.dumps(body))

    page.route("**/generate", endless)
    page.click("#go")
    page.wait_for_function("() => [0, 1].every((n) => document.querySelector(`#written-${n}`).textContent.length > 30)")
    page.click("#halt")
    jobs = [one.headers["x-job-id"] for one in answers if one.url.endswith("/generate")]
    assert len(jobs) == 2
    for job in jobs:
        wait_until(lambda job=job: client.get(f"/jobs/{job}").json()["state"] != "running", what="its end")
        assert client.get(f"/jobs/{job}").json()["state"] == "cancelled"
    page.wait_for_function("() => document.querySelector('#halt').disabled")
    assert page.inner_text("#status") == ""


def test_a_link_says_it_again(opened: Open) -> None:
    page = opened("write")
    page.fill("#wishes [name=prompt]", "A & B = \u4e2d?")
    page.fill("#wishes [name=length]", "30")
    page.click("#other")
    texts = written(page)
    page.click("#link")
    page.wait_for_function("() => location.hash.includes('seed=')")
    link = page.evaluate("location.hash").removeprefix("#")
    assert page.evaluate("navigator.clipboard.readText()").endswith(link)
    assert written(opened(link)) == texts


def test_the_best_of_several_is_shown(opened: Open, client: httpx.Client) -> None:
    page = opened("write")
    bodies = asked(page)
    page.fill("#wishes [name=length]", "20")
    page.fill("#wishes [name=best_of]", "3")
    page.click("#go")
    texts = written(page)
    assert [(body["best_of"], body["rank_by"]) for body in bodies] == [(3, "sentiment")] * 2
    again = client.post("/generate", json=bodies[1]).raise_for_status().json()["results"][0]["text"]
    assert texts[1] == bodies[1]["prompt"] + again


def test_what_cannot_be_asked_is_not(opened: Open) -> None:
    page = opened("write")
    bodies = asked(page)
    page.fill("#wishes [name=length]", "0")
    page.click("#go")
    page.click("#other")
    assert bodies == []
    assert page.evaluate("document.querySelector('#wishes [name=length]').validity.rangeUnderflow")


def test_a_stream_that_breaks_off_is_told(opened: Open) -> None:
    page = opened("write")
    cut = 'event: token\ndata: {"text": " and"}\n\n'
    page.route("**/generate", lambda route: route.fulfill(content_type="text/event-stream", body=cut))
    page.click("#go")
    page.wait_for_function("() => document.querySelector('#status').textContent.includes('does not answer')")
    assert page.locator("#written-0").text_content() == page.input_value("#wishes [name=prompt]") + " and"
