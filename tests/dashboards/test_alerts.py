"""When each alert fires, and when it does not: the rules of `dashboards/alerts.yml`, evaluated by promtool.

Times are exact. An alert fires at the first evaluation at which its condition has held for its ``for``; a condition
``> 4 * interval`` begins an evaluation after 4 intervals are over.
"""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest
from alert_rehearsal import DAY, HOUR, MINUTE, RULES, Replica, assert_alerts
from prometheus import program

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module", autouse=True)
def _needs_promtool() -> None:
    program("promtool")


def replica(*phases: tuple[str, float], **more: object) -> Replica:
    return Replica(phases=phases, **more)  # type: ignore[arg-type]


def test_a_rehearsal_finds_an_alert_that_is_missing_early_late_or_too_much(tmp_path: Path) -> None:
    def rehearse(rules: Path = RULES, **expected: float) -> None:
        assert_alerts(replica(("success", 30 * MINUTE), ("busy", HOUR)), until=40 * MINUTE, rules=rules, **expected)

    rehearse(NoSuccess=36 * MINUTE)
    silent = tmp_path / "silent.yml"
    silent.write_text(RULES.read_text(encoding="utf-8").replace("for: 2m", "for: 2d"), encoding="utf-8")
    for wrong in (35 * MINUTE, 37 * MINUTE):
        with pytest.raises(AssertionError, match="TickrunnerNoSuccess"):
            rehearse(NoSuccess=wrong)
    with pytest.raises(AssertionError, match="TickrunnerNoSuccess"):
        rehearse()
    with pytest.raises(AssertionError, match="TickrunnerNoSuccess"):
        rehearse(silent, NoSuccess=36 * MINUTE)
    with pytest.raises(AssertionError, match="TickrunnerStalled"):
        rehearse(NoSuccess=36 * MINUTE, Stalled=36 * MINUTE)


def test_promtool_finds_no_fault_in_the_rules_and_would_find_one(tmp_path: Path) -> None:
    def check(rules: Path) -> subprocess.CompletedProcess[str]:
        command = [program("promtool"), "check", "rules", "--lint-fatal", str(rules)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    done = check(RULES)
    assert (done.returncode, done.stderr) == (0, "")
    found = len(re.findall(r"^ +- (?:alert|record): ", RULES.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert f"SUCCESS: {found} rules found" in done.stdout
    broken = tmp_path / "broken.yml"
    broken.write_text(RULES.read_text(encoding="utf-8").replace("max by (", "max buy ("), encoding="utf-8")
    assert check(broken).returncode != 0


# -- A healthy fleet is silent -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "scrape", "evaluate", "until"),
    [
        # A sample is up to so much older than the evaluation that looks at it: many intervals of a second.
        (1, 60, 15, HOUR),
        (1, 15, 60, HOUR),
        (10, 15, 15, HOUR),
        (MINUTE, 120, 300, 3 * HOUR),
        (HOUR, 120, 120, 7 * HOUR),
        (DAY, 120, 300, 2.5 * DAY),
    ],
)
def test_a_healthy_fleet_is_silent_at_any_interval(interval: float, scrape: int, evaluate: int, until: float) -> None:
    assert_alerts(
        replica(("success", until), interval=interval, instance="holder"),
        replica(("busy", until), interval=interval, instance="standby"),
        until=until - 300,
        scrape=scrape,
        evaluate=evaluate,
    )


def test_a_sample_that_is_always_20_seconds_old_is_silent() -> None:
    # Scraped at 0:40, 1:40, ...; evaluated at 1:00, 2:00, ...
    holder = replica(("success", HOUR), interval=1, every=3)
    assert_alerts(holder, until=50 * MINUTE, scrape=20, evaluate=60)


def test_replicas_that_are_scraped_at_different_times_are_silent() -> None:
    # What the holder did is known up to 45 s later than what the standby did: many intervals of a second.
    assert_alerts(
        replica(("success", HOUR), interval=1, instance="holder", every=4),
        replica(("busy", HOUR), interval=1, instance="standby"),
        until=50 * MINUTE,
        scrape=15,
        evaluate=15,
    )


def test_a_replica_that_failed_and_is_standby_since_is_silent() -> None:
    assert_alerts(
        replica(("busy", 13 * MINUTE), ("success", 3 * HOUR), instance="a"),
        replica(("success", 10 * MINUTE), ("failed", 13 * MINUTE), ("busy", 3 * HOUR), instance="b"),  # 3 in a row
        until=2 * HOUR,
    )


@pytest.mark.parametrize("alert", ["fails", "lock lost", "overstayed", "unavailable", "stalls", "never"])
def test_a_service_that_is_disabled_on_every_replica_is_silent(alert: str) -> None:
    before: list[tuple[str, float]] = {
        "fails": [("success", 10 * MINUTE), ("failed", 13 * MINUTE)],
        "lock lost": [("success", 10 * MINUTE), ("lock_lost", 11 * MINUTE)],
        "overstayed": [("success", 10 * MINUTE), ("overstayed", 11 * MINUTE)],
        "unavailable": [("success", 10 * MINUTE), ("unavailable", 12 * MINUTE)],
        "stalls": [],
        "never": [],
    }[alert]
    after: list[tuple[str, float]] = [("stalled", 2 * HOUR)] if alert == "stalls" else []
    times = (0.0,) if not before else (before[-1][1], before[-1][1] - MINUTE)
    disabled = [replica(*before, ("gated", HOUR), *after, ("gated", 3 * HOUR), instance=name) for name in "ab"]
    # What came before it was disabled may have fired until then.
    fired = {"lock lost": "LockLost", "overstayed": "LockLost"}.get(alert)
    expected: dict[str, tuple[float, float]] = {} if fired is None else {fired: (times[0], times[0] + MINUTE)}
    if alert == "overstayed":
        expected["LeaseOverstayed"] = expected["LockLost"]
    assert_alerts(*disabled, until=2.5 * HOUR, **expected)


def test_a_replica_that_runs_it_no_more_does_not_enable_it() -> None:
    assert_alerts(
        replica(("success", 10 * MINUTE), ("ended", 3 * HOUR), instance="a"),
        replica(("success", 10 * MINUTE), ("gated", 3 * HOUR), instance="b"),
        until=2 * HOUR,
    )


def test_a_service_that_was_disabled_when_its_replicas_went_is_silent() -> None:
    assert_alerts(replica(("success", 10 * MINUTE), ("gated", HOUR)), until=3 * HOUR)


# -- No success in the fleet -------------------------------------------------------------------------------------------


def test_no_success_fires_after_4_intervals_and_ends_with_a_success() -> None:
    # The last success is at 29:30, so 4 intervals are over at 33:30; two minutes from the evaluation after that.
    assert_alerts(
        replica(("success", 30 * MINUTE), ("busy", 50 * MINUTE), ("success", 2 * HOUR)),
        until=HOUR,
        NoSuccess=(36 * MINUTE, 51 * MINUTE),
    )


def test_no_success_finds_a_pause_that_somebody_forgot() -> None:
    paused = [
        replica(("success", 30 * MINUTE), ("paused", 50 * MINUTE), ("success", 2 * HOUR), instance=name)
        for name in "ab"
    ]
    assert_alerts(*paused, until=HOUR, NoSuccess=(36 * MINUTE, 51 * MINUTE))


def test_no_success_fires_with_the_first_scrape_that_shows_it_when_the_interval_is_a_second() -> None:
    # Seen at 31:00, in the evaluation of that time; and two minutes.
    assert_alerts(
        replica(("success", 30 * MINUTE), ("busy", HOUR), interval=1),
        until=40 * MINUTE,
        evaluate=15,
        NoSuccess=33 * MINUTE,
    )


def test_a_rolling_deploy_is_silent() -> None:
    # In minute 60 the holder goes; of those who live, one succeeded an hour ago, the other never; until minute 63.
    assert_alerts(
        replica(("success", 60 * MINUTE), instance="a"),
        replica(("success", 5 * MINUTE), ("busy", 62 * MINUTE), instance="b"),
        replica(("busy", 62.5 * MINUTE), ("success", 3 * HOUR), instance="c", starts_at=58 * MINUTE),
        replica(("busy", 3 * HOUR), instance="d", starts_at=59 * MINUTE),
        until=2 * HOUR,
    )


def test_the_success_of_a_replica_that_went_between_two_evaluations_is_known() -> None:
    # It is scraped once with that success, at 60:15, and not in the evaluation at 64:00 any more.
    assert_alerts(
        replica(("success", 60.3 * MINUTE), instance="a"),
        replica(("busy", 63.8 * MINUTE), ("success", 3 * HOUR), instance="b"),
        until=2 * HOUR,
        scrape=15,
        evaluate=240,
    )


def test_a_deploy_hides_no_failure_that_it_brings() -> None:
    assert_alerts(
        replica(("success", 30 * MINUTE), instance="a"),
        replica(("busy", 2 * HOUR), instance="b", starts_at=29 * MINUTE),
        until=HOUR,
        NoSuccess=35 * MINUTE,  # the success of 29:30 came after the last scrape of a
    )


def test_while_a_deploy_makes_the_interval_longer_the_longer_one_counts() -> None:
    assert_alerts(
        replica(("success", 30 * MINUTE), ("busy", 40 * MINUTE), instance="a"),
        replica(("busy", 34 * MINUTE), ("success", 3 * HOUR), instance="b", interval=600, starts_at=29 * MINUTE),
        until=2 * HOUR,
    )


def test_a_daily_service_is_silent_under_deploys_and_fires_4_days_after_its_last_success() -> None:
    # A replica lives 12 hours and 20 minutes. The first tick of every other one succeeds, on two days; then none.
    def lives(number: int) -> Replica:
        starts_at = 12 * HOUR * number
        outcome = "success" if number in (0, 2) else "busy"
        end = starts_at + 12 * HOUR + 20 * MINUTE
        return replica((outcome, end), interval=DAY, instance=f"i{number}", starts_at=starts_at)

    # The last success is a minute after the start of day 1, so 4 intervals are over a minute after that of day 5.
    assert_alerts(
        *(lives(number) for number in range(11)),
        until=5.1 * DAY,
        scrape=120,
        evaluate=300,
        NoSuccess=5 * DAY + 10 * MINUTE,
    )


def test_a_service_that_was_enabled_again_has_4_intervals() -> None:
    disabled_until = 60 * MINUTE
    assert_alerts(
        replica(("success", 20 * MINUTE), ("gated", disabled_until), ("busy", 64.5 * MINUTE), ("success", 3 * HOUR)),
        until=2 * HOUR,
    )
    # Last seen as disabled at 60:00.
    assert_alerts(
        replica(("success", 20 * MINUTE), ("gated", disabled_until), ("busy", 3 * HOUR)),
        until=2 * HOUR,
        NoSuccess=67 * MINUTE,
    )


def test_a_service_that_is_disabled_on_one_replica_only_is_watched() -> None:
    assert_alerts(
        replica(("success", 30 * MINUTE), ("busy", 2 * HOUR), instance="a"),
        replica(("gated", 2 * HOUR), instance="b"),
        until=HOUR,
        NoSuccess=36 * MINUTE,
    )


def test_the_successes_of_another_job_are_none_of_this_fleet() -> None:
    assert_alerts(
        replica(("success", 30 * MINUTE), ("busy", 2 * HOUR)),
        replica(("success", 2 * HOUR), job="staging"),
        until=HOUR,
        NoSuccess=36 * MINUTE,
    )


def test_a_scrape_that_fails_for_some_minutes_is_silent() -> None:
    gap = (30 * MINUTE, 33 * MINUTE)
    assert_alerts(replica(("success", 3 * HOUR), unscraped=gap), until=2 * HOUR)
    assert_alerts(
        replica(("success", 3 * HOUR), instance="a", unscraped=gap),
        replica(("busy", 3 * HOUR), instance="b"),
        until=2 * HOUR,
    )


def test_an_outage_of_hours_is_not_counted_against_the_service_that_comes_back_and_works() -> None:
    assert_alerts(
        replica(("success", 30 * MINUTE)),
        replica(("success", 5 * HOUR), starts_at=3 * HOUR, instance="b"),
        until=4 * HOUR,
        NobodyRuns=(35 * MINUTE, 3 * HOUR),
    )


def test_a_service_that_nobody_ran_for_a_day_begins_anew() -> None:
    assert_alerts(
        replica(("success", 30 * MINUTE)),
        replica(("busy", 30 * HOUR), starts_at=26 * HOUR, instance="b"),
        until=27 * HOUR,
        scrape=120,
        evaluate=120,
        NobodyRuns=(36 * MINUTE, DAY + 30 * MINUTE),
        NeverSucceeded=26 * HOUR + 8 * MINUTE,
    )


def test_a_clock_that_was_years_ahead_hides_nothing_once_it_is_gone() -> None:
    # Its success and its start count as now, up to 34:00, as long as its last sample, of 29:20, is looked at.
    assert_alerts(
        replica(("success", 30 * MINUTE), instance="a", clock_ahead=1e9),
        replica(("busy", 2 * HOUR), instance="b", starts_at=5 * MINUTE),
        until=HOUR,
        scrape=40,
        NoSuccess=41 * MINUTE,
    )


@pytest.mark.parametrize("ahead", [30 * MINUTE, 7 * DAY])
@pytest.mark.parametrize("outcome", ["busy", "failed"])
def test_a_clock_that_is_ahead_delays_by_10_minutes_at_most_while_it_lives(outcome: str, ahead: float) -> None:
    # The success of 29:30, first seen at 30:00, is new up to 39:20: the sample before it, of 29:20, is then 10 minutes
    # old. At 59:30, half an hour after it, the clock's time of it is past, and counts as any other.
    ends_at = min(29.5 * MINUTE + ahead + 0.5 * MINUTE, 63 * MINUTE)
    failing = {} if outcome == "busy" else {"Failing": (43 * MINUTE, ends_at)}
    assert_alerts(
        replica(("success", 30 * MINUTE), (outcome, 3 * HOUR), clock_ahead=ahead),
        until=62 * MINUTE,
        scrape=40,
        NoSuccess=(46 * MINUTE, ends_at),
        **failing,
    )


@pytest.mark.parametrize(
    ("interval", "scrape", "evaluate"), [(MINUTE, 120, 300), (10 * MINUTE, 60, 60), (HOUR, 120, 120)]
)
def test_a_fleet_whose_clock_is_ahead_is_silent(interval: float, scrape: int, evaluate: int) -> None:
    working = replica(("success", 9 * HOUR), interval=interval, clock_ahead=DAY)
    assert_alerts(working, until=8 * HOUR, scrape=scrape, evaluate=evaluate)


# -- Never succeeded ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interval", [1, MINUTE, 10 * MINUTE])
def test_never_succeeded_fires_4_intervals_after_the_start_and_ends_with_a_success(interval: float) -> None:
    late = 4 * interval // MINUTE * MINUTE + MINUTE
    first = late + 10 * interval + 10 * MINUTE
    assert_alerts(
        replica(("busy", first), ("success", first + 2 * HOUR), interval=interval),
        until=first + HOUR + interval,
        NeverSucceeded=(late + 2 * MINUTE, _scraped_after(first, interval)),
    )


def _scraped_after(at: float, interval: float) -> float:
    """When the first tick of a phase that begins at ``at`` is seen."""
    phase = min(interval / 2, MINUTE)
    tick = -((phase - at) // interval) * interval + phase
    return -(-tick // MINUTE) * MINUTE


def test_never_succeeded_counts_from_the_first_start_however_often_replicas_are_replaced() -> None:
    fleet = [
        replica(("busy", (number + 1.5) * 3 * MINUTE), starts_at=number * 3 * MINUTE, instance=f"i{number}")
        for number in range(20)
    ]
    assert_alerts(*fleet, until=40 * MINUTE, NeverSucceeded=7 * MINUTE)


def test_never_succeeded_counts_from_the_oldest_start_when_prometheus_comes_later() -> None:
    # The first evaluation that sees them is that of 240 s; 400 s after the first start is past at 480 s.
    assert_alerts(
        replica(("busy", 2 * HOUR), starts_at=30, interval=100, instance="a"),
        replica(("busy", 2 * HOUR), starts_at=200, interval=100, instance="b"),
        until=HOUR,
        evaluate=240,
        NeverSucceeded=720,
    )


# -- Failing -----------------------------------------------------------------------------------------------------------


def test_failing_fires_after_3_failures_and_2_intervals_and_ends_with_a_success_anywhere() -> None:
    # Failures at 30:30, 31:30, 32:30; the last success at 29:30, so 2 intervals are over at 31:30. Seen at 33:00.
    assert_alerts(
        replica(("success", 30 * MINUTE), ("failed", 33 * MINUTE), ("busy", 2 * HOUR), instance="a"),
        replica(("busy", 35 * MINUTE), ("success", 2 * HOUR), instance="b"),
        until=HOUR,
        Failing=(34 * MINUTE, 36 * MINUTE),
    )


def test_failing_waits_for_the_third_failure() -> None:
    # Two failures of each replica are none, whatever they add up to.
    assert_alerts(
        *(
            replica(("success", 30 * MINUTE), ("failed", 32 * MINUTE), ("busy", 2 * HOUR), instance=name)
            for name in "abc"
        ),
        until=HOUR,
        NoSuccess=36 * MINUTE,
    )


def test_failing_is_silent_while_another_replica_succeeds() -> None:
    assert_alerts(
        replica(("success", 30 * MINUTE), ("failed", 2 * HOUR), instance="a"),
        replica(("busy", 30 * MINUTE), ("success", 2 * HOUR), instance="b"),
        until=HOUR,
    )


def test_failing_is_silent_when_one_run_is_missed_long_after_the_failures() -> None:
    # The success of 125 is followed by that of 145.
    assert_alerts(
        replica(("success", 60 * MINUTE), ("failed", 90 * MINUTE), ("busy", 9 * HOUR), instance="a", interval=600),
        replica(
            *(("busy", 60 * MINUTE), ("success", 130 * MINUTE), ("busy", 140 * MINUTE), ("success", 9 * HOUR)),
            instance="b",
            interval=600,
        ),
        until=3 * HOUR,
    )


@pytest.mark.parametrize("outcome", ["failed", "timed_out", "locker_error"])
def test_failing_needs_no_success_before(outcome: str) -> None:
    # Seen: the third failure, of 2:30, at 3:00. Four intervals after the start: 5:00.
    assert_alerts(replica((outcome, 2 * HOUR)), until=HOUR, Failing=4 * MINUTE, NeverSucceeded=7 * MINUTE)


# -- Nobody runs it ----------------------------------------------------------------------------------------------------


def test_nobody_runs_fires_after_5_minutes_and_ends_a_day_after_or_with_a_replica() -> None:
    assert_alerts(
        replica(("success", 30 * MINUTE)),
        until=25 * HOUR,
        scrape=120,
        evaluate=120,
        NobodyRuns=(36 * MINUTE, DAY + 30 * MINUTE),  # last recorded at 28:00
    )
    assert_alerts(
        replica(("success", 30 * MINUTE)),
        replica(("success", 2 * HOUR), starts_at=HOUR, instance="b"),
        until=1.5 * HOUR,
        NobodyRuns=(35 * MINUTE, HOUR),
    )


def test_one_replica_is_enough() -> None:
    assert_alerts(
        replica(("success", 30 * MINUTE), instance="a"),
        replica(("busy", 30 * MINUTE), ("success", 3 * HOUR), instance="b"),
        until=2 * HOUR,
    )


def test_nobody_runs_fires_although_the_last_replica_that_went_was_one_whose_gate_says_no() -> None:
    assert_alerts(
        replica(("success", 30 * MINUTE), instance="a"),
        replica(("gated", 32 * MINUTE), instance="b"),
        until=HOUR,
        NobodyRuns=37 * MINUTE,
    )


def test_nobody_runs_fires_when_no_target_can_be_scraped() -> None:
    assert_alerts(
        replica(("success", 3 * HOUR), unscraped=(30 * MINUTE, 40 * MINUTE)),
        until=2 * HOUR,
        NobodyRuns=(35 * MINUTE, 40 * MINUTE),
    )


def test_nobody_runs_fires_when_run_has_ended_in_a_process_that_lives_on() -> None:
    # Seen with the tick that does not come, at 30:30.
    assert_alerts(
        replica(("success", 30 * MINUTE), ("ended", 3 * HOUR)),
        until=2 * HOUR,
        NobodyRuns=36 * MINUTE,
    )


def test_a_replica_that_goes_without_a_marker_of_staleness_is_there_for_5_minutes_more_and_delays_only() -> None:
    # Its last sample is that of 29:20.
    gone = replica(("success", 30 * MINUTE), instance="a", leaves_a_marker=False)
    assert_alerts(gone, until=HOUR, scrape=40, NobodyRuns=40 * MINUTE)
    assert_alerts(gone, replica(("busy", 32 * MINUTE), ("success", 2 * HOUR), instance="b"), until=HOUR, scrape=40)
    # What b says counts from 35:00 on, and 4 intervals are over then; two minutes.
    assert_alerts(gone, replica(("busy", 2 * HOUR), instance="b"), until=HOUR, scrape=40, NoSuccess=37 * MINUTE)


# -- Database unavailable ----------------------------------------------------------------------------------------------


def test_database_unavailable_fires_once_no_tick_of_5_minutes_had_an_answer_and_ends_with_one() -> None:
    # The last answer was seen at 30:00, and is out of a range of 5 minutes at 35:00; and one minute.
    assert_alerts(
        replica(("success", 30 * MINUTE), ("unavailable", 50 * MINUTE), ("success", 2 * HOUR), instance="a"),
        replica(("busy", 30 * MINUTE), ("unavailable", 50 * MINUTE), ("busy", 2 * HOUR), instance="b"),
        until=HOUR,
        DatabaseUnavailable=(36 * MINUTE, 51 * MINUTE),
        NoSuccess=(36 * MINUTE, 51 * MINUTE),
    )


def test_database_unavailable_is_told_by_ticks_alone_where_the_locker_has_no_sessions() -> None:
    assert_alerts(
        replica(("success", 30 * MINUTE), ("unavailable", 2 * HOUR), locker="memory"),
        until=HOUR,
        DatabaseUnavailable=36 * MINUTE,
        NoSuccess=36 * MINUTE,
    )


def test_two_unavailable_ticks_are_enough_at_up_to_5_minutes_where_the_locker_has_no_sessions() -> None:
    # Of 31:00 and 34:00; the success of 28:00 is just out of range.
    assert_alerts(
        replica(("success", 30 * MINUTE), ("unavailable", 2 * HOUR), interval=180, locker="memory"),
        until=40 * MINUTE,
        DatabaseUnavailable=35 * MINUTE,
    )


def test_unavailable_ticks_of_longer_intervals_are_none_where_the_locker_has_no_sessions() -> None:
    assert_alerts(
        replica(("success", 30 * MINUTE), ("unavailable", 2 * HOUR), interval=660, locker="memory"), until=50 * MINUTE
    )


def test_one_unavailable_tick_is_none_where_the_locker_has_no_sessions() -> None:
    one = ("unavailable", 1.7 * HOUR)
    assert_alerts(
        replica(("success", HOUR), one, ("success", 9 * HOUR), interval=HOUR, locker="memory"), until=3 * HOUR
    )


def test_database_unavailable_does_not_wait_for_the_next_tick_of_an_hourly_service() -> None:
    # Another service of the process is told at 30:30 that there is no session; this one ticks at 1:00 and 61:00.
    until = 2 * HOUR
    frequent = [("success", 30 * MINUTE), ("unavailable", until)]
    hourly = [("success", 30 * MINUTE), ("stalled", until)]
    assert_alerts(
        replica(*frequent, service="beat"),
        replica(*hourly, interval=HOUR, locker="memory"),
        until=50 * MINUTE,
        DatabaseUnavailable=32 * MINUTE,
        NoSuccess=36 * MINUTE,
    )


def test_database_unavailable_is_silent_while_one_replica_has_an_answer() -> None:
    assert_alerts(
        replica(("success", 30 * MINUTE), ("unavailable", 2 * HOUR), instance="a"),
        replica(("busy", 30 * MINUTE), ("success", 2 * HOUR), instance="b"),
        until=HOUR,
    )


@pytest.mark.parametrize("outcome", ["busy", "failed", "timed_out"])
def test_a_tick_that_got_the_lock_or_found_it_busy_has_an_answer(outcome: str) -> None:
    failing = {} if outcome == "busy" else {"Failing": 34 * MINUTE}
    assert_alerts(
        replica(("success", 30 * MINUTE), ("unavailable", 2 * HOUR), instance="a"),
        replica(("success", 30 * MINUTE), (outcome, 2 * HOUR), instance="b"),
        until=HOUR,
        NoSuccess=36 * MINUTE,
        **failing,
    )


def test_database_unavailable_is_silent_while_one_replica_has_a_session() -> None:
    # No tick of the hourly service has an answer for most of the hour.
    until = 2 * HOUR
    assert_alerts(
        replica(("unavailable", until), service="beat", instance="a"),
        replica(("stalled", until), interval=HOUR, instance="a", locker="memory"),
        replica(("success", until), service="beat", instance="b"),
        replica(("success", until), interval=HOUR, instance="b"),
        until=50 * MINUTE,
    )


# -- Locks and leases --------------------------------------------------------------------------------------------------


def test_lock_lost_fires_at_once_for_a_quarter_of_an_hour() -> None:
    assert_alerts(
        replica(("success", 30 * MINUTE), ("lock_lost", 31 * MINUTE), ("success", 2 * HOUR)),
        until=HOUR,
        LockLost=(31 * MINUTE, 46 * MINUTE),
    )


def test_lease_overstayed_fires_at_once_for_a_quarter_of_an_hour() -> None:
    assert_alerts(
        replica(("success", 30 * MINUTE), ("overstayed", 31 * MINUTE), ("success", 2 * HOUR)),
        until=HOUR,
        LockLost=(31 * MINUTE, 46 * MINUTE),
        LeaseOverstayed=(31 * MINUTE, 46 * MINUTE),
    )


# -- Stalled -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("standby", [True, False])
def test_stalled_fires_for_the_replica_whose_ticks_have_stopped(standby: bool) -> None:
    # The last outcome is of 29:30: stalled from 33:30 on. With a standby that takes over, nobody misses a success.
    others = [replica(("busy", 30 * MINUTE), ("success", 2 * HOUR), instance="b")] if standby else []
    expected = {} if standby else {"NoSuccess": (36 * MINUTE, 51 * MINUTE)}
    assert_alerts(
        replica(("success", 30 * MINUTE), ("stalled", 50 * MINUTE), ("success", 2 * HOUR), instance="a"),
        *others,
        until=HOUR,
        Stalled=(35 * MINUTE, 51 * MINUTE),
        **expected,
    )


def test_stalled_fires_for_a_replica_that_never_ticked() -> None:
    assert_alerts(
        replica(("stalled", 2 * HOUR), instance="a", starts_at=30 * MINUTE),
        replica(("success", 2 * HOUR), instance="b"),
        until=HOUR,
        Stalled=36 * MINUTE,
    )


def test_stalled_ends_when_the_service_is_started_again() -> None:
    # By its Supervisor, after a crash; the next outcome is that of 48:30.
    assert_alerts(
        replica(
            *(("success", 30 * MINUTE), ("stalled", 48 * MINUTE), ("success", 2 * HOUR)),
            entered_again_at=45 * MINUTE,
        ),
        until=HOUR,
        Stalled=(35 * MINUTE, 45 * MINUTE),
        NoSuccess=(36 * MINUTE, 49 * MINUTE),
    )
