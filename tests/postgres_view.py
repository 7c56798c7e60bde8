"""What tests of the PostgreSQL locker see and do from outside: over a connection of their own, and by signals."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import trio

from tickrunner_trio.lockers._clock import boot_seconds
from tickrunner_trio.lockers._connection import Connection
from tickrunner_trio.lockers._session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pytest

    from tickrunner_trio import Lease, PostgresLocker
    from tickrunner_trio.lockers._lease import PostgresLease

_LOCKS = (
    "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
_BACKENDS = (
    "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'tickrunner_trio %' AND datname = current_database()"
)


def asked(dsn: str, query: str) -> list[Any]:
    """The first column of the answer, over a connection that is gone afterwards."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(query)
        return [row[0] for row in cursor] if cursor.description else []


def locks(dsn: str) -> list[int]:
    """The ids of all advisory locks that somebody holds."""
    return sorted(asked(dsn, _LOCKS))


def terminate(dsn: str) -> None:
    """End the sessions of all lockers, as an administrator does."""
    assert asked(dsn, _BACKENDS.replace("SELECT pid", "SELECT pg_terminate_backend(pid)")) != []


def backend(dsn: str) -> int:
    """The process id of the one backend that a locker has."""
    [pid] = asked(dsn, _BACKENDS)
    return int(pid)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does nothing but keep its sockets open."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def taken_at(dsn: str, lock_id: int) -> float:
    """Try for a lock as a rival does, without pause, and return the `boot_seconds` at which it was had. It blocks."""
    with psycopg.connect(dsn, autocommit=True) as rival:
        blocked_until(lambda: rival.execute("SELECT pg_try_advisory_lock(%s)", (lock_id,)).fetchall()[0][0])
        return boot_seconds()


def blocked_until(condition: Callable[[], object]) -> None:
    """Wait without Trio, or with a Trio loop that is to be blocked."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(30):
        while not condition():  # noqa: ASYNC110  # what is waited for is outside of Trio
            await trio.sleep(0.01)


def before_the_hand_over(locker: PostgresLocker, do: Callable[[], None]) -> None:
    """Have the next acquire call it, blocking Trio, when it has asked and before it can be answered."""
    thread = locker._thread
    assert thread is not None
    book = thread.book
    want = book.want

    def want_then_do(lease: PostgresLease) -> bool:
        del book.want
        asked_the_server = want(lease)
        do()
        return asked_the_server

    book.want = want_then_do  # type: ignore[method-assign]


def instead_of_the_statement(
    patch: pytest.MonkeyPatch, statement: bytes, *, releasing: bool = False, acquiring: bool = False
) -> None:
    """Have another statement sent over the real connection in place of those that release or acquire; not of beats.

    It gets the same two parameters, of type bigint[]: the ids to release and those to acquire; also for one lock alone.
    """
    patch.setattr(Session, "_exchange_one", Session._exchange_all)
    ask_prepared = Connection.ask_prepared

    def asked_otherwise(
        connection: Connection, name: bytes, parameters: Sequence[bytes], *, columns: int, deadline: float
    ) -> list[str]:
        releases, acquires = (parameter != b"{}" for parameter in parameters)
        if (releases and releasing) or (acquires and acquiring):
            return connection._row(connection._asked(statement, parameters, deadline), columns)
        return ask_prepared(connection, name, parameters, columns=columns, deadline=deadline)

    patch.setattr(Connection, "ask_prepared", asked_otherwise)


async def nothing(lease: Lease) -> None:
    """Work that is done at once."""


async def never(lease: Lease) -> None:
    """Work that must not be begun."""
    raise AssertionError(f"ran under the lock {lease.lock_id}")


def open_files() -> list[str]:
    """What each file descriptor of this process stands for; sockets by number."""
    names = []
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # that of the directory itself
                names.append(f"{name} {Path('/proc/self/fd', name).readlink()}")
    return sorted(names)
