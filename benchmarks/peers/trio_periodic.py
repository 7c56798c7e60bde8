"""trio_util.periodic: an async generator that sleeps until a period after it last woke."""

from __future__ import annotations

import trio
import trio_util

from ..lateness import INTERVAL, Watch
from ..loops import BUSY_INTERVAL, SERVICES, Counter, cost_of_each


def ticks(seconds: float) -> dict[str, float]:
    """Measure a run where all services are due all the time."""
    counter = Counter()

    async def work() -> None:
        counter.count += 1

    async def loop() -> None:
        async for _ in trio_util.periodic(BUSY_INTERVAL):
            await work()

    async def main() -> dict[str, float]:
        async with trio.open_nursery() as nursery:
            for _ in range(SERVICES):
                nursery.start_soon(loop)
            figures = await cost_of_each(counter, trio.sleep, seconds)
            nursery.cancel_scope.cancel()
        return figures

    return trio.run(main)


def lateness(services: int, lead: float, seconds: int) -> dict[str, float]:
    """Measure services that are due once a second; each drifts away from its slots by what it wakes late."""

    async def main() -> dict[str, float]:
        watch = Watch(services, lead, trio.current_time)

        async def loop(slot: float) -> None:
            await trio.sleep_until(slot)
            async for _ in trio_util.periodic(INTERVAL):
                watch.ran(slot)

        async with trio.open_nursery() as nursery:
            for slot in watch.slots:
                nursery.start_soon(loop, slot)
            figures = await watch.look(trio.sleep, seconds)
            nursery.cancel_scope.cancel()
        return figures

    return trio.run(main)
