"""Locks that are kept for results that could not be written: when these are tried again, and until when. Pure.

A result cannot be written while somebody else has its row in the ledger locked, and its lock is not let go of before::

                       the result is written, or its row has another epoch, or nobody tries for it any more
    (LEAVING) ---.---------------------------------------------------------------------------------------> (FREE)
       ^         | the row is locked
       '- again -'

It must not know what a result is, nor the ledger.

Invariants:

1. All that are kept leave together, at the time of the first, so that those who are many cost no more statements.
2. Whoever waits for the release and is cancelled waits for one lease more at most, counted from the first time.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from ._lease import PostgresLease
    from ._ledger_lease import LedgerLease

_AGAIN_SECONDS = 0.2


class UnwrittenResults:
    """See the module. Times are seconds of the book's clock.

    Args:
        patience: seconds for which the result of somebody who is in a hurry is tried.
    """

    __slots__ = ("_leases", "_patience", "next_at")

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._leases: list[PostgresLease] = []
        self.next_at = math.inf  #: When they leave again.

    def hurry(self, lease: LedgerLease, now: float) -> None:
        """Try for so long at most, from now on, if nobody has said so before."""
        lease.write_until = min(lease.write_until, now + self._patience)

    def keep(self, leases: Collection[PostgresLease], now: float) -> None:
        """Their results could not be written now."""
        self._leases += leases
        self.next_at = min(self.next_at, now + _AGAIN_SECONDS)

    def take_due(self, now: float) -> list[PostgresLease]:
        """Return those that leave again now, and keep them no more."""
        if now < self.next_at:
            return []
        leases = self._leases
        self.clear()
        return leases

    def clear(self) -> None:
        """Keep none."""
        self._leases = []
        self.next_at = math.inf
