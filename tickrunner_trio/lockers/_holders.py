"""Who holds which advisory lock: asked over a short connection of its own, as the locks' session does nothing else."""

from __future__ import annotations

import dataclasses
import datetime as dt

from ._clock import boot_seconds
from ._short import short_connection

_REPLY_SECONDS = 5.0

# pg_locks shows a bigint lock in two halves, with objsubid 1; 2 is the separate space of two-int4 locks. Locks are per
# database. Name and pid of other roles' sessions are shown to everybody, the client's address to their own role only.
_LOCK_ID = (
    "(held.classid::pg_catalog.int8 OPERATOR(pg_catalog.<<) 32) OPERATOR(pg_catalog.|) held.objid::pg_catalog.int8"
)
_IS_OF_OUR_KIND = (
    "held.locktype OPERATOR(pg_catalog.=) 'advisory' AND held.objsubid OPERATOR(pg_catalog.=) 1 AND held.granted"
    " AND held.mode OPERATOR(pg_catalog.=) 'ExclusiveLock' AND held.database OPERATOR(pg_catalog.=) ("
    "SELECT oid FROM pg_catalog.pg_database WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database())"
)
_HOLDERS = (
    f"SELECT {_LOCK_ID}, held.pid, coalesce(session.application_name, ''),"  # noqa: S608 - texts of this module
    " pg_catalog.host(session.client_addr), pg_catalog.date_part('epoch', session.backend_start)"
    " FROM pg_catalog.pg_locks AS held LEFT JOIN pg_catalog.pg_stat_activity AS session"
    " ON held.pid OPERATOR(pg_catalog.=) session.pid"
    f" WHERE {_IS_OF_OUR_KIND} ORDER BY 1"
)
#: The ids of all locks that are held.
HELD = f"SELECT {_LOCK_ID} FROM pg_catalog.pg_locks AS held WHERE {_IS_OF_OUR_KIND}"  # noqa: S608 - as above


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LockHolder:
    """A session that holds an advisory lock."""

    lock_id: int
    """The id of the lock: a signed 64-bit integer."""
    pid: int
    """The process id of the session's backend, on the server; ``pg_terminate_backend`` takes it."""
    application_name: str
    """What the session calls itself: by default ``tickrunner_trio <pid> <host>`` if it is a locker's of ours."""
    client_address: str | None
    """The address that it came from; None over a Unix socket, and where the role may not see it."""
    session_since: dt.datetime | None
    """When it was opened, aware, in UTC; None where the role may not see it."""


def read_holders(conninfo: str) -> tuple[LockHolder, ...]:
    """Return the holders of all advisory locks of the database, in the order of the ids. It blocks.

    Raises:
        DatabaseUnavailableError: the server cannot tell now.
        LockerConfigurationError: it will not, unless somebody changes something.
    """
    with short_connection(conninfo) as connection:
        rows = connection.ask(_HOLDERS.encode(), deadline=boot_seconds() + _REPLY_SECONDS)
    return tuple(
        LockHolder(
            lock_id=int(lock_id or 0),
            pid=int(pid or 0),
            application_name=name or "",
            client_address=address,
            session_since=None if since is None else dt.datetime.fromtimestamp(float(since), dt.UTC),
        )
        for lock_id, pid, name, address, since in rows
    )
