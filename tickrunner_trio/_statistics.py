"""What a service has counted, as one frozen value; health says how it is, this says what it did and when it is next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from ._outcome import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatistics:
    """What a service is doing and has done on this replica, at one moment. Counts are of this `Service` object."""

    next_slot: datetime | None
    """When the next tick is due, aware, in UTC; in the past while a tick overruns it. None while it does not run."""
    working_since: datetime | None
    """When the work that is under way began, aware, in UTC; None while there is none."""
    holds_lock: bool
    """Whether this replica has the lock now, to work under it or to hold on to it."""
    last_duration: float | None
    """Seconds that the last tick took which was no skip; None before the first."""
    ticks: Mapping[Outcome, int]
    """How many ticks ended in each outcome, forced ones included. It cannot be changed."""
    missed_slots: int
    """Slots that passed without a tick of their own."""
