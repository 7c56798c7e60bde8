"""trio_util.periodic: an async generator that sleeps until a period after it last woke."""

from __future__ import annotations

import trio
import trio_util

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
