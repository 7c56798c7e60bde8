"""The promises of a health fold, each as one sentence, against what the whole history says at each step.

Each is raised, as an `AssertionError`, in a line of its own, because Hypothesis takes two failures that come from one
line for one bug, and would shrink the one into the other.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from .._health import HealthState
from .._outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from ._history import Judged


class HealthView(Protocol):
    """What a snapshot of somebody's own reporter has to show: the fields of `tickrunner_trio.WorkerHealth`."""

    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def last_success(self) -> datetime | None: ...
    @property
    def last_failure(self) -> datetime | None: ...
    @property
    def last_tick(self) -> datetime | None: ...
    @property
    def last_error(self) -> str: ...
    @property
    def consecutive_failures(self) -> int: ...
    @property
    def last_outcome(self) -> str | None: ...


FIELDS = (
    *("name", "state", "last_success", "last_failure", "last_tick", "last_error", "consecutive_failures"),
    "last_outcome",
)

_STATE_AFTER = {
    Outcome.SUCCESS: HealthState.OK,
    Outcome.FAILED: HealthState.FAILING,
    Outcome.TIMED_OUT: HealthState.FAILING,
    Outcome.LOCK_LOST: HealthState.FAILING,
    Outcome.LOCKER_ERROR: HealthState.FAILING,
    Outcome.GATED: HealthState.DISABLED,
    Outcome.BUSY: HealthState.STANDBY,
    Outcome.UNAVAILABLE: HealthState.UNAVAILABLE,
}


def values(health: HealthView) -> dict[str, object]:
    return {field: getattr(health, field) for field in FIELDS}


def check_fresh(health: HealthView, name: str) -> None:
    """A service that has not ticked."""
    fresh = dict.fromkeys(FIELDS) | {"name": name, "state": HealthState.STARTING}
    fresh |= {"last_error": "", "consecutive_failures": 0}
    for field, value in values(health).items():
        if value != fresh[field]:
            raise broken("A service that has not ticked is STARTING and knows nothing", field, value, fresh[field])


def check_frozen(health: HealthView) -> None:
    for field, value in values(health).items():
        try:
            setattr(health, field, value)
        except (AttributeError, TypeError):
            continue
        raise AssertionError(f"A snapshot is frozen: {field} of {health!r} can be set")


def check_unchanged(health: HealthView, taken: dict[str, object]) -> None:
    for field, value in values(health).items():
        if value != taken[field]:
            raise broken("A snapshot that somebody has never changes", field, value, taken[field])


def check_bystander(health: HealthView, fresh: dict[str, object]) -> None:
    for field, value in values(health).items():
        if value != fresh[field]:
            raise broken("No service shares its health with another", field, value, fresh[field])


def check_last_tick(health: HealthView, name: str, last: Judged) -> None:
    """What each outcome sets, whatever it is."""
    if health.name != name:
        raise broken("The name stays", "name", health.name, name)
    if health.last_outcome != last.outcome:
        raise broken("Each outcome is the last_outcome then", "last_outcome", health.last_outcome, last.outcome)
    for field in ("last_success", "last_failure", "last_tick"):
        at: datetime | None = getattr(health, field)
        # Before anything is compared: an aware time and a naive one cannot be ordered.
        if at is not None and at.utcoffset() != timedelta(0):
            raise AssertionError(f"Times are kept in UTC: {field} is {at!r}")
    if health.last_tick != last.at:
        raise broken("Each outcome sets last_tick", "last_tick", health.last_tick, last.at)


def check_failures(health: HealthView, history: Sequence[Judged], last_error: str) -> None:
    """``consecutive_failures`` and ``last_error``: what was since the last success."""
    last = history[-1].outcome
    got = health.consecutive_failures, health.last_error
    expected = len(failures_since_success(history)), last_error
    if got == expected:
        return
    field, *figures = (
        ("consecutive_failures", got[0], expected[0]) if got[0] != expected[0] else ("last_error", got[1], expected[1])
    )
    if last.result == "success":
        raise broken("A success resets consecutive_failures and last_error", field, *figures)
    if last.result == "skipped":
        raise broken(f"A skip ({last!r}) changes neither consecutive_failures nor last_error", field, *figures)
    if field == "consecutive_failures":
        raise broken(f"An error ({last!r}) adds one to consecutive_failures", field, *figures)
    raise broken("last_error tells the last error", field, *figures)


def check_state(health: HealthView, history: Sequence[Judged]) -> None:
    told = [judged.outcome for judged in history if judged.outcome is not Outcome.CANCELLED]
    expected = _STATE_AFTER[told[-1]] if told else HealthState.STARTING
    if health.state == expected:
        return
    if health.state == HealthState.STALLED:
        raise broken("No outcome leads to STALLED", "state", health.state, expected)
    if history[-1].outcome is Outcome.CANCELLED:
        raise broken("CANCELLED leaves the state", "state", health.state, expected)
    if health.state == HealthState.FAILING:
        raise broken(
            "FAILING lasts while consecutive_failures > 0 and the last tick was no skip",
            *("state", health.state, expected),
        )
    raise broken(f"{history[-1].outcome!r} is shown as {expected.name}", "state", health.state, expected)


def check_times(health: HealthView, history: Sequence[Judged]) -> None:
    """``last_success`` and ``last_failure``: that each is set by its own kind of outcome, and by no other."""
    last = history[-1]
    succeeded = max((judged.at for judged in history if judged.outcome.result == "success"), default=None)
    if health.last_success != succeeded:
        figures = "last_success", health.last_success, succeeded
        if last.outcome.result != "success":
            raise broken("Only a success changes last_success", *figures)
        if succeeded is not None and last.at < succeeded:
            raise broken("last_success never moves back", *figures)
        raise broken("A success sets last_success", *figures)
    failed = next((judged.at for judged in reversed(history) if judged.outcome.result == "error"), None)
    if health.last_failure != failed:
        figures = "last_failure", health.last_failure, failed
        if last.outcome.result != "error":
            raise broken("Only an error changes last_failure", *figures)
        raise broken(f"An error ({last.outcome!r}) sets last_failure", *figures)


def failures_since_success(history: Sequence[Judged]) -> list[Judged]:
    since: list[Judged] = []
    for judged in history:
        if judged.outcome.result == "success":
            since.clear()
        elif judged.outcome.result == "error":
            since.append(judged)
    return since


def broken(promise: str, field: str, got: object, expected: object) -> AssertionError:
    return AssertionError(f"{promise}: {field} is {got!r}, and should be {expected!r}")
