"""The health fold: all of its promises by the machine that users have too, and each of them once more by hand."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any

import pytest
from hypothesis import settings

from tickrunner_trio import HealthState, Outcome, WorkerHealth
from tickrunner_trio._health import RunningHealth, describe_error
from tickrunner_trio.testing import HealthStateMachine

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SKIPS = [Outcome.BUSY, Outcome.GATED, Outcome.UNAVAILABLE, Outcome.CANCELLED]
STATE_AFTER = {
    Outcome.SUCCESS: HealthState.OK,
    Outcome.FAILED: HealthState.FAILING,
    Outcome.TIMED_OUT: HealthState.FAILING,
    Outcome.LOCK_LOST: HealthState.FAILING,
    Outcome.LOCKER_ERROR: HealthState.FAILING,
    Outcome.BUSY: HealthState.STANDBY,
    Outcome.GATED: HealthState.DISABLED,
    Outcome.UNAVAILABLE: HealthState.UNAVAILABLE,
}


TestTheFoldKeepsAllPromises = HealthStateMachine.TestCase
TestTheFoldKeepsAllPromises.settings = settings(max_examples=40)


def after(*outcomes: Outcome) -> WorkerHealth:
    """One outcome a second."""
    health = WorkerHealth("sweep")
    for second, outcome in enumerate(outcomes):
        health = health.after(outcome, at=AT + timedelta(seconds=second), error=OSError(f"number {second}"))
    return health


def test_a_service_that_has_not_ticked_is_starting_and_knows_nothing() -> None:
    assert WorkerHealth("sweep") == WorkerHealth(
        name="sweep",
        state=HealthState.STARTING,
        last_success=None,
        last_failure=None,
        last_tick=None,
        last_error="",
        consecutive_failures=0,
        last_outcome=None,
    )


@pytest.mark.parametrize("before", Outcome)
@pytest.mark.parametrize(("outcome", "state"), STATE_AFTER.items())
def test_the_state_is_that_of_the_last_outcome_whatever_came_before(
    before: Outcome, outcome: Outcome, state: HealthState
) -> None:
    assert after(outcome).state is state
    assert after(before, outcome).state is state


@pytest.mark.parametrize("before", STATE_AFTER)
def test_cancelled_leaves_the_state(before: Outcome) -> None:
    assert after(before, Outcome.CANCELLED).state is STATE_AFTER[before]
    assert after(Outcome.CANCELLED).state is HealthState.STARTING


@pytest.mark.parametrize("skip", SKIPS)
def test_a_skip_changes_neither_the_failures_nor_the_last_error(skip: Outcome) -> None:
    failed = after(Outcome.FAILED, Outcome.FAILED)
    skipped = failed.after(skip, at=AT + timedelta(hours=1), error=ValueError("not looked at"))
    assert (skipped.consecutive_failures, skipped.last_error) == (2, "OSError: number 1")
    assert (skipped.last_failure, skipped.last_success) == (failed.last_failure, None)
    assert (skipped.last_tick, skipped.last_outcome) == (AT + timedelta(hours=1), skip)


def test_failures_add_up_over_skips_until_a_success_resets_them() -> None:
    failing = after(Outcome.FAILED, Outcome.BUSY, Outcome.TIMED_OUT, Outcome.GATED, Outcome.LOCKER_ERROR)
    assert (failing.consecutive_failures, failing.state) == (3, HealthState.FAILING)
    healed = failing.after(Outcome.SUCCESS, at=AT, error=None)
    assert (healed.consecutive_failures, healed.last_error, healed.state) == (0, "", HealthState.OK)
    assert healed.last_failure == failing.last_failure


def test_the_last_success_never_moves_back() -> None:
    health = after(Outcome.SUCCESS)
    earlier = health.after(Outcome.SUCCESS, at=AT - timedelta(days=1))
    assert (earlier.last_success, earlier.last_tick) == (AT, AT - timedelta(days=1))
    later = earlier.after(Outcome.SUCCESS, at=AT + timedelta(seconds=1))
    assert later.last_success == AT + timedelta(seconds=1)


def test_an_error_without_an_exception_does_not_keep_the_text_of_an_older_one() -> None:
    health = after(Outcome.FAILED).after(Outcome.FAILED, at=AT)
    assert (health.consecutive_failures, health.last_error) == (2, "")


def test_times_of_any_zone_are_kept_as_utc() -> None:
    health = WorkerHealth("sweep").after(Outcome.SUCCESS, at=AT.astimezone(timezone(timedelta(hours=5, minutes=30))))
    assert str(health.last_success) == str(health.last_tick) == "2026-01-02 03:04:05+00:00"


class OfNoZone(tzinfo):
    def utcoffset(self, at: datetime | None) -> None:
        return None


@pytest.mark.parametrize("at", [AT.replace(tzinfo=None), AT.replace(tzinfo=OfNoZone())])
def test_a_naive_time_is_refused(at: datetime) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is below
        WorkerHealth("sweep").after(Outcome.SUCCESS, at=at)
    assert str(caught.value) == f"at must be an aware datetime, got {at!r}: use datetime.now(UTC)"


def test_a_snapshot_is_frozen() -> None:
    health = WorkerHealth("sweep")
    for field in fields(health):
        with pytest.raises(FrozenInstanceError):
            setattr(health, field.name, None)


@pytest.mark.parametrize("state", HealthState)
def test_a_state_prints_as_what_evaluates(state: HealthState) -> None:
    assert repr(state) == f"HealthState.{state.name}"


@pytest.mark.parametrize("state", HealthState)
def test_a_state_is_its_name_in_lower_case(state: HealthState) -> None:
    assert state.name.isupper()
    assert str(state) == state == state.value == state.name.lower()


def test_the_states_are_those_of_the_design() -> None:
    assert [state.name for state in HealthState] == [
        "STARTING",
        "OK",
        "STANDBY",
        "FAILING",
        "DISABLED",
        "UNAVAILABLE",
        "STALLED",
    ]


class WithoutWordsError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "description"),
    [
        (ValueError("disk full"), "ValueError: disk full"),
        (ValueError(" several\n  lines\tof it "), "ValueError: several lines of it"),
        (KeyError(), "KeyError"),
        (ValueError(" \n"), "ValueError"),
        (WithoutWordsError(), "WithoutWordsError: (its text cannot be had: str() of it raises)"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_an_error_is_described_by_its_kind_and_its_text_on_one_line(error: BaseException, description: str) -> None:
    assert describe_error(error) == description


# -- Of a service that runs --------------------------------------------------------------------------------------------


class Clock:
    """Somebody's; none of its times is any other clock's."""

    def __init__(self, now: float) -> None:
        self.now = now

    def current_time(self) -> float:
        return self.now


def running() -> tuple[RunningHealth, Any]:
    """One that stalls after ten seconds, and its clock, which says 100 when outcomes are expected."""
    clock: Any = Clock(100)
    health = RunningHealth(WorkerHealth("sweep"), 10)
    health.expect_outcomes(clock)
    return health, clock


def tell(health: RunningHealth, outcome: Outcome, judged_at: float, error: BaseException | None = None) -> bool:
    return health.tell(outcome, judged_at=judged_at, utc_offset=AT.timestamp() - 100, error=error)


def test_what_is_noted_of_successes_is_what_the_fold_makes_of_them() -> None:
    health, _ = running()
    folded = WorkerHealth("sweep")
    assert health.now() == folded
    # The third success comes after the clock has been set back, and is not the latest one for ever.
    told = [*[(Outcome.SUCCESS, at) for at in (1, 5, 2, 3, 9)], (Outcome.FAILED, 4), (Outcome.SUCCESS, 6)]
    for outcome, second in [*told, (Outcome.BUSY, 7), (Outcome.SUCCESS, 8), (Outcome.SUCCESS, 8)]:
        error = OSError("disk full") if outcome is Outcome.FAILED else None
        assert tell(health, outcome, 100 + second, error) == (outcome is folded.last_outcome)
        folded = folded.after(outcome, at=AT + timedelta(seconds=second), error=error)
        assert health.now() == folded


def test_it_is_stalled_from_ten_seconds_without_an_outcome_on_and_keeps_the_rest() -> None:
    health, clock = running()
    clock.now = 109.5
    assert health.now().state is HealthState.STARTING
    clock.now = 110
    assert health.now() == WorkerHealth("sweep", state=HealthState.STALLED)
    tell(health, Outcome.SUCCESS, 110)
    assert health.now().state is HealthState.OK
    clock.now = 120
    assert (health.now().state, health.now().last_success) == (HealthState.STALLED, AT + timedelta(seconds=10))
    tell(health, Outcome.FAILED, 120)
    assert health.now().consecutive_failures == 1
    health.expect_outcomes(clock)
    clock.now = 129.5
    assert health.now().state is HealthState.FAILING


def test_it_is_never_stalled_while_nothing_is_expected() -> None:
    health, clock = running()
    health.expect_outcomes(None)
    clock.now = 1000
    assert health.now().state is HealthState.STARTING
    tell(health, Outcome.BUSY, 1000)
    clock.now = 2000
    assert health.now().state is HealthState.STANDBY


def test_a_success_elsewhere_counts_until_there_is_one_here_and_stalls_nobody() -> None:
    health, clock = running()
    clock.now = 110
    health.begin_with(AT)
    assert (health.now().last_success, health.now().last_outcome) == (AT, None)
    tell(health, Outcome.CANCELLED, 111)
    assert health.now().state is HealthState.STARTING
    tell(health, Outcome.SUCCESS, 112)
    tell(health, Outcome.SUCCESS, 113)
    health.begin_with(AT + timedelta(days=1))
    assert health.now().last_success == AT + timedelta(seconds=13)
