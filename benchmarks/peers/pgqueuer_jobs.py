"""PgQueuer: jobs in a table of PostgreSQL, which the worker takes and ends in batches; 100 each, on asyncpg.

The jobs are enqueued in one statement before the clock starts, which is in its favour; there are more of them than
services elsewhere, because the worker takes some time to begin.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from time import perf_counter

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job  # noqa: TC002 - the entrypoint is inspected for it
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode

from ..databases import own_database
from ..loops import Counter

BATCH = 100


def rate(dsn: str, jobs: int) -> dict[str, float]:
    """Return how many no-op jobs there are in a second, from the first job's run to the last's."""
    counter = Counter()
    first = last = 0.0

    async def main(database: str) -> None:
        driver = AsyncpgDriver(await asyncpg.connect(database))
        queries = Queries(driver)
        await queries.install()
        queuer = PgQueuer(driver)

        @queuer.entrypoint("work")
        async def work(job: Job) -> None:
            nonlocal first, last
            last = perf_counter()
            if not counter.count:
                first = last
            counter.count += 1

        await queries.enqueue(["work"] * jobs, [None] * jobs, [0] * jobs)
        await queuer.qm.run(batch_size=BATCH, mode=QueueExecutionMode.drain, dequeue_timeout=dt.timedelta(seconds=1))

    with own_database(dsn, "pgqueuer") as database:
        asyncio.run(main(database))
    assert counter.count == jobs
    return {"per_second": jobs / (last - first)}
