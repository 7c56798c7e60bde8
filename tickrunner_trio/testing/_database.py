"""A database that each test finds empty: advisory locks are per database, so nobody else's can interfere."""

from __future__ import annotations

import secrets
import time

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

_SESSIONS_END_SECONDS = 10.0
"""The server ends a session a little after its client did; one that is there after so long was left behind."""


class FreshDatabase:
    """A database of its own on a server, made empty again after each test.

    Args:
        conninfo: of the server, for a role that may create databases.

    Each method blocks. `close` drops the database.
    """

    def __init__(self, conninfo: str) -> None:
        self._name = f"tickrunner_test_{secrets.token_hex(6)}"
        self.conninfo = make_conninfo(conninfo, dbname=self._name)  #: Of the database. Holds the password.
        self._admin = psycopg.connect(conninfo, autocommit=True)
        self._create()

    def _create(self) -> None:
        self._admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(self._name)))
        self._inside = psycopg.connect(self.conninfo, autocommit=True)

    def _drop(self) -> None:
        self._inside.close()
        self._admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(self._name)))

    def close(self) -> None:
        """Drop it, with whatever sessions are in it."""
        self._drop()
        self._admin.close()

    def emptied(self) -> list[str]:
        """Make it empty again; return the sessions that somebody left in it, each with its last statement."""
        deadline = time.monotonic() + _SESSIONS_END_SECONDS
        while (left := self._sessions()) and time.monotonic() < deadline:
            time.sleep(0.005)
        if left or self._has_been_written_to():
            self._drop()
            self._create()
        return left

    def _sessions(self) -> list[str]:
        rows = self._inside.execute(
            "SELECT pid, application_name, query FROM pg_stat_activity"
            " WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return [f"pid {pid} {name!r}: {query}" for pid, name, query in rows]

    def _has_been_written_to(self) -> bool:
        """Whether there are tables or schemas; to look is cheaper than to make a database."""
        return bool(
            self._inside.execute(
                "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
                r" WHERE n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema'"
                r" UNION ALL SELECT 1 FROM pg_namespace WHERE nspname NOT LIKE 'pg\_%'"
                " AND nspname NOT IN ('public', 'information_schema')"
            ).fetchone()
        )
