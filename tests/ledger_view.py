"""What tests of the ledger see and do from outside: its rows over a connection of their own, roles, other databases."""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tickrunner_trio.lockers._ledger_setup import init_ledger

if TYPE_CHECKING:
    from collections.abc import Iterator


def do(dsn: str, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Do a statement over a connection that is gone afterwards; return its rows."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement, parameters or None)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description else []


def emptied(dsn: str) -> str:
    """Return the conninfo of a database whose ledger has no rows any more."""
    do(dsn, "TRUNCATE tickrunner.service, tickrunner.run")
    return dsn


def put(dsn: str, name: str, **columns: object) -> None:
    """Write a row of the ledger in the schema `tickrunner`, as a locker would; a str that begins with ``=`` is SQL."""
    given = {"name": name, "lock_id": 7, "interval_seconds": 60.0, **columns}
    values = [
        sql.SQL(value[1:]) if isinstance(value, str) and value.startswith("=") else sql.Literal(value)  # type: ignore[arg-type]
        for value in given.values()
    ]
    statement = sql.SQL("INSERT INTO tickrunner.service ({}) VALUES ({})").format(
        sql.SQL(", ").join(map(sql.Identifier, given)), sql.SQL(", ").join(values)
    )
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement)


@contextlib.contextmanager
def role(dsn: str) -> Iterator[tuple[str, str]]:
    """A role that may log in and nothing else: its name, and the conninfo of it."""
    name, password = f"tickrunner_test_{secrets.token_hex(4)}", secrets.token_hex(16)
    do(dsn, f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
    try:
        yield name, make_conninfo(dsn, user=name, password=password)
    finally:
        do(dsn, f"DROP OWNED BY {name}")
        do(dsn, f"DROP ROLE {name}")


@contextlib.contextmanager
def ledgered_database(dsn: str, encoding: str = "UTF8") -> Iterator[str]:
    """The conninfo of a database of its own that has a ledger: for tests which share it, and empty its tables."""
    name = f"tickrunner_test_ledger_{secrets.token_hex(4)}"
    do(dsn, f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        init_ledger(make_conninfo(dsn, dbname=name), "tickrunner")
        yield make_conninfo(dsn, dbname=name)
    finally:
        do(dsn, f"DROP DATABASE {name} WITH (FORCE)")
