"""One short transaction with the ledger, for operators and for creation. What a tick writes is none of this.

::

    connect -> BEGIN -> settings of this transaction alone -> statements -> COMMIT -> close
                                   |
                                   +-- any failure -> close, which rolls back -> told in words of the ledger

The settings are the transaction's own, so that a pooler that shares sessions passes none on: it may be in transaction
mode here, where no session lock is taken.

Invariants:

1. Nothing waits for long: not for a lock, not for a standby, and not for us, should this process freeze with a row's
   lock in its hands.
2. What may stand in the way of a running locker, the lock of a row or of a table, is had for one round trip or so.
3. Only `DatabaseUnavailableError` and `LockerConfigurationError` leave it, with the remedy.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from ._clock import boot_seconds
from ._ledger_refusals import LOCKED, in_words_of_the_ledger
from ._short import short_connection

if TYPE_CHECKING:
    from collections.abc import Generator

    from ._connection import Connection

#: Seconds to wait for the lock of a row, which a tick has for a millisecond.
LOCK_SECONDS = 2.0
_REPLY_SECONDS = 10.0
_IDLE_SECONDS = 5.0

# With pg_catalog first and alone, no object of the role's can stand in for one of the system's.
_SETTINGS = (
    "SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true),"
    " pg_catalog.set_config('synchronous_commit', 'local', true),"
    " pg_catalog.set_config('lock_timeout', $1, true),"
    " pg_catalog.set_config('statement_timeout', $2, true),"
    " pg_catalog.set_config('idle_in_transaction_session_timeout', $3, true)"
)


class Transaction:
    """A transaction that is open."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def was_locked_out(self) -> bool:
        """Whether it failed because another session did not let go of a lock in time."""
        return self._connection.refused[0] == LOCKED

    def ask(self, statement: str, *parameters: str | float | None) -> list[list[str | None]]:
        """Return the rows of the answer, as text. Texts among the parameters are ASCII."""
        sent = [None if each is None else str(each).encode("ascii") for each in parameters]
        return self._connection.ask(statement.encode("ascii"), sent, deadline=_deadline())

    def execute(self, statement: str) -> None:
        """Do a statement that has no answer."""
        self._connection.execute(statement.encode(), deadline=_deadline())

    def wait_for_locks(self, seconds: float) -> None:
        """Let further statements wait for a lock for so long at most."""
        self.ask("SELECT set_config('lock_timeout', $1, true)", _milliseconds(seconds))


@contextmanager
def transaction(conninfo: str, schema: str, *, writes: bool = True) -> Generator[Transaction]:
    """Open a transaction for the time of the block, and commit it at its end. It blocks.

    Args:
        conninfo: the user's connection string; see `PostgresLocker`.
        schema: of the ledger, for what errors say.
        writes: whether it may change something.

    Raises:
        DatabaseUnavailableError: the server cannot do it now; `Transaction.was_locked_out` tells one reason.
        LockerConfigurationError: there is no ledger, or the role may not use it, or the server is none for us.
    """
    with short_connection(conninfo) as connection:
        connection.refuse_old_server()
        with in_words_of_the_ledger(connection, schema):
            opened = Transaction(connection)
            opened.execute(f"BEGIN ISOLATION LEVEL READ COMMITTED, READ {'WRITE' if writes else 'ONLY'}")
            waits = (LOCK_SECONDS, _REPLY_SECONDS, _IDLE_SECONDS)
            opened.ask(_SETTINGS, *map(_milliseconds, waits))
            yield opened
            opened.execute("COMMIT")


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


def _deadline() -> float:
    return boot_seconds() + _REPLY_SECONDS
