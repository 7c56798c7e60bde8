"""The health of a service: a pure fold over the outcomes of its ticks.

::

                     SUCCESS -> OK          BUSY  -> STANDBY       UNAVAILABLE -> UNAVAILABLE
    STARTING  --->   an error -> FAILING    GATED -> DISABLED      CANCELLED   -> (the state stays)

Every state is entered from every other by the outcome beside it; STARTING is never entered again. STALLED is no state
of the fold: it is the absence of outcomes, which only somebody with a clock can see (`Service.health`).

Invariants:

1. ``consecutive_failures`` counts the errors since the last success: an error adds one, a success resets it, a skip
   leaves it.
2. ``last_error`` is "" when ``consecutive_failures`` is 0.
3. FAILING implies ``consecutive_failures`` > 0; OK implies that it is 0.
4. ``last_success`` never moves back, whatever the clocks do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum, auto

from ._outcome import Outcome


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
        ticked = replace(
            self,
            state=_STATES.get(outcome) or _STATES.get(outcome.result) or self.state,
            last_tick=at,
            last_outcome=outcome,
        )
        if outcome.result == "success":
            last_success = at if self.last_success is None else max(self.last_success, at)
            return replace(ticked, last_success=last_success, last_error="", consecutive_failures=0)
        if outcome.result == "error":
            return replace(
                ticked,
                last_failure=at,
                last_error="" if error is None else describe_error(error),
                consecutive_failures=self.consecutive_failures + 1,
            )
        return ticked


def describe_error(error: BaseException) -> str:
    """Return the kind and the text of an exception on one line, also of one whose ``str`` raises."""
    kind = type(error).__name__
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = "(its text cannot be had: str() of it raises)"
    return f"{kind}: {text}" if text else kind
