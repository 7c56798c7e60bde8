"""What `PostgresLocker` does with a real streaming standby: refuses it, follows a failover, waits for no standby."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import psycopg
import pytest
import trio
from locker_essentials import exclude_each_other, works_again
from postgres_view import asked, backend, blocked_until, locks, never, until
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from standby_postgres import hot_standby

from tickrunner_trio import DatabaseUnavailableError, LockLostError, PostgresLocker
from tickrunner_trio.lockers import _session
from tickrunner_trio.lockers._connection import Connection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tickrunner_trio import Lease
    from tickrunner_trio._local_postgres import LocalPostgres
    from tickrunner_trio.lockers._connection import Wait

NOW = "SELECT clock_timestamp()"


def either(*servers: LocalPostgres) -> str:
    """A connection string with several hosts, which libpq asks in this order."""
    ports = ",".join(str(conninfo_to_dict(server.dsn)["port"]) for server in servers)
    return make_conninfo(servers[0].dsn, host=",".join(["127.0.0.1"] * len(servers)), port=ports)


# -- A standby gives no locks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({}, "session is read-only|server is in hot standby mode"),
        ({"target_session_attrs": "any"}, "the server is a standby"),
    ],
)
async def test_a_standby_is_unavailable_until_it_is_promoted_and_only_a_new_session_serves_then(
    postgres: LocalPostgres, attributes: dict[str, str], reason: str
) -> None:
    with hot_standby(postgres) as standby:
        async with PostgresLocker(make_conninfo(standby.dsn, **attributes), lease=2.0) as locker:
            for _ in range(3):
                with pytest.raises(
                    DatabaseUnavailableError, match=f"there is no session with PostgreSQL: .*({reason})"
                ):
                    await locker.with_advisory_lock(5, never)
                await trio.sleep(0.1)  # while it tries again
            assert locks(standby.dsn) == []
            assert locker.statistics().sessions_opened == 0
            [before] = asked(standby.dsn, NOW)
            await trio.to_thread.run_sync(standby.promote)
            await works_again(locker)
            started = f"SELECT backend_start FROM pg_stat_activity WHERE pid = {backend(standby.dsn)}"
            assert asked(standby.dsn, started)[0] > before
            async with PostgresLocker(standby.dsn) as other:
                await exclude_each_other(locker, other, server=standby.dsn)


async def test_a_standby_that_is_promoted_while_the_locker_looks_at_it_is_not_used_through_that_session(
    postgres: LocalPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The promotion comes between the opening of the session and the question whether it is one of a standby."""
    attempts: list[int | None] = []

    with hot_standby(postgres) as standby:

        def connected(conninfo: str, wait: Wait) -> Connection:
            attempts.append(None)
            try:
                connection = Connection(conninfo, wait)
            finally:
                if len(attempts) == 1:
                    standby.promote()
            attempts[-1] = connection.backend_pid
            return connection

        monkeypatch.setattr(_session, "Connection", connected)
        async with PostgresLocker(make_conninfo(standby.dsn, target_session_attrs="any"), lease=2.0) as locker:
            await works_again(locker)
            assert backend(standby.dsn) == attempts[-1] != attempts[0]


# -- Failover ----------------------------------------------------------------------------------------------------------


async def test_of_several_hosts_the_primary_is_used_also_after_a_failover(own_postgres: LocalPostgres) -> None:
    async def work(lease: Lease) -> None:
        assert locks(own_postgres.dsn) == [5]
        await trio.to_thread.run_sync(own_postgres.stop, "kill")
        await trio.sleep(60)

    def nobody_takes_it(locker: PostgresLocker) -> bool:
        return "read-only" in repr(locker) and "refused" in repr(locker)

    with hot_standby(own_postgres) as standby:
        # The standby comes first, and the default for target_session_attrs passes over it.
        async with PostgresLocker(either(standby, own_postgres), lease=2.0) as locker:
            with pytest.raises(LockLostError):
                await locker.with_advisory_lock(5, work)
            await until(lambda: nobody_takes_it(locker))
            with pytest.raises(DatabaseUnavailableError):
                await locker.with_advisory_lock(5, never)
            await trio.to_thread.run_sync(standby.promote)
            await works_again(locker)
            async with PostgresLocker(standby.dsn) as other:
                await exclude_each_other(locker, other, server=standby.dsn)


# -- A synchronous standby that is gone --------------------------------------------------------------------------------


@contextlib.contextmanager
def a_commit_that_waits(server: LocalPostgres) -> Iterator[None]:
    """Have all commits of the server wait for a standby that does not exist, as one does all the time."""
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        asked(server.dsn, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        asked(server.dsn, "SELECT pg_reload_conf()")
        blocked_until(lambda: asked(server.dsn, "SHOW synchronous_standby_names") == ["nobody"])
        connection.pgconn.send_query(b"CREATE TABLE waits ()")
        blocked_until(lambda: asked(server.dsn, waiting) == [connection.info.backend_pid])
        yield
        assert asked(server.dsn, waiting) == [connection.info.backend_pid]
        asked(server.dsn, "ALTER SYSTEM RESET synchronous_standby_names")
        asked(server.dsn, "SELECT pg_reload_conf()")
        while connection.pgconn.get_result() is not None:
            pass


async def test_a_synchronous_standby_that_is_gone_does_not_hold_up_the_session_of_the_locks(
    own_postgres: LocalPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    # None of its statements has anything to commit; so that one would wait, they are made to.
    written = " FROM pg_catalog.pg_logical_emit_message(true, 'tickrunner', 'x')"
    for name in ("_EXCHANGE", "_ALONE"):
        monkeypatch.setattr(_session, name, getattr(_session, name) + written)
    async with PostgresLocker(own_postgres.dsn, lease=2.0) as earlier:
        with a_commit_that_waits(own_postgres):
            async with PostgresLocker(own_postgres.dsn, lease=2.0) as later:
                await exclude_each_other(earlier, later, server=own_postgres.dsn)
                await exclude_each_other(later, earlier, server=own_postgres.dsn)
            assert (later.statistics().sessions_opened, later.statistics().sessions_lost) == (1, 0)
        assert (earlier.statistics().sessions_opened, earlier.statistics().sessions_lost) == (1, 0)
