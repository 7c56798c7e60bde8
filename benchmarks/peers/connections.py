"""A connection per lock: what a lock costs that is not held in a shared session."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import psycopg

from .psycopg_loop import TRY_LOCK, ask


def held(dsn: str, locks: int) -> dict[str, float]:
    """Return how long it takes to hold so many locks, and how many connections that is.

    Four threads a core connect at the same time, which is faster here than one and than sixteen.
    """

    def hold(lock_id: int) -> psycopg.Connection:
        connection = psycopg.connect(dsn, autocommit=True)
        ask(connection, TRY_LOCK, lock_id)
        return connection

    with ThreadPoolExecutor(4 * (os.cpu_count() or 1)) as threads:
        began = perf_counter()
        connections = list(threads.map(hold, range(locks)))
        seconds = perf_counter() - began
    try:
        return {"seconds": seconds, "connections": counted(connections[0], locks)}
    finally:
        for connection in connections:
            connection.close()


def counted(connection: psycopg.Connection, locks: int) -> int:
    """Count the connections that hold advisory locks, after a look whether so many locks are there."""
    row = connection.execute(
        "SELECT count(*), count(DISTINCT pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
    ).fetchone()
    assert row is not None  # an aggregate has a row
    held_locks, connections = row
    if held_locks != locks:
        raise AssertionError(f"the server knows of {held_locks} locks and not of {locks}")
    return int(connections)
