"""What the measured loops have in common: when they are looked at, and what is made of what was seen."""

from __future__ import annotations

import random
from time import perf_counter, process_time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

SERVICES = 100
#: Seconds; shorter than a single tick of any of the ways, so that all services are due all the time, and the hold that
#: follows our success, nine tenths of it, is over before the tick is judged: nobody ever sleeps.
BUSY_INTERVAL = 0.00001
#: Seconds; so long that each service runs once while memory is measured.
LONG_INTERVAL = 100.0
#: Seconds before a look: caches, specialised bytecode, first connections.
WARM_UP = 0.3


class Counter:
    """Counts what has been run; the only thing that the measured work does."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


async def cost_of_each(counter: Counter, sleep: Callable[[float], Awaitable[None]], seconds: float) -> dict[str, float]:
    """Let the loop go on for so many seconds; return what one run cost. ``sleep`` is that of the loop."""
    await sleep(WARM_UP)
    counted, processor, wall = counter.count, process_time(), perf_counter()
    await sleep(seconds)
    runs, processor, wall = counter.count - counted, process_time() - processor, perf_counter() - wall
    return {"us": processor / runs * 1e6, "busy": processor / wall}


async def rate_of(counter: Counter, sleep: Callable[[float], Awaitable[None]], seconds: float) -> dict[str, float]:
    """Likewise; return how many runs there were in a second."""
    await sleep(WARM_UP)
    counted, wall = counter.count, perf_counter()
    await sleep(seconds)
    return {"per_second": (counter.count - counted) / (perf_counter() - wall)}


def phases(services: int, interval: float) -> list[float]:
    """Return when within an interval each service is due: as this library spreads them, and alike for all ways."""
    chance = random.Random(services)
    return [chance.random() * interval / 2 for _ in range(services)]


def percentiles(values: Sequence[float], *which: float) -> list[float]:
    """Return the values that so many per cent are not above."""
    ordered = sorted(values)
    return [ordered[min(len(ordered) - 1, int(len(ordered) * each / 100))] for each in which]
