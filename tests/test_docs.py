"""The pages of docs/ agree with the code and with each other: figures, names of tests, links, what Python prints."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
from dataclasses import replace
from datetime import UTC, datetime, tzinfo
from typing import Any

import pytest
import trio
from pages import DOCS, ROOT, Page, page, pages

from tickrunner_trio import MemoryLocker, Outcome, Service, _supervisor
from tickrunner_trio._schedule import FAILURE_PART, MAX_JITTER, SUCCESS_HOLD, part_of
from tickrunner_trio.lockers import _backoff, _lock_book
from tickrunner_trio.lockers._timing import lease_timing
from tickrunner_trio.testing import Cluster

TIMING = lease_timing(15.0)

#: Beside Python, which some test executes on each page: what is shown, and not run as it stands.
SHOWN = {"console", "text", "sh", "sql", "yaml", "ini", "go"}
#: Of MyST.
DIRECTIVES = {"{toctree}", "{eval-rst}"}


def printed(source: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        exec(source, {})
    return stdout.getvalue()


# -- Links and names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("each", pages(), ids=lambda each: each.path.stem)
def test_every_link_leads_to_a_page_a_heading_or_a_file(each: Page) -> None:
    for link in each.links():
        path, _, anchor = link.partition("#")
        target = each.path.parent / path if path else each.path
        assert target.exists(), link
        assert not anchor or anchor in Page(target).anchors(), link


def test_the_index_leads_to_every_page() -> None:
    listed = [
        line for block in page("index").blocks("{toctree}") for line in block.splitlines() if line[:1] not in {":", ""}
    ]
    assert sorted([*listed, "index"]) == sorted(each.path.stem for each in pages())


def test_every_test_and_file_that_a_page_names_is_there() -> None:
    tests = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    defined = {name for text in tests.values() for name in re.findall(r"def (test_\w+)", text)}
    for each in pages():
        assert set(re.findall(r"`(test_\w+)`", each.text)) <= defined
        for path in re.findall(r"`((?:tests|benchmarks|dashboards|examples|tickrunner_trio)/[\w./]*)`", each.text):
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("each", pages(), ids=lambda each: each.path.stem)
def test_blocks_are_of_a_language_that_is_known_here(each: Page) -> None:
    for language in each.languages():
        assert language in {"python", *SHOWN, *DIRECTIVES} or language.startswith("{literalinclude}"), language


# -- Design and failures -----------------------------------------------------------------------------------------------


def test_the_simulation_of_the_design_prints_what_the_page_shows() -> None:
    [source] = page("design").blocks("python")
    assert printed(source) in page("design").blocks("text")


def test_the_figures_of_the_slots_are_those_of_the_code() -> None:
    text = page("design").words
    assert f"until {SUCCESS_HOLD:g} interval after the tick began" in text
    assert (FAILURE_PART, MAX_JITTER) == (0.25, 60)
    assert "until a random point of the first quarter" in text
    assert "a random point of the first half interval (at most a minute)" in text


def test_the_picture_of_the_lease_has_its_figures() -> None:
    shown = re.findall(r">([\d.]+) s<", (DOCS / "lease.svg").read_text(encoding="utf-8"))
    late = TIMING.beat + TIMING.reply
    assert [float(each) for each in shown] == [0, TIMING.beat, late, TIMING.cancel_after, TIMING.lease]
    text = page("design").words
    assert f"the next beat at {TIMING.beat:g} s, no reply to it at {late:g} s" in page("design").text
    assert f"{TIMING.cancel_after:g} seconds after that word at the latest" in text
    assert f"from then on it has {TIMING.cleanup:g} seconds" in text


def test_the_figures_of_the_failures_are_those_of_the_code() -> None:
    text = page("failures").words
    assert f"at the latest {TIMING.cancel_after:g} s after the last one" in text
    assert f"| {TIMING.lease:g} s, and a slot |" in text
    assert f"is cancelled when a reply is late: within {TIMING.beat + TIMING.reply:g} s" in text
    assert f"up to {_backoff.LONGEST_SECONDS:g} s until the next attempt to connect" in text
    assert f"more than {_lock_book.MOST_LOCKS:,} locks at once" in text
    assert f"{_supervisor.FIRST_BACKOFF:g} s, doubling to {_supervisor.LONGEST_BACKOFF:g} s" in text


# -- Questions ---------------------------------------------------------------------------------------------------------


def of_the_questions() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for block in page("questions").blocks("python"):
        exec(block, found)
    return found


def test_the_nightly_service_runs_once_a_night_over_all_replicas() -> None:
    found = of_the_questions()

    class VirtualDatetime(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> VirtualDatetime:
            return cls.fromtimestamp(datetime(2026, 7, 1, tzinfo=UTC).timestamp() + trio.current_time(), tz)

    found["datetime"] = VirtualDatetime
    days = 3
    timeline = Cluster(lambda locker: [found["nightly"](locker)], replicas=3).run(days * 86400)
    three_in_berlin = 1  # in UTC, in summer
    assert [run.started_at // 3600 for run in timeline.runs] == [24 * day + three_in_berlin for day in range(days)]


async def test_the_service_of_another_application_has_a_lock_of_its_own() -> None:
    found, locker = of_the_questions(), MemoryLocker()
    theirs = found["shop_report"](locker)
    ours = Service(replace(theirs.config, lock_id=None))

    async def tick_both(lease: object) -> None:
        assert [(await each.tick()).outcome for each in (ours, theirs)] == [Outcome.BUSY, Outcome.SUCCESS]

    assert await locker.with_advisory_lock(ours.lock_id, tick_both)


def test_the_questions_have_the_figures_of_the_code() -> None:
    text = page("questions").words
    assert f"for {SUCCESS_HOLD:g} of the interval" in text
    assert f"after up to {MAX_JITTER:g} seconds with `interval=300`" in text


# -- Scaling -----------------------------------------------------------------------------------------------------------

SERVICES, INTERVAL = 20, 60
MICROSECONDS, MIB, MILLISECONDS = 60, 1.2, 4.4


def of_a_fleet(replicas: int) -> list[str]:
    tried = replicas * SERVICES / INTERVAL
    said = tried + replicas / TIMING.beat + SERVICES / INTERVAL
    memory = replicas * MIB
    return [
        f"{replicas:,}",
        f"{memory:.0f} MiB" if memory < 1024 else f"{memory / 1024:.{1 if memory < 10240 else 0}f} GiB",
        f"{tried:,.1f}" if tried < 10 else f"{tried:,.0f}",
        f"{math.floor(replicas * SERVICES / part_of(INTERVAL)):,}",
        f"{math.floor(said):,}",
        f"{said * MICROSECONDS / 1e6:.{1 if said > 10_000 else 2}f}",
        f"{SERVICES}",
        f"{replicas * MILLISECONDS / 1000:.1f} s",
    ]


def test_the_table_of_the_scaling_follows_from_the_formulas() -> None:
    [table] = page("scaling").tables()
    head = re.findall(r"^\| R \| (.*) \|$", page("scaling").text, flags=re.MULTILINE)[0]
    fleets = [int(each.replace(",", "")) for each in head.split(" | ")]
    assert list(zip(*(row[1:] for row in table), strict=True)) == [tuple(of_a_fleet(each)) for each in fleets]
    assert f"Of {SERVICES} services once a minute each" in page("scaling").text
    assert f"due at one moment: for {part_of(INTERVAL):g} s" in page("scaling").text


def test_the_costs_of_the_scaling_are_about_what_was_measured() -> None:
    def median(question: str, way: str, quantity: str) -> float:
        found: Any = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
        rounds: list[float] = found[question]["ways"][way][quantity]
        return sorted(rounds)[len(rounds) // 2]

    assert 0.5 < median("latency", "psycopg loop, two cores", "p50") / MICROSECONDS < 2
    assert 0.5 < median("connections", "a connection per lock", "seconds") / MILLISECONDS < 2
    assert 0.5 < median("locked", "tickrunner_trio", "per_second") / 10_000 < 2
