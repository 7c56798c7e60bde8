"""The database from Trio: short transactions in threads.

psycopg's async interface needs asyncio, so each transaction is a plain function that runs in a worker thread, on a
connection that is kept for the next one. There is no pool to configure: a stack of idle connections and a limit.

**Cancellation handling.** A transaction under way is waited for, never abandoned: after a cancellation nothing of it
is still going on, and the lock of the tick is let go only then. That is tolerable because every wait is bounded:
connecting by `connect_timeout`, a statement by `statement_timeout`, a server that has vanished by TCP keepalives. A
server that dies in the middle of a transaction holds up a cancelled tick for about 3 seconds, which is less than the
third of the lease (5 of 15 seconds) in which the work is to stop. What no timeout here ends is a server process that
was stopped (SIGSTOP) and never goes on; the library then logs that the work outlives its lease.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import psycopg
import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

from tickrunner_trio import DatabaseUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

Result = TypeVar("Result")
Connection: TypeAlias = psycopg.Connection[TupleRow]

#: What the connection string does not say itself. Seconds, but for `tcp_user_timeout` (milliseconds).
CONNECTION_DEFAULTS: dict[str, str | int] = {
    "application_name": "object_store",
    "connect_timeout": 2,
    "keepalives_idle": 1,
    "keepalives_interval": 1,
    "keepalives_count": 2,
    "tcp_user_timeout": 3000,
}

#: Seconds, as PostgreSQL reads it.
STATEMENT_TIMEOUT = "2s"

#: Four services, and beside the work of each the task that says that it is alive.
MAX_CONNECTIONS = 8


class SchemaMissingError(Exception):
    """The tables are not there. The message says how to create them."""


class Database:
    """Runs transactions. Connects at the first one, so that it can be opened while the server is away."""

    def __init__(self, dsn: str) -> None:
        said = conninfo_to_dict(dsn)
        defaults = {name: value for name, value in CONNECTION_DEFAULTS.items() if name not in said}
        self._conninfo = make_conninfo(dsn, **defaults)
        self._limiter = trio.CapacityLimiter(MAX_CONNECTIONS)
        self._idle: list[Connection] = []  # pop() and append() are atomic: threads share it without a lock.

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close_idle()

    async def run(self, transaction: Callable[[Connection], Result]) -> Result:
        """Run ``transaction`` in a thread and commit it, or roll it back if it raises.

        Raises:
            DatabaseUnavailableError: the server is away, or does not answer in time; waiting mends it. If the
                connection broke during the commit, the transaction may have taken effect.
            SchemaMissingError: the tables have not been created.
        """
        return await trio.to_thread.run_sync(self._run, transaction, limiter=self._limiter)

    def _run(self, transaction: Callable[[Connection], Result]) -> Result:
        try:
            connection = self._take()
            # Closed in every case but success, so that a connection in doubt never comes back.
            with contextlib.ExitStack() as unless_successful:
                unless_successful.callback(connection.close)
                with connection.transaction():
                    result = transaction(connection)
                unless_successful.pop_all()
        except psycopg.OperationalError as error:
            # The idle connections go to the same server: let none of them fail another tick.
            self._close_idle()
            raise DatabaseUnavailableError(f"the catalogue's database cannot be asked: {error}") from error
        except psycopg.errors.UndefinedTable as error:
            said = error.diag.message_primary  # and not the statement with a marker below it
            raise SchemaMissingError(f"{said}: run 'python -m object_store.app seed' first") from error
        self._idle.append(connection)
        return result

    def _take(self) -> Connection:
        with contextlib.suppress(IndexError):
            return self._idle.pop()
        connection = psycopg.connect(self._conninfo, autocommit=True)
        try:
            connection.execute("select set_config('statement_timeout', %s, false)", [STATEMENT_TIMEOUT])
        except BaseException:  # pragma: no cover - the server goes away in the moment after it took us
            connection.close()
            raise
        return connection

    def _close_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()
