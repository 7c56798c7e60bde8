"""APScheduler 3: its AsyncIOScheduler, with jobs in memory.

As its user guide has it for jobs that come often: runs that were missed are coalesced, none is too late, and one runs
at a time. The time zone is UTC, which saves it the conversions.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from ..lateness import Watch
from ..loops import LONG_INTERVAL, SERVICES, Counter, cost_of_each
from ..resident import resident_bytes

#: Seconds. Just below what it can do for so many services: of a shorter one it counts up all missed runs one by one,
#: which costs ten times as much.
INTERVAL = 0.002


def scheduler() -> AsyncIOScheduler:
    """Make one."""
    return AsyncIOScheduler(
        timezone=dt.UTC, job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 1}
    )


def ticks(seconds: float) -> dict[str, float]:
    """Measure a run where all services are due all the time."""
    counter = Counter()

    async def work() -> None:
        counter.count += 1

    async def main() -> dict[str, float]:
        runner = scheduler()
        for _ in range(SERVICES):
            runner.add_job(work, "interval", seconds=INTERVAL)
        runner.start()
        figures = await cost_of_each(counter, asyncio.sleep, seconds)
        runner.shutdown(wait=False)
        return figures

    return asyncio.run(main())


def lateness(services: int, lead: float, seconds: int) -> dict[str, float]:
    """Measure services that are due once a second."""

    async def main() -> dict[str, float]:
        watch = Watch(services, lead, time.time)

        async def work(slot: float) -> None:
            watch.ran(slot)

        runner = scheduler()
        for slot in watch.slots:
            start = dt.datetime.fromtimestamp(slot, dt.UTC)
            runner.add_job(work, "interval", args=(slot,), seconds=1, start_date=start, next_run_time=start)
        runner.start()
        figures = await watch.look(asyncio.sleep, seconds)
        runner.shutdown(wait=False)
        return figures

    return asyncio.run(main())


def memory(services: int) -> dict[str, float]:
    """Return the memory of each of so many jobs that have run once and wait to run again."""
    counter = Counter()

    async def work() -> None:
        counter.count += 1

    async def main() -> dict[str, float]:
        runner = scheduler()
        before = resident_bytes()
        now = dt.datetime.now(dt.UTC)
        for _ in range(services):
            runner.add_job(work, "interval", seconds=LONG_INTERVAL, next_run_time=now)
        runner.start()
        while counter.count < services:  # noqa: ASYNC110 - an event would be set by the work that is measured
            await asyncio.sleep(0.1)
        after = resident_bytes()
        runner.shutdown(wait=False)
        return {"KiB": (after - before) / services / 1024}

    return asyncio.run(main())
