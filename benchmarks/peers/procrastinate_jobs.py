"""Procrastinate: jobs in a table of PostgreSQL; the worker takes one row in each statement.

The jobs are deferred in one batch before the clock starts, which is in its favour. Jobs that succeeded are deleted, and
the worker runs five at a time over a pool as large: of 1, 5, 10, 20 and 50, five was the fastest here.
"""

from __future__ import annotations

import asyncio
from time import perf_counter

import procrastinate

from ..databases import own_database
from ..loops import Counter

CONCURRENCY = 5


def rate(dsn: str, jobs: int) -> dict[str, float]:
    """Return how many no-op jobs there are in a second, from the start of the worker to the end of the last job."""
    counter = Counter()

    async def main(database: str) -> float:
        connector = procrastinate.PsycopgConnector(conninfo=database, min_size=CONCURRENCY, max_size=CONCURRENCY + 2)
        app = procrastinate.App(connector=connector)

        @app.task(name="work")
        async def work() -> None:
            counter.count += 1

        async with app.open_async():
            await app.schema_manager.apply_schema_async()
            await work.batch_defer_async(*({} for _ in range(jobs)))
            began = perf_counter()
            await app.run_worker_async(
                wait=False,
                concurrency=CONCURRENCY,
                delete_jobs="successful",
                listen_notify=False,
                install_signal_handlers=False,
            )
            return perf_counter() - began

    with own_database(dsn, "procrastinate") as database:
        seconds = asyncio.run(main(database))
    assert counter.count == jobs
    return {"per_second": jobs / seconds}
