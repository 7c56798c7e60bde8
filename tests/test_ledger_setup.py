"""How a ledger is made, mended, checked and dropped, on a real server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psycopg
import pytest
import trio
from ledger_view import do, ledgered_database, put, role

from tickrunner_trio import DatabaseUnavailableError, LockerConfigurationError, PostgresLedger
from tickrunner_trio.lockers import _ledger_setup
from tickrunner_trio.lockers._ledger_schema import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tickrunner_trio._local_postgres import LocalPostgres

MISSING = ("there is no schema 'tickrunner': run 'tickrunner ledger init'",)


@pytest.fixture(scope="module")
def shared_dsn(postgres: LocalPostgres) -> Iterator[str]:
    with ledgered_database(postgres.dsn) as dsn:
        yield dsn


async def test_eight_at_once_all_succeed_and_one_of_them_makes_it(dsn: str) -> None:
    ledger = PostgresLedger(dsn)
    made: list[bool] = []

    async def init() -> None:
        made.append(await PostgresLedger(dsn).init())

    assert await ledger.check() == MISSING
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(init)
    assert sorted(made) == [False] * 7 + [True]
    assert await ledger.check() == ()
    assert await ledger.init() is False


@pytest.mark.parametrize("schema", ['a "b"', "Ledger'; DROP TABLE x; --", "a" * 63])
async def test_a_schema_may_bear_any_name_and_is_dropped_by_it(dsn: str, schema: str) -> None:
    ledger = PostgresLedger(dsn, schema)
    assert await ledger.init() is True
    assert do(dsn, "SELECT nspname FROM pg_namespace WHERE nspname = %s", schema) == [(schema,)]
    assert (await ledger.check(), await ledger.cluster_health()) == ((), ())
    assert await ledger.drop() is True
    assert await ledger.drop() is False
    assert do(dsn, "SELECT 1 FROM pg_namespace WHERE nspname = %s", schema) == []


async def test_an_older_table_gets_the_columns_that_it_lacks_and_keeps_its_rows(dsn: str) -> None:
    ledger = PostgresLedger(dsn)
    await ledger.init()
    put(dsn, "sweep", epoch=41)
    added = [column.name for column in COLUMNS["service"] if column.name not in {"name", "lock_id", "interval_seconds"}]
    lost = [name for name in added if name != "epoch"]
    do(dsn, f"ALTER TABLE tickrunner.service {', '.join(f'DROP COLUMN {name}' for name in lost)}")
    do(dsn, "ALTER TABLE tickrunner.run DROP COLUMN error")
    with pytest.raises(LockerConfigurationError, match=r"incomplete one, .*: run 'tickrunner ledger init"):
        await ledger.cluster_health()
    assert len(await ledger.check()) == len(lost) + 1
    assert await ledger.init() is True
    assert await ledger.check() == ()
    [row] = await ledger.cluster_health()
    assert (row.name, row.epoch, row.last_error) == ("sweep", 41, "")


async def test_a_column_of_a_newer_release_disturbs_nobody(dsn: str) -> None:
    ledger = PostgresLedger(dsn)
    await ledger.init()
    do(dsn, "ALTER TABLE tickrunner.service ADD COLUMN region text NOT NULL DEFAULT 'north'")
    assert await ledger.init() is False
    assert await ledger.check() == ()
    await ledger.add("sweep", lock_id=1, interval=60)
    assert [row.name for row in await ledger.cluster_health()] == ["sweep"]


async def test_a_role_that_may_create_nothing_is_refused_only_while_something_is_missing(dsn: str) -> None:
    with role(dsn) as (name, their_dsn):
        theirs = PostgresLedger(their_dsn)
        with pytest.raises(LockerConfigurationError, match=r"the role may not do this .*: let its owner run"):
            await theirs.init()
        await PostgresLedger(dsn).init()
        assert await theirs.init() is False
        problems = await theirs.check()
        schema_grant, table_grant = PostgresLedger(dsn).grants(role=name)  # as the owner may run them
        assert problems[0] == f'the role may not use the schema "tickrunner": {schema_grant}'
        assert {each.partition(": ")[2] for each in problems[1:]} == {table_grant}
        assert [each.split(":")[0] for each in problems[1:]] == [
            f'the role may not {privilege} on "tickrunner"."{table}"'
            for table in ("service", "run")
            for privilege in ("SELECT", "INSERT", "UPDATE")
        ]
        with pytest.raises(LockerConfigurationError, match="the role may not do this"):
            await theirs.cluster_health()
        assert await PostgresLedger(dsn).init(role=name) is False
        assert await theirs.check() == ()


async def test_what_is_printed_makes_the_ledger_and_grants_enough_for_all_operations(dsn: str) -> None:
    with role(dsn) as (name, their_dsn):
        for statement in PostgresLedger(dsn).statements(role=name):
            do(dsn, statement)
        theirs = PostgresLedger(their_dsn)
        assert await theirs.check() == ()
        await theirs.add("sweep", lock_id=1, interval=60)
        await theirs.pause("sweep", reason="a", by="b")
        await theirs.resume("sweep")
        await theirs.trigger("sweep")
        assert [row.name for row in await theirs.cluster_health()] == ["sweep"]
        assert await theirs.history("sweep") == ()
        with pytest.raises(LockerConfigurationError, match="the role may not do this"):
            await theirs.drop()


async def test_a_table_that_is_none_of_ours_is_told(dsn: str) -> None:
    do(dsn, "CREATE SCHEMA tickrunner")
    do(dsn, "CREATE TABLE tickrunner.service (name text, lock_id integer)")
    problems = await PostgresLedger(dsn).check()
    assert '"tickrunner"."service".lock_id is integer, not bigint: it is no table of ours; name another schema' in (
        problems
    )
    assert '"tickrunner"."service" has not the primary key {name}: it is no table of ours; name another schema' in (
        problems
    )
    assert 'there is no table "tickrunner"."run": run \'tickrunner ledger init\'' in problems


FOREIGN = {
    "a row": "TABLE {} (id integer PRIMARY KEY, name text); INSERT INTO {} VALUES (1, 'precious')",
    "the same key": "TABLE {} (name text, service text, slot smallint, PRIMARY KEY (name))",
    "no columns": "TABLE {} ()",
    "a view": "VIEW {} AS SELECT 'x'::text AS name",
    "a sequence": "SEQUENCE {}",
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("name", COLUMNS)
async def test_what_is_none_of_ours_is_neither_changed_nor_dropped(shared_dsn: str, name: str, kind: str) -> None:
    schema = f"theirs {name} {kind}"
    ledger = PostgresLedger(shared_dsn, schema)
    relation = f'"{schema}".{name}'
    do(shared_dsn, f'CREATE SCHEMA "{schema}"')
    do(shared_dsn, "CREATE " + FOREIGN[kind].replace("{}", relation))
    columns = "SELECT relname, relnatts FROM pg_class WHERE oid = %s::regclass"
    before = do(shared_dsn, columns, relation)
    for refuse in (ledger.init, ledger.missing, ledger.drop):
        with pytest.raises(LockerConfigurationError, match="it is no table of ours; name another schema"):
            await refuse()
    assert do(shared_dsn, columns, relation) == before
    assert all("it is no table of ours" in each or "there is no table" in each for each in await ledger.check())


@pytest.mark.parametrize("schema", ["theirs", "public"])
async def test_a_schema_that_no_ledger_made_is_not_dropped(dsn: str, schema: str) -> None:
    do(dsn, f"CREATE SCHEMA IF NOT EXISTS {schema}")
    ledger = PostgresLedger(dsn, schema)
    assert await ledger.drop() is False
    assert do(dsn, "SELECT 1 FROM pg_namespace WHERE nspname = %s", schema) == [(1,)]
    await ledger.init()
    assert await ledger.drop() is True
    assert bool(do(dsn, "SELECT 1 FROM pg_namespace WHERE nspname = %s", schema)) is (schema == "public")


async def test_an_index_that_makes_ticks_dearer_is_told(dsn: str) -> None:
    ledger = PostgresLedger(dsn)
    await ledger.init()
    do(dsn, "CREATE INDEX due ON tickrunner.service (due_at)")
    assert await ledger.check() == (
        '"tickrunner"."service" has an index due on {due_at}, which may make each tick dearer: drop it',
    )


async def test_no_index_is_in_the_order_of_a_locale_and_one_that_is_is_told(dsn: str) -> None:
    by_locale = (
        "SELECT indexrelid::regclass::text"
        " FROM pg_index JOIN pg_class AS c ON c.oid = indrelid, unnest(indcollation) AS by"
        " WHERE relnamespace = 'tickrunner'::regnamespace AND by NOT IN (0, 'pg_catalog.\"C\"'::regcollation)"
        " ORDER BY 1"
    )
    ledger = PostgresLedger(dsn)
    await ledger.init()
    assert do(dsn, by_locale) == []
    do(dsn, 'ALTER TABLE tickrunner.service ALTER name TYPE text COLLATE "default"')
    do(dsn, 'ALTER TABLE tickrunner.run ALTER service TYPE text COLLATE "default"')
    assert do(dsn, by_locale) == [("tickrunner.run_pkey",), ("tickrunner.service_pkey",)]
    problems = await ledger.check()
    assert len(problems) == 2
    for problem in problems:
        assert "has its key in the order of a locale" in problem
        do(dsn, problem[problem.index("ALTER TABLE") :])
    assert (do(dsn, by_locale), await ledger.check()) == ([], ())


async def test_a_drop_leaves_what_is_not_ours(dsn: str) -> None:
    ledger = PostgresLedger(dsn)
    await ledger.init()
    do(dsn, "CREATE TABLE tickrunner.theirs ()")
    assert await ledger.drop() is True
    assert await ledger.drop() is False
    assert do(dsn, "SELECT relname FROM pg_class WHERE relnamespace = 'tickrunner'::regnamespace") == [("theirs",)]


async def test_a_table_in_use_is_waited_for_without_holding_up_those_who_use_it(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_ledger_setup, "PATIENCE", 0.5)
    ledger = PostgresLedger(dsn)
    await ledger.init()
    do(dsn, "ALTER TABLE tickrunner.service DROP COLUMN due_at")
    waited: list[float] = []
    with psycopg.connect(dsn) as user, psycopg.connect(dsn, autocommit=True) as locker:
        user.execute("SELECT 1 FROM tickrunner.service")
        async with trio.open_nursery() as nursery:

            async def read_on() -> None:
                while True:
                    began = time.perf_counter()
                    await trio.to_thread.run_sync(locker.execute, "SELECT 1 FROM tickrunner.service")
                    waited.append(time.perf_counter() - began)

            nursery.start_soon(read_on)
            with pytest.raises(DatabaseUnavailableError, match=r"another session holds a lock .*: end its transaction"):
                await ledger.init()
            nursery.cancel_scope.cancel()
        user.rollback()
        assert await ledger.init() is True
    assert max(waited) < 5 * _ledger_setup.TABLE_LOCK_SECONDS  # the server checks no sooner, and this machine is shared


async def test_whoever_creates_waits_for_whoever_does_so_already(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ledger_setup, "PATIENCE", 0.2)
    with psycopg.connect(dsn) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", (_ledger_setup.DDL_LOCK_ID,))
        with pytest.raises(DatabaseUnavailableError, match="another session holds a lock"):
            await PostgresLedger(dsn).init()
        other.rollback()
        assert await PostgresLedger(dsn).init() is True
