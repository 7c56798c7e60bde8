"""When a service ticks and how long it keeps its lock: arithmetic on a clock that comes in as an argument.

Slots stand at ``first + k * interval`` for k = 0, 1, ...; each is computed from ``first``, so that nothing drifts. Of
each slot exactly one thing is true in the end: it was taken by a tick, or it counts as missed::

    slots      |0          |1          |2          |3          |4
    tick       [==0==]     [==========1=================][2...       1 overran: one catch-up tick, for slot 3,
                                       ^ missed                      and slot 2 is missed

    tick       [0]~~~~~~~~~            a hold (~) ends before the next slot,
    late             [0]~~~~~^~~~      unless the tick began late: that slot is missed, and nothing catches it up

With a ledger the slots are moved, after each tick, to what the ledger says.

Invariants:

1. The slots taken are strictly increasing, and none is taken before its time.
2. ``missed`` plus the slots taken is the number of slots up to the last one taken, since the last move.
3. However late it gets, at most one tick is due at once: never a burst.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ._outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

#: The first tick comes at most this long after the start, so that a daily service shows itself soon after a deploy.
MAX_JITTER = 60.0

#: After a success the lock is kept for this part of the interval. The rest is for the replicas' clocks and latencies:
#: one that holds for longer would find its own next slot inside its hold.
SUCCESS_HOLD = 0.9

#: After a failure the lock is kept until a random point of this first part of the interval. A ledger says so as well.
FAILURE_PART = 0.25

#: What counts as a failure there.
FAILURES = (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.UNAVAILABLE)

#: With a ledger a replica asks at most so many seconds after the service is due.
LONGEST_PART = 30.0

#: Slots closer than the resolution of Trio's clock are one slot; this also keeps the arithmetic finite.
RESOLUTION = 1e-9


class Schedule:
    """The slots of one run of a service.

    Args:
        first: the time of slot 0, in seconds of the clock.
        interval: seconds from slot to slot, above 0.
    """

    __slots__ = ("_first", "_index", "_interval", "missed", "next_at")

    def __init__(self, first: float, interval: float) -> None:
        self._first = first
        self._interval = max(interval, RESOLUTION)
        self._index = 0
        self.missed = 0  #: Slots that passed without a tick of their own.
        self.next_at = first  #: The time of the next slot; in the past if the slot is overdue.

    def take(self, now: float) -> float:
        """Take the slot that is due at ``now`` and return its time: the latest one passed; earlier ones are missed.

        Called when ``next_at`` has come; a little before it (a timer's rounding) still takes that slot.
        """
        self._skip_to(self._latest(now))
        taken_at = self.next_at
        self._go_to(self._index + 1)
        return taken_at

    def skip_held(self, held_from: float, held_until: float) -> None:
        """Count a slot that fell into the replica's own hold, after ``held_from`` and before its end, as missed.

        A slot that was passed before the hold began is still due: the tick overran it.
        """
        if held_from < self.next_at < held_until:
            self._skip_to(self._index_from(held_until))

    def due_after_hold(self, held_from: float, held_until: float) -> float:
        """Return when the next tick is due if the hold lasts until then: as after `skip_held`. It skips none."""
        if self.next_at <= held_from:
            return held_until  # the tick overran that slot, and only the hold keeps its catch-up tick waiting
        if self.next_at >= held_until:
            return self.next_at
        return self._first + self._index_from(held_until) * self._interval

    def _index_from(self, at: float) -> int:
        index = self._latest(at)
        return index if self._first + index * self._interval >= at else index + 1

    def move_to(self, at: float) -> None:
        """Let the next slot be at that time, and the others follow it by the interval. None counts as missed for it."""
        self._first = at
        self._go_to(0)

    def _latest(self, now: float) -> int:
        """Return the index of the latest slot that is not after ``now``; at the least the next one."""
        if now < self._first + (self._index + 1) * self._interval:
            return self._index
        index = max(self._index, int((now - self._first) / self._interval))
        # Division rounds: the slots themselves say which one has passed.
        while index > self._index and self._first + index * self._interval > now:
            index -= 1
        while self._first + (index + 1) * self._interval <= now:
            index += 1
        return index

    def _skip_to(self, index: int) -> None:
        if index > self._index:
            self.missed += index - self._index
            self._go_to(index)

    def _go_to(self, index: int) -> None:
        self._index = index
        self.next_at = self._first + index * self._interval


def jitter(interval: float, random: Callable[[], float]) -> float:
    """Return how long after the start the first slot is: seconds in [0, min(interval / 2, 60))."""
    return random() * min(interval / 2, MAX_JITTER)


def hold_until(
    outcome: Outcome,
    *,
    cadence: Literal["cluster", "replica"],
    started_at: float,
    interval: float,
    random: Callable[[], float],
) -> float:
    """Return until when the lock is kept after a tick that ran; a time that has passed means not at all.

    After a success: ``started_at`` + 0.9 x ``interval``, so that the other replicas find this interval's run done
    (ShedLock calls it lock-at-least-for). After a failure: a random point of the first quarter, so that replicas
    neither storm a broken dependency nor starve one that could do the work. Else, and with the cadence "replica", not
    at all.
    """
    if cadence == "cluster":
        if outcome is Outcome.SUCCESS:
            return started_at + SUCCESS_HOLD * interval
        if outcome in FAILURES:
            return started_at + random() * FAILURE_PART * interval
    return started_at


def part_of(interval: float) -> float:
    """Return how far the slots of replicas with a ledger lie apart at most: the seconds in which they all ask."""
    return min(interval / 10, LONGEST_PART)


def slot_when_due(now: float, due_in: float, interval: float, random: Callable[[], float]) -> float:
    """Return the next slot of a replica whose ledger says when its service is due.

    That, or now if it is overdue, and a random part of `part_of` the interval.
    """
    return now + max(due_in, 0.0) + random() * part_of(interval)


def slot_when_busy(now: float, interval: float, random: Callable[[], float]) -> float:
    """Return the next slot of a replica that could not learn when its service is due: somebody else is at work.

    Within `part_of` the interval, so that a crash is made up for soon; not before half of it, so that work that takes
    long is asked for 20 times per interval at most.
    """
    return now + (1 + random()) / 2 * part_of(interval)


def stalled_after(interval: float, tick_timeout: float | None) -> float:
    """Return after how many seconds without an outcome a service is stalled."""
    return 4 * interval + (tick_timeout or 0.0)
