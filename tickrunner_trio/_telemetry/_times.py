"""How long ticks took and how late they were, on the way into the histograms of their provider.

Between the rest of a tick, with cold caches, the SDK takes 8 us to record one value, of which a tick has three; in a row
it takes half of that. So the times of a few ticks wait for one another, and for an exporter at most: it asks the
observables before it collects the histograms, so that no collection misses a tick that was over when it began::

    ticks  --add-->  waiting  --recorded by--  the tick that makes them enough, or an observable's callback
                  (at most so many)                 (the loop)                (the exporter's thread)

The times of an error do not wait: they are recorded under its span, to which their exemplar leads.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.context import Context, create_key, set_value

from ._names import OUTCOME

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.metrics import Histogram

    from .._outcome import Outcome
    from ._guard import Guard

#: Enough to halve the price; more gains nothing, and would hold up the loop for longer when they are recorded.
MOST_WAITING = 16

#: An exemplar, which leads from a bucket to a trace, costs 5 us, almost as much again as the recording: only the
#: duration of errors has them. (An empty context would not do: the SDK takes it for none.)
_NO_SPAN = set_value(create_key("tickrunner_trio"), "no span", Context())


class TickTimes(NamedTuple):
    """What a tick has to say to the histograms."""

    service: Mapping[str, str]  #: The attributes of all that is about its service.
    outcome: Outcome
    asked_for: float | None  #: Seconds from asking the locker to the work's start or to the refusal; None: not asked.
    duration: float  #: Seconds from the work's start to the judgement.
    lateness: float | None  #: Seconds from the slot to the work's start; None: there is no slot.


class Times:
    """Records the times of ticks, in whatever thread; raises no `Exception`."""

    def __init__(self, *, acquire: Histogram, duration: Histogram, late: Histogram, guard: Guard) -> None:
        self._acquire = acquire
        self._duration = duration
        self._late = late
        self._guard = guard
        self._waiting: deque[TickTimes] = deque()  # two threads may take from it, each of them another tick

    def add(self, times: TickTimes) -> None:
        """Take the times of a tick, under whose span this runs if it has one."""
        if times.outcome.result == "error":
            self._record(times, None)
            return
        self._waiting.append(times)
        if len(self._waiting) >= MOST_WAITING:
            self.record()

    def record(self) -> None:
        """Record all that is waiting."""
        while self._waiting:
            try:
                times = self._waiting.popleft()
            except IndexError:  # another thread was faster
                return
            self._record(times, _NO_SPAN)

    def _record(self, times: TickTimes, context: Context | None) -> None:
        """Record the times of one tick; the context is that of its duration, and None the current one."""
        try:
            if times.asked_for is not None:
                self._acquire.record(times.asked_for, times.service, _NO_SPAN)
            # Made each time: kept for all outcomes they would take 2 KB per service, and gain nothing.
            self._duration.record(times.duration, {**times.service, OUTCOME: times.outcome.value}, context)
            if times.lateness is not None:
                self._late.record(times.lateness, times.service, _NO_SPAN)
        except Exception as error:
            self._guard.failed("recording a histogram", error)
