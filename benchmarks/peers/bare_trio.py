"""The floor: a task per service that sleeps until its next slot. It locks, judges and reports nothing."""

from __future__ import annotations

import trio

from ..clocks import JumpingClock
from ..lateness import INTERVAL, Watch
from ..loops import BUSY_INTERVAL, LONG_INTERVAL, SERVICES, Counter, cost_of_each, phases
from ..resident import resident_bytes


def ticks(seconds: float) -> dict[str, float]:
    """Measure a run where all services are due all the time."""
    counter = Counter()

    async def work() -> None:
        counter.count += 1

    async def loop() -> None:
        due = trio.current_time()
        while True:
            due += BUSY_INTERVAL
            await trio.sleep_until(due)
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
    """Measure services that are due once a second."""

    async def main() -> dict[str, float]:
        watch = Watch(services, lead, trio.current_time)

        async def loop(slot: float) -> None:
            due = slot
            while True:
                await trio.sleep_until(due)
                watch.ran(slot)
                due += INTERVAL

        async with trio.open_nursery() as nursery:
            for slot in watch.slots:
                nursery.start_soon(loop, slot)
            figures = await watch.look(trio.sleep, seconds)
            nursery.cancel_scope.cancel()
        return figures

    return trio.run(main)


def memory(services: int) -> dict[str, float]:
    """Return the memory of each of so many tasks that have run once and sleep until they run again."""
    counter = Counter()

    async def work() -> None:
        counter.count += 1

    async def loop(due: float) -> None:
        while True:
            await trio.sleep_until(due)
            await work()
            due += LONG_INTERVAL

    async def main() -> dict[str, float]:
        before = resident_bytes()
        async with trio.open_nursery() as nursery:
            for slot in phases(services, LONG_INTERVAL):
                nursery.start_soon(loop, trio.current_time() + slot)
            await trio.sleep(0.55 * LONG_INTERVAL)
            assert counter.count == services
            after = resident_bytes()
            nursery.cancel_scope.cancel()
        return {"KiB": (after - before) / services / 1024}

    return trio.run(main, clock=JumpingClock())
