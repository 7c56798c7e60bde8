"""The judgement on a cluster's timeline, on timelines that are made up: what it lets pass, what not, what it says."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tickrunner_trio import Outcome
from tickrunner_trio.testing import (
    ClockOffset,
    DatabaseAway,
    Drain,
    DropSession,
    Freeze,
    Kill,
    Partition,
    Run,
    Skip,
    Start,
    Timeline,
)
from tickrunner_trio.testing._drawing import clock_face, drawn
from tickrunner_trio.testing._lock_server import Hold
from tickrunner_trio.testing._timeline import ServiceFacts, Stay

if TYPE_CHECKING:
    from collections.abc import Iterable

SWEEP = ServiceFacts(name="sweep", interval=60, lock_id=7)


def run(replica: str, begin: float, end: float, outcome: Outcome | None = Outcome.SUCCESS, **more: Any) -> Run:
    return Run(replica=replica, service="sweep", started_at=begin, stopped_at=end, outcome=outcome, **more)


def timeline(*runs: Run, faults: Iterable[Any] = (), seconds: float = 600.0, **more: Any) -> Timeline:
    more = {"services": (SWEEP,), "replicas": ("r1", "r2", "r3"), **more}
    return Timeline(seconds=seconds, runs=runs, faults=tuple(faults), **more)


def steady(*, seconds: float = 600.0, without: Iterable[int] = (), **more: Any) -> Timeline:
    """One run of five seconds every 60."""
    runs = [run("r1", 60.0 * n + 10, 60.0 * n + 15) for n in range(int(seconds // 60)) if n not in without]
    return timeline(*runs, seconds=seconds, **more)


# -- Never two at once -------------------------------------------------------------------------------------------------


def test_runs_that_touch_do_not_overlap() -> None:
    timeline(run("r1", 10, 20), run("r2", 20, 30)).assert_never_overlapping()


def test_two_runs_at_once_are_named_with_their_times_and_drawn() -> None:
    with pytest.raises(AssertionError) as caught:
        timeline(run("r1", 10, 20, number=3), run("r2", 18.5, 30, number=5)).assert_never_overlapping()
    message = str(caught.value)
    assert message.startswith(
        "broken: no two runs of a service at the same time: sweep ran on r1 (tick 3, 0:00:10.0 to 0:00:20.0) and on r2 "
        "(tick 5, 0:00:18.5 to 0:00:30.0) at once, for 1.500 s from 0:00:18.5 on\n"
    )
    assert "r1 sweep" in message
    assert max(map(len, message.splitlines()[1:])) <= 100


def test_two_services_may_run_at_once() -> None:
    other = ServiceFacts(name="other", interval=60, lock_id=8)
    runs = run("r1", 10, 20), Run(replica="r2", service="other", started_at=10, stopped_at=20, outcome=None)
    timeline(*runs, services=(SWEEP, other)).assert_never_overlapping()


def test_a_long_run_overlaps_each_of_those_within_it() -> None:
    with pytest.raises(AssertionError, match=r"\(1 more like it\)"):
        timeline(run("r1", 10, 90), run("r2", 20, 30), run("r3", 40, 50)).assert_never_overlapping()


def test_the_same_replica_twice_is_twice() -> None:
    with pytest.raises(AssertionError, match="at once"):
        timeline(run("r1", 10, 20), run("r1", 15, 30)).assert_never_overlapping()


def test_a_frozen_run_does_not_run() -> None:
    frozen = Freeze("r1", at=12, seconds=30)
    timeline(run("r1", 10, 42), run("r2", 30, 60), faults=[frozen]).assert_never_overlapping()
    with pytest.raises(AssertionError, match=r"for 1\.000 s from 0:00:42\.0 on; Freeze\('r1', at=12, seconds=30\)"):
        timeline(run("r1", 10, 43), run("r2", 30, 50), faults=[frozen]).assert_never_overlapping()


def test_one_that_is_killed_while_it_is_frozen_has_run_until_then() -> None:
    faults = [Freeze("r1", at=12, seconds=30), Freeze("r1", at=12, seconds=40), Kill("r1", at=50)]
    timeline(run("r1", 10, 50, None), run("r2", 12, 60), faults=faults).assert_never_overlapping()


@pytest.mark.parametrize(
    ("fault", "known_at"),
    [
        (DropSession("r1", at=20), 20.0),
        (DatabaseAway(at=20, seconds=10), 20.0),
        (Freeze("r1", at=20, seconds=15), 35.0),
    ],
)
def test_what_no_lease_covers_passes_within_the_time_that_is_allowed(fault: Any, known_at: float) -> None:
    judged = timeline(run("r1", 10, known_at + 2, Outcome.LOCK_LOST), run("r2", known_at, 60), faults=[fault])
    judged.assert_never_overlapping(within=2)
    with pytest.raises(AssertionError, match="which no lease covers: only the epoch protects there"):
        judged.assert_never_overlapping(within=1.9)
    with pytest.raises(AssertionError, match="allowed were within=0 s"):
        judged.assert_never_overlapping()


def test_one_that_is_cut_off_hears_of_the_end_of_its_session_afterwards() -> None:
    faults = [Partition("r1", at=15, seconds=10), DropSession("r1", at=20)]
    timeline(run("r1", 10, 26), run("r2", 21, 60), faults=faults).assert_never_overlapping(within=1)


def test_of_two_faults_the_later_one_let_the_rival_in() -> None:
    faults = [Freeze("r1", at=12, seconds=2), DropSession("r1", at=40)]
    timeline(run("r1", 10, 41), run("r2", 40, 60), faults=faults).assert_never_overlapping(within=1)
    faults = [DropSession("r1", at=12), Freeze("r1", at=20, seconds=20)]
    timeline(run("r1", 10, 41), run("r2", 36, 60), faults=faults).assert_never_overlapping(within=1)


def test_freezes_within_a_freeze_thaw_with_the_last_one() -> None:
    faults = [Freeze("r1", at=12, seconds=40), Freeze("r1", at=20, seconds=5)]
    with pytest.raises(AssertionError, match=r"at once, for 2\.000 s from 0:00:10\.0 on"):
        timeline(run("r1", 10, 52), run("r2", 5, 60), faults=faults).assert_never_overlapping()


def test_a_hold_binds_only_the_one_who_had_it() -> None:
    lost = Hold("r2", 7, 5.0, 12.0, kept=False)
    with pytest.raises(AssertionError, match="and again"):
        timeline(run("r1", 10, 15), run("r2", 40, 45), holds=(lost,), seconds=100).assert_once_per_interval()


def test_a_start_disturbs_too() -> None:
    steady(without=[4], faults=[Start("r3", at=255)]).assert_once_per_interval()


def test_one_that_is_cut_off_stops_by_itself_when_its_lease_is_over() -> None:
    def judged(until: float, drop: float, rival: float) -> Timeline:
        faults = [Partition("r1", at=100, seconds=300), DropSession("r1", at=drop)]
        return timeline(run("r1", 90, until), run("r2", rival, 500), faults=faults)

    judged(115, 105, 106).assert_never_overlapping()
    judged(116, 105, 106).assert_never_overlapping(within=1)
    with pytest.raises(AssertionError, match="at once"):
        judged(116, 105, 106).assert_never_overlapping()
    # What is dropped then is no session any more: the lease was to protect.
    with pytest.raises(AssertionError, match="at once"):
        judged(380, 150, 160).assert_never_overlapping(within=300)
    # One that is frozen beyond that finds it out at the thaw.
    faults = [Freeze("r1", at=95, seconds=100), Partition("r1", at=100, seconds=300)]
    timeline(run("r1", 90, 195.5), run("r2", 150, 500), faults=faults).assert_never_overlapping(within=0.5)


@pytest.mark.parametrize(
    "fault",
    [
        DropSession("r2", at=20),  # the rival's own, before it began
        DropSession("r1", at=5),  # before the run
        DropSession("r1", at=25),  # after the rival had been let in
        Partition("r1", at=15, seconds=60),  # the lease covers it
        Kill("r3", at=15),
    ],
)
def test_nothing_else_excuses(fault: Any) -> None:
    with pytest.raises(AssertionError, match="at once"):
        timeline(run("r1", 10, 24), run("r2", 22, 60), faults=[fault]).assert_never_overlapping(within=60)


def test_a_service_that_never_ran_fails() -> None:
    with pytest.raises(AssertionError, match=r"nothing to judge .*: sweep never ran"):
        timeline().assert_never_overlapping()
    with pytest.raises(AssertionError, match="sweep never ran"):
        timeline().assert_once_per_interval()
    with pytest.raises(AssertionError, match="sweep never ran"):
        timeline().assert_recovers_within(100)


def test_services_can_be_named() -> None:
    other = ServiceFacts(name="other", interval=60, lock_id=8)
    judged = steady(services=(SWEEP, other))
    judged.assert_never_overlapping(services=["sweep"])
    with pytest.raises(AssertionError, match="other never ran"):
        judged.assert_never_overlapping()
    with pytest.raises(ValueError, match="must be names of services, got 'swep': use some of sweep, other"):
        judged.assert_never_overlapping(services=["swep"])
    with pytest.raises(TypeError, match=r"write \['sweep'\]"):
        judged.assert_never_overlapping(services="sweep")


@pytest.mark.parametrize("given", ["1", True, None])
def test_what_is_no_number_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match="within must be a number, got"):
        steady().assert_never_overlapping(within=given)
    with pytest.raises(TypeError, match="tolerance must be a number, got"):
        steady().assert_once_per_interval(tolerance=given)
    with pytest.raises(TypeError, match="seconds must be a number, got"):
        steady().assert_recovers_within(given)


def test_nothing_is_let_pass_for_less_than_no_time_and_no_service_is_no_choice() -> None:
    for within in (-1, float("nan")):
        with pytest.raises(ValueError, match="within must be 0 or more seconds"):
            steady().assert_never_overlapping(within=within)
    with pytest.raises(ValueError, match="got none: leave it out"):
        steady().assert_never_overlapping(services=[])


# -- Once per interval -------------------------------------------------------------------------------------------------


def test_one_run_per_interval_is_what_is_asked_for() -> None:
    steady().assert_once_per_interval(tolerance=0.0)


def test_successes_that_start_too_close_fail() -> None:
    close = timeline(run("r1", 10, 15), run("r2", 64, 70), seconds=120)
    close.assert_once_per_interval(tolerance=0.1)
    with pytest.raises(AssertionError, match=r"succeeded on r1 .* and again on r2 .*, 54\.000 s later: 0\.900 of its"):
        close.assert_once_per_interval(tolerance=0.09)


def test_failures_may_be_tried_again_soon() -> None:
    tried = timeline(run("r1", 10, 15, Outcome.FAILED), run("r2", 20, 25), run("r2", 80, 85), seconds=120)
    tried.assert_once_per_interval()


def test_forced_runs_are_not_looked_at() -> None:
    timeline(
        run("r1", 10, 15), run("r1", 20, 25, forced=True), run("r1", 70, 75), seconds=120
    ).assert_once_per_interval()


@pytest.mark.parametrize(
    "fault", [Kill("r1", at=20), Drain("r1", at=20), DropSession("r1", at=20), DatabaseAway(at=20, seconds=5)]
)
def test_a_hold_that_something_ended_binds_nobody(fault: Any) -> None:
    timeline(run("r1", 10, 15), run("r2", 40, 45), faults=[fault], seconds=120).assert_once_per_interval()


@pytest.mark.parametrize("fault", [Kill("r2", at=20), Start("r2", at=20), Freeze("r1", at=20, seconds=5)])
def test_a_fault_that_did_not_end_the_hold_excuses_nothing(fault: Any) -> None:
    with pytest.raises(AssertionError, match="and again"):
        timeline(run("r1", 10, 15), run("r3", 40, 45), faults=[fault], seconds=120).assert_once_per_interval()


@pytest.mark.parametrize("kept", [True, False])
def test_a_session_that_the_server_ended_binds_nobody(kept: bool) -> None:
    hold = Hold("r1", 7, 10.0, 35.0, kept=kept)
    fault = Freeze("r1", at=20, seconds=20)
    judged = timeline(run("r1", 10, 15), run("r2", 40, 45), faults=[fault], holds=(hold,), seconds=120)
    if kept:
        with pytest.raises(AssertionError, match="and again"):
            judged.assert_once_per_interval()
    else:
        judged.assert_once_per_interval()


def test_a_missing_run_fails() -> None:
    with pytest.raises(AssertionError, match=r"sweep did not run for 120\.000 s after its start on r1"):
        steady(without=[4]).assert_once_per_interval()


def test_a_missing_first_or_last_run_fails() -> None:
    with pytest.raises(AssertionError, match=r"did not run for 70\.000 s from the beginning"):
        steady(without=[0]).assert_once_per_interval()
    with pytest.raises(AssertionError, match=r"did not run for 110\.000 s after its start on r1 \(tick 1, 0:08:10\.0"):
        steady(without=[9]).assert_once_per_interval()


@pytest.mark.parametrize(
    "fault", [Kill("r2", at=262), DatabaseAway(at=200, seconds=30), Partition("r1", at=270, seconds=9)]
)
def test_a_gap_with_a_fault_in_it_is_not_judged(fault: Any) -> None:
    steady(without=[4], faults=[fault]).assert_once_per_interval()


@pytest.mark.parametrize("fault", [Kill("r2", at=150), Kill("r2", at=400), ClockOffset("r1", at=255, seconds=60)])
def test_a_fault_that_was_over_long_before_or_concerns_no_lock_excuses_no_gap(fault: Any) -> None:
    with pytest.raises(AssertionError, match="did not run"):
        steady(without=[4], faults=[fault]).assert_once_per_interval()


def test_a_closed_gate_excuses_a_gap() -> None:
    gated = tuple(Skip(replica=f"r{n}", service="sweep", at=240 + n, outcome=Outcome.GATED) for n in (1, 2, 3))
    steady(without=[4], skips=gated).assert_once_per_interval()
    steady(without=[4], skips=gated).assert_recovers_within(100)
    steady(without=[4], skips=gated[:2], faults=[Kill("r3", at=10)]).assert_once_per_interval()
    # One of them could have run.
    with pytest.raises(AssertionError, match="did not run"):
        steady(without=[4], skips=gated[:2]).assert_once_per_interval()
    with pytest.raises(AssertionError, match="only at"):
        steady(without=[4], skips=gated[:2]).assert_recovers_within(100)
    with pytest.raises(AssertionError, match="did not run"):
        steady(
            without=[4], skips=(Skip(replica="r2", service="sweep", at=250, outcome=Outcome.BUSY),)
        ).assert_once_per_interval()


def test_a_gap_with_a_forced_run_in_it_is_not_judged() -> None:
    judged = steady(without=[4])
    replace(judged, runs=(*judged.runs, run("r2", 200, 230, forced=True))).assert_once_per_interval()
    with pytest.raises(AssertionError, match="did not run"):
        replace(judged, runs=(*judged.runs, run("r2", 100, 101, forced=True))).assert_once_per_interval()


def test_a_service_that_drains_itself_lets_go_of_its_hold_and_is_expected_no_more() -> None:
    def stays(*until: float) -> tuple[Stay, ...]:
        return tuple(
            Stay(replica=f"r{n}", service="sweep", from_at=0, until_at=at) for n, at in enumerate(until, start=1)
        )

    both = run("r1", 10, 15), run("r2", 40, 45)
    timeline(*both, stays=stays(15, 120), seconds=100).assert_once_per_interval()
    with pytest.raises(AssertionError, match="and again"):
        timeline(*both, stays=stays(120, 39), seconds=100).assert_once_per_interval()
    gone = timeline(*both, stays=stays(15, 45))
    gone.assert_once_per_interval()
    gone.assert_recovers_within(60)
    with pytest.raises(AssertionError, match=r"from 0:00:45\.0 on, after its success on r2 .* never"):
        timeline(*both, stays=stays(15, 600)).assert_recovers_within(60)
    with pytest.raises(AssertionError, match=r"from 0:01:30\.0 on, after sweep was drained on r1; it succeeded never"):
        timeline(*both, stays=stays(90, 600)).assert_recovers_within(60)


def test_after_a_startup_that_failed_the_first_slot_comes_by_chance() -> None:
    facts = ServiceFacts(name="sweep", interval=60, lock_id=7, has_startup=True)

    def judged(then_at: float, **more: Any) -> Timeline:
        runs = run("r1", 0, 5, Outcome.FAILED), run("r1", then_at, then_at + 5)
        return timeline(*runs, seconds=then_at + 6, **more)

    judged(96, services=(facts,)).assert_once_per_interval()
    for late, more in ((96.1, {"services": (facts,)}), (96, {})):
        with pytest.raises(AssertionError, match="did not run"):
            judged(late, **more).assert_once_per_interval()


def test_after_a_run_that_outlasts_its_interval_two_intervals_may_pass() -> None:
    timeline(run("r1", 10, 80), run("r1", 200, 205), seconds=240).assert_once_per_interval()
    with pytest.raises(AssertionError, match="did not run"):
        timeline(run("r1", 10, 80), run("r1", 201, 205), seconds=240).assert_once_per_interval()


def test_after_a_run_that_began_late_two_intervals_may_pass() -> None:
    timeline(run("r1", 10, 15, lateness=7), run("r1", 130, 135), seconds=150).assert_once_per_interval()
    with pytest.raises(AssertionError, match="did not run"):
        timeline(run("r1", 10, 15, lateness=5), run("r1", 130, 135), seconds=150).assert_once_per_interval()


def test_services_of_cadence_replica_are_refused_unless_others_are_named() -> None:
    other = ServiceFacts(name="other", interval=60, lock_id=8, cadence="replica")
    judged = steady(services=(SWEEP, other))
    judged.assert_once_per_interval(services=["sweep"])
    with pytest.raises(ValueError, match="got 'other', which is of 'replica': name those to be judged"):
        judged.assert_once_per_interval()


@pytest.mark.parametrize("tolerance", [-0.1, 1.1, float("nan")])
def test_a_tolerance_is_a_part(tolerance: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        steady().assert_once_per_interval(tolerance=tolerance)


# -- Recovery ----------------------------------------------------------------------------------------------------------


def test_a_success_in_time_after_each_fault_is_recovery() -> None:
    steady(faults=[Kill("r2", at=100), Kill("r3", at=300)]).assert_recovers_within(60)


def test_none_in_time_is_none() -> None:
    with pytest.raises(
        AssertionError, match=r"sweep could be run from 0:03:15\.0 on, after Kill\('r2', at=195\); it suc"
    ):
        steady(without=[4, 5], faults=[Kill("r2", at=195)]).assert_recovers_within(120)
    with pytest.raises(AssertionError, match="it succeeded never"):
        steady(without=range(4, 10), faults=[Kill("r2", at=195)]).assert_recovers_within(120)


@pytest.mark.parametrize("change", [ClockOffset("r1", at=255, seconds=60), Start("r3", at=255)])
def test_what_hinders_nobody_gives_no_more_time(change: Any) -> None:
    with pytest.raises(AssertionError, match=r"after Kill\('r2', at=195\)"):
        steady(without=[4, 5], faults=[Kill("r2", at=195), change]).assert_recovers_within(120)


def test_a_failure_is_no_recovery() -> None:
    runs = [run("r1", 10, 15), run("r1", 100, 105, Outcome.FAILED), run("r1", 400, 405)]
    with pytest.raises(AssertionError, match=r"it succeeded only at 0:06:40\.0"):
        timeline(*runs, faults=[Kill("r2", at=50)]).assert_recovers_within(100)


def test_the_beginning_counts_as_a_fault() -> None:
    with pytest.raises(AssertionError, match="from the beginning"):
        steady(without=[0, 1]).assert_recovers_within(100)


def test_while_nobody_can_go_on_the_count_does_not_begin() -> None:
    judged = steady(without=[3, 4, 5], faults=[DatabaseAway(at=190, seconds=150)])
    judged.assert_recovers_within(60)
    frequent = [run("r1", 10.0 * n, 10.0 * n + 1) for n in range(60) if n < 19 or n > 36]
    frequent_but_away = timeline(*frequent, faults=[DatabaseAway(at=190, seconds=150)])
    frequent_but_away.assert_recovers_within(30)
    with pytest.raises(AssertionError, match=r"from 0:05:40\.0 on"):
        frequent_but_away.assert_recovers_within(29)


def test_while_another_can_go_on_it_begins_with_the_fault() -> None:
    with pytest.raises(AssertionError, match=r"from 0:03:10\.0 on"):
        steady(without=[3, 4, 5], faults=[Freeze("r1", at=190, seconds=150)]).assert_recovers_within(60)
    steady(without=[3, 4, 5], faults=[Freeze("r1", at=190, seconds=150)], replicas=("r1",)).assert_recovers_within(60)


def test_a_replica_that_is_gone_cannot_go_on_until_it_is_started_again() -> None:
    faults = [Kill("r1", at=190), Start("r1", at=340)]
    steady(without=[3, 4, 5], faults=faults, replicas=("r1",)).assert_recovers_within(60)


def test_what_comes_too_soon_before_the_next_fault_or_the_end_is_not_judged() -> None:
    faults = [Kill("r2", at=190), DropSession("r1", at=240)]
    steady(without=[3], faults=faults).assert_recovers_within(60)
    steady(without=[9], faults=[DropSession("r1", at=545)]).assert_recovers_within(60)


def test_where_nobody_can_go_on_any_more_nothing_is_asked_for() -> None:
    faults = [DatabaseAway(at=195, seconds=900)]
    steady(without=range(4, 10), faults=faults).assert_recovers_within(60)
    steady(without=range(4, 10), faults=[Kill("r1", at=195)], replicas=("r1",)).assert_recovers_within(60)


def test_a_run_that_fills_all_the_time_is_no_lack_of_runs_unless_it_is_frozen() -> None:
    long = [run("r1", 10, 500), run("r1", 510, 515)]
    timeline(*long, faults=[Kill("r2", at=100)]).assert_recovers_within(90)
    with pytest.raises(AssertionError, match="could be run from 0:01:40"):
        timeline(*long, faults=[Freeze("r1", at=100, seconds=300)]).assert_recovers_within(90)


def test_a_run_that_the_next_fault_cut_short_is_not_to_blame() -> None:
    runs = [run("r1", 10, 15), run("r1", 50, 55)]
    runs += [run("r2", 111, 150, Outcome.LOCK_LOST), run("r2", 170, 175)]
    faults = [Kill("r3", at=80), DropSession("r2", at=150)]
    timeline(*runs, faults=faults, seconds=200).assert_recovers_within(40)


def test_more_seconds_than_there_are_cannot_be_judged() -> None:
    with pytest.raises(ValueError, match="at most the 600 of the timeline, got 700: play it for longer"):
        steady().assert_recovers_within(700)


def test_after_each_success_there_is_another() -> None:
    steady().assert_recovers_within(56)
    with pytest.raises(
        AssertionError, match=r"from 0:00:15\.0 on, after its success on r1 \(.*\); it succeeded only at 0:01:10\.0"
    ):
        steady().assert_recovers_within(54)
    with pytest.raises(AssertionError, match=r"from 0:04:15\.0 on, after its success .* only at 0:06:10\.0"):
        steady(without=[5]).assert_recovers_within(114)


def test_a_run_that_does_not_end_counts_for_as_long_as_it_is_young() -> None:
    runs = [run("r1", 60.0 * n + 10, 60.0 * n + 15) for n in range(8)]
    timeline(*runs, run("r1", 490.5, 600, None)).assert_recovers_within(110)
    with pytest.raises(AssertionError, match=r"after its success on r1 .*; it succeeded never"):
        timeline(*runs, run("r1", 490, 600, None)).assert_recovers_within(110)


def test_a_run_that_does_not_end_fills_nothing_unless_it_is_to_succeed() -> None:
    def judged(outcome: Outcome | None) -> Timeline:
        runs = [run("r1", 0, 0), run("r1", 10, 500, outcome), run("r1", 510, 515)]
        return timeline(*runs, faults=[Kill("r2", at=80), Kill("r3", at=500)], seconds=590)

    judged(Outcome.SUCCESS).assert_recovers_within(90)
    for outcome in (None, Outcome.FAILED):
        with pytest.raises(AssertionError, match=r"from 0:01:20\.0 on, after Kill"):
            judged(outcome).assert_recovers_within(90)


def test_after_a_run_that_does_not_end_no_more_may_pass_than_a_run_may_take() -> None:
    def judged(until: float, *runs: Run, **facts: Any) -> Timeline:
        facts = {"name": "sweep", "interval": 60, "lock_id": 7, **facts}
        return timeline(*runs, run("r1", 110, until, None), seconds=until, services=(ServiceFacts(**facts),))

    first = run("r1", 10, 15)
    judged(110 + 180, first, run("r1", 70, 75)).assert_once_per_interval()
    judged(110 + 210, first, run("r1", 70, 75), tick_timeout=90).assert_once_per_interval()
    judged(110 + 200, run("r1", 10, 95)).assert_once_per_interval()
    for until, facts in ((181, {}), (211, {"tick_timeout": 90})):
        with pytest.raises(AssertionError, match="did not run for"):
            judged(110 + until, first, run("r1", 70, 75), **facts).assert_once_per_interval()


# -- How it is drawn ---------------------------------------------------------------------------------------------------


def test_a_timeline_prints_as_lanes_with_their_faults() -> None:
    text = str(
        timeline(
            run("r1", 0, 10),
            run("r2", 40, 50, Outcome.FAILED),
            run("r1", 85, 90, None),
            faults=[Freeze("r2", at=20, seconds=10), DatabaseAway(at=70, seconds=5)],
            skips=(
                Skip(replica="r2", service="sweep", at=5, outcome=Outcome.BUSY),
                Skip(replica="r2", service="sweep", at=72, outcome=Outcome.UNAVAILABLE),
            ),
            holds=(Hold("r1", 7, 0.0, 30.0, kept=True),),
            seconds=90,
            replicas=("r1", "r2"),
            services=(ServiceFacts(name="sweep", interval=90, lock_id=7),),
        )
    )
    assert text.splitlines()[:8] == [
        "0:01:30.0 of virtual time, lease 15 s; runs: 1 failed, 1 success, 1 unfinished",
        "",
        "          0:00:00.0                                                                        0:01:30.0",
        "database                                                                        AAAAA",
        "r1 sweep  ##########--------------------                                                       >>>>>",
        "r2                            FFFFFFFFFF",
        "r2 sweep       b                                  xxxxxxxxxx                      u",
        "",
    ]
    assert "at 0:00:20.0  Freeze('r2', at=20, seconds=10)\nat 0:01:10.0  DatabaseAway(at=70, seconds=5)" in text
    assert max(map(len, text.splitlines())) <= 100


def test_what_is_outside_of_the_part_that_is_drawn_is_not_in_it() -> None:
    whole = timeline(run("r1", 0, 10), run("r1", 200, 210), faults=[Kill("r2", at=5)])
    assert [line for line in drawn(whole, 50, 90).splitlines() if line.startswith("r1 sweep")] == ["r1 sweep"]
    assert "Kill" not in drawn(whole, 50, 90)


def test_long_names_and_long_times_still_fit() -> None:
    text = str(
        timeline(
            Run(replica="r1", service="a" * 63, started_at=0, stopped_at=9, outcome=None),
            seconds=366 * 86400,
            services=(ServiceFacts(name="a" * 63, interval=1),),
        )
    )
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    ("seconds", "face"), [(0, "0:00:00.0"), (59.96, "0:01:00.0"), (3661.25, "1:01:01.2"), (360000, "100:00:00.0")]
)
def test_times_are_told_as_on_a_clock(seconds: float, face: str) -> None:
    assert clock_face(seconds) == face


# -- With a ledger -----------------------------------------------------------------------------------------------------


def held(*runs: Run, kept: bool = True) -> tuple[Hold, ...]:
    """The lock of each run, which the server saw for as long as it took."""
    return tuple(Hold(each.replica, 7, each.started_at, each.stopped_at, kept=kept) for each in runs)


def with_ledger(*runs: Run, faults: Iterable[Any] = (), kept: bool = True, seconds: float = 130.0) -> Timeline:
    return timeline(*runs, faults=faults, ledger=True, holds=held(*runs, kept=kept), seconds=seconds)


def test_with_a_ledger_a_kill_makes_room_for_no_second_run() -> None:
    runs = run("r1", 10, 15), run("r2", 40, 45)
    timeline(*runs, faults=[Kill("r1", at=20)], seconds=100).assert_once_per_interval()
    with pytest.raises(
        AssertionError,
        match=r"sweep succeeded 2 times up to that on r2 .*, within 30\.000 s: more than once per interval of 60 s",
    ):
        with_ledger(*runs, faults=[Kill("r1", at=20)], seconds=100).assert_once_per_interval()


def test_with_a_ledger_a_late_run_does_not_put_off_the_next_one() -> None:
    runs = run("r1", 0, 5), run("r1", 100, 105), run("r2", 120, 125)
    faults = [DatabaseAway(at=50, seconds=40)]
    with_ledger(*runs, faults=faults).assert_once_per_interval()
    with pytest.raises(AssertionError, match="succeeded 4 times"):
        with_ledger(*runs, run("r3", 128, 129), faults=faults).assert_once_per_interval()


def test_with_a_ledger_a_success_that_could_not_be_written_is_repeated() -> None:
    first, second = run("r1", 10, 15), run("r2", 16, 20)
    lost, kept = held(first, kept=False), held(second)
    timeline(first, second, ledger=True, holds=lost + kept, seconds=60).assert_once_per_interval()


def test_with_a_ledger_a_run_that_ends_after_the_next_time_is_followed_by_the_one_after() -> None:
    long = run("r1", 3, 58), run("r1", 121, 125)
    with_ledger(*long).assert_once_per_interval()
    with pytest.raises(AssertionError, match=r"sweep did not run for 118\.000 s"):
        with_ledger(run("r1", 3, 56), run("r1", 121, 125)).assert_once_per_interval()
