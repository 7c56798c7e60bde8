"""The page in a real browser: what it shows and how soon, what its buttons do, and that everybody can use it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from admin_site import TOKEN
from page_view import LOOKS, badge, check, row, sign_in
from playwright.sync_api import expect

from tickrunner_trio import HealthState

if TYPE_CHECKING:
    from collections.abc import Callable

    from admin_site import Site
    from playwright.sync_api import Locator, Page


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=f"Tick now: {name}").click()


def result(page: Page, name: str) -> Locator:
    return row(page, name).get_by_role("status")


# -- What it shows -----------------------------------------------------------------------------------------------------


def test_each_service_has_a_row_with_what_is_known_of_it(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page()
    sign_in(page)
    expect(page.locator("tbody")).to_have_count(5)
    expect(badge(page, "replication")).to_have_text("ok")
    expect(row(page, "replication")).to_contain_text("every 1 h")
    expect(row(page, "replication")).to_contain_text("ago")
    expect(row(page, "replication")).to_contain_text("in 59 min")
    expect(row(page, "replication")).to_contain_text("this replica")
    expect(badge(page, "rebalancing")).to_have_text("disabled")
    expect(badge(page, "cleanup_queue")).to_have_text("standby")
    expect(row(page, "cleanup_queue")).to_contain_text("tickrunner_trio 17 replica-2")
    expect(row(page, "cleanup_queue")).to_contain_text("backend 4711 at 10.0.3.7")
    expect(row(page, "monthly_report_of_everything_that_was_ever_moved")).to_contain_text("every 30 d")
    expect(page.locator("#summary")).to_have_text("5 services, supervisor running, none in trouble")
    expect(page.locator("#connection")).to_have_text("live")


def test_a_failing_service_is_shown_within_two_seconds(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page()
    sign_in(page)
    expect(badge(page, "expiry")).to_have_text("ok")
    page.evaluate(
        """() => {
            const announcements = document.querySelector("#announcements");
            window.said = [];
            new MutationObserver(() => window.said.push(announcements.textContent)).observe(
                announcements, { childList: true, characterData: true, subtree: true });
        }"""
    )
    site.failing.set()
    while site.services["expiry"].health().state is not HealthState.FAILING:
        time.sleep(0.001)
    expect(badge(page, "expiry")).to_have_text("failing", timeout=2_000)
    expect(row(page, "expiry").locator(".error")).to_contain_text("OSError: ")
    expect(page.locator("#summary strong")).to_have_text("1 in trouble")
    # Other services say something too: the one with a ledger ticks for the first time some seconds after the start.
    assert any("expiry is failing" in said for said in page.evaluate("() => window.said"))
    assert "1 in trouble" in page.title()
    site.failing.clear()
    expect(badge(page, "expiry")).to_have_text("ok")
    expect(row(page, "expiry").locator(".error")).to_be_hidden()


def test_the_text_of_an_error_is_shown_as_text_and_runs_nothing(site: Site, open_page: Callable[..., Page]) -> None:
    site.failing.set()
    page = open_page()
    sign_in(page)
    said = row(page, "expiry").locator(".error .said")
    expect(said).to_have_text(
        "OSError: <script>window.hacked = true</script><img src=x onerror='window.hacked = true'> & more"
    )
    assert said.locator("*").count() == 0
    press(page, "expiry")
    expect(result(page, "expiry")).to_contain_text("<script>window.hacked = true</script>")
    assert page.evaluate("window.hacked") is None


def test_ages_and_count_downs_go_on_by_themselves(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page()
    sign_in(page)
    next_slot = row(page, "cleanup_queue").locator('[data-label="Next slot"]')
    expect(next_slot).to_contain_text("in ")
    first = next_slot.inner_text()
    expect(next_slot).not_to_have_text(first)


def test_work_under_way_says_how_long_it_has_been_at_it(site: Site, open_page: Callable[..., Page]) -> None:
    site.work_takes = 60.0
    page = open_page()
    sign_in(page)
    expect(badge(page, "replication")).to_have_text("ok")
    press(page, "replication")
    expect(row(page, "replication")).to_contain_text("so far")
    expect(page.get_by_role("button", name="Tick now: replication")).to_have_attribute("aria-disabled", "true")


# -- Forced ticks ------------------------------------------------------------------------------------------------------


def test_a_forced_tick_shows_what_came_of_it(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page()
    sign_in(page)
    press(page, "replication")
    expect(result(page, "replication")).to_contain_text("success in ")
    press(page, "rebalancing")
    expect(result(page, "rebalancing")).to_contain_text("should_run said no")


def test_a_forced_tick_that_finds_the_lock_busy_names_the_holder(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page()
    sign_in(page)
    press(page, "cleanup_queue")
    expect(result(page, "cleanup_queue")).to_contain_text(
        "tickrunner_trio 17 replica-2 (backend 4711 at 10.0.3.7) holds the lock"
    )
    expect(result(page, "cleanup_queue")).to_contain_text("busy")


def test_a_tick_that_is_refused_says_why(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page()
    sign_in(page)
    expect(badge(page, "replication")).to_have_text("ok")
    page.route("**/tick", lambda route: route.fulfill(status=409, json={"error": "somebody forces one already"}))
    press(page, "replication")
    expect(result(page, "replication")).to_have_text("somebody forces one already")


# -- The token ---------------------------------------------------------------------------------------------------------


def test_a_wrong_token_is_told_and_the_right_one_is_taken_after_it(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page()
    sign_in(page, "wrong")
    expect(page.get_by_role("alert")).to_contain_text("not the token of this process")
    expect(page.locator("#board")).to_be_hidden()
    expect(page.get_by_label("Token", exact=True)).to_be_focused()
    sign_in(page)
    expect(page.locator("tbody")).to_have_count(5)


def test_a_token_that_no_header_can_carry_is_told_at_once(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page()
    sign_in(page, "s\u00e9same")
    expect(page.get_by_role("alert")).to_contain_text("printable ASCII")


def test_a_link_carries_the_token_which_does_not_stay_in_the_address(
    site: Site, open_page: Callable[..., Page]
) -> None:
    page = open_page(f"#token={TOKEN}")
    expect(page.locator("tbody")).to_have_count(5)
    assert page.url == site.url
    page.reload()
    expect(page.locator("tbody")).to_have_count(5)


def test_a_token_that_is_forgotten_is_gone(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page(f"#token={TOKEN}")
    expect(page.locator("tbody")).to_have_count(5)
    page.get_by_role("button", name="Forget token").click()
    expect(page.locator("tbody")).to_have_count(0)
    page.reload()
    expect(page.get_by_label("Token", exact=True)).to_be_visible()
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


# -- The connection ----------------------------------------------------------------------------------------------------


def test_a_server_that_is_gone_is_told_and_found_again(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page(f"#token={TOKEN}")
    expect(page.locator("#connection")).to_have_text("live")
    site.stop_serving()
    expect(page.locator("#connection")).to_have_text("connection lost, trying again")
    expect(page.locator("tbody")).to_have_count(5)
    site.serve_again()
    expect(page.locator("#connection")).to_have_text("live")


def test_a_drain_is_shown(site: Site, open_page: Callable[..., Page]) -> None:
    site.work_takes = 20.0
    page = open_page(f"#token={TOKEN}")
    expect(badge(page, "replication")).to_have_text("ok")
    press(page, "replication")
    expect(row(page, "replication")).to_contain_text("so far")
    site.call(site.supervisor.drain)
    expect(page.locator("#summary")).to_contain_text("supervisor draining")
    expect(page.locator("#connection")).to_have_text("draining: no more ticks")


# -- For everybody -----------------------------------------------------------------------------------------------------


def test_everything_can_be_done_by_keyboard(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page()
    expect(page.get_by_label("Token", exact=True)).to_be_focused()
    page.keyboard.type(TOKEN)
    page.keyboard.press("Enter")
    expect(badge(page, "replication")).to_have_text("ok")
    for name in ("Tick now: replication", "Tick now: expiry"):
        page.keyboard.press("Tab")
        expect(page.get_by_role("button", name=name)).to_be_focused()
    page.keyboard.press("Enter")
    expect(result(page, "expiry")).to_contain_text("success in ")
    expect(page.get_by_role("button", name="Tick now: expiry")).to_be_focused()
    for name in ("Tick now: replication", "Forget token"):
        page.keyboard.press("Shift+Tab")
        expect(page.get_by_role("button", name=name)).to_be_focused()
    page.keyboard.press("Space")
    expect(page.get_by_label("Token", exact=True)).to_be_focused()


@pytest.mark.parametrize("look", LOOKS)
def test_it_looks_as_it_should_and_axe_finds_nothing(look: str, site: Site, open_page: Callable[..., Page]) -> None:
    """The screenshots are for people to look at; axe and the width are for this test."""
    site.failing.set()
    page = open_page(**LOOKS[look])
    expect(page.get_by_label("Token", exact=True)).to_be_visible()
    sign_in(page, "wrong")
    expect(page.get_by_role("alert")).to_contain_text("not the token")
    check(page, f"{look}-sign-in")
    sign_in(page)
    press(page, "cleanup_queue")
    expect(result(page, "cleanup_queue")).to_contain_text("busy")
    expect(badge(page, "expiry")).to_have_text("failing")
    expect(badge(page, "replication")).to_have_text("ok")
    check(page, look)


@pytest.mark.parametrize("look", ["light", "phone"])
def test_it_is_a_table_to_those_who_hear_it_on_a_phone_too(
    look: str, site: Site, open_page: Callable[..., Page]
) -> None:
    page = open_page(f"#token={TOKEN}", **LOOKS[look])
    expect(page.get_by_role("rowheader", name="replication")).to_be_visible()
    expect(page.get_by_role("cell", name="standby")).to_be_visible()
    assert page.get_by_role("row").filter(has=page.get_by_role("rowheader")).count() == 5
