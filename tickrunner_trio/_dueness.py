"""When a service with a ledger is due, and which fencing token its next run gets: arithmetic on its row. Pure.

This is the model of what the ledger's statements compute by the database's clock, and what simulations compute with.
Times are seconds of one clock::

    due_at    |0          |1          |2          |3
    runs      [=ok=]      .[=ok=======.======]    [=ok=]       1 overran: the next one is 3, since 2 has passed
                          |           ^ passed

    failed    [=no=]~~|[=no=]~|[=ok=] |1                       a failure is tried again within the first quarter (~)

    early     [=ok=]   forced [=ok=]  .       |forced + 1      an early success is the interval's run, from its start

Invariants:

1. After a success ``due_at`` lies in the interval that follows it: after now, and not later than now + interval.
2. While every run is due and succeeds within its interval, ``due_at`` moves by the interval exactly: nothing drifts.
3. A service is due at some time of any interval, whatever ``due_at`` says: one that is further away counts as due.
4. Epochs of a service increase, also over a change of the server's timeline to one that knows less.
"""

from __future__ import annotations

import math
from typing import Final

from ._outcome import Outcome
from ._schedule import FAILURE_PART, FAILURES

#: The epochs of one timeline of the server: so many bits count them.
EPOCH_BITS: Final = 40


def is_due(due_at: float | None, *, now: float, interval: float) -> bool:
    """Whether a service is due; one that was never due is, and one whose interval has been shortened."""
    return due_at is None or due_at <= now or due_at > now + interval


def due_after(
    outcome: Outcome, due_at: float | None, *, started_at: float, now: float, interval: float, chance: float
) -> float | None:
    """Return when a service is due after a run, of which the row is told now.

    Args:
        outcome: of the run.
        due_at: when it was due before; None: never.
        started_at: when the run's lock was had.
        now: when the row is told.
        interval: seconds, above 0.
        chance: a number from 0 to 1, by which a failure's random point is found.
    """
    if outcome is Outcome.SUCCESS:
        if due_at is None or started_at < due_at <= started_at + interval:
            due_at = started_at
        after = due_at + (math.floor((now - due_at) / interval) + 1) * interval
        # Division rounds: what comes out lies in the interval that follows, which neither ends nor begins too early.
        return min(after, now + interval) if after > now else after + interval
    if outcome in FAILURES:
        return now + chance * FAILURE_PART * interval
    return due_at  # of all others: the next replica takes over at once


def epoch_after(epoch: int, *, timeline: int, server_timeline: int) -> int:
    """Return the next epoch: one more, or on another timeline of the server one that is above all of the former.

    A standby that is promoted may not know the last epochs of its primary; what it knows is never above them.

    Args:
        epoch: the last one that the row knows; 0: none.
        timeline: the server's when that was drawn.
        server_timeline: the server's now.
    """
    if timeline == server_timeline:
        return epoch + 1
    return max((epoch >> EPOCH_BITS) + 1, server_timeline) << EPOCH_BITS
