"""What `PostgresLocker` does with a real PgBouncer in between: refuses a shared session, and uses one of its own."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest
import trio
from locker_essentials import exclude_each_other, loses_its_lock_when_terminated, works_again
from pgbouncer import pgbouncer, program
from postgres_view import asked, backend, blocked_until, locks, never

from tickrunner_trio import DatabaseUnavailableError, LockerConfigurationError, LockLostError, PostgresLocker
from tickrunner_trio.lockers import _session
from tickrunner_trio.lockers._clock import boot_seconds
from tickrunner_trio.lockers._short import _wait as waited
from tickrunner_trio.lockers._timing import lease_timing, server_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgbouncer import PoolMode

    from tickrunner_trio import Lease
    from tickrunner_trio._local_postgres import LocalPostgres
    from tickrunner_trio.lockers._connection import Wait

SHARING: list[PoolMode] = ["transaction", "statement"]
REFUSED = r"pooler that shares the server's sessions .*: connect to PostgreSQL directly, or to a pool in session mode"
IN_TRANSACTION = "SELECT pid FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'advisory'"
BARRIER = 99


@pytest.fixture(scope="module", autouse=True)
def _needs_pgbouncer() -> None:
    program()


def settings_by_backend(server: LocalPostgres, pool: str, clients: int) -> dict[int, list[str]]:
    """What so many clients, at the same time, find the settings to be that a locker makes, by the backend they get."""
    made = server_settings(lease_timing(2.0), server_version=180000)
    names = ", ".join(f"current_setting('{name}', true)" for name in made)  # NULL where the server is older
    statement = f"SELECT pg_backend_pid(), {names}, pg_advisory_xact_lock_shared({BARRIER})"
    found: dict[int, list[str]] = {}
    with contextlib.ExitStack() as stack:
        barrier = stack.enter_context(psycopg.connect(server.dsn, autocommit=True))
        barrier.execute(f"SELECT pg_advisory_lock({BARRIER})")
        connections = [stack.enter_context(psycopg.connect(pool, autocommit=True)) for _ in range(clients)]
        for connection in connections:
            connection.pgconn.send_query(statement.encode())
        blocked_until(lambda: len(asked(server.dsn, WAITING)) >= clients)
        barrier.execute(f"SELECT pg_advisory_unlock({BARRIER})")
        for connection in connections:
            while (result := connection.pgconn.get_result()) is not None:
                assert result.ntuples == 1, result.get_error_message()
                pid, *values = [(result.get_value(0, column) or b"").decode() for column in range(result.nfields)]
                found[int(pid)] = values
    return found


@contextlib.contextmanager
def busy(pool: str, *, clients: int, seconds: float = 0.001) -> Iterator[None]:
    """Have clients run statements that take so long through the pool, one after the other; fail if they get errors."""
    stop, begun = threading.Event(), threading.Barrier(clients + 1)

    def run() -> None:
        with psycopg.connect(pool, autocommit=True, prepare_threshold=None) as connection:
            begun.wait(30)
            while not stop.is_set():
                connection.execute(f"SELECT pg_sleep({seconds})")

    with ThreadPoolExecutor(clients) as threads:
        runs = [threads.submit(run) for _ in range(clients)]
        try:
            begun.wait(30)
            yield
        finally:
            stop.set()
        for ended in runs:
            ended.result()


async def is_refused(pool: str) -> None:
    with pytest.raises(LockerConfigurationError, match=REFUSED):
        async with PostgresLocker(pool):
            raise AssertionError("entered")


# -- A pooler that shares sessions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", SHARING)
@pytest.mark.parametrize("pool_size", [1, 3])
async def test_a_pool_of_shared_sessions_is_refused_and_left_as_it_was(
    postgres: LocalPostgres, mode: PoolMode, pool_size: int
) -> None:
    with pgbouncer(postgres, pool_size=pool_size) as pooler:
        before = settings_by_backend(postgres, pooler.dsn(mode), pool_size)
        await is_refused(pooler.dsn(mode))
        assert locks(postgres.dsn) == asked(postgres.dsn, IN_TRANSACTION) == []
        after = settings_by_backend(postgres, pooler.dsn(mode), pool_size)
        assert len(after) == pool_size
        assert after == before, "the locker's settings went to the pooler's other clients"


@pytest.mark.parametrize("mode", SHARING)
async def test_a_pool_of_shared_sessions_is_refused_while_others_are_busy_in_it(
    postgres: LocalPostgres, mode: PoolMode
) -> None:
    with pgbouncer(postgres, pool_size=3) as pooler:
        before = settings_by_backend(postgres, pooler.dsn(mode), 3)
        with busy(pooler.dsn(mode), clients=4):
            for _ in range(10):
                await is_refused(pooler.dsn(mode))
        assert locks(postgres.dsn) == asked(postgres.dsn, IN_TRANSACTION) == []
        assert settings_by_backend(postgres, pooler.dsn(mode), 3) == before


async def test_the_only_session_of_a_pool_that_is_shared_with_slow_clients_is_never_taken_for_ours(
    postgres: LocalPostgres,
) -> None:
    """One of the two clients that find out about the pool has to wait, as it would in session mode."""
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(pgbouncer(postgres, pool_size=1)).dsn("transaction")
        stack.enter_context(busy(pool, clients=1, seconds=0.4))
        with trio.fail_after(60), pytest.raises(LockerConfigurationError, match=REFUSED):
            async with PostgresLocker(pool, lease=2.0) as locker:
                while True:  # it may take several attempts to find out
                    with pytest.raises(DatabaseUnavailableError):
                        await locker.with_advisory_lock(5, never)
                    await trio.sleep(0.05)


@pytest.mark.parametrize("mode", SHARING)
@pytest.mark.parametrize("sessions", [2, 3, 4])
async def test_a_pool_that_gives_out_its_sessions_in_turn_is_refused(
    postgres: LocalPostgres, mode: PoolMode, sessions: int
) -> None:
    """Of two clients that ask alternately, each would always get the same one of two sessions."""
    with pgbouncer(postgres, pool_size=sessions, server_round_robin=1) as pooler:
        before = settings_by_backend(postgres, pooler.dsn(mode), sessions)
        for _ in range(2):
            await is_refused(pooler.dsn(mode))
        assert settings_by_backend(postgres, pooler.dsn(mode), sessions) == before


async def test_a_session_that_turns_out_to_be_shared_although_nothing_showed_it_is_never_held_by_two(
    postgres: LocalPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind one address of two poolers: what finds out about ours gets at the other one, and finds nothing."""
    refuse = _session.Session._refuse_shared_sessions

    def led_astray(session: _session.Session, conninfo: str, wait: Wait) -> None:
        refuse(session, elsewhere, wait)

    async def work(lease: Lease) -> None:
        await is_refused(pool)
        assert not lease.lost

    with pgbouncer(postgres, pool_size=1) as pooler:
        pool, elsewhere = pooler.dsn("transaction"), pooler.dsn("statement")
        monkeypatch.setattr(_session.Session, "_refuse_shared_sessions", led_astray)
        async with PostgresLocker(pool) as locker:
            assert await locker.with_advisory_lock(5, work) is True
            assert locker.statistics().sessions_lost == 0
            pooler.command("RECONNECT transaction")  # the next statement goes to another session
            with pytest.raises((DatabaseUnavailableError, LockerConfigurationError)):
                await locker.with_advisory_lock(6, never)
        assert locks(postgres.dsn) == []


@pytest.mark.parametrize(("release", "acquire"), [([5], [6]), ([5], []), ([], [6]), ([], [])])
def test_a_statement_that_goes_to_a_session_of_somebody_else_does_nothing_there(
    postgres: LocalPostgres, release: list[int], acquire: list[int]
) -> None:
    session = _session.Session(postgres.dsn, lease_timing(2.0), waited)
    try:
        deadline = boot_seconds() + 5
        assert session.exchange([], [5], deadline=deadline) == [True]
        session._connection.ask(b"SELECT set_config('tickrunner_trio.session', 'theirs', false)", deadline=deadline)
        with pytest.raises(LockerConfigurationError, match=REFUSED):
            session.exchange(release, acquire, deadline=deadline)
        assert locks(postgres.dsn) == [5]
    finally:
        session.close()


# -- A pooler in session mode ------------------------------------------------------------------------------------------


async def test_a_pool_in_session_mode_serves_like_the_server_itself(postgres: LocalPostgres) -> None:
    with pgbouncer(postgres) as pooler:
        async with PostgresLocker(pooler.dsn("session"), lease=2.0) as locker:
            async with PostgresLocker(postgres.dsn, lease=2.0) as other:
                await exclude_each_other(locker, other, server=postgres.dsn)
                await exclude_each_other(other, locker, server=postgres.dsn)
            await loses_its_lock_when_terminated(locker, server=postgres.dsn)
        assert locks(postgres.dsn) == []


async def test_beats_keep_the_session_behind_a_pooler_and_its_next_client_finds_nothing_of_them(
    postgres: LocalPostgres,
) -> None:
    backends: list[int] = []

    async def work(lease: Lease) -> None:
        backends.append(backend(postgres.dsn))
        await trio.sleep(2.5)
        assert not lease.lost
        assert locks(postgres.dsn) == [5]

    with pgbouncer(postgres, pool_size=2) as pooler:
        pool = pooler.dsn("session")
        before = settings_by_backend(postgres, pool, 2)
        async with PostgresLocker(pool, lease=2.0) as locker:
            assert await locker.with_advisory_lock(5, work) is True
            assert locker.statistics().sessions_opened == 1
        after = settings_by_backend(postgres, pool, 2)
        assert backends[0] in after
        assert after == before, "the settings of the lease were left on a session that others use"


@pytest.mark.parametrize("mode", ["session", *SHARING])
async def test_startup_parameters_that_the_pooler_drops_change_nothing(postgres: LocalPostgres, mode: PoolMode) -> None:
    with pgbouncer(postgres, ignore_startup_parameters="extra_float_digits, options") as pooler:
        pool = pooler.dsn(mode, options="-c extra_float_digits=3 -c idle_session_timeout=0")
        if mode != "session":
            await is_refused(pool)
            return
        async with PostgresLocker(pool) as locker, PostgresLocker(postgres.dsn) as other:
            await exclude_each_other(locker, other, server=postgres.dsn)


async def test_startup_parameters_that_the_pooler_refuses_are_a_wrong_configuration(postgres: LocalPostgres) -> None:
    refused = "unsupported startup parameter"
    with pgbouncer(postgres) as pooler, pytest.raises(LockerConfigurationError, match=refused) as caught:
        async with PostgresLocker(pooler.dsn("session", options="-c extra_float_digits=3")):
            raise AssertionError("entered")
    assert "ignore_startup_parameters" in str(caught.value)


@pytest.mark.parametrize("pool_size", [1, 2])
async def test_a_full_pool_in_session_mode_is_unavailable_until_somebody_leaves_it(
    postgres: LocalPostgres, pool_size: int
) -> None:
    with pgbouncer(postgres, pool_size=pool_size) as pooler, contextlib.ExitStack() as others:
        pool = pooler.dsn("session")
        for _ in range(pool_size):
            others.enter_context(psycopg.connect(pool, autocommit=True)).execute("SELECT 1")
        async with PostgresLocker(pool, lease=2.0) as locker:
            with pytest.raises(DatabaseUnavailableError, match="did not reply within"):
                await locker.with_advisory_lock(5, never)
            others.close()
            await works_again(locker)


async def test_the_last_session_of_a_pool_is_enough(postgres: LocalPostgres) -> None:
    with pgbouncer(postgres, pool_size=1) as pooler:
        async with PostgresLocker(pooler.dsn("session"), lease=2.0) as locker:
            await works_again(locker)


async def test_a_pooler_that_goes_away_takes_the_lock_along(postgres: LocalPostgres) -> None:
    with contextlib.ExitStack() as stack:
        pooler = stack.enter_context(pgbouncer(postgres))

        async def work(lease: Lease) -> None:
            stack.close()
            await trio.sleep(60)

        async with PostgresLocker(pooler.dsn("session"), lease=2.0) as locker:
            with pytest.raises(LockLostError, match="closed the connection"):
                await locker.with_advisory_lock(5, work)
            with pytest.raises(DatabaseUnavailableError):
                await locker.with_advisory_lock(5, never)
        assert locks(postgres.dsn) == []
