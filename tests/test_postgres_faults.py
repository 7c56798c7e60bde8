"""What `PostgresLocker` promises when the server ends the session, goes away, hangs, or is not what it should be."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from typing import TYPE_CHECKING, Any, Literal

import pytest
import trio
from locker_essentials import works_again
from postgres_view import (
    asked,
    backend,
    before_the_hand_over,
    blocked_until,
    instead_of_the_statement,
    locks,
    never,
    nothing,
    open_files,
    stopped,
    terminate,
    until,
)
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tickrunner_trio import DatabaseUnavailableError, LockerConfigurationError, LockLostError, PostgresLocker
from tickrunner_trio.lockers import _session
from tickrunner_trio.lockers._timing import server_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tickrunner_trio import Lease
    from tickrunner_trio._local_postgres import LocalPostgres

LOGGER = "tickrunner_trio.lockers.postgres"


# -- The session is lost while work runs (invariant 2 of `_session_thread`) -------------------------------------


async def test_a_terminated_session_cancels_the_work_and_a_new_one_serves_by_itself(dsn: str) -> None:
    ended: list[str] = []

    async def work(lease: Lease) -> None:
        try:
            terminate(dsn)
            await trio.sleep(60)
        except trio.Cancelled:
            ended.append("cancelled")
            assert lease.lost
            raise

    async with PostgresLocker(dsn) as locker:
        with pytest.raises(LockLostError, match="the lock 5 was lost while the work ran: terminating connection"):
            await locker.with_advisory_lock(5, work)
        await works_again(locker)
    assert ended == ["cancelled"]


def test_the_thread_of_a_locker_that_was_never_left_ends_when_there_is_no_trio_run_to_tell_any_more(dsn: str) -> None:
    locker = PostgresLocker(dsn)
    is_over = threading.Event()

    async def enter() -> None:
        await locker.__aenter__()
        thread = locker._thread
        assert thread is not None
        in_trio = thread._in_trio

        def afterwards(*call: Any) -> None:
            is_over.wait(10)
            in_trio(*call)

        thread._in_trio = afterwards

    trio.run(enter)
    is_over.set()
    assert locker._thread is not None
    assert locker._thread.join(10)


async def test_every_lock_of_a_lost_session_is_lost(dsn: str) -> None:
    working = 0
    lost: list[int] = []

    async def work(lease: Lease) -> None:
        nonlocal working
        working += 1
        await trio.sleep(60)

    async def run(lock_id: int) -> None:
        try:
            await locker.with_advisory_lock(lock_id, work)
        except LockLostError:
            lost.append(lock_id)

    async with PostgresLocker(dsn) as locker, trio.open_nursery() as nursery:
        for lock_id in range(20):
            nursery.start_soon(run, lock_id)
        await until(lambda: working == 20)
        terminate(dsn)
    assert sorted(lost) == list(range(20))


async def test_a_loss_shows_at_once_although_the_trio_loop_is_blocked(dsn: str) -> None:
    async def work(lease: Lease) -> None:
        terminate(dsn)
        blocked_until(lambda: lease.lost)

    async with PostgresLocker(dsn) as locker:
        with pytest.raises(LockLostError):  # although the work never met its cancellation
            await locker.with_advisory_lock(5, work)


async def test_what_the_work_raises_after_the_loss_is_the_cause(dsn: str) -> None:
    error = ValueError("from the clean-up")

    async def work(lease: Lease) -> None:
        try:
            terminate(dsn)
            await trio.sleep(60)
        finally:
            raise error

    async with PostgresLocker(dsn) as locker:
        with pytest.raises(LockLostError) as caught:
            await locker.with_advisory_lock(5, work)
        assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
async def test_what_ends_the_program_passes_through_a_loss(dsn: str, error: BaseException) -> None:
    async def work(lease: Lease) -> None:
        terminate(dsn)
        with trio.CancelScope(shield=True):
            await until(lambda: lease.lost)
        raise error

    async with PostgresLocker(dsn) as locker:
        with pytest.raises(type(error)) as caught:
            await locker.with_advisory_lock(5, work)
        assert caught.value is error


async def test_a_cancellation_from_outside_passes_through_a_loss(dsn: str) -> None:
    async def work(lease: Lease) -> None:
        terminate(dsn)
        with trio.CancelScope(shield=True):
            await until(lambda: lease.lost)
        scope.cancel()
        await trio.sleep_forever()

    async with PostgresLocker(dsn) as locker:
        with trio.CancelScope() as scope:
            await locker.with_advisory_lock(5, work)
        assert scope.cancelled_caught


async def test_a_lost_id_is_refused_here_until_its_work_has_stopped(dsn: str) -> None:
    """Invariant 1: the new session would grant it."""
    has_begun, go_on = trio.Event(), trio.Event()

    async def stubborn(lease: Lease) -> None:
        has_begun.set()
        with trio.CancelScope(shield=True):
            await go_on.wait()

    async with PostgresLocker(dsn) as locker:
        with pytest.RaisesGroup(pytest.RaisesExc(LockLostError)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(locker.with_advisory_lock, 7, stubborn)
                await has_begun.wait()
                terminate(dsn)
                with pytest.raises(DatabaseUnavailableError):
                    while True:
                        await locker.with_advisory_lock(5, nothing)
                await works_again(locker)
                assert await locker.with_advisory_lock(7, never) is False
                assert locks(dsn) == []
                go_on.set()
        assert await locker.with_advisory_lock(7, nothing) is True


async def test_a_lock_lost_before_it_was_handed_over_runs_nothing(dsn: str) -> None:
    async with PostgresLocker(dsn) as locker:

        def granted_and_lost() -> None:
            blocked_until(lambda: locks(dsn) == [5])
            terminate(dsn)
            blocked_until(lambda: "terminating" in repr(locker))

        before_the_hand_over(locker, granted_and_lost)
        with pytest.raises(DatabaseUnavailableError, match="terminating connection"):
            await locker.with_advisory_lock(5, never)
        await works_again(locker)


# -- The server goes away ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["fast", "immediate", "kill"])
async def test_while_the_server_is_away_locks_are_unavailable_and_afterwards_work_by_themselves(
    own_postgres: LocalPostgres, mode: Literal["fast", "immediate", "kill"], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)

    async def work(lease: Lease) -> None:
        await trio.to_thread.run_sync(own_postgres.stop, mode)
        await trio.sleep(60)

    async with PostgresLocker(own_postgres.dsn) as locker:
        with pytest.raises(LockLostError):
            await locker.with_advisory_lock(5, work)
        await until(lambda: "Connection refused" in repr(locker))
        for _ in range(3):
            with pytest.raises(DatabaseUnavailableError, match=r"there is no session with PostgreSQL: .*refused"):
                await locker.with_advisory_lock(5, never)
        await until(lambda: caplog.text.count("will try on") >= 3)
        levels = [record.levelname for record in caplog.records]
        assert levels == ["INFO", "WARNING", *["DEBUG"] * (len(levels) - 2)], "one warning for an outage"
        own_postgres.start()
        await works_again(locker)
        assert caplog.records[-1].getMessage().startswith("session opened: PostgreSQL")
    assert [record.levelname for record in caplog.records].count("WARNING") == 1


async def test_a_server_that_is_away_at_the_start_is_no_error(
    own_postgres: LocalPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    own_postgres.stop()
    async with PostgresLocker(own_postgres.dsn) as locker:
        with pytest.raises(DatabaseUnavailableError, match="refused"):
            await locker.with_advisory_lock(5, never)
        own_postgres.start()
        await works_again(locker)
    assert [record.levelname for record in caplog.records].count("WARNING") == 1


async def test_a_read_only_server_is_unavailable_until_it_takes_writes(own_postgres: LocalPostgres) -> None:
    asked(own_postgres.dsn, "ALTER DATABASE postgres SET default_transaction_read_only = on")
    async with PostgresLocker(own_postgres.dsn) as locker:
        with pytest.raises(DatabaseUnavailableError, match="session is read-only"):
            await locker.with_advisory_lock(5, never)
        other = make_conninfo(own_postgres.dsn, dbname="template1")
        asked(other, "ALTER DATABASE postgres RESET default_transaction_read_only")
        await works_again(locker)


async def test_a_read_only_session_is_unavailable_also_where_the_user_asked_for_any(dsn: str) -> None:
    read_only = make_conninfo(dsn, options="-c default_transaction_read_only=on", target_session_attrs="any")
    async with PostgresLocker(read_only) as locker:
        with pytest.raises(DatabaseUnavailableError, match="read-only: waiting for a server that takes writes"):
            await locker.with_advisory_lock(5, never)


async def test_a_setting_that_the_server_does_not_keep_as_it_was_made_is_refused(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is not ASCII in this one the server replaces by itself.
    monkeypatch.setattr(_session, "server_settings", lambda timing, server_version: {"application_name": "l\u00e4uft"})
    with pytest.raises(
        LockerConfigurationError, match=r"the setting application_name is .* so the server would not keep"
    ):
        async with PostgresLocker(dsn):
            raise AssertionError


async def test_too_many_connections_are_waited_for(own_postgres: LocalPostgres) -> None:
    asked(own_postgres.dsn, "CREATE ROLE crowded LOGIN PASSWORD 'sesame' CONNECTION LIMIT 0")
    async with PostgresLocker(make_conninfo(own_postgres.dsn, user="crowded", password="sesame")) as locker:
        with pytest.raises(DatabaseUnavailableError, match="too many connections"):
            await locker.with_advisory_lock(5, never)
        asked(own_postgres.dsn, "ALTER ROLE crowded CONNECTION LIMIT 5")
        await works_again(locker)


async def test_a_wrong_password_later_on_is_a_wrong_configuration_until_it_is_right_again(
    own_postgres: LocalPostgres,
) -> None:
    admin = own_postgres.dsn
    asked(admin, "CREATE ROLE rotated LOGIN PASSWORD 'sesame'")
    async with PostgresLocker(make_conninfo(admin, user="rotated", password="sesame")) as locker:
        await works_again(locker)
        asked(admin, "ALTER ROLE rotated PASSWORD 'other'")
        terminate(admin)
        await until(lambda: "authentication failed" in repr(locker))
        with pytest.raises(LockerConfigurationError, match="correct the user, the password") as caught:
            await locker.with_advisory_lock(5, never)
        assert "sesame" not in str(caught.value)
        asked(admin, "ALTER ROLE rotated PASSWORD 'sesame'")
        await until(lambda: "ready" in repr(locker))
        await works_again(locker)


async def test_of_several_hosts_one_that_hangs_does_not_bar_the_next(own_postgres: LocalPostgres) -> None:
    [silent] = await trio.open_tcp_listeners(0, host="127.0.0.1")  # the kernel accepts, nobody answers
    port = f"{silent.socket.getsockname()[1]},{own_postgres.dsn.rsplit(':', 1)[1].split('/')[0]}"
    conninfo = make_conninfo(own_postgres.dsn, host="127.0.0.1,127.0.0.1", port=port, connect_timeout=2)
    async with silent, PostgresLocker(conninfo) as locker:
        assert await locker.with_advisory_lock(5, nothing) is True


# -- The server hangs --------------------------------------------------------------------------------------------------


async def test_a_hung_backend_costs_an_acquire_the_session(own_postgres: LocalPostgres) -> None:
    dsn = own_postgres.dsn
    lost: list[bool] = []

    async def work(lease: Lease) -> None:
        with stopped(backend(dsn)), trio.CancelScope(shield=True):
            with pytest.raises(DatabaseUnavailableError, match=r"did not reply within 0\.6\d* seconds"):
                await locker.with_advisory_lock(6, never)
            lost.append(lease.lost)

    async with PostgresLocker(dsn, lease=2.0) as locker:
        with trio.fail_after(60), pytest.raises(LockLostError):
            await locker.with_advisory_lock(5, work)
        assert lost == [True]
        await until(lambda: locks(dsn) == [])
        await works_again(locker)


async def test_a_hung_backend_delays_a_release_only_so_long(own_postgres: LocalPostgres) -> None:
    dsn = own_postgres.dsn
    with contextlib.ExitStack() as hung:

        async def work(lease: Lease) -> None:
            hung.enter_context(stopped(backend(dsn)))

        async with PostgresLocker(dsn, lease=2.0) as locker:
            with trio.fail_after(60):
                assert await locker.with_advisory_lock(5, work) is True, "the work was done under the lock"
            assert "did not reply" in repr(locker), "it returned when the session was closed, and not before"
            hung.close()
            await until(lambda: locks(dsn) == [])
            await works_again(locker)


@pytest.mark.parametrize("holding", [False, True])
async def test_a_hung_backend_does_not_delay_leaving(own_postgres: LocalPostgres, holding: bool) -> None:
    dsn = own_postgres.dsn
    threads, files = threading.active_count(), open_files()
    begun = trio.Event()

    async def work(lease: Lease) -> None:
        begun.set()
        await trio.sleep_forever()

    async def run() -> None:
        with pytest.raises(LockLostError):
            await locker.with_advisory_lock(5, work)

    async with trio.open_nursery() as nursery:
        with contextlib.ExitStack() as hung:
            async with PostgresLocker(dsn) as locker:
                if holding:
                    nursery.start_soon(run)
                    await begun.wait()
                hung.enter_context(stopped(backend(dsn)))
                hanging_since = trio.current_time()
            # Below the reply bound: nothing was asked of the server any more.
            assert trio.current_time() - hanging_since < 4
    assert threading.active_count() == threads
    assert open_files() == files


async def test_leaving_interrupts_a_statement_and_answers_those_who_wait(own_postgres: LocalPostgres) -> None:
    errors: list[BaseException] = []

    async def ask() -> None:
        try:
            await locker.with_advisory_lock(5, never)
        except Exception as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        with contextlib.ExitStack() as hung:
            async with PostgresLocker(own_postgres.dsn) as locker:
                hung.enter_context(stopped(backend(own_postgres.dsn)))
                nursery.start_soon(ask)
                await until(lambda: locker.statistics().waiting == 1)
                locker._thread.stop()  # type: ignore[union-attr]
                await until(lambda: errors)
    assert [type(error) for error in errors] == [trio.ClosedResourceError]


async def test_a_hung_postmaster_delays_neither_answers_nor_leaving(own_postgres: LocalPostgres) -> None:
    assert own_postgres.pid is not None
    async with PostgresLocker(own_postgres.dsn) as locker:
        with contextlib.ExitStack() as hung:
            pid = backend(own_postgres.dsn)
            hung.enter_context(stopped(own_postgres.pid))
            os.kill(pid, signal.SIGTERM)
            with trio.fail_after(2):  # well below connect_timeout, which an attempt is waiting for
                await until(lambda: "ready" not in repr(locker))
                await trio.sleep(0.3)
                with pytest.raises(DatabaseUnavailableError, match="terminating connection"):
                    await locker.with_advisory_lock(5, never)
                await locker.__aexit__(None, None, None)


# -- Doubt costs the session -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "kind", "reason"),
    [
        (b"SELECT 1 / (id - 6) = 0, $1 FROM unnest($2) AS id", LockerConfigurationError, "division by zero"),
        (
            b"SELECT pg_sleep(60) IS NULL, $1 FROM unnest($2) AS id",
            DatabaseUnavailableError,
            "canceling statement due to statement timeout",
        ),
        (b"CREATE TEMP TABLE mine (id int)", DatabaseUnavailableError, "parameter"),
    ],
)
async def test_a_failed_statement_costs_the_session_and_all_of_its_locks(
    dsn: str, monkeypatch: pytest.MonkeyPatch, statement: bytes, kind: type[Exception], reason: str
) -> None:
    monkeypatch.setattr(
        _session,
        "server_settings",
        lambda timing, **version: server_settings(timing, **version) | {"statement_timeout": "300"},
    )
    seen: list[bool] = []

    async def work(lease: Lease) -> None:
        with monkeypatch.context() as patch:
            instead_of_the_statement(patch, _with_types(statement), acquiring=True)
            with trio.CancelScope(shield=True), pytest.raises(kind, match=reason):
                await locker.with_advisory_lock(6, never)
        seen.append(lease.lost)

    async with PostgresLocker(dsn) as locker:
        with pytest.raises(LockLostError, match=reason):
            await locker.with_advisory_lock(5, work)
        assert seen == [True]
        await until(lambda: "ready" in repr(locker))
        await works_again(locker)


async def test_a_failed_release_costs_the_session_and_all_of_its_locks(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = trio.Event()

    async def work(lease: Lease) -> None:
        begun.set()
        await trio.sleep_forever()

    async def lose() -> None:
        with pytest.raises(LockLostError, match="division by zero"):
            await locker.with_advisory_lock(5, work)

    async with PostgresLocker(dsn) as locker:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lose)
            await begun.wait()
            with monkeypatch.context() as patch:
                instead_of_the_statement(
                    patch, _with_types(b"SELECT 1 / (id - 6), $2 FROM unnest($1) AS id"), releasing=True
                )
                assert await locker.with_advisory_lock(6, nothing) is True, "the work was done under the lock"
        await until(lambda: locks(dsn) == [])
        await until(lambda: "ready" in repr(locker))
        await works_again(locker)


async def test_an_unlock_that_says_false_costs_the_session(
    dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begun = trio.Event()

    async def other(lease: Lease) -> None:
        begun.set()
        await trio.sleep_forever()

    async def lose() -> None:
        with pytest.raises(LockLostError, match=r"did not hold a lock .*; of -6 it said \{f\}"):
            await locker.with_advisory_lock(5, other)

    async with PostgresLocker(dsn) as locker:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lose)
            await begun.wait()
            with monkeypatch.context() as patch:
                granted = _with_types(b"SELECT 'ours', array_remove($1, 0), ARRAY(SELECT true FROM unnest($2))")
                instead_of_the_statement(patch, granted, acquiring=True)
                assert await locker.with_advisory_lock(-6, nothing) is True
        await until(lambda: "did not hold a lock that was to be released; of -6 it said {f}" in caplog.text)
        await works_again(locker)


@pytest.mark.parametrize("method", ["acquire", "release", "read_unasked", "close"])
async def test_a_bug_in_the_thread_answers_everybody_and_loses_every_lock(
    dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    """Invariant 4."""
    close, exchange = _session.Session.close, _session.Session.exchange

    def broken(session: _session.Session) -> None:
        close(session)
        raise ZeroDivisionError("a bug")

    def broken_exchange(
        session: _session.Session, release: Sequence[int], acquire: Sequence[int], *, deadline: float
    ) -> list[bool]:
        if acquire if method == "acquire" else release:
            broken(session)
        return exchange(session, release, acquire, deadline=deadline)

    async def work(lease: Lease) -> None:
        if method in ("acquire", "release"):
            monkeypatch.setattr(_session.Session, "exchange", broken_exchange)
        else:
            monkeypatch.setattr(_session.Session, method, broken)
        with trio.CancelScope(shield=True):
            match method:
                case "acquire":
                    with pytest.raises(RuntimeError, match="died of a bug, ZeroDivisionError"):
                        await locker.with_advisory_lock(6, never)
                case "release":
                    assert await locker.with_advisory_lock(6, nothing) is True
                case _:
                    terminate(dsn)
            await until(lambda: lease.lost)
            await until(lambda: "died of a bug" in repr(locker))
            with pytest.raises(RuntimeError, match="died of a bug, ZeroDivisionError"):
                await locker.with_advisory_lock(6, never)

    with trio.fail_after(60):
        async with PostgresLocker(dsn) as locker:
            with pytest.raises(LockLostError):
                await locker.with_advisory_lock(5, work)
    assert [record.levelname for record in caplog.records].count("CRITICAL") == 1


@pytest.mark.parametrize("method", ["acquire", "release"])
@pytest.mark.parametrize(
    ("columns", "rows"),
    [("ARRAY[true], ARRAY[true]", 0), ("ARRAY[true], ARRAY[true]", 2), ("ARRAY[true]", 1), ("ARRAY[true], NULL", 1)],
)
async def test_a_reply_of_another_shape_costs_the_session_and_answers_everybody(
    dsn: str, monkeypatch: pytest.MonkeyPatch, method: str, columns: str, rows: int
) -> None:
    wrong = f"SELECT 'ours', {columns} FROM generate_series(1, {rows}) WHERE $1 IS NOT NULL AND $2 IS NOT NULL".encode()
    async with PostgresLocker(dsn) as locker:
        await locker.with_advisory_lock(4, nothing)
        with trio.fail_after(30), monkeypatch.context() as patch:
            instead_of_the_statement(
                patch, _with_types(wrong), acquiring=method == "acquire", releasing=method == "release"
            )
            if method == "acquire":
                with pytest.raises(DatabaseUnavailableError, match=f"answered with {rows} rows where one of 3 values"):
                    await locker.with_advisory_lock(5, never)
            else:
                assert await locker.with_advisory_lock(5, nothing) is True
                assert f"answered with {rows} rows" in repr(locker)
        await works_again(locker)
        await until(lambda: locks(dsn) == [])


async def test_an_answer_for_more_or_fewer_locks_than_were_asked_costs_the_session(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with PostgresLocker(dsn) as locker:
        for answer in ("", "true, true"):
            with monkeypatch.context() as patch:
                wrong = f"SELECT 'ours', array_remove($1, 0), ARRAY[{answer}]::boolean[] WHERE $2 IS NOT NULL".encode()
                instead_of_the_statement(patch, _with_types(wrong), acquiring=True)
                with pytest.raises(DatabaseUnavailableError, match=r"answered for [02] locks where 1 were asked"):
                    await locker.with_advisory_lock(5, never)
            await works_again(locker)


def _with_types(statement: bytes) -> bytes:
    return statement.replace(b"$1", b"$1::bigint[]").replace(b"$2", b"$2::bigint[]")


async def test_a_ctrl_c_while_leaving_leaves_no_thread_and_no_lock(dsn: str) -> None:
    """It ends the wait for the work; the thread is told to stop all the same."""
    threads = threading.active_count()
    has_begun = trio.Event()

    async def stubborn(lease: Lease) -> None:
        has_begun.set()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)

    class Interrupted(KeyboardInterrupt):
        pass

    async def lost(locker: PostgresLocker) -> None:
        with pytest.raises(LockLostError):
            await locker.with_advisory_lock(5, stubborn)

    async with trio.open_nursery() as nursery:
        with pytest.raises(Interrupted):
            async with PostgresLocker(dsn) as locker:
                nursery.start_soon(lost, locker)
                await has_begun.wait()

                class Interrupting:
                    async def park(self) -> None:
                        raise Interrupted

                    def unpark_all(self) -> None:
                        """The work has stopped after all."""

                locker._calls._returned = Interrupting()  # type: ignore[assignment]
        await until(lambda: threading.active_count() == threads)
        assert locks(dsn) == []


async def test_a_locker_that_nobody_left_ends_its_thread_with_the_trio_run(dsn: str) -> None:
    async def enter_only() -> None:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(PostgresLocker(dsn))
            stack.pop_all()

    threads = threading.active_count()
    await trio.to_thread.run_sync(trio.run, enter_only)
    await until(lambda: threading.active_count() <= threads + 1)  # Trio keeps the worker thread for a while
    await until(
        lambda: asked(dsn, "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'tickrunner_trio %'") == []
    )


async def test_a_role_that_ends_idle_sessions_does_not_end_that_of_the_locker(own_postgres: LocalPostgres) -> None:
    asked(own_postgres.dsn, "ALTER ROLE postgres SET idle_session_timeout = '200ms'")

    async def work(lease: Lease) -> None:
        await trio.sleep(1)
        assert not lease.lost

    async with PostgresLocker(own_postgres.dsn) as locker:
        assert await locker.with_advisory_lock(5, work) is True


async def test_one_dead_address_does_not_hide_what_another_of_the_host_says(own_postgres: LocalPostgres) -> None:
    where = conninfo_to_dict(own_postgres.dsn)
    conninfo = f"host=127.0.0.1,127.0.0.1 port=1,{where['port']} dbname=postgres user=postgres password=wrong"
    with pytest.raises(LockerConfigurationError, match="correct the user, the password or the database"):
        async with PostgresLocker(conninfo):
            raise AssertionError("entered")


async def test_a_connect_timeout_of_many_years_is_no_bug(dsn: str) -> None:
    async with PostgresLocker(make_conninfo(dsn, connect_timeout=2_000_000_000)) as locker:
        assert await locker.with_advisory_lock(5, nothing) is True
