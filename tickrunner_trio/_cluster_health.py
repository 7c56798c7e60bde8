"""What the ledger knows of a service: its health over all replicas, and its last runs. Pure; values as rows give them.

::

    paused -> DISABLED;   else overdue by `STALLED_AFTER` intervals, and nobody at work -> STALLED
    else one run under way for an interval more than that, so that it hangs, or takes that long -> STALLED
    else failures since the last success -> FAILING;   else it has ended a run -> OK;   else STARTING

STANDBY is the view of one replica: over all of them one works or none. Without the database there is nothing to tell,
so no row is UNAVAILABLE; `Supervisor.cluster_health` says so of services whose ledger is away while another answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._health import HealthState
from ._outcome import Outcome

if TYPE_CHECKING:
    from datetime import datetime

_OUTCOMES: dict[str | None, Outcome] = {outcome.value: outcome for outcome in Outcome}

#: Intervals that a service may be overdue. A success makes it due one interval later: 4 intervals without a run, as
#: `Service.health` waits for. A run may take as long, whatever its ``tick_timeout``, of which the ledger knows nothing.
STALLED_AFTER = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterHealth:
    """One service over all replicas, at one moment: a row of the ledger. Times are the database's, aware, in UTC."""

    name: str
    """The name of the service."""
    state: HealthState
    """DISABLED while it is paused; STALLED when it is overdue by 3 intervals and nobody is at work, or when one run has
    been under way for 4; FAILING while ``consecutive_failures`` is above 0; STARTING before its first run has ended;
    else OK. UNAVAILABLE in place of a row, while another ledger of the supervisor can tell and this one cannot."""
    lock_id: int
    """The id of its lock."""
    interval: float
    """Seconds, as the replica that asked last has them."""
    last_success: datetime | None = None
    """When the last success ended."""
    last_failure: datetime | None = None
    """When the last run ended whose result was ``error``."""
    last_error: str = ""
    """Kind and text of the last error since the last success, "" if there is none. ASCII, at most 500 characters."""
    consecutive_failures: int = 0
    """Errors since the last success."""
    last_outcome: Outcome | None = None
    """Of the last run that ended; None before, and for an outcome that only a newer release knows."""
    last_ended: datetime | None = None
    """When the last run ended whose end was written down."""
    last_duration: float | None = None
    """Seconds that it took."""
    holder: str | None = None
    """The replica of the run under way, or of the last one."""
    working_since: datetime | None = None
    """When the run under way began: it was begun, its end is not written down, and somebody holds the lock."""
    next_due: datetime | None = None
    """When the next run is due, in the past while nobody has begun it; None: at once."""
    paused_at: datetime | None = None
    """When it was paused; None while it is not."""
    paused_by: str = ""
    """Who paused it; "" while it is not, or if nobody said."""
    pause_reason: str = ""
    """Why; likewise."""
    triggered_at: datetime | None = None
    """When a run was asked for that has not ended yet; None: none was."""
    triggered_by: str = ""
    """Who asked for it."""
    epoch: int | None = None
    """The fencing token of the run under way, or of the last one; None before the first."""

    @property
    def triggered(self) -> bool:
        """Whether a run was asked for that nobody has begun yet."""
        if self.triggered_at is None:
            return False
        return self.working_since is None or self.working_since < self.triggered_at

    @property
    def paused(self) -> bool:
        """Whether it is paused: no replica runs it, by itself or triggered, until somebody resumes it."""
        return self.paused_at is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRun:
    """One run that is over, of the last 100 of a service over all replicas. Times are the database's, aware, in UTC."""

    service: str
    """The name of the service."""
    epoch: int
    """Its fencing token."""
    started_at: datetime
    """When its token was drawn, under the lock."""
    ended_at: datetime | None
    """When it ended; None if nobody wrote that down: its process or its session died before."""
    outcome: Outcome | None
    """What came of it; None as ``ended_at`` is, and for an outcome that only a newer release knows."""
    replica: str
    """Who ran it: what its session calls itself."""
    error: str
    """Kind and text of its error, "" if there was none. ASCII, at most 500 characters."""


def cluster_state(
    *,
    paused: bool,
    working_for: float | None,
    overdue: float | None,
    interval: float,
    failures: int,
    has_ended: bool,
) -> HealthState:
    """Return what an operator would say of the service, in one word.

    Args:
        paused: somebody has paused it.
        working_for: seconds since the run under way began; None: none is.
        overdue: seconds since it was due, below 0 if it is not yet; None if no time is set.
        interval: seconds.
        failures: since the last success.
        has_ended: whether a run of it ever has.
    """
    if paused:
        return HealthState.DISABLED
    if working_for is not None:
        stalls = working_for > (STALLED_AFTER + 1) * interval
    else:
        stalls = overdue is not None and overdue > STALLED_AFTER * interval
    if stalls:
        return HealthState.STALLED
    if failures > 0:
        return HealthState.FAILING
    return HealthState.OK if has_ended else HealthState.STARTING


def outcome_of(text: str | None) -> Outcome | None:
    """Return the outcome of that value; None for None, and for one that this release does not know."""
    return _OUTCOMES.get(text)
