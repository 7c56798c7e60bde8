"""APScheduler 4, a pre-release: its AsyncScheduler on asyncio, where it is faster than on Trio.

Missed runs are coalesced into the latest, as by default. One process both schedules and works, so the event broker is
the local one, which costs least.
"""

from __future__ import annotations

import asyncio
import datetime
import time
from time import perf_counter

from apscheduler import AsyncScheduler
from apscheduler.triggers.interval import IntervalTrigger

from ..databases import own_database
from ..lateness import Watch
from ..loops import SERVICES, Counter, cost_of_each

#: Seconds. Somewhat above what it can do for so many services: beyond that its jobs pile up, and each costs ten times
#: as much.
INTERVAL = 0.05

_counter = Counter()
_watch: Watch | None = None


async def work() -> None:
    """Count; at the top of a module because schedules name what they run."""
    _counter.count += 1


def ticks(seconds: float) -> dict[str, float]:
    """Measure a run where all services are due all the time, with everything in memory."""

    async def main() -> dict[str, float]:
        async with AsyncScheduler() as scheduler:
            for number in range(SERVICES):
                trigger = IntervalTrigger(microseconds=round(INTERVAL * 1e6))
                await scheduler.add_schedule(work, trigger, id=f"s{number}")
            await scheduler.start_in_background()
            figures = await cost_of_each(_counter, asyncio.sleep, seconds)
            await scheduler.stop()
            return figures

    return asyncio.run(main())


def rate(dsn: str, schedules: int) -> dict[str, float]:
    """Return how many runs there are in a second, of schedules in PostgreSQL that are all due at once, once."""
    from apscheduler.datastores.sqlalchemy import SQLAlchemyDataStore
    from sqlalchemy.ext.asyncio import create_async_engine

    async def main(database: str) -> float:
        engine = create_async_engine(database.replace("postgresql://", "postgresql+asyncpg://"))
        async with AsyncScheduler(SQLAlchemyDataStore(engine)) as scheduler:
            due = datetime.datetime.now(datetime.UTC)
            for number in range(schedules):
                trigger = IntervalTrigger(hours=1, start_time=due)
                await scheduler.add_schedule(work, trigger, id=f"s{number}")
            began = perf_counter()
            await scheduler.start_in_background()
            while _counter.count < schedules:
                await asyncio.sleep(0.01)
            seconds = perf_counter() - began
            await scheduler.stop()
        await engine.dispose()
        return seconds

    with own_database(dsn, "apscheduler4") as database:
        seconds = asyncio.run(main(database))
    return {"per_second": schedules / seconds}


async def watched(slot: float) -> None:
    """Note a run; at the top of a module because schedules name what they run."""
    assert _watch is not None
    _watch.ran(slot)


def lateness(services: int, lead: float, seconds: int) -> dict[str, float]:
    """Measure services that are due once a second."""

    async def main() -> dict[str, float]:
        global _watch
        watch = _watch = Watch(services, lead, time.time)
        async with AsyncScheduler() as scheduler:
            for number, slot in enumerate(watch.slots):
                trigger = IntervalTrigger(seconds=1, start_time=datetime.datetime.fromtimestamp(slot, datetime.UTC))
                await scheduler.add_schedule(watched, trigger, id=f"s{number}", args=(slot,))
            await scheduler.start_in_background()
            figures = await watch.look(asyncio.sleep, seconds)
            await scheduler.stop()
            return figures

    return asyncio.run(main())
