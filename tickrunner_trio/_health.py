"""The health of a service: a pure fold over the outcomes of its ticks.

::

                     SUCCESS -> OK          BUSY  -> STANDBY       UNAVAILABLE -> UNAVAILABLE
    STARTING  --->   an error -> FAILING    GATED -> DISABLED      CANCELLED   -> (the state stays)

Every state is entered from every other by the outcome beside it; STARTING is never entered again. STALLED is no state
of the fold: it is the absence of outcomes, which only somebody with a clock can see (`RunningHealth`).

Invariants:

1. ``consecutive_failures`` counts the errors since the last success: an error adds one, a success resets it, a skip
   leaves it.
2. ``last_error`` is "" when ``consecutive_failures`` is 0.
3. FAILING implies ``consecutive_failures`` > 0; OK implies that it is 0.
4. ``last_success`` never moves back, whatever the clocks do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum, auto
from typing import TYPE_CHECKING

from ._outcome import Outcome

if TYPE_CHECKING:
    from trio.abc import Clock


class HealthState(StrEnum):
    """What an operator would say of a service in one word."""

    STARTING = auto()  #: No outcome yet.
    OK = auto()  #: The last tick succeeded.
    STANDBY = auto()  #: The last tick was BUSY: another replica does the work.
    FAILING = auto()  #: The last tick that was no skip was an error.
    DISABLED = auto()  #: The last tick was GATED.
    UNAVAILABLE = auto()  #: The database could not be asked at the last tick.
    STALLED = auto()  #: No outcome of any kind for much longer than an interval.

    def __repr__(self) -> str:
        return f"HealthState.{self.name}"  # what evaluates, also inside of other values


_STATES = {
    "success": HealthState.OK,
    "error": HealthState.FAILING,
    Outcome.BUSY: HealthState.STANDBY,
    Outcome.GATED: HealthState.DISABLED,
    Outcome.UNAVAILABLE: HealthState.UNAVAILABLE,
}


@dataclass(frozen=True, slots=True)
class WorkerHealth:
    """A frozen snapshot of one service on one replica. `after` gives the next one."""

    name: str  #: The name of the service.
    state: HealthState = HealthState.STARTING
    last_success: datetime | None = None  #: When the last success was judged. Aware, UTC.
    last_failure: datetime | None = None  #: When the last error was judged. Aware, UTC.
    last_tick: datetime | None = None  #: When the last outcome of any kind was judged. Aware, UTC.
    last_error: str = ""  #: Kind and text of the last error since the last success; "" if there is none.
    consecutive_failures: int = 0  #: Errors since the last success.
    last_outcome: Outcome | None = None

    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> WorkerHealth:
        """Return the health after one more tick.

        Args:
            outcome: what came of the tick.
            at: when it was judged; an aware datetime, of any time zone.
            error: what an outcome whose result is ``error`` is put down to; not looked at for the others.

        Raises:
            ValueError: ``at`` is naive.
        """
        if at.utcoffset() is None:
            raise ValueError(f"at must be an aware datetime, got {at!r}: use datetime.now(UTC)")
        at = at.astimezone(UTC)
        result = outcome.result
        last_success, last_failure = self.last_success, self.last_failure
        last_error, failures = self.last_error, self.consecutive_failures
        if result == "success":
            last_success = at if last_success is None else max(last_success, at)
            last_error, failures = "", 0
        elif result == "error":
            last_failure = at
            last_error, failures = "" if error is None else describe_error(error), failures + 1
        return replace(
            self,
            state=_STATES.get(outcome) or _STATES.get(result) or self.state,
            last_success=last_success,
            last_failure=last_failure,
            last_tick=at,
            last_error=last_error,
            consecutive_failures=failures,
            last_outcome=outcome,
        )


class RunningHealth:
    """The health of a service that runs: one thread tells it outcomes, any thread reads it.

    Most ticks succeed after one that did. Of such a tick only the time is noted, and folded when somebody looks: to
    fold each would take 4 us, a tenth of a tick.

    Args:
        health: to begin with.
        stalls_after: seconds without an outcome of any kind, while it is expected to have some, that make it STALLED.
    """

    __slots__ = ("_heard", "_noted", "_stalls_after")

    def __init__(self, health: WorkerHealth, stalls_after: float) -> None:
        self._stalls_after = stalls_after
        # While outcomes are expected: the clock, and its time when that began or the last one came. One tuple, too.
        self._heard: tuple[Clock, float] | None = None
        # What is folded, and of the successes since then the latest time and the greatest, in Unix time, which differ
        # where the clock was set back. One tuple, replaced as a whole.
        self._noted: tuple[WorkerHealth, float, float] = (health, -math.inf, -math.inf)

    def expect_outcomes(self, clock: Clock | None) -> None:
        """From now on, by that clock, outcomes are to come; None: no more."""
        self._heard = None if clock is None else (clock, clock.current_time())

    def now(self) -> WorkerHealth:
        """Return the health after all that was told, and all that was not."""
        health, heard = self._told(), self._heard
        if heard is not None:
            clock, heard_at = heard
            if clock.current_time() - heard_at >= self._stalls_after:
                return replace(health, state=HealthState.STALLED)
        return health

    def _told(self) -> WorkerHealth:
        health, latest, greatest = self._noted
        if latest == -math.inf:
            return health
        if greatest > latest:
            health = health.after(Outcome.SUCCESS, at=datetime.fromtimestamp(greatest, UTC))
        return health.after(Outcome.SUCCESS, at=datetime.fromtimestamp(latest, UTC))

    def begin_with(self, last_success: datetime) -> None:
        """Take when it last succeeded elsewhere, unless it has here."""
        health = self._told()
        if health.last_success is None:
            self._noted = replace(health, last_success=last_success), -math.inf, -math.inf

    def tell(self, outcome: Outcome, *, judged_at: float, utc_offset: float, error: BaseException | None) -> bool:
        """Take one more tick, judged at that time of the clock, which plus the offset is Unix time; see `WorkerHealth`.

        Return whether the last one had that outcome, too. In the thread whose clock it is.
        """
        if self._heard is not None:
            self._heard = (self._heard[0], judged_at)
        at = judged_at + utc_offset
        health, _, greatest = self._noted
        is_repeated = health.last_outcome is outcome
        if is_repeated and outcome is Outcome.SUCCESS:
            self._noted = health, at, max(at, greatest)
        else:
            health = self._told().after(outcome, at=datetime.fromtimestamp(at, UTC), error=error)
            self._noted = health, -math.inf, -math.inf
        return is_repeated


def describe_error(error: BaseException) -> str:
    """Return the kind and the text of an exception on one line, also of one whose ``str`` raises."""
    kind = type(error).__name__
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = "(its text cannot be had: str() of it raises)"
    return f"{kind}: {text}" if text else kind
