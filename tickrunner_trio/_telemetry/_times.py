"""How long ticks took and how late they were, on the way into the histograms of their provider.

To record one value the SDK takes 15 us between the rest of a tick, with cold caches, and 10 in a row with others; a
tick has three. So the times of a few ticks wait for one another, at most until somebody collects: the SDK calls
observables before it collects histograms, so that no collection misses a tick that was over when it began, but for
the one that another thread is recording just then::

    ticks  --add-->  waiting  --recorded by--  the tick that makes them enough, or an observable's callback
                  (at most so many)                 (the loop)                (the exporter's thread)

The times of an error do not wait: they are recorded under its span, to which their exemplar leads.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from opentelemetry.context import Context, create_key, set_value

from .._outcome import Outcome
from ._names import OUTCOME, OUTCOME_VALUES, SERVICE

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from opentelemetry.metrics import Histogram

    from ._guard import Guard

    #: What `Times.add` was given. A plain tuple, since one with names takes half a microsecond longer.
    TickTimes: TypeAlias = tuple[str, Outcome, float | None, float, float | None]

#: Of the 16 us per tick that waiting saves, 8 are had with four and all with sixteen. More would only hold up the loop
#: for longer when they are recorded: these take half a millisecond.
MOST_WAITING = 16

#: An exemplar, which leads from a bucket to a trace, costs 5 us, almost as much again as the recording: only the
#: duration of errors has them. (An empty context would not do: the SDK takes it for none.)
_NO_SPAN = set_value(create_key("tickrunner_trio"), "no span", Context())

_ERRORS = frozenset(outcome for outcome in Outcome if outcome.result == "error")


class Times:
    """Records the times of ticks, in whatever thread; raises no `Exception`.

    Args:
        acquire: how long a lock took.
        duration: how long a tick took.
        late: how late it was.
        guard: told of what the histograms raise.
        has_sdk: whether there is anybody who would keep what is recorded now.
    """

    def __init__(
        self, *, acquire: Histogram, duration: Histogram, late: Histogram, guard: Guard, has_sdk: Callable[[], bool]
    ) -> None:
        self._acquire = acquire
        self._duration = duration
        self._late = late
        self._guard = guard
        self._has_sdk = has_sdk
        self._waiting: deque[TickTimes] = deque()  # two threads may take from it, each of them another tick

    def add(
        self,
        service: str,
        outcome: Outcome,
        asked_for: float | None,
        duration: float,
        lateness: float | None,
    ) -> None:
        """Take the times of a tick, under whose span this runs if it has one.

        Args:
            service: its name.
            outcome: of the tick.
            asked_for: seconds from asking the locker to the work's start or to the refusal; None: it was not asked.
            duration: seconds from the work's start to the judgement.
            lateness: seconds from the slot to the work's start; None: there is no slot.
        """
        times = (service, outcome, asked_for, duration, lateness)
        if outcome in _ERRORS:
            self._record(times, None)
            return
        self._waiting.append(times)
        if len(self._waiting) >= MOST_WAITING:
            self.record()

    def record(self) -> None:
        """Record all that is waiting."""
        if not self._has_sdk():  # to record what is dropped would take 2 us per tick
            self._waiting.clear()
        while self._waiting:
            try:
                times = self._waiting.popleft()
            except IndexError:  # pragma: no cover - another thread was faster
                return
            self._record(times, _NO_SPAN)

    def _record(self, times: TickTimes, context: Context | None) -> None:
        """Record the times of one tick; the context is that of its duration, and None the current one."""
        name, outcome, asked_for, duration, lateness = times
        service = {SERVICE: name}  # made each time: kept it takes 230 bytes per service, and gains 0.1 us
        try:
            if asked_for is not None:
                self._acquire.record(asked_for, service, _NO_SPAN)
            # Made each time: kept for all outcomes they would take 2 KB per service, and gain nothing.
            self._duration.record(duration, {**service, OUTCOME: OUTCOME_VALUES[outcome]}, context)
            if lateness is not None:
                self._late.record(lateness, service, _NO_SPAN)
        except Exception as error:
            self._guard.failed("recording a histogram", error)
