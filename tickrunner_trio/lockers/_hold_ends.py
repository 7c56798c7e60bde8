"""When locks that are held without work are to be let go of: a heap, since a thousand of them may be held. Pure.

Invariants:

1. Of each lock what was said last counts; what was said before is left in the heap, and swept out before it is much.
2. `next_at` is never later than the first end, and earlier only if that one was put off.
"""

from __future__ import annotations

import heapq
import itertools
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._lease import PostgresLease

#: So many entries that do not count any more are not worth sweeping out.
_FEW = 64


class HoldEnds:
    """The ends of holds, in seconds of the book's clock."""

    __slots__ = ("_ends", "_heap", "_order")

    def __init__(self) -> None:
        self._ends: dict[PostgresLease, float] = {}
        self._heap: list[tuple[float, int, PostgresLease]] = []
        self._order = itertools.count()  # of two holds that end at the same time

    def __contains__(self, lease: PostgresLease) -> bool:
        return lease in self._ends

    def set(self, lease: PostgresLease, ends_at: float) -> None:
        """Let the hold end then; ``inf``: not by itself."""
        self._ends.pop(lease, None)
        if ends_at == math.inf:
            return
        self._ends[lease] = ends_at
        if len(self._heap) > 2 * len(self._ends) + _FEW:
            self._heap = [entry for entry in self._heap if self._counts(entry)]
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (ends_at, next(self._order), lease))

    def drop(self, lease: PostgresLease) -> None:
        """The lock is let go of, or lost: there is no hold, if there was one."""
        self._ends.pop(lease, None)

    def take_due(self, now: float) -> list[PostgresLease]:
        """Return the locks whose holds end now, and drop them."""
        due: list[PostgresLease] = []
        while self._heap and self._heap[0][0] <= now:
            entry = heapq.heappop(self._heap)
            if self._counts(entry):
                due.append(entry[2])
                del self._ends[entry[2]]
        return due

    def next_at(self) -> float:
        """Return when the next hold ends, or earlier."""
        return self._heap[0][0] if self._heap else math.inf

    def clear(self) -> None:
        """Drop all."""
        self._ends.clear()
        self._heap.clear()

    def _counts(self, entry: tuple[float, int, PostgresLease]) -> bool:
        ends_at, _, lease = entry
        return self._ends.get(lease) == ends_at
