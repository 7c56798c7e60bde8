"""The floor of a lock: psycopg alone, one connection, one thread, no event loop. Lock, unlock, lock, unlock.

psycopg prepares a statement by itself once it has been executed five times.
"""

from __future__ import annotations

import contextlib
from time import perf_counter
from typing import TYPE_CHECKING

import psycopg

from ..loops import WARM_UP, percentiles

if TYPE_CHECKING:
    from collections.abc import Iterator

TRY_LOCK = "SELECT pg_try_advisory_lock(%s)"
UNLOCK = "SELECT pg_advisory_unlock(%s)"


def ask(connection: psycopg.Connection, statement: str, lock_id: int) -> None:
    """Ask one thing of the server, which must say yes."""
    if connection.execute(statement, (lock_id,)).fetchone() != (True,):
        raise AssertionError(f"the server said no to {statement} of {lock_id}")


@contextlib.contextmanager
def _warm(dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        end = perf_counter() + WARM_UP
        while perf_counter() < end:
            ask(connection, TRY_LOCK, 1)
            ask(connection, UNLOCK, 1)
        yield connection


def rate(dsn: str, seconds: float) -> dict[str, float]:
    """Return how many pairs of lock and unlock there are in a second."""
    pairs = 0
    with _warm(dsn) as connection:
        began = perf_counter()
        while (now := perf_counter()) < began + seconds:
            ask(connection, TRY_LOCK, pairs)
            ask(connection, UNLOCK, pairs)
            pairs += 1
    return {"per_second": pairs / (now - began)}


def latency(dsn: str, seconds: float) -> dict[str, float]:
    """Return how long a pair takes, and a lock alone."""
    locks, pairs = [], []
    with _warm(dsn) as connection:
        end = perf_counter() + seconds
        while (began := perf_counter()) < end:
            ask(connection, TRY_LOCK, 1)
            locked = perf_counter()
            ask(connection, UNLOCK, 1)
            locks.append(locked - began)
            pairs.append(perf_counter() - began)
    return latencies(locks, pairs)


def latencies(reports: list[float], pairs: list[float]) -> dict[str, float]:
    """Return the figures, in microseconds: until the report or what stands for it, and until the unlock."""
    p50, p99 = percentiles(reports, 50, 99)
    pair_p50, pair_p99 = percentiles(pairs, 50, 99)
    return {"p50": p50 * 1e6, "p99": p99 * 1e6, "p50+unlock": pair_p50 * 1e6, "p99+unlock": pair_p99 * 1e6}
