"""A database that each test finds empty: advisory locks are per database, so nobody else's can interfere.

No session stays in it between two tests, and none is needed from one test to the next: a test may end every session
that it can see, as drills of an outage do.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any, LiteralString, TypeAlias

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    Row: TypeAlias = tuple[Any, ...]

_SESSIONS_END_SECONDS = 10.0
"""The server ends a session a little after its client did; one that is there after so long was left behind."""

#: All but what ANALYZE writes at times of its own, and what this role may not read.
_CATALOGS: LiteralString = (
    "SELECT relname FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r'"
    r" AND NOT relisshared AND relname NOT LIKE 'pg\_statistic%' AND has_table_privilege(oid, 'SELECT') ORDER BY 1"
)
#: Each row of a catalog bears the transaction that wrote it, so that a change shows as well as a new row.
_WRITTEN: LiteralString = "SELECT {}, count(*), sum(xmin::text::bigint) FROM {}"
#: What the catalogs of the whole server say of this database: ALTER DATABASE, and settings of it.
_OF_THE_SERVER: LiteralString = (
    "SELECT 'pg_db_role_setting', count(*), sum(xmin::text::bigint) FROM pg_db_role_setting"
    " WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " UNION ALL SELECT 'pg_database', 1, xmin::text::bigint FROM pg_database WHERE datname = current_database()"
)


class FreshDatabase:
    """A database of its own on a server, made empty again after each test.

    Empty is what it was when it was made, in all that a database has: tables, types, functions, extensions, large
    objects, privileges, settings. What is the whole server's, roles above all, is the test's own affair.

    Args:
        conninfo: of the server, for a role that may create databases.

    Each method blocks. `close` drops the database.
    """

    def __init__(self, conninfo: str) -> None:
        self._server = conninfo
        self._name = f"tickrunner_test_{secrets.token_hex(6)}"
        self.conninfo = make_conninfo(conninfo, dbname=self._name)  #: Of the database. Holds the password.
        self._admin = psycopg.connect(conninfo, autocommit=True)
        self._create()

    def _create(self) -> None:
        self._do(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(self._name)))
        self._as_made = self._written()

    def _drop(self) -> None:
        self._do(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(self._name)))

    def close(self) -> None:
        """Drop it, with whatever sessions are in it."""
        self._drop()
        self._admin.close()

    def emptied(self) -> list[str]:
        """Make it empty again; return the sessions that somebody left in it, each with its last statement."""
        deadline = time.monotonic() + _SESSIONS_END_SECONDS
        while (left := self._sessions()) and time.monotonic() < deadline:
            time.sleep(0.005)
        if left or not self._is_as_made():
            self._drop()
            self._create()
        return left

    def _sessions(self) -> list[str]:
        rows = self._do(
            "SELECT pid, application_name, query FROM pg_stat_activity"
            " WHERE datname = %s AND backend_type = 'client backend' AND pid <> pg_backend_pid()",
            [self._name],
        )
        return [f"pid {pid} {name!r}: {query}" for pid, name, query in rows]

    def _is_as_made(self) -> bool:
        """To look takes a third of the time that making one does."""
        try:
            return self._written() == self._as_made
        except psycopg.OperationalError:  # it lets nobody in any more, or is gone
            return False

    def _written(self) -> list[Row]:
        """Return what changes with whatever is written to it."""
        with psycopg.connect(self.conninfo, autocommit=True) as inside:
            catalogs = [name for (name,) in inside.execute(_CATALOGS)]
            queries = [sql.SQL(_WRITTEN).format(name, sql.Identifier("pg_catalog", name)) for name in catalogs]
            return inside.execute(sql.SQL(" UNION ALL ").join([*queries, sql.SQL(_OF_THE_SERVER)])).fetchall()

    def _do(self, statement: LiteralString | sql.Composed, parameters: Sequence[object] = ()) -> list[Row]:
        """Over the session beside the database; over a new one if somebody has ended that."""
        try:
            return self._rows(statement, parameters)
        except psycopg.OperationalError:
            if not self._admin.closed:
                raise
        self._admin = psycopg.connect(self._server, autocommit=True)
        return self._rows(statement, parameters)

    def _rows(self, statement: LiteralString | sql.Composed, parameters: Sequence[object]) -> list[Row]:
        cursor = self._admin.execute(statement, parameters or None)
        return cursor.fetchall() if cursor.description else []
