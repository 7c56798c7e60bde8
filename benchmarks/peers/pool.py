"""What people write by hand: a connection per lock, out of a psycopg_pool, each step through `trio.to_thread`.

The pool has 20 connections, all open before anything is measured, and as many threads use it.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

import psycopg_pool
import trio

from ..loops import Counter, rate_of
from .psycopg_loop import TRY_LOCK, UNLOCK, ask, latencies

if TYPE_CHECKING:
    import psycopg

POOL = 20
SERVICES = 1_000


async def work() -> None:
    """Do nothing."""


def _pool(dsn: str, size: int = POOL) -> psycopg_pool.ConnectionPool[psycopg.Connection]:
    return psycopg_pool.ConnectionPool(dsn, min_size=size, max_size=size, kwargs={"autocommit": True}, open=False)


def rate(dsn: str, seconds: float) -> dict[str, float]:
    """Return how many ticks there are in a second, of 1,000 services that are due all the time."""
    counter = Counter()
    pool = _pool(dsn)

    def lock(lock_id: int) -> psycopg.Connection:
        connection = pool.getconn()
        ask(connection, TRY_LOCK, lock_id)
        return connection

    def unlock(connection: psycopg.Connection, lock_id: int) -> None:
        ask(connection, UNLOCK, lock_id)
        pool.putconn(connection)

    async def main() -> dict[str, float]:
        limiter = trio.CapacityLimiter(POOL)
        held = trio.Semaphore(POOL)  # else a thread could wait for a connection that its unlock has no thread to give

        async def loop(lock_id: int) -> None:
            while True:
                async with held:
                    connection = await trio.to_thread.run_sync(lock, lock_id, limiter=limiter)
                    await work()
                    await trio.to_thread.run_sync(unlock, connection, lock_id, limiter=limiter)
                counter.count += 1

        async with trio.open_nursery() as nursery:
            for lock_id in range(SERVICES):
                nursery.start_soon(loop, lock_id)
            figures = await rate_of(counter, trio.sleep, seconds)
            nursery.cancel_scope.cancel()
        return figures

    pool.open(wait=True)
    try:
        return trio.run(main)
    finally:
        pool.close()


def latency(dsn: str, seconds: float) -> dict[str, float]:
    """Return how long one tick takes where there is no other."""
    reports, pairs = [], []
    pool = _pool(dsn, 1)

    def lock() -> psycopg.Connection:
        connection = pool.getconn()
        ask(connection, TRY_LOCK, 1)
        return connection

    def unlock(connection: psycopg.Connection) -> None:
        ask(connection, UNLOCK, 1)
        pool.putconn(connection)

    async def main() -> None:
        for _ in range(100):
            await trio.to_thread.run_sync(unlock, await trio.to_thread.run_sync(lock))
        end = perf_counter() + seconds
        while (began := perf_counter()) < end:
            connection = await trio.to_thread.run_sync(lock)
            await work()
            worked = perf_counter()
            await trio.to_thread.run_sync(unlock, connection)
            reports.append(worked - began)
            pairs.append(perf_counter() - began)

    pool.open(wait=True)
    try:
        trio.run(main)
    finally:
        pool.close()
    return latencies(reports, pairs)
