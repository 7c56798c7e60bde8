"""How late runs are, and what share of a processor they take, for services whose slots are known. Alike for all ways.

::

    origin     first slots          idle           second slots           idle
    |--------------------|------------------|--------------------|------------------|--- ...
    0                   0.5 s              1 s                  1.5 s              2 s
                                       a look at few begins at 0.75 s, at many at 2.75 s, and takes whole seconds

Slots are spread over the first half of an interval of one second, since that is where this library's jitter puts the
first ticks. So a look begins and ends where no service is due, and the number of slots in it is known. The
first slots are not looked at: many tasks begin at once then, and what they are late is no matter of the schedule.
After them, what is there is collected and frozen (`gc.freeze`), so that a collection in the look sees only what is new.
Of many, that takes 0.1 s to 0.5 s, and so makes the second slots late, which costs ours, that keep their locks for nine
tenths of an interval, the third ones. None of this is what the look is for.
"""

from __future__ import annotations

import gc
from time import process_time
from typing import TYPE_CHECKING

from .loops import percentiles, phases

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

INTERVAL = 1.0
#: So many have settled when the first slots are over; what more are late then, and after the collection, takes two
#: intervals to go.
FEW = 1_000
#: Seconds by which a timer may be early, by the rounding of clocks: it is no delay of almost a whole interval.
EARLY = 0.05


class Watch:
    """Collects the lateness of each run.

    Args:
        services: how many there are.
        lead: seconds from now to the origin, in which they are set up.
        now: the clock of the loop, in seconds.
    """

    def __init__(self, services: int, lead: float, now: Callable[[], float]) -> None:
        self._now = now
        self._late: list[float] = []
        gc.disable()  # until `look`: collections while 10,000 tasks are set up take longer than the tasks
        self._began = now()
        self.origin = self._began + lead
        self.slots = [self.origin + phase for phase in phases(services, INTERVAL)]
        """The first slot of each service, on the loop's clock."""

    def ran(self, slot: float) -> None:
        """Note a run that begins now, of the service with this first slot."""
        self._late.append((self._now() - slot + EARLY) % INTERVAL - EARLY)

    async def look(self, sleep: Callable[[float], Awaitable[None]], seconds: int) -> dict[str, float]:
        """Watch for so many whole seconds. ``sleep`` is that of the loop."""
        begin = self.origin + (0.75 if len(self.slots) <= FEW else 2.75) * INTERVAL
        await sleep(max(0.0, self.origin + 0.6 * INTERVAL - self._now()))
        # Nobody is due. Else a full collection of 10,000 tasks, 0.2 s, might come in the look, or might not: the p99 of
        # bare tasks was 2 ms or 450 ms, and their share 42 or 89 per cent.
        gc.collect()
        gc.freeze()
        gc.enable()
        if self._now() > begin:
            raise AssertionError(f"{begin - self._began:.2f} s were not enough to set everything up")
        await sleep(begin - self._now())
        self._late.clear()
        processor, wall = process_time(), self._now()
        await sleep(begin + seconds - self._now())
        processor, wall = process_time() - processor, self._now() - wall
        late = list(self._late)
        if not late:
            raise AssertionError("nothing ran in the time in which each service had to run")
        p50, p99, p999 = percentiles(late, 50, 99, 99.9)
        return {
            "share": 100 * processor / wall,
            "p50": 1e3 * p50,
            "p99": 1e3 * p99,
            "p99.9": 1e3 * p999,
            "missed": max(0, round(len(self.slots) * seconds / INTERVAL) - len(late)),
        }
