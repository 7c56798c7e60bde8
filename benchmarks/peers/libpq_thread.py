"""The floor of a lock that a Trio task has from a thread: the least that crosses to it and back, and nothing else.

One connection, prepared statements by way of psycopg's own binding to libpq, and one thread that sleeps until it is
woken; no cancellation, no lease, no deadline, no batch, no loss.
"""

from __future__ import annotations

import socket
import threading
from time import perf_counter
from typing import TYPE_CHECKING

import outcome
import psycopg
import trio

from ..loops import WARM_UP
from .psycopg_loop import latencies

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg.pq.abc import PGconn

TRY_LOCK, UNLOCK = b"try_lock", b"unlock"


class AskingThread:
    """Asks the server what a task wants, one thing at a time."""

    def __init__(self, dsn: str, in_trio: Callable[..., None]) -> None:
        self._dsn = dsn
        self._in_trio = in_trio
        self._wanted: list[tuple[trio.lowlevel.Task, bytes]] = []
        self._woken, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    async def ask(self, statement: bytes) -> None:
        """Have it asked, and wait for the answer."""
        self._wanted.append((trio.lowlevel.current_task(), statement))
        self._waker.send(b"\0")
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)

    def stop(self) -> None:
        """End the thread."""
        self._waker.close()
        self._thread.join()

    def _run(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection, self._woken:
            connection.pgconn.prepare(TRY_LOCK, b"SELECT pg_try_advisory_lock($1)")
            connection.pgconn.prepare(UNLOCK, b"SELECT pg_advisory_unlock($1)")
            while self._woken.recv(1):
                task, statement = self._wanted.pop()
                answer = outcome.capture(_ask, connection.pgconn, statement)
                self._in_trio(trio.lowlevel.reschedule, task, answer)


def _ask(connection: PGconn, statement: bytes) -> None:
    if connection.exec_prepared(statement, [b"1"]).get_value(0, 0) != b"t":
        raise AssertionError(f"the server said no to {statement!r}")


def latency(dsn: str, seconds: float) -> dict[str, float]:
    """Return how long a pair takes, and a lock alone."""
    locks, pairs = [], []

    async def main() -> None:
        thread = AskingThread(dsn, trio.lowlevel.current_trio_token().run_sync_soon)
        try:
            end = perf_counter() + WARM_UP + seconds
            while (began := perf_counter()) < end:
                await thread.ask(TRY_LOCK)
                locked = perf_counter()
                await thread.ask(UNLOCK)
                if began > end - seconds:
                    locks.append(locked - began)
                    pairs.append(perf_counter() - began)
        finally:
            thread.stop()

    trio.run(main)
    return latencies(locks, pairs)
