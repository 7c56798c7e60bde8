"""What the page shows of a ledger, and what its buttons do to it; and that without one there is none of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from admin_site import LEDGERED, TOKEN
from page_view import LOOKS, check, row, sign_in
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Callable

    from admin_site import Site
    from playwright.sync_api import Locator, Page

NAMES = ("Trigger", "Pause", "Resume", "Last runs")


def button(page: Page, what: str, name: str = LEDGERED) -> Locator:
    return page.get_by_role("button", name=f"{what}: {name}", exact=True)


def of_all(page: Page) -> Locator:
    return row(page, LEDGERED).locator(".cluster .said")


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    opened = open_page(f"#token={TOKEN}")
    expect(of_all(opened)).to_contain_text("ok")
    return opened


def test_only_a_service_with_a_ledger_has_its_line_and_its_buttons(site: Site, page: Page) -> None:
    expect(of_all(page)).to_contain_text("no success yet \u00b7 last run by tickrunner_trio 9 web-2 \u00b7 due now")
    for what in ("Trigger", "Pause", "Last runs"):
        expect(button(page, what)).to_be_visible()
    expect(button(page, "Resume")).to_be_hidden()
    for name in set(site.services) - {LEDGERED}:
        for what in NAMES:
            assert button(page, what, name).count() == 0, "a button that only a ledger could obey"
        expect(row(page, name).locator(".cluster")).to_be_hidden()


def test_a_service_is_paused_with_a_reason_and_resumed(site: Site, page: Page) -> None:
    button(page, "Pause").click()
    reason = page.get_by_label(f"Why pause {LEDGERED}?")
    expect(reason).to_be_focused()
    page.keyboard.type("<b>disk</b> is being replaced")
    page.keyboard.press("Enter")
    expect(row(page, LEDGERED).locator(".paused .said")).to_contain_text(
        "by somebody at 127.0.0.1: <b>disk</b> is being replaced"
    )
    expect(row(page, LEDGERED).get_by_role("status")).to_have_text("paused on all replicas")
    expect(button(page, "Resume")).to_be_focused()
    expect(button(page, "Pause")).to_be_hidden()
    expect(of_all(page)).to_contain_text("disabled")
    page.keyboard.press("Enter")
    expect(row(page, LEDGERED).locator(".paused")).to_be_hidden()
    expect(button(page, "Pause")).to_be_visible()
    expect(button(page, "Pause")).to_be_focused()
    assert not site.ledger.rows[LEDGERED].paused


def test_a_pause_in_another_tab_closes_the_question_and_keeps_the_focus(page: Page) -> None:
    other = page.context.new_page()
    other.goto(f"{page.url.partition('#')[0]}#token={TOKEN}")
    button(page, "Pause").click()
    expect(page.get_by_label(f"Why pause {LEDGERED}?")).to_be_focused()
    button(other, "Pause").click()
    other.keyboard.type("disk")
    other.keyboard.press("Enter")
    expect(page.get_by_label(f"Why pause {LEDGERED}?")).to_be_hidden()
    expect(button(page, "Resume")).to_be_focused()


def test_a_pause_that_was_not_meant_changes_nothing(site: Site, page: Page) -> None:
    button(page, "Pause").click()
    button(page, "Do not pause").click()
    expect(page.get_by_label(f"Why pause {LEDGERED}?")).to_be_hidden()
    expect(button(page, "Pause")).to_be_focused()
    assert not site.ledger.rows[LEDGERED].paused


def test_a_trigger_is_told_until_somebody_runs_it(site: Site, page: Page) -> None:
    button(page, "Trigger").click()
    expect(of_all(page)).to_contain_text("triggered just now by somebody at 127.0.0.1, not begun")
    expect(row(page, LEDGERED).get_by_role("status")).to_have_text("trigger: the next free replica runs it")


def test_the_last_runs_are_listed_and_their_errors_are_text(page: Page) -> None:
    button(page, "Last runs").click()
    runs = row(page, LEDGERED).locator(".runs li")
    expect(runs).to_have_count(3)
    expect(runs.nth(0)).to_contain_text("not ended \u00b7 web-0 \u00b7 epoch 3")
    expect(runs.nth(1)).to_contain_text("failed in 1.0 s \u00b7 web-1 \u00b7 epoch 2 \u00b7 OSError: <b>full</b>")
    assert runs.locator("*").count() == 0
    expect(button(page, "Last runs")).to_have_attribute("aria-expanded", "true")
    button(page, "Last runs").click()
    expect(runs.nth(0)).to_be_hidden()


def test_what_the_ledger_refuses_is_told(site: Site, page: Page) -> None:
    refused: dict[str, Any] = {"status": 409, "json": {"error": "there is no ledger: make one"}}
    page.route("**/trigger", lambda route: route.fulfill(**refused))
    button(page, "Trigger").click()
    expect(row(page, LEDGERED).get_by_role("status")).to_have_text("there is no ledger: make one")


@pytest.mark.parametrize("look", LOOKS)
def test_it_looks_as_it_should_and_axe_finds_nothing(look: str, site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page(**LOOKS[look])
    sign_in(page)
    expect(of_all(page)).to_contain_text("ok")
    button(page, "Last runs").click()
    button(page, "Pause").click()
    check(page, f"ledger-{look}-asking")
    page.keyboard.type("the disk is being replaced")
    page.keyboard.press("Enter")
    expect(row(page, LEDGERED).locator(".paused")).to_be_visible()
    check(page, f"ledger-{look}-paused")
