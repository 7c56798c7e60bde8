"""The database of `tickrunner_postgres`: as it was made, after whatever a test has done to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from tickrunner_trio.testing._database import FreshDatabase

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def database(dsn: str) -> Iterator[FreshDatabase]:
    """One of the test's own, on the server that all share."""
    database = FreshDatabase(dsn)
    yield database
    database.close()


def done(database: FreshDatabase, *statements: str) -> None:
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def oid(database: FreshDatabase) -> int:
    """Another one for another database of the same name."""
    with psycopg.connect(database.conninfo) as connection:
        row = connection.execute("SELECT oid FROM pg_database WHERE datname = current_database()").fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE of_one_test ()",
        "CREATE SCHEMA of_one_test",
        "DROP SCHEMA public",
        "CREATE TYPE of_one_test AS ENUM ('a')",
        "CREATE FUNCTION of_one_test() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE CAST (bigint AS uuid) WITH INOUT",
        "CREATE PUBLICATION of_one_test",
        "COMMENT ON SCHEMA public IS 'of one test'",
        "GRANT CREATE ON SCHEMA public TO PUBLIC",
        "SELECT lo_create(0)",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = 64', current_database()); END $$",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I CONNECTION LIMIT 7', current_database()); END $$",
    ],
)
def test_whatever_is_written_to_it_is_gone_for_the_next_test(database: FreshDatabase, statement: str) -> None:
    before = database._as_made
    first = oid(database)
    done(database, statement)
    assert database.emptied() == []
    assert oid(database) != first
    assert [row[:2] for row in database._as_made] == [row[:2] for row in before]  # as many rows of each catalog


def test_it_is_kept_as_long_as_nothing_is_written(database: FreshDatabase) -> None:
    first = oid(database)
    done(database, "SELECT pg_advisory_lock(1)", "CREATE TABLE gone ()", "DROP TABLE gone", "VACUUM", "ANALYZE")
    assert database.emptied() == []
    assert oid(database) == first


@pytest.mark.parametrize("does", ["DROP DATABASE {} WITH (FORCE)", "ALTER DATABASE {} ALLOW_CONNECTIONS false"])
def test_one_that_lets_nobody_in_is_made_anew(database: FreshDatabase, dsn: str, does: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(does.format(database._name).encode())
    assert database.emptied() == []
    done(database, "SELECT 1")


ENDS_THEM = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE "


def test_a_test_may_end_all_other_sessions_in_its_database(database: FreshDatabase) -> None:
    done(database, f"{ENDS_THEM} datname = current_database() AND pid <> pg_backend_pid()", "CREATE TABLE t ()")
    assert database.emptied() == []
    done(database, "CREATE TABLE t ()")


def test_a_test_may_end_the_session_beside_its_database_too(database: FreshDatabase) -> None:
    done(database, f"{ENDS_THEM} pid = {database._admin.info.backend_pid}", "CREATE TABLE t ()")
    assert database.emptied() == []
    done(database, "CREATE TABLE t ()")


def test_an_error_that_is_not_the_end_of_the_session_comes_out(database: FreshDatabase) -> None:
    with psycopg.connect(database.conninfo, autocommit=True), pytest.raises(psycopg.errors.ObjectInUse):
        database._do(psycopg.sql.SQL("DROP DATABASE {}").format(psycopg.sql.Identifier(database._name)))
