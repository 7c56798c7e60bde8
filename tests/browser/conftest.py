"""A Chromium for all tests of the page, and for each a site: services that the test makes fail, and the page of them.

The browser is Debian's; the site is `admin_site`.
"""

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from admin_site import Site
from playwright.sync_api import expect, sync_playwright
from system_programs import system_program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Page

#: Milliseconds that an expectation waits; those of a rule of the page's own say so themselves.
expect.set_options(timeout=15_000)


@pytest.fixture(autouse=True)
def _nothing_is_left() -> None:
    """The threads of the browser's driver come and go; the site sees to its own, and has no processes."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = system_program("chromium", "chromium-browser", "google-chrome", package="chromium")
    with sync_playwright() as playwright:
        # As root there is no sandbox; what it would be needed for is our own page.
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        opened = playwright.chromium.launch(executable_path=path, args=options)
        yield opened
        opened.close()


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    made.start()
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def open_page(browser: Browser, site: Site) -> Iterator[Callable[..., Page]]:
    """Opens the page, and sees in the end that it neither broke its policy nor raised nor went anywhere else."""
    with contextlib.ExitStack() as stack:
        complaints: list[str] = []

        def opened(path: str = "", **options: Any) -> Page:
            context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
            stack.callback(context.close)
            page = context.new_page()
            page.on("pageerror", lambda error: complaints.append(f"raised: {error}"))
            page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
            page.on(
                "console",
                # What is refused on purpose, and a server that is gone, the browser logs by itself.
                lambda said: None if "Failed to load resource" in said.text else complaints.append(said.text),
            )
            page.on("request", partial(_keep_at_home, site, complaints))
            page.goto(site.url + path)
            return page

        yield opened
    assert complaints == []


def _keep_at_home(site: Site, complaints: list[str], request: Any) -> None:
    if not request.url.startswith((site.url, "data:image/svg+xml,")):
        complaints.append(f"outside: {request.url}")
