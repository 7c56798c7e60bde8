"""What a `PostgresLocker` counts."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LockerStatistics:
    """What a `tickrunner_trio.PostgresLocker` is doing and has done, at one moment."""

    held: int
    """Locks that are held now."""
    waiting: int
    """Callers that wait for the server's answer to whether they have their lock."""
    sessions_opened: int
    """Sessions that were ever ready."""
    sessions_lost: int
    """Of these, those that ended otherwise than by leaving the locker."""
    batches: int
    """Statements that asked for locks or let them go; beats are not counted."""
    largest_batch: int
    """The most locks in one of them."""
    last_round_trip: float | None
    """Seconds from the sending of the last statement to its answer, beats included; None before the first."""
    outlived: int
    """How often work under a lost lock was still going on when its lease was over."""
