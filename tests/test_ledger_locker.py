"""What `PostgresLocker(ledger=True)` promises beside the promises of every locker."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import secrets
import threading
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_view import do, role
from postgres_view import backend, locks, nothing, stopped, terminate, until
from psycopg import pq
from psycopg.conninfo import make_conninfo

from tickrunner_trio import (
    DatabaseUnavailableError,
    LockerConfigurationError,
    LockLostError,
    Outcome,
    PostgresLedger,
    PostgresLocker,
    TickReport,
)
from tickrunner_trio.abc import LedgerLease, LedgerLocker, LedgerState
from tickrunner_trio.lockers._clock import boot_seconds
from tickrunner_trio.lockers._ledger_session import LedgerSession
from tickrunner_trio.lockers._ledger_watch import LOOK_SECONDS, LedgerWatch, Seen
from tickrunner_trio.lockers._pipeline import PipelinedConnection, refuse_old_libpq
from tickrunner_trio.lockers._short import _wait as wait
from tickrunner_trio.lockers._timing import lease_timing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tickrunner_trio._local_postgres import LocalPostgres
    from tickrunner_trio.abc import LedgerAnswer
    from tickrunner_trio.lockers._batch import Batch, Done

    Rows = list[list[str | None]]


def report(outcome: Outcome = Outcome.SUCCESS, error: BaseException | None = None) -> TickReport:
    at = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
    return TickReport(
        service="sweep",
        number=1,
        request_id="0" * 32,
        outcome=outcome,
        error=error,
        scheduled_at=at,
        started_at=at,
        duration=0.25,
        lateness=0.0,
        epoch=None,
        forced=False,
    )


def ending(outcome: Outcome = Outcome.SUCCESS, error: BaseException | None = None) -> Callable[..., Awaitable[None]]:
    async def work(lease: LedgerLease) -> None:
        lease.report(report(outcome, error))

    return work


async def ask(
    locker: PostgresLocker,
    fn: Callable[[LedgerLease], Awaitable[None]] | None = None,
    *,
    service: str = "sweep",
    lock_id: int = 1,
    interval: float = 60.0,
    forced: bool = False,
) -> LedgerAnswer:
    return await locker.with_due_lock(lock_id, fn or ending(), service=service, interval=interval, forced=forced)


async def run(locker: PostgresLocker, **options: Any) -> int:
    """Have it run, and return the epoch."""
    epochs: list[int | None] = []

    async def work(lease: LedgerLease) -> None:
        epochs.append(lease.epoch)
        lease.report(report())

    answer = await ask(locker, work, **options)
    assert answer.state is LedgerState.RAN
    [epoch] = epochs
    assert epoch is not None
    return epoch


async def until_it(does: Callable[[], Awaitable[bool]]) -> None:
    with trio.fail_after(30):
        while not await does():  # noqa: ASYNC110  # what is waited for is outside of Trio
            await trio.sleep(0.02)


async def never(lease: LedgerLease) -> None:
    raise AssertionError("it ran")


# -- The option --------------------------------------------------------------------------------------------------------


async def test_without_a_ledger_there_is_none_and_no_table(dsn: str) -> None:
    async with PostgresLocker(dsn) as locker:
        assert isinstance(locker, LedgerLocker)
        assert (locker.has_ledger, locker.ledger) == (False, None)
        with pytest.raises(RuntimeError, match="ledger=True"):
            await ask(locker, never)
        with locker.watching("sweep", list):
            assert await locker.with_advisory_lock(1, nothing)
    assert do(dsn, "SELECT 1 FROM pg_namespace WHERE nspname = 'tickrunner'") == []


@pytest.mark.parametrize(
    ("wrong", "error"), [(1, TypeError), (None, TypeError), ("", ValueError), ("x" * 64, ValueError)]
)
def test_a_ledger_is_a_schema_or_none(wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="ledger"):
        PostgresLocker("", ledger=wrong)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"service": 7}, TypeError, "service must be a str"),
        ({"interval": "60"}, TypeError, "interval must be a number"),
        ({"interval": True}, TypeError, "interval must be a number"),
        ({"interval": 0}, ValueError, "interval must be above 0"),
        ({"interval": float("nan")}, ValueError, "interval must be above 0"),
        ({"interval": 1e9}, ValueError, "366 days"),
        ({"lock_id": 1 << 63}, ValueError, "lock_id"),
    ],
)
async def test_what_cannot_be_a_row_never_gets_to_the_server(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        await ask(PostgresLocker("", ledger=True), never, **options)


@pytest.mark.parametrize("schema", ["tickrunner", 'my "ledger" of $1, %s'])
async def test_the_ledger_is_made_at_first_use_in_the_schema_that_is_named(dsn: str, schema: str) -> None:
    async with PostgresLocker(dsn, ledger=schema) as locker:
        await run(locker)
    [row] = await PostgresLedger(dsn, schema).cluster_health()
    assert (row.name, row.last_outcome, row.consecutive_failures, row.lock_id) == ("sweep", Outcome.SUCCESS, 0, 1)


async def test_a_role_that_may_not_make_it_is_told_to_have_it_made(dsn: str) -> None:
    with role(dsn) as (name, conninfo):
        with pytest.raises(LockerConfigurationError, match="tickrunner ledger init"):
            async with PostgresLocker(conninfo, ledger=True):
                raise AssertionError("entered")
        await PostgresLedger(dsn).init(role=name)
        async with PostgresLocker(conninfo, ledger=True) as locker:
            await run(locker)


async def test_a_ledger_that_is_dropped_meanwhile_is_a_matter_for_somebody_and_then_is_made_anew(dsn: str) -> None:
    async with PostgresLocker(dsn, ledger=True) as locker:
        await run(locker)
        await PostgresLedger(dsn).drop()
        with pytest.raises((LockerConfigurationError, DatabaseUnavailableError), match="ledger init"):
            await ask(locker, never, forced=True)
        await PostgresLedger(dsn).init()

        async def works() -> bool:
            try:
                return (await ask(locker, forced=True)).state is LedgerState.RAN
            except (LockerConfigurationError, DatabaseUnavailableError):
                return False

        await until_it(works)


# -- Once per interval -------------------------------------------------------------------------------------------------


async def test_a_success_makes_it_not_due_for_every_replica_and_restart(dsn: str) -> None:
    async with PostgresLocker(dsn, ledger=True) as one, PostgresLocker(dsn, ledger=True) as other:
        first = await run(one)
        for locker in (one, other):
            answer = await ask(locker, never)
            assert answer.state is LedgerState.NOT_DUE
            assert answer.due_in is not None
            assert 50 < answer.due_in <= 60
            assert answer.last_success is not None
            assert abs(dt.datetime.now(dt.UTC) - answer.last_success) < dt.timedelta(seconds=30)
        assert locks(dsn) == []
    async with PostgresLocker(dsn, ledger=True) as restarted:
        assert (await ask(restarted, never)).state is LedgerState.NOT_DUE
        assert await run(restarted, forced=True) == first + 1
        assert await run(restarted, interval=10.0) == first + 2  # the interval was shortened


async def test_a_failure_is_due_again_within_the_first_quarter(dsn: str) -> None:
    async with PostgresLocker(dsn, ledger=True) as locker:
        for _ in range(20):
            answer = await ask(locker, ending(Outcome.FAILED, ValueError("no")), forced=True)
            assert answer.due_in is not None
            assert 0 <= answer.due_in <= 15
    [row] = await PostgresLedger(dsn).cluster_health()
    assert (row.consecutive_failures, row.last_error) == (20, "ValueError: no")


async def test_work_that_reported_nothing_leaves_it_as_due_as_before(dsn: str) -> None:
    async def silent(lease: LedgerLease) -> None:
        pass

    async def raising(lease: LedgerLease) -> None:
        raise ValueError("as it is")

    async with PostgresLocker(dsn, ledger=True) as locker:
        assert (await ask(locker, silent)).state is LedgerState.RAN
        with pytest.raises(ValueError, match="as it is"):
            await ask(locker, raising)
        await run(locker)
    runs = await PostgresLedger(dsn).history("sweep")
    assert [each.outcome for each in runs] == [Outcome.SUCCESS, Outcome.CANCELLED, Outcome.CANCELLED]
    assert [first.epoch - second.epoch for first, second in pairwise(runs)] == [1, 1]


async def test_while_it_runs_it_is_busy_for_all_others_this_process_included(dsn: str) -> None:
    async with PostgresLocker(dsn, ledger=True) as one, PostgresLocker(dsn, ledger=True) as other:

        async def work(lease: LedgerLease) -> None:
            for locker in (one, other):
                answer = await ask(locker, never, forced=True)
                assert (answer.state, answer.due_in) == (LedgerState.BUSY, None)

        await ask(one, work)


async def test_many_replicas_that_ask_again_and_again_run_each_interval_once(dsn: str) -> None:
    """The race that one statement for lock and due time loses: 430 of 1,200 runs came too early."""
    interval, services, enough = 0.25, 12, 12
    starts: dict[str, list[tuple[float, int]]] = {f"s{index}": [] for index in range(services)}
    all_ran = trio.Event()

    async with PostgresLocker(dsn, ledger=True) as a, PostgresLocker(dsn, ledger=True) as b:

        async def replica(locker: PostgresLocker, index: int) -> None:
            async def work(lease: LedgerLease) -> None:
                assert lease.epoch is not None
                starts[f"s{index}"].append((time.monotonic(), lease.epoch))
                if min(map(len, starts.values())) >= enough:
                    all_ran.set()
                await trio.lowlevel.checkpoint()
                lease.report(report())

            while True:
                await ask(locker, work, service=f"s{index}", lock_id=index, interval=interval)
                await trio.sleep(0.001)  # a loop that is never idle would leave the threads waiting for Python's lock

        began = time.monotonic()
        async with trio.open_nursery() as nursery:
            for index in range(services):
                for locker in (a, b, a, b):
                    nursery.start_soon(replica, locker, index)
            with trio.move_on_after(30):  # a busy machine may stop for a second or two
                await all_ran.wait()
            nursery.cancel_scope.cancel()
        seconds = time.monotonic() - began
        assert a.statistics().sessions_lost == b.statistics().sessions_lost == 0
    for runs in starts.values():
        epochs = [epoch for _, epoch in runs]
        assert epochs == sorted(set(epochs))
        assert len(runs) <= seconds / interval + 2
        assert len(runs) >= enough


_THEIRS = """
CREATE FUNCTION theirs.caught() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'caught'; END $$;
DO $$ DECLARE each record; BEGIN
    FOR each IN SELECT proname, pg_get_function_identity_arguments(oid) AS arguments, prorettype::regtype AS kind
        FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND NOT proretset
        AND proname IN ('pg_advisory_unlock', 'pg_try_advisory_lock', 'pg_backend_pid', 'current_setting',
            'set_config', 'pg_is_in_recovery', 'host', 'date_part', 'current_database')
    LOOP
        EXECUTE format('CREATE FUNCTION theirs.%I(%s) RETURNS %s LANGUAGE sql AS $f$ SELECT theirs.caught(); SELECT'
            ' NULL::%s $f$', each.proname, each.arguments, each.kind, each.kind);
    END LOOP;
    FOR each IN SELECT oprname, oprleft::regtype AS one, oprright::regtype AS other, oprresult::regtype AS kind,
        'operator ' || oprname AS name FROM pg_operator WHERE oprnamespace = 'pg_catalog'::regnamespace
        AND oprname IN ('=', '<>', '<<', '|', '||')
        AND oprleft::regtype::text IN ('text', 'integer', 'bigint', 'smallint', 'boolean', 'name', 'oid')
    LOOP
        EXECUTE format('CREATE FUNCTION theirs.%I(%s, %s) RETURNS %s LANGUAGE sql AS $f$'
            ' SELECT theirs.caught(); SELECT NULL::%s $f$', each.name, each.one, each.other, each.kind, each.kind);
        EXECUTE format('CREATE OPERATOR theirs.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = theirs.%I)',
            each.oprname, each.one, each.other, each.name);
    END LOOP;
END $$
"""


@pytest.mark.parametrize("ledger", [False, True])
async def test_no_search_path_puts_anything_in_the_place_of_what_is_the_servers(dsn: str, ledger: bool) -> None:
    do(dsn, "CREATE SCHEMA theirs")
    do(dsn, _THEIRS)
    trap = make_conninfo(dsn, options="-c search_path=theirs,pg_catalog -c tickrunner_trio.session=")
    with psycopg.connect(trap) as psql, pytest.raises(psycopg.errors.RaiseException, match="caught"):
        psql.execute("SELECT 1 FROM (SELECT pid FROM pg_stat_activity) AS one JOIN pg_stat_activity USING (pid)")
    async with PostgresLocker(trap, ledger=ledger) as locker:
        held: list[int] = []

        async def work(lease: object) -> None:
            held.extend(holder.lock_id for holder in await locker.holders())

        assert await locker.with_advisory_lock(5, work)
        assert held == [5]
        if locker.ledger is not None:
            await run(locker)
            await locker.ledger.pause("sweep", reason="", by="")
            assert (await ask(locker, never)).state is LedgerState.PAUSED
            assert await locker.ledger.check() == ()
            assert len(await locker.ledger.history("sweep")) == 1
        assert locker.statistics().sessions_lost == 0


# -- Others at the row -------------------------------------------------------------------------------------------------


async def test_an_open_transaction_in_psql_harms_nothing_but_its_own_service(dsn: str) -> None:
    async with PostgresLocker(dsn, ledger=True, lease=6.0) as locker:
        await run(locker)
        await run(locker, service="other", lock_id=2)
        with psycopg.connect(dsn) as psql:
            psql.execute("BEGIN")
            psql.execute("UPDATE tickrunner.service SET pause_reason = 'thinking' WHERE name = 'sweep'")
            with trio.move_on_after(2.5):  # longer than any statement may take
                while True:
                    assert (await ask(locker, never, forced=True)).state is LedgerState.BUSY
                    await run(locker, service="other", lock_id=2, forced=True)
                    await trio.sleep(0.1)
            psql.rollback()
        await run(locker, forced=True)
        assert locker.statistics().sessions_lost == 0


async def test_a_row_that_somebody_is_about_to_insert_harms_nothing_but_its_own_service(dsn: str) -> None:
    async with PostgresLocker(dsn, ledger=True, lease=6.0) as locker:
        with psycopg.connect(dsn) as psql:
            psql.execute(
                "INSERT INTO tickrunner.service (name, lock_id, interval_seconds, epoch) VALUES ('sweep', 0, 60, %s)",
                [7 << 40],
            )
            for _ in range(3):
                assert (await ask(locker, never)).state is LedgerState.BUSY
                await run(locker, service="other", lock_id=2, forced=True)
        assert await run(locker, forced=True) > 7 << 40
        assert locker.statistics().sessions_lost == 0


async def test_a_result_whose_row_is_locked_is_written_as_soon_as_it_is_free_and_keeps_its_lock_until_then(
    dsn: str,
) -> None:
    async with PostgresLocker(dsn, ledger=True, lease=6.0) as locker, trio.open_nursery() as nursery:
        psql = psycopg.connect(dsn)

        async def work(lease: LedgerLease) -> None:
            psql.execute("UPDATE tickrunner.service SET pause_reason = 'thinking'")
            lease.report(report())

        nursery.start_soon(ask, locker, work)
        await trio.sleep(2.5)
        assert locks(dsn) == [1]
        psql.commit()
        psql.close()
        await until(lambda: locks(dsn) == [])
        answer = await ask(locker, never)
        assert answer.state is LedgerState.NOT_DUE
        assert locker.statistics().sessions_lost == 0


async def test_a_caller_that_is_cancelled_waits_for_a_locked_row_for_one_lease_at_most(dsn: str) -> None:
    async with PostgresLocker(dsn, ledger=True, lease=3.0) as locker:
        with psycopg.connect(dsn) as psql, trio.CancelScope() as scope:

            async def work(lease: LedgerLease) -> None:
                psql.execute("UPDATE tickrunner.service SET pause_reason = 'thinking'")
                lease.report(report())
                scope.cancel()

            began_at = trio.current_time()
            await ask(locker, work)
        assert 2.9 <= trio.current_time() - began_at < 15
        assert locks(dsn) == []
        assert locker.statistics().sessions_lost == 0
        await run(locker)  # nobody knows that it had succeeded


# -- Losses ------------------------------------------------------------------------------------------------------------


async def test_a_run_whose_session_was_lost_is_as_due_as_before_and_in_the_history_without_an_end(dsn: str) -> None:
    async with PostgresLocker(dsn, ledger=True) as one, PostgresLocker(dsn, ledger=True) as other:

        async def work(lease: LedgerLease) -> None:
            terminate(dsn)
            await trio.sleep_forever()

        with pytest.raises(LockLostError):
            await ask(one, work)

        async def is_run() -> bool:
            try:
                return (await ask(other)).state is LedgerState.RAN
            except DatabaseUnavailableError:
                return False

        await until_it(is_run)
    runs = await PostgresLedger(dsn).history("sweep")
    assert [(each.outcome, each.ended_at is None) for each in runs] == [(Outcome.SUCCESS, False), (None, True)]


async def test_a_success_that_does_not_reach_the_server_is_repeated_under_a_higher_epoch(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_all = PipelinedConnection.ask_all

    def cut_off(self: PipelinedConnection, statements: Any, **options: Any) -> list[Rows]:
        if statements[0][0].endswith(b"results"):
            terminate(dsn)
        return ask_all(self, statements, **options)

    async with PostgresLocker(dsn, ledger=True) as one, PostgresLocker(dsn, ledger=True) as other:
        with monkeypatch.context() as patch:
            patch.setattr(PipelinedConnection, "ask_all", cut_off)
            answer = await ask(one)
        assert (answer.state, answer.due_in) == (LedgerState.RAN, None)

        async def is_run() -> bool:
            try:
                return (await ask(other)).state is LedgerState.RAN
            except DatabaseUnavailableError:
                return False

        await until_it(is_run)
    runs = await PostgresLedger(dsn).history("sweep")
    assert [each.outcome for each in runs] == [Outcome.SUCCESS, None]
    assert runs[0].epoch > runs[1].epoch


async def test_a_caller_that_is_cancelled_while_the_server_is_asked_leaves_no_lock_and_takes_no_run(dsn: str) -> None:
    async with PostgresLocker(dsn, ledger=True) as locker:
        for _ in range(20):
            with trio.CancelScope() as scope:
                scope.cancel()
                await ask(locker, never)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, locker, never)
                await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        await until(lambda: locks(dsn) == [])
        assert (await ask(locker)).state is LedgerState.RAN


@contextlib.contextmanager
def latin1_database(dsn: str) -> Iterator[str]:
    """The conninfo of a database of its own whose encoding is LATIN1."""
    name = f"tickrunner_test_latin1_{secrets.token_hex(4)}"
    do(dsn, f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        yield make_conninfo(dsn, dbname=name)
    finally:
        do(dsn, f"DROP DATABASE {name} WITH (FORCE)")


# -- Texts -------------------------------------------------------------------------------------------------------------


def test_no_text_costs_a_lease_in_whatever_encoding(postgres: LocalPostgres) -> None:
    with latin1_database(postgres.dsn) as dsn:
        # Not from a property test's own fixture: one database and one locker for all examples.
        async def main(service: str, error: str) -> None:
            async with PostgresLocker(dsn, ledger=True) as locker:
                # So long that the random point of its first quarter, until which it is not due, cannot have come.
                asked: dict[str, Any] = {"service": service, "interval": 86_400.0}
                await ask(locker, ending(Outcome.FAILED, ValueError(error)), **asked, forced=True)
                assert (await ask(locker, never, **asked)).state is LedgerState.NOT_DUE
                assert locker.statistics().sessions_lost == 0

        @settings(max_examples=25)
        @given(service=st.text(min_size=1), error=st.text())
        def check(service: str, error: str) -> None:
            trio.run(main, service, error)

        check()
        for text in ("\0", "\ud800", "\N{EURO SIGN}" * 600, "'; DROP TABLE x --", '{"a",\\', "NULL", "\n"):
            trio.run(main, text, text)


async def test_no_setting_of_the_role_changes_what_goes_over_the_wire(dsn: str) -> None:
    await PostgresLedger(dsn).init()
    with role(dsn) as (name, conninfo):
        await PostgresLedger(dsn).init(role=name)
        for setting in ("array_nulls = off", "extra_float_digits = -15", "datestyle = 'German'"):
            do(dsn, f"ALTER ROLE {name} SET {setting}")
        async with PostgresLocker(conninfo, ledger=True) as locker:
            async with trio.open_nursery() as nursery:  # of one batch, as a rule
                nursery.start_soon(locker.with_advisory_lock, 2, nothing)
                nursery.start_soon(ask, locker)
            answer = await ask(locker, never)
            assert answer.last_success is not None
            assert abs(time.time() - answer.last_success.timestamp()) < 60
            assert locker.statistics().sessions_lost == 0


# -- Pause, resume, trigger --------------------------------------------------------------------------------------------


async def test_a_paused_service_does_not_run_forced_or_triggered_and_the_answer_says_why(dsn: str) -> None:
    ledger = PostgresLedger(dsn)
    async with PostgresLocker(dsn, ledger=True) as locker:
        await run(locker)
        await ledger.pause("sweep", reason="d\xe9m\xe9nagement", by="ada")
        await ledger.trigger("sweep")
        for forced in (False, True):
            answer = await ask(locker, never, forced=forced)
            assert (answer.state, answer.paused_by) == (LedgerState.PAUSED, "ada")
            assert answer.pause_reason == "d\\xe9m\\xe9nagement"
        assert locks(dsn) == []
        await ledger.resume("sweep")
        await run(locker)  # it is still triggered
        assert (await ask(locker, never)).state is LedgerState.NOT_DUE


async def test_who_watches_is_woken_when_a_service_is_triggered_and_when_one_that_was_paused_is_not(dsn: str) -> None:
    ledger = PostgresLedger(dsn)
    woken: list[float] = []
    async with PostgresLocker(dsn, ledger=True, lease=3600.0) as locker:
        await run(locker)
        with locker.watching("sweep", lambda: woken.append(trio.current_time())):
            await trio.sleep(0.2)
            assert woken == []
            began_at = trio.current_time()
            await ledger.trigger("sweep")
            await until(lambda: woken)
            assert woken[0] - began_at < 5
            await run(locker)
            await ledger.pause("sweep", reason="", by="")
            assert (await ask(locker, never)).state is LedgerState.PAUSED
            woken.clear()
            await ledger.resume("sweep")
            await until(lambda: woken)


async def test_a_service_may_be_watched_whatever_its_name_is(dsn: str) -> None:
    ledger = PostgresLedger(dsn)
    woken: list[str] = []
    async with PostgresLocker(dsn, ledger=True, lease=2.0) as locker:
        with locker.watching("d\xe9", lambda: woken.append("triggered")):
            await run(locker, service="d\xe9")
            await ledger.trigger("d\xe9")
            await until(lambda: woken)
            await ledger.pause("d\xe9", reason="", by="")
            assert (await ask(locker, never, service="d\xe9")).state is LedgerState.PAUSED
        with locker.watching("d\xe9", lambda: woken.append("resumed")):
            do(dsn, "UPDATE tickrunner.service SET triggered_at = NULL")
            await ledger.resume("d\xe9")
            await until(lambda: woken[-1] == "resumed")
        assert locker.statistics().sessions_lost == 0


def watch(lease: float = 15.0) -> LedgerWatch:
    return LedgerWatch(lease_timing(lease))


@pytest.mark.parametrize(("lease", "seconds"), [(2.0, 0.4), (15.0, 3.0), (3600.0, LOOK_SECONDS)])
def test_the_rows_are_looked_at_with_the_beats_and_each_four_seconds_at_least(lease: float, seconds: float) -> None:
    watching = watch(lease)
    assert watching.watched(100.0) is None  # there is nobody
    with watching.watching("a", list), watching.watching("b", list), watching.watching("a", list):
        assert watching.watched(100.0) == ("a", "b")
        assert watching.watched(100.0 + seconds * 0.99) is None
        assert watching.look_at() == 100.0 + seconds
        assert watching.watched(100.0 + seconds) == ("a", "b")
    assert watching.watched(1e9) is None


def test_somebody_who_is_triggered_and_paused_is_woken_when_resumed_and_once_for_that() -> None:
    watching = watch()
    calls: list[str] = []

    def after(*seen: Seen) -> list[str]:
        calls.clear()
        for call in watching.woken_by(seen):
            call()
        return calls

    with watching.watching("a", lambda: calls.append("a")), watching.watching("b", lambda: calls.append("b")):
        assert after() == []
        assert after(Seen("b", is_triggered=True, is_paused=False)) == ["b"]
        assert after(Seen("b", is_triggered=True, is_paused=False)) == ["b"]
        assert after(Seen("b", is_triggered=True, is_paused=True)) == []
        assert after() == ["b"]
        assert after() == []
        watching.found_paused("a")
        assert after() == ["a"]


def test_whoever_raises_when_woken_harms_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    def raises() -> None:
        raise RuntimeError("a bug of theirs")

    watching = watch()
    calls: list[str] = []
    with watching.watching("a", raises), watching.watching("a", lambda: calls.append("a")):
        for call in watching.woken_by([Seen("a", is_triggered=True, is_paused=False)]):
            call()
    assert calls == ["a"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


# -- What a batch costs ------------------------------------------------------------------------------------------------


async def test_a_busy_tick_is_one_round_trip_and_so_is_a_run_at_either_end(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trips: list[str] = []
    carry_out = LedgerSession.carry_out

    def counted(self: LedgerSession, batch: Batch, *, deadline: float) -> Done:
        trips.append(f"-{len(batch.releases)} +{len(batch.acquires)}")
        return carry_out(self, batch, deadline=deadline)

    async with PostgresLocker(dsn, ledger=True, lease=60) as one, PostgresLocker(dsn, ledger=True, lease=60) as other:
        monkeypatch.setattr(LedgerSession, "carry_out", counted)

        async def work(lease: LedgerLease) -> None:
            trips.append("work")
            assert (await ask(other, never)).state is LedgerState.BUSY
            trips.append("done")

        await ask(one, work)
        assert trips == ["-0 +1", "work", "-0 +1", "done", "-1 +0"]
        trips.clear()
        await run(other)
        trips.clear()
        assert (await ask(one, never)).state is LedgerState.NOT_DUE
        assert trips == ["-0 +1"]


# -- What should not be ------------------------------------------------------------------------------------------------


def test_a_libpq_without_a_pipeline_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psycopg.pq.version", lambda: 130012)
    with pytest.raises(LockerConfigurationError, match=r"libpq is version 13, and a ledger needs 14 .*pip install"):
        refuse_old_libpq()


async def test_a_row_that_somebody_has_deleted_is_made_anew_by_the_second_tick(dsn: str) -> None:
    async with PostgresLocker(dsn, ledger=True) as locker:
        await run(locker)
        do(dsn, "DELETE FROM tickrunner.service")
        assert (await ask(locker, never)).state is LedgerState.BUSY
        await run(locker)


async def test_a_role_that_may_no_longer_use_the_ledger_is_told_so(dsn: str) -> None:
    await PostgresLedger(dsn).init()
    with role(dsn) as (name, conninfo):
        await PostgresLedger(dsn).init(role=name)
        async with PostgresLocker(conninfo, ledger=True) as locker:
            await run(locker)
            do(dsn, f"REVOKE ALL ON ALL TABLES IN SCHEMA tickrunner FROM {name}")
            with pytest.raises(LockerConfigurationError, match=r"the role may not do this to the ledger .*--print"):
                await ask(locker, never)


async def test_a_server_that_does_not_answer_a_pipeline_costs_the_session(dsn: str) -> None:
    async with PostgresLocker(dsn, ledger=True, lease=2.0) as locker:
        await run(locker)
        with stopped(backend(dsn)), pytest.raises(DatabaseUnavailableError, match=r"reply within|answered nothing"):
            await ask(locker, never, forced=True)
        assert locker.statistics().sessions_lost == 1


#: What a server might answer that is not one: by which statement, how it is changed, and what is said of it.
ODD: dict[str, tuple[str, Callable[[Rows], Rows], type[Exception], str]] = {
    "another session": ("exchange", lambda rows: [["shared", *rows[0][1:]]], LockerConfigurationError, "pooler"),
    "no answer for a lock": ("exchange", lambda rows: [[*rows[0][:4], "{}"]], DatabaseUnavailableError, "for 0 locks"),
    "a lock put back in vain": ("put_back", lambda rows: [["ours", "{f}", ""]], DatabaseUnavailableError, "not hold"),
    "nothing of a row": ("draw", lambda rows: rows[:1], DatabaseUnavailableError, "said nothing of its row"),
}


@pytest.mark.parametrize("kind", ODD)
async def test_an_answer_that_cannot_be_costs_the_session(dsn: str, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    statement, change, error, words = ODD[kind]
    ask_all = PipelinedConnection.ask_all

    def asked(self: PipelinedConnection, statements: Any, **options: Any) -> list[Rows]:
        answers = ask_all(self, statements, **options)
        return [
            change(rows) if name.decode().endswith(statement) else rows
            for (name, _), rows in zip(statements, answers, strict=True)
        ]

    async with PostgresLocker(dsn, ledger=True) as locker:
        await run(locker)
        with monkeypatch.context() as patch:
            patch.setattr(PipelinedConnection, "ask_all", asked)
            with pytest.raises(error, match=words):
                await ask(locker, never)
        assert locker.statistics().sessions_lost == 1


def test_a_session_that_is_ended_in_the_midst_of_a_pipeline_says_why(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as psql:
        for attempt in range(40):
            connection = PipelinedConnection(dsn, wait)
            connection.prepare(b"x", b"SELECT 1", deadline=boot_seconds() + 5)
            after = attempt * 5e-5
            killer = threading.Timer(after, psql.execute, [f"SELECT pg_terminate_backend({connection.backend_pid})"])
            killer.start()
            with pytest.raises(DatabaseUnavailableError, match=r"terminating connection|closed the connection"):
                while True:
                    connection.ask_all([(b"x", [])] * 6, deadline=boot_seconds() + 5)
            connection.close()
            killer.join()


class FakePq:
    """A connection of libpq that takes nothing, or breaks."""

    status = pq.ConnStatus.OK
    socket = 0

    def __init__(self, *, breaks: bool) -> None:
        self.breaks = breaks
        self.read = 0

    def enter_pipeline_mode(self) -> None:
        if self.breaks:
            raise psycopg.OperationalError("broken")

    def send_query_prepared(self, name: bytes, parameters: Any) -> None: ...
    def pipeline_sync(self) -> None: ...

    def flush(self) -> int:
        return 1

    def consume_input(self) -> None:
        self.read += 1


@pytest.mark.parametrize(("breaks", "words"), [(False, r"did not reply within 0\.\d+ seconds"), (True, "broken")])
def test_a_server_that_takes_no_pipeline_is_given_up(breaks: bool, words: str) -> None:
    ready = [True, False]
    connection = PipelinedConnection.__new__(PipelinedConnection)
    connection._pgconn = fake = FakePq(breaks=breaks)  # type: ignore[assignment]
    connection._wait = lambda fd, events, deadline: ready.pop(0)  # type: ignore[method-assign, assignment]
    connection._secrets, connection._parting_words = [], ""
    with pytest.raises(DatabaseUnavailableError, match=words):
        connection.ask_all([(b"x", [])], deadline=boot_seconds() + 0.5)
    assert fake.read == (0 if breaks else 1)
