"""The demo's own database on a server, and what it reads there: who holds which lock, and what the work recorded.

psycopg's async connections do not run under Trio, so that one connection is used from worker threads, one at a time.
Nothing waits for long: connecting and each statement are bounded, so that an interrupted demo ends soon.
"""

from __future__ import annotations

import contextlib
import secrets
from functools import partial
from typing import TYPE_CHECKING, Any, LiteralString, cast

import psycopg
import trio
from psycopg import sql
from psycopg.conninfo import make_conninfo

from ._cli_errors import CommandError, UsageError
from ._demo_table import Look
from ._demo_verdict import Run

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from datetime import datetime

_CONNECT_SECONDS = 10
_STATEMENT_SECONDS = 10

#: The two halves of a bigint lock id, put together again; see the documentation of pg_locks.
_HOLDERS = """
    select (l.classid::bigint << 32) | l.objid::bigint, a.application_name
    from pg_locks l join pg_stat_activity a using (pid)
    where l.locktype = 'advisory' and l.objsubid = 1 and l.granted
      and l.database = (select oid from pg_database where datname = current_database())
"""

_COPIES = """
    select count(*), count(*) filter (where folders >= 2)
    from (select o.id, count(distinct c.folder) as folders
          from object_store.objects o left join object_store.copies c on c.object_id = o.id group by o.id) as copied
"""


@contextlib.asynccontextmanager
async def demo_database(server: str) -> AsyncGenerator[DemoDatabase]:
    """Create a database on the server that the conninfo leads to, and drop it in the end.

    Raises:
        UsageError: the conninfo cannot be read.
        CommandError: the server cannot be reached, or does not let us create a database.

    Cancellation handling: the database is dropped under a shield of at most 20 seconds, what is connected to it thrown
    out; its name, ``tickrunner_demo_...``, tells what is left if even that fails.
    """
    name = f"tickrunner_demo_{secrets.token_hex(6)}"
    conninfo = _conninfo(server, name)
    async with contextlib.AsyncExitStack() as stack:
        # Before it is created: a cancellation leaves the thread that creates it to its work, and comes right after.
        stack.push_async_callback(_drop, server, name)
        try:
            await _on_server(server, sql.SQL("create database {}").format(sql.Identifier(name)))
            connection = await trio.to_thread.run_sync(_connect, conninfo)
        except psycopg.Error as error:
            raise CommandError(
                f"the demo cannot create a database for itself: {error}: "
                "let TICKRUNNER_TEST_DSN name a reachable server and a role that may create databases, or unset it",
                status=1,
            ) from error
        stack.callback(connection.close)
        yield DemoDatabase(conninfo, connection)


def _conninfo(server: str, database: str) -> str:
    try:
        return make_conninfo(server, dbname=database)
    except (psycopg.Error, ValueError):
        # Neither the text nor libpq's error, which quotes it: there may be a password in it.
        raise UsageError(
            "TICKRUNNER_TEST_DSN is not a connection string that libpq can read: "
            "write it as 'host=... dbname=...' or postgresql://..., or unset it"
        ) from None


async def _drop(server: str, name: str) -> None:
    with trio.move_on_after(2 * _STATEMENT_SECONDS, shield=True), contextlib.suppress(psycopg.Error):
        await _on_server(server, sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))


async def _on_server(server: str, statement: sql.Composed) -> None:
    def execute() -> None:
        with contextlib.closing(_connect(server)) as connection:
            connection.execute(statement)

    await trio.to_thread.run_sync(execute)


def _connect(conninfo: str) -> psycopg.Connection:
    connection = psycopg.connect(
        make_conninfo(conninfo, connect_timeout=_CONNECT_SECONDS, application_name="tickrunner demo"), autocommit=True
    )
    connection.execute("select set_config('statement_timeout', %s, false)", [f"{_STATEMENT_SECONDS}s"])
    return connection


class DemoDatabase:
    """The database of one demo. Raises `CommandError` when it does not answer."""

    def __init__(self, conninfo: str, connection: psycopg.Connection) -> None:
        self._conninfo = conninfo
        self._connection = connection
        self._one_at_a_time = trio.Lock()

    def conninfo(self, replica: str) -> str:
        """Return what a replica connects with: its sessions go by its name, which is how `look` knows them."""
        return make_conninfo(self._conninfo, application_name=replica)

    async def now(self) -> datetime:
        """Return the time by the clock of the database, which is the one that the work writes down."""
        ((now,),) = await self._rows("select clock_timestamp()")
        return cast("datetime", now)

    async def look(self) -> Look:
        """Return who holds what, and how often the work of whom has run."""
        holders = await self._rows(_HOLDERS)
        runs = await self._rows("select service, replica, count(*) from object_store.runs group by service, replica")
        return Look(
            runs={(service, replica): count for service, replica, count in runs},
            holders=frozenset((lock_id, replica) for lock_id, replica in holders),
        )

    async def runs(self) -> list[Run]:
        """Return all runs that the work recorded."""
        rows = await self._rows("select service, replica, started_at, last_seen_at, ended_at from object_store.runs")
        fields = ("service", "replica", "started_at", "last_seen_at", "ended_at")
        return [Run(**dict(zip(fields, row, strict=True))) for row in rows]

    async def objects(self) -> tuple[int, int]:
        """Return how many objects there are, and how many of them are in two folders."""
        total, replicated = (await self._rows(_COPIES))[0]
        return total, replicated

    async def _rows(self, query: LiteralString) -> Sequence[tuple[Any, ...]]:
        async with self._one_at_a_time:
            return await trio.to_thread.run_sync(partial(_fetch, self._connection, query))


def _fetch(connection: psycopg.Connection, query: LiteralString) -> Sequence[tuple[Any, ...]]:
    try:
        return connection.execute(query).fetchall()
    except psycopg.Error as error:
        raise CommandError(f"the database of the demo does not answer: {error}", status=1) from error
