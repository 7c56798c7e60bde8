"""The page as the tests in a real browser see it: its rows, its sign-in, and whether everybody can use it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from admin_site import TOKEN
from axe_playwright_python.sync_playwright import Axe

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

#: Where CI picks up what the pages looked like.
SCREENSHOTS = Path(__file__).parents[1] / "build" / "screenshots"

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
LOOKS: dict[str, Any] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "tablet": {"color_scheme": "light", "viewport": {"width": 820, "height": 1100}},
    "phone": {"color_scheme": "light", **PHONE},
    "phone-dark": {"color_scheme": "dark", **PHONE},
}


def row(page: Page, name: str) -> Locator:
    return page.locator(f'tbody[data-service="{name}"]')


def badge(page: Page, name: str) -> Locator:
    return row(page, name).locator(".badge")


def sign_in(page: Page, token: str = TOKEN) -> None:
    page.get_by_label("Token", exact=True).fill(token)
    page.get_by_role("button", name="Show services").click()


def check(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it is wider than the screen"
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    undecided = [each["id"] for each in found.response["incomplete"]]
    assert undecided == [], "axe could not tell"
