"""What it means of a ledger that the server refused a statement, and what to do about it.

It must not know what the statement was for.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from .._errors import DatabaseUnavailableError, LockerConfigurationError

if TYPE_CHECKING:
    from collections.abc import Generator

    from ._connection import Connection

# Of SQLSTATE.
_NO_TABLE = {"42P01", "3F000", "42703"}
_NOT_ALLOWED = "42501"
LOCKED = "55P03"  #: Somebody else has kept a lock for too long.
_NO_ROLE = "42704"
_NEEDED = "2BP01"


@contextmanager
def in_words_of_the_ledger(connection: Connection, schema: str) -> Generator[None]:
    """Have what the connection raises within the block say what it means of the ledger in that schema.

    Raises:
        DatabaseUnavailableError: as `Connection`, or somebody else has a table or a row locked.
        LockerConfigurationError: as `Connection`, or there is no ledger, or the role may not use it.
    """
    try:
        yield
    except (DatabaseUnavailableError, LockerConfigurationError) as error:
        told = _told(*connection.refused, schema)
        if told is None:
            raise
        raise told from error


def _told(state: str, words: str, schema: str) -> DatabaseUnavailableError | LockerConfigurationError | None:
    """Return what the server's refusal means here; None if it means what it means elsewhere."""
    if state in _NO_TABLE:
        return LockerConfigurationError(
            f"there is no ledger, or an incomplete one, in the schema {schema!r} ({words}): run 'tickrunner ledger "
            "init --dsn ...' with the DSN of a role that may create it; services whose locker was made without "
            "ledger=True have none"
        )
    if state == _NOT_ALLOWED:
        return LockerConfigurationError(
            f"the role may not do this to the ledger in the schema {schema!r} ({words}): let its owner run it, or "
            "what 'tickrunner ledger init --role NAME --print' prints"
        )
    if state == _NO_ROLE:
        return LockerConfigurationError(f"{words}: create it, or name another role")
    if state == _NEEDED:
        return LockerConfigurationError(
            f"something else needs the ledger in the schema {schema!r} ({words}): drop that first"
        )
    if state == LOCKED:
        return DatabaseUnavailableError(
            f"another session holds a lock on the ledger in the schema {schema!r} ({words}): end its transaction, "
            "which pg_stat_activity shows, or try again"
        )
    return None
