"""APScheduler 4, a pre-release: its AsyncScheduler on asyncio, where it is faster than on Trio.

Missed runs are coalesced into the latest, as by default. One process both schedules and works, so the event broker is
the local one, which costs least.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from time import perf_counter
from typing import TYPE_CHECKING

from apscheduler import AsyncScheduler
from apscheduler.datastores.sqlalchemy import SQLAlchemyDataStore
from apscheduler.triggers.interval import IntervalTrigger
from sqlalchemy.ext.asyncio import create_async_engine

from ..databases import own_database
from ..lateness import Watch
from ..loops import SERVICES, Counter, cost_of_each

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

#: Seconds. Somewhat above what it can do for so many services: beyond that its jobs pile up, and each costs ten times
#: as much.
INTERVAL = 0.05

_counter = Counter()
#: What `watched` tells, which a schedule names and cannot carry.
_watches: list[Watch] = []


async def work() -> None:
    """Count; at the top of a module because schedules name what they run."""
    _counter.count += 1


async def configured(scheduler: AsyncScheduler, function: Callable[..., Awaitable[None]]) -> None:
    """Let a task run as often at once as it comes: by default all schedules of one function wait for each other."""
    await scheduler.configure_task(function, max_running_jobs=None)


def ticks(seconds: float) -> dict[str, float]:
    """Measure a run where all services are due all the time, with everything in memory."""

    async def main() -> dict[str, float]:
        async with AsyncScheduler() as scheduler:
            await configured(scheduler, work)
            for number in range(SERVICES):
                trigger = IntervalTrigger(microseconds=round(INTERVAL * 1e6))
                await scheduler.add_schedule(work, trigger, id=f"s{number}")
            await scheduler.start_in_background()
            figures = await cost_of_each(_counter, asyncio.sleep, seconds)
            await scheduler.stop()
            return figures

    return asyncio.run(main())


def rate(dsn: str, jobs: int) -> dict[str, float]:
    """Return how many no-op jobs there are in a second, on PostgreSQL by asyncpg.

    They were added before the clock starts, as with the other queues. Ten run at once: of 10, 100 and 500 that was the
    fastest here, and asyncpg was faster than psycopg.
    """

    async def main(database: str) -> float:
        engine = create_async_engine(database.replace("postgresql://", "postgresql+asyncpg://"))
        async with AsyncScheduler(SQLAlchemyDataStore(engine), max_concurrent_jobs=10) as scheduler:
            await configured(scheduler, work)
            for _ in range(jobs):
                await scheduler.add_job(work)
            began = perf_counter()
            await scheduler.start_in_background()
            while _counter.count < jobs:  # noqa: ASYNC110 - an event would be set by the work that is measured
                await asyncio.sleep(0.01)
            seconds = perf_counter() - began
            await scheduler.stop()
        await engine.dispose()
        return seconds

    with own_database(dsn, "apscheduler4") as database:
        seconds = asyncio.run(main(database))
    return {"per_second": jobs / seconds}


async def watched(slot: float) -> None:
    """Note a run; at the top of a module because schedules name what they run."""
    _watches[0].ran(slot)


def lateness(services: int, lead: float, seconds: int) -> dict[str, float]:
    """Measure services that are due once a second."""

    async def main() -> dict[str, float]:
        watch = Watch(services, lead, time.time)
        _watches.append(watch)
        async with AsyncScheduler() as scheduler:
            await configured(scheduler, watched)
            for number, slot in enumerate(watch.slots):
                trigger = IntervalTrigger(seconds=1, start_time=dt.datetime.fromtimestamp(slot, dt.UTC))
                await scheduler.add_schedule(watched, trigger, id=f"s{number}", args=(slot,))
            await scheduler.start_in_background()
            figures = await watch.look(asyncio.sleep, seconds)
            await scheduler.stop()
            return figures

    return asyncio.run(main())
