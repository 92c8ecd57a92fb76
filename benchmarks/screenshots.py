"""The pictures of the README, of the page that a service shows: writes page-*.png.

python -m benchmarks.screenshots URL DIRECTORY
"""

import sys
from pathlib import Path
from typing import Literal

from playwright.sync_api import Page, sync_playwright

from benchmarks.chromium import ARGUMENTS, CHROMIUM, SETTLED


def read(page: Page) -> None:
    page.wait_for_function(SETTLED)


def write(page: Page) -> None:
    page.click("#go")
    page.wait_for_function("() => [0, 1].every((n) => document.querySelector(`#said-${n}`).textContent)")


def main(url: str, directory: str) -> None:
    if CHROMIUM is None:
        sys.exit("Chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        schemes: list[Literal["light", "dark"]] = ["light", "dark"]
        for show, scheme in zip((read, write), schemes, strict=True):
            page = browser.new_page(color_scheme=scheme, reduced_motion="reduce")
            page.set_viewport_size({"width": 920, "height": 700})
            page.goto(f"{url}/#{show.__name__}")
            show(page)
            page.screenshot(path=Path(directory) / f"page-{show.__name__}.png", full_page=True)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
