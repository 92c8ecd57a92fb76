"""A real Chromium on the real stack."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.chromium import ARGUMENTS, CHROMIUM, SETTLED
from tests.conftest import Stack

Open = Callable[..., Page]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip = pytest.mark.skip(reason="Chromium is not installed")
    for item in items:
        if CHROMIUM is None and Path(__file__).parent in item.path.parents:
            item.add_marker(skip)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Of each file its own: while it runs, this thread has a running event loop, which other tests must not meet."""
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture
def opened(browser: Browser, stack: Stack, tmp_path: Path) -> Iterator[Open]:
    """open(hash, base, **options of the browser's context): the page, at rest. What it logs as an error fails the test.

    ignored: part of an error that is asked for.
    """
    errors: list[str] = []
    contexts = []

    def open_page(at: str = "", base: str = stack.url, ignored: str = "nothing", **options: Any) -> Page:
        options = {"reduced_motion": "reduce"} | options
        context = browser.new_context(**options)
        contexts.append(context)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = context.new_page()
        page.set_default_timeout(180_000)
        page.on("pageerror", lambda error: errors.append(str(error)))

        def logged(message: Any) -> None:
            if message.type == "error" and ignored not in message.text:
                errors.append(message.text)

        page.on("console", logged)
        page.goto(f"{base}/{at and f'#{at}'}")
        return page

    yield open_page
    for number, context in enumerate(contexts):
        for page in context.pages:
            page.screenshot(path=tmp_path / f"page-{number}.png", full_page=True)
        context.close()
    assert errors == []


def settled(page: Page) -> Page:
    """Wait until all of the text that is read has its colours."""
    page.wait_for_function(SETTLED)
    return page
