"""The page as a whole: what it loads, for whom it works, what it says when the service does not, what it gives away."""

import ast
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from api import keys
from tests.api.page.conftest import Open, settled
from tests.conftest import Stack, run_stack, wait_until

ROOT = Path(__file__).parents[3]
PANELS = ("read", "write", "teach", "explore")
_SECRET, _HASH = keys.generate()


def filled(page: Page, panel: str) -> Page:
    """With all in it that a panel can show."""
    if panel == "read":
        settled(page)
    elif panel == "write":
        page.fill("#wishes [name=length]", "20")
        page.click("#go")
        page.wait_for_function("() => document.querySelector('#said-0').textContent")
    elif panel == "teach":
        page.click("#teaching button")
        page.wait_for_selector("#unsure li")
    else:
        page.wait_for_selector("#neighbours button")
        page.wait_for_selector("#unit-ink span")
    page.click(f"#{panel} summary")
    return page


# Of the other palettes one panel is enough: it shows all colours.
@pytest.mark.parametrize(("panel", "palette"), [*((panel, "") for panel in PANELS), ("read", "blue"), ("read", "grey")])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible_by_wcag_aa(opened: Open, panel: str, palette: str, scheme: str) -> None:
    page = filled(opened(panel, color_scheme=scheme), panel)
    page.select_option("#palette", palette)
    rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
    found = Axe().run(page, options={"runOnly": {"type": "tag", "values": rules}})
    assert found.response["violations"] == [], found.generate_report()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("palette", ["", "blue", "grey"])
def test_letters_are_read_on_every_colour(opened: Open, palette: str, scheme: str) -> None:
    """axe does not see what lies behind a field, nor behind letters in another layer."""
    page = settled(opened(color_scheme=scheme))
    page.select_option("#palette", palette)
    colours = page.evaluate(
        """() => {
          const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
          const shown = (paint) => {
            for (const colour of paint) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
            return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
          };
          const of = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
          const span = document.createElement("span");
          document.querySelector("#ink").append(span);
          const names = (letter, size) => Array.from({ length: size }, (_, number) => letter + number);
          return {
            ink: shown([of("--ink")]),
            behind: [...names("u", 21), ...names("l", 11)].map((name) => {
              span.className = name;
              return shown([of("--card"), getComputedStyle(span).backgroundColor]);
            }),
          };
        }"""
    )
    for behind in colours["behind"]:
        assert contrast(colours["ink"], behind) >= 4.5, behind


def contrast(one: list[int], other: list[int]) -> float:
    """By WCAG 2, of two colours of sRGB."""

    def luminance(colour: list[int]) -> float:
        parts = [part / 255 for part in colour]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("panel", PANELS)
def test_a_phone_shows_all_of_it(opened: Open, panel: str) -> None:
    page = filled(opened(panel, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True), panel)
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_the_keyboard_reaches_all_of_it(opened: Open) -> None:
    page = settled(opened())
    page.focus("#tab-read")
    keys_to_panels = {"ArrowRight": "write", "End": "explore", "ArrowLeft": "teach", "Home": "read"}
    for key, name in keys_to_panels.items():
        page.keyboard.press(key)
        page.wait_for_function(f"() => location.hash === '#{name}'")
        page.wait_for_selector(f"#{name}:not([hidden])")
        assert page.evaluate("document.activeElement.id") == f"tab-{name}"
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"text", "read-svg", "read-png", "palette", "SUMMARY", "A"} <= reached
    page.go_back()
    page.wait_for_selector("#teach:not([hidden])")


def test_nothing_comes_from_elsewhere(opened: Open, stack: Stack) -> None:
    page = opened()
    seen: list[str] = []
    page.on("request", lambda request: seen.append(request.url))
    settled(page)
    page.reload()
    settled(page)
    hosts = {urlsplit(url).netloc for url in seen}
    assert hosts == {urlsplit(stack.url).netloc}
    policy = httpx.get(f"{stack.url}/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for path in ("/page/main.js", "/page/page.css", "/page/icon.svg"):
        assert httpx.get(stack.url + path).status_code == 200
    assert httpx.get(f"{stack.url}/page/%2e%2e/app.py").status_code == 404


def test_a_palette_is_kept(opened: Open) -> None:
    page = settled(opened())
    page.select_option("#palette", "blue")
    page.reload()
    settled(page)
    assert page.input_value("#palette") == "blue"
    colour = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--positive')")
    assert colour == "rgb(96 168 240)"


def test_a_key_is_asked_for_and_kept_with_the_tab(opened: Open, stack: Stack) -> None:
    with stack.gateway(NEURON_API_KEYS=keys.entry("alice", ["use", "heads"], _HASH)) as keyed:
        page = opened(base=keyed.url, ignored="401")
        page.wait_for_selector("#key:not([hidden])")
        assert "needs a key" in page.inner_text("#status")
        page.fill("#key-field", "\u043a\u043b\u044e\u0447")  # which no header can carry
        page.click("#key button")
        assert page.evaluate("document.querySelector('#key-field').validity.patternMismatch")
        page.fill("#key-field", "another")
        page.click("#key button")
        page.wait_for_function("() => document.querySelector('#status').textContent.includes('does not know this key')")
        page.fill("#key-field", _SECRET)
        page.click("#key button")
        settled(page)
        assert page.is_hidden("#key")
        page.click("#read summary")
        # What is in the fold is written when it has opened.
        page.wait_for_function("() => document.querySelector('#read-code').innerText.includes('$NEURON_API_KEY')")
        assert _SECRET not in page.inner_text("#read-code")
        assert _SECRET not in page.content()
        page.reload()
        settled(page)


def test_a_worker_that_is_away_is_told_and_its_answer_comes(opened: Open, tiny_volume: Path, tmp_path: Path) -> None:
    settings = {"NEURON_CHECKPOINT_DIR": str(tiny_volume), "NEURON_API_WAIT_S": "3"}
    with run_stack(tmp_path, worker=False, **settings) as stack:
        page = opened(base=stack.url, ignored="503")
        answers: list[int] = []
        page.on("response", lambda response: answers.append(response.status))
        page.wait_for_function("() => document.querySelector('#status').textContent.includes('No worker is ready')")
        wait_until(lambda: (page.wait_for_timeout(50), 202 in answers)[1], what="the job that the page then asks for")
        stack.spawn("worker")
        stack.wait_ready()
        settled(page)
        assert page.inner_text("#status") == ""
        page.close()  # before its service ends


def test_units_are_explored_once_there_is_a_worker(opened: Open, tiny_volume: Path, tmp_path: Path) -> None:
    with run_stack(tmp_path, worker=False, NEURON_CHECKPOINT_DIR=str(tiny_volume)) as stack:
        page = opened("explore", base=stack.url, ignored="503")
        page.wait_for_function("() => document.querySelector('#status').textContent.includes('No worker is ready')")
        stack.spawn("worker")
        page.wait_for_selector("#neighbours button")
        page.wait_for_selector("#unit-ink span")
        assert page.inner_text("#status") == ""
        page.close()  # before its service ends


def test_what_one_panel_was_told_is_kept_for_it(opened: Open) -> None:
    page = opened("teach")
    page.fill("#lines", "no label here")
    page.click("#teaching button")
    told = "0 of the lines have a label, and two at least are needed."
    page.wait_for_function(f"() => document.querySelector('#status').textContent === {json.dumps(told)}")
    page.click("#tab-write")
    assert page.inner_text("#status") == ""
    page.click("#tab-teach")
    assert page.inner_text("#status") == told


def test_a_link_to_no_panel_shows_the_first(opened: Open) -> None:
    assert settled(opened("toString")).is_visible("#read")


def test_colours_that_a_system_forces_leave_the_heat_map(opened: Open) -> None:
    page = settled(opened(forced_colors="active"))
    colours = page.evaluate(
        "() => [...document.querySelectorAll('#ink span')].map((span) => getComputedStyle(span).backgroundColor)"
    )
    assert len(set(colours)) > 3
    assert page.evaluate("getComputedStyle(document.querySelector('#text')).backgroundColor") == "rgba(0, 0, 0, 0)"


def test_a_full_queue_is_told_and_tried_again(opened: Open, stack: Stack) -> None:
    with stack.gateway(NEURON_API_MAX_QUEUED_TEXTS="1", NEURON_API_RETRY_AFTER_S="1") as narrow:
        page = settled(opened(base=narrow.url, ignored="429"))
        with stack.paused("worker"):
            held = httpx.post(f"{narrow.url}/classify", json={"text": "held"}, headers={"Prefer": "respond-async"})
            assert held.status_code == 202
            page.type("#text", "!")
            page.wait_for_function("() => document.querySelector('#status').textContent.includes('busy')")
        settled(page)
        assert page.inner_text("#status") == ""


def test_a_service_that_is_gone_is_told(opened: Open, stack: Stack) -> None:
    with stack.gateway() as other:
        page = settled(opened(base=other.url, ignored="ERR_CONNECTION_REFUSED"))
    page.type("#text", "!")
    page.wait_for_function("() => document.querySelector('#status').textContent.includes('does not answer')")


@pytest.mark.parametrize("panel", ["read", "explore"])
def test_pictures_for_reports(opened: Open, panel: str, tmp_path: Path) -> None:
    page = filled(opened(panel), panel)
    with page.expect_download() as downloading:
        page.click(f"#{panel}-svg")
    svg = tmp_path / "map.svg"
    downloading.value.save_as(svg)
    root = ElementTree.fromstring(svg.read_text())
    width, height = int(root.attrib["width"]), int(root.attrib["height"])
    with page.expect_download() as downloading:
        page.click(f"#{panel}-png")
    png = tmp_path / "map.png"
    downloading.value.save_as(png)
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", png.read_bytes()[16:24]) == (2 * width, 2 * height)


@pytest.mark.parametrize("language", ["curl", "Python", "JavaScript"])
def test_the_request_as_code_runs(opened: Open, language: str, client: httpx.Client) -> None:
    text = 'It\'s "great" & caf\u00e9 \U0001f600\\n'
    page = opened()
    page.fill("#text", text)
    settled(page)
    page.click("#read summary")
    page.click(f"text=Copy {language}")
    page.wait_for_selector("text=Copied")
    code = page.evaluate("navigator.clipboard.readText()")
    runners = {
        "curl": ["bash", "-c", code],
        "Python": [sys.executable, "-c", code],
        "JavaScript": ["node", "--input-type=module", "-e", code.replace("await answer.json()", "await answer.text()")],
    }
    if shutil.which(runners[language][0]) is None:
        pytest.skip(f"{runners[language][0]} is not installed")
    ran = subprocess.run(runners[language], capture_output=True, text=True, timeout=180)
    assert ran.returncode == 0, ran.stderr
    answer = ast.literal_eval(ran.stdout) if language == "Python" else json.loads(ran.stdout)
    expected = client.post("/trace", json={"text": text, "head": "sentiment"}).raise_for_status().json()
    assert [step["text"] for step in answer["bytes"]] == [step["text"] for step in expected["bytes"]]
    assert answer["labels"] == expected["labels"]


def test_the_pictures_of_the_readme_are_made_by_a_command(browser: Browser, stack: Stack, tmp_path: Path) -> None:
    made = subprocess.run([sys.executable, "-m", "benchmarks.screenshots", stack.url, tmp_path], cwd=ROOT, timeout=180)
    assert made.returncode == 0
    for name in ("page-read.png", "page-write.png"):
        assert name in (ROOT / "README.md").read_text()
        assert (tmp_path / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert (ROOT / "docs" / name).stat().st_size < 300_000
