"""When a service with a ledger is due: the arithmetic, against what the rows of many replicas come to over time."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tickrunner_trio import Outcome
from tickrunner_trio._dueness import EPOCH_BITS, due_after, epoch_after, is_due

INTERVALS = st.sampled_from([0.001, 0.1, 1 / 3, 60.0, 86400.0, 366 * 86400.0]) | st.floats(0.001, 1e7)
PARTS = st.sampled_from([0.0, 0.5, 1.0, 1.5, 3.0]) | st.floats(0, 10)


def succeeded(due_at: float | None, *, started_at: float, now: float, interval: float) -> float:
    due = due_after(Outcome.SUCCESS, due_at, started_at=started_at, now=now, interval=interval, chance=0.5)
    assert due is not None
    return due


@given(
    start=st.floats(0, 1e9),
    since_due=st.floats(-20, 20),
    took=PARTS,
    interval=INTERVALS,
)
@example(start=0.3, since_due=3.0, took=0.0, interval=0.1)
def test_after_a_success_it_is_due_in_the_interval_that_follows(
    start: float, since_due: float, took: float, interval: float
) -> None:
    due_at, now = start - since_due * interval, start + took * interval
    after = succeeded(due_at, started_at=start, now=now, interval=interval)
    assert now < after <= now + interval
    assert not is_due(after, now=now, interval=interval)


@given(runs=st.lists(st.tuples(st.floats(0, 0.1), st.floats(0, 0.8)), min_size=1, max_size=50), interval=INTERVALS)
def test_while_all_is_well_it_moves_by_the_interval_and_drifts_by_nothing(
    runs: list[tuple[float, float]], interval: float
) -> None:
    due_at = 0.0
    for index, (late, took) in enumerate(runs):
        started_at = due_at + late * interval
        due_at = succeeded(due_at, started_at=started_at, now=started_at + took * interval, interval=interval)
        assert due_at == pytest.approx((index + 1) * interval, rel=1e-9)


def test_what_passed_while_the_work_ran_is_not_made_up_for() -> None:
    assert succeeded(100.0, started_at=101.0, now=135.0, interval=10.0) == 140.0
    assert succeeded(100.0, started_at=101.0, now=140.0, interval=10.0) == 150.0


def test_an_early_success_is_the_run_of_the_interval_that_begins_with_it() -> None:
    assert succeeded(110.0, started_at=103.0, now=104.0, interval=10.0) == 113.0
    assert succeeded(110.0, started_at=103.0, now=124.0, interval=10.0) == 133.0


def test_a_due_time_beyond_an_interval_keeps_its_phase_when_the_interval_was_shortened() -> None:
    assert is_due(86400.0, now=100.0, interval=3600.0)
    assert succeeded(86400.0, started_at=100.0, now=110.0, interval=3600.0) == 3600.0


def test_the_first_success_of_all_begins_the_count() -> None:
    assert is_due(None, now=0.0, interval=10.0)
    assert succeeded(None, started_at=5.0, now=6.0, interval=10.0) == 15.0


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.TIMED_OUT, Outcome.UNAVAILABLE])
@pytest.mark.parametrize(("chance", "due_at"), [(0.0, 50.0), (0.5, 55.0), (1.0, 60.0)])
def test_a_failure_is_tried_again_at_a_random_point_of_the_first_quarter(
    outcome: Outcome, chance: float, due_at: float
) -> None:
    assert due_after(outcome, 10.0, started_at=20.0, now=50.0, interval=40.0, chance=chance) == due_at


@pytest.mark.parametrize("outcome", [Outcome.CANCELLED, Outcome.LOCK_LOST])
@pytest.mark.parametrize("due_at", [None, 10.0, 99.0])
def test_a_run_that_was_cut_short_leaves_it_as_due_as_before(outcome: Outcome, due_at: float | None) -> None:
    assert due_after(outcome, due_at, started_at=20.0, now=50.0, interval=40.0, chance=0.5) == due_at


@pytest.mark.parametrize(
    ("due_at", "due"), [(9.9, True), (10.0, True), (10.1, False), (15.0, False), (15.1, True), (math.inf, True)]
)
def test_it_is_due_from_its_time_on_and_when_that_is_more_than_an_interval_away(due_at: float, due: bool) -> None:
    assert is_due(due_at, now=10.0, interval=5.0) is due


def test_the_first_epoch_tells_of_the_timeline() -> None:
    assert epoch_after(0, timeline=0, server_timeline=1) == 1 << EPOCH_BITS
    assert epoch_after(1 << EPOCH_BITS, timeline=1, server_timeline=1) == (1 << EPOCH_BITS) + 1


@given(
    events=st.lists(st.sampled_from(["run", "replicate", "failover"]), max_size=60),
    runs=st.integers(0, 1 << 39),
)
def test_epochs_increase_over_any_failover_to_a_standby_that_knows_less(events: list[str], runs: int) -> None:
    """A standby has the row of the last replication, and each promotion gives the server a new timeline."""
    timeline = server_timeline = 1
    epoch = (1 << EPOCH_BITS) + runs
    given_out = [epoch]
    replicated = epoch, timeline
    for event in events:
        match event:
            case "run":
                epoch = epoch_after(epoch, timeline=timeline, server_timeline=server_timeline)
                timeline = server_timeline
                given_out.append(epoch)
            case "replicate":
                replicated = epoch, timeline
            case _:
                epoch, timeline = replicated
                server_timeline += 1
    assert given_out == sorted(set(given_out))


def test_a_timeline_that_is_far_ahead_is_taken_over_and_none_that_is_behind() -> None:
    assert epoch_after(5, timeline=1, server_timeline=9) == 9 << EPOCH_BITS
    assert epoch_after((9 << EPOCH_BITS) + 7, timeline=9, server_timeline=2) == 10 << EPOCH_BITS
