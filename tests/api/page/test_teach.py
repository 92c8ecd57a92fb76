"""The panel that teaches: a head from labelled lines, what is known of it, and what it would like to know."""

from pathlib import Path

import httpx
from playwright.sync_api import Page

from tests.api.page.conftest import Open
from tests.conftest import wait_until

LINES = [
    f"loud\t{'NOISE! ' * (3 + number)}" if number % 2 else f"calm\t{'quiet ' * (3 + number)}" for number in range(10)
]
UNLABELLED = ["A quiet lake, quiet trees.", "NOISE! It was NOISE!", "quiet NOISE!", "quiet, quiet, quiet"]


def teach(page: Page) -> None:
    page.click("#teaching button")
    page.wait_for_selector("#learned:not([hidden])")


def heads(client: httpx.Client) -> list[str]:
    return [head["name"] for head in client.get("/heads").raise_for_status().json()["heads"]]


def test_a_classifier_from_ten_lines(opened: Open, client: httpx.Client) -> None:
    before = heads(client)
    page = opened("teach")
    page.fill("#lines", "\n".join(LINES + UNLABELLED))
    teach(page)
    (name,) = set(heads(client)) - set(before)
    (head,) = (one for one in client.get("/heads").json()["heads"] if one["name"] == name)
    low, high = head["accuracy_interval"]
    outcome = page.inner_text("#outcome")
    assert f"Right on {100 * head['accuracy']:.1f} %" in outcome
    assert f"between {100 * low:.1f} % and {100 * high:.1f} %" in outcome
    used = page.locator("#used a").all_inner_texts()
    assert used == [f"unit {top['unit']}" for top in head["top_units"]]

    rows = [row.split("\t") for row in page.inner_text("#confusion").splitlines() if row.strip()]
    assert rows[0][-2:] == ["said calm", "said loud"]
    counts = [[int(cell) for cell in row[1:]] for row in rows[1:]]
    assert [sum(row) for row in counts] == [5, 5]
    assert (counts[0][0] + counts[1][1]) / 10 == head["accuracy"]

    page.fill("#trial input", "NOISE! NOISE! NOISE! NOISE! NOISE!")
    page.click("#trial button")
    page.wait_for_function("() => document.querySelector('#trial-said').textContent !== ''")
    asked = {"text": "NOISE! NOISE! NOISE! NOISE! NOISE!", "head": name}
    said = client.post("/classify", json=asked).raise_for_status().json()["results"][0]
    assert page.inner_text("#trial-said").startswith(f"{said['label']}, ")


def test_the_least_sure_texts_are_offered_and_learned(opened: Open, client: httpx.Client) -> None:
    before = set(heads(client))
    page = opened("teach")
    page.fill("#lines", "\n".join(LINES + UNLABELLED))
    teach(page)
    (first,) = set(heads(client)) - before
    results = client.post("/classify", json={"texts": UNLABELLED, "head": first}).raise_for_status().json()["results"]
    unsure = sorted(range(len(UNLABELLED)), key=lambda number: float(results[number]["margin"]))[:3]
    page.wait_for_selector("#unsure li")
    offered = page.locator("#unsure li").all_inner_texts()
    assert [line.split("”")[0].removeprefix("“") for line in offered] == [UNLABELLED[number] for number in unsure]

    page.click("#unsure li >> nth=0 >> text=loud")
    page.wait_for_function("() => document.querySelector('#outcome').textContent.includes('of the examples')")
    page.wait_for_function("() => document.querySelectorAll('#unsure li').length === 3")
    lines = page.input_value("#lines").splitlines()
    assert f"loud\t{UNLABELLED[unsure[0]]}" in lines
    wait_until(lambda: first not in heads(client), what="the deletion of the former head")
    (second,) = set(heads(client)) - before
    (head,) = (one for one in client.get("/heads").json()["heads"] if one["name"] == second)
    assert head["examples"] == 11


def test_a_file_of_a_table(opened: Open, client: httpx.Client, tmp_path: Path) -> None:
    before = set(heads(client))
    table = tmp_path / "table.csv"
    rows = ""
    for number, line in enumerate(LINES):
        label, text = line.split("\t")
        rows += f'{number},"He said ""{text}"", then\nleft.",{label}\r\n'
    rows += '99,"quiet,\nquiet.",\r\n'
    table.write_text(f"\ufeffid,Text,Label\r\n{rows}")
    page = opened("teach")
    page.set_input_files("#file", table)
    page.wait_for_function("() => document.querySelector('#lines').value.includes('He said')")
    teach(page)
    (name,) = set(heads(client)) - before
    (head,) = (one for one in client.get("/heads").json()["heads"] if one["name"] == name)
    assert (head["examples"], head["labels"]) == (10, ["calm", "loud"])
    page.click("#unsure >> text=calm >> nth=-1")  # the table becomes lines
    page.wait_for_function("() => document.querySelector('#outcome').textContent.includes('11 examples: 6 calm')")
    page.wait_for_function("() => document.querySelector('#unsure').textContent === ''")
    lines = page.input_value("#lines").splitlines()
    assert (len(lines), lines[-1]) == (11, "calm\tquiet, quiet.")


def test_a_comma_ends_a_label_that_comes_again(opened: Open, client: httpx.Client) -> None:
    page = opened("teach")
    page.fill("#lines", "\n".join(line.replace("\t", ",") for line in LINES) + "\nGreat, I loved it\nI think, so I am")
    teach(page)
    assert "10 examples: 5 calm, 5 loud" in page.inner_text("#outcome")
    page.wait_for_selector("#unsure li")
    assert page.locator("#unsure li").count() == 2


def test_a_label_that_is_named_as_columns_are_is_none(opened: Open) -> None:
    page = opened("teach")
    page.fill("#lines", "\n".join(line.replace("calm", "review") for line in LINES))
    teach(page)
    assert "10 examples: 5 review, 5 loud" in page.inner_text("#outcome")


def test_a_file_that_is_not_text_is_refused(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes("label,text\ncaf\u00e9,x".encode("latin-1"))
    page = opened("teach")
    before = page.input_value("#lines")
    page.set_input_files("#file", tmp_path / "table.csv")
    page.wait_for_function("() => document.querySelector('#status').textContent.includes('not text in UTF-8')")
    assert page.input_value("#lines") == before


def test_a_classifier_goes_with_its_page(opened: Open, client: httpx.Client) -> None:
    before = set(heads(client))
    page = opened("teach")
    page.fill("#lines", "\n".join(LINES))
    teach(page)
    (name,) = set(heads(client)) - before
    page.goto("about:blank")
    wait_until(lambda: name not in heads(client), what="the deletion of the head")


def test_lines_that_cannot_be_learned_from_are_explained(opened: Open) -> None:
    page = opened("teach", ignored="422")
    page.fill("#lines", "calm\tone\ncalm\ttwo")
    page.click("#teaching button")
    page.wait_for_function("() => document.querySelector('#status').textContent.includes('calm')")
    assert page.is_hidden("#learned")
