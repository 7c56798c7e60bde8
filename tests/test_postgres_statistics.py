"""What a `PostgresLocker` tells of itself and of others, and how many locks go into one statement and one session."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import trio
from postgres_view import asked, backend, blocked_until, locks, never, nothing, terminate, until
from psycopg import pq
from psycopg.conninfo import make_conninfo

from tickrunner_trio import DatabaseUnavailableError, LockerConfigurationError, PostgresLocker
from tickrunner_trio._local_postgres import local_postgres
from tickrunner_trio.lockers import _short
from tickrunner_trio.lockers._clock import boot_seconds
from tickrunner_trio.lockers._connection import Connection
from tickrunner_trio.lockers._holders import LockHolder
from tickrunner_trio.lockers._losses import Loss
from tickrunner_trio.lockers._session import Session
from tickrunner_trio.lockers._statistics import LockerStatistics
from tickrunner_trio.lockers._timing import lease_timing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tickrunner_trio import Lease

MAX = 2**63 - 1


class Gate:
    """Stops each thread before a statement that acquires or releases, while it is shut; writes the statements down."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.statements: list[tuple[list[int], list[int]]] = []
        self.stopped = threading.Event()  #: A thread has come to it.
        self._open = threading.Event()
        self._open.set()
        exchange = Session.exchange

        def passing(session: Session, release: Sequence[int], acquire: Sequence[int], *, deadline: float) -> list[bool]:
            if release or acquire:
                self.statements.append(([*release], [*acquire]))
                if not self._open.is_set():
                    self.stopped.set()
                    assert self._open.wait(10)
            return exchange(session, release, acquire, deadline=deadline)

        patch.setattr(Session, "exchange", passing)

    def shut(self) -> None:
        self.stopped.clear()
        self._open.clear()

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch)
    yield gate
    gate.open()


@contextlib.contextmanager
def held_elsewhere(dsn: str, *lock_ids: int, **parameters: Any) -> Iterator[psycopg.Connection[Any]]:
    """A session of somebody who does not use this library."""
    with psycopg.connect(dsn, autocommit=True, **parameters) as foreign:
        for lock_id in lock_ids:
            foreign.execute("SELECT pg_advisory_lock(%s)", (lock_id,))
        yield foreign


@contextlib.contextmanager
def waited_for(dsn: str, lock_id: int) -> Iterator[None]:
    """A session that waits on the server for a lock which somebody holds."""
    waiter = pq.PGconn.connect(dsn.encode())
    try:
        waiter.send_query(f"SELECT pg_advisory_lock({lock_id})".encode())
        blocked_until(lambda: asked(dsn, "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'advisory'"))
        yield
    finally:
        waiter.finish()


# -- Statistics --------------------------------------------------------------------------------------------------------


async def test_the_statistics_count_what_happened_exactly(dsn: str, gate: Gate) -> None:
    def said(**figures: int) -> LockerStatistics:
        """The figures, and zero for all others but the round trip."""
        counts = {field.name: 0 for field in dataclasses.fields(LockerStatistics)} | figures
        now = locker.statistics()
        assert now.last_round_trip is not None
        assert 0 < now.last_round_trip < locker.timing.reply
        return LockerStatistics(**{**counts, "last_round_trip": now.last_round_trip})

    async def work(lease: Lease) -> None:
        assert locker.statistics() == said(sessions_opened=1, held=1, batches=1, largest_batch=1)
        gate.shut()
        nursery.start_soon(locker.with_advisory_lock, 6, nothing)
        await until(gate.stopped.is_set)
        assert locker.statistics() == said(sessions_opened=1, held=1, waiting=1, batches=1, largest_batch=1)
        gate.open()
        await until(lambda: locker.statistics().batches == 3)

    locker = PostgresLocker(dsn)
    with pytest.raises(RuntimeError, match="not open: use it inside 'async with"):
        locker.statistics()
    async with locker:
        async with trio.open_nursery() as nursery:
            assert locker.statistics().batches == locker.statistics().largest_batch == 0
            assert await locker.with_advisory_lock(5, work) is True
        assert locker.statistics() == said(sessions_opened=1, batches=4, largest_batch=1)
        with held_elsewhere(dsn, 5):
            assert await locker.with_advisory_lock(5, never) is False
        assert locker.statistics() == said(sessions_opened=1, batches=5, largest_batch=1)
        terminate(dsn)
        await until(lambda: locker.statistics().sessions_opened == 2)
        assert locker.statistics() == said(sessions_opened=2, sessions_lost=1, batches=5, largest_batch=1)
    assert locker.statistics() == said(sessions_opened=2, sessions_lost=1, batches=5, largest_batch=1), "left, not lost"


async def test_the_statistics_are_a_snapshot_that_nobody_can_change(dsn: str) -> None:
    async with PostgresLocker(dsn) as locker:
        before = locker.statistics()
        copy = dataclasses.replace(before)
        await locker.with_advisory_lock(5, nothing)
        assert before == copy != locker.statistics()
        with pytest.raises(dataclasses.FrozenInstanceError):
            before.held = 7  # type: ignore[misc]


async def test_of_a_server_that_never_answered_there_is_no_round_trip() -> None:
    async with PostgresLocker("host=127.0.0.1 port=1") as locker:
        figures = locker.statistics()
    assert figures.last_round_trip is None
    assert (figures.sessions_opened, figures.sessions_lost) == (0, 0)


async def test_the_locker_tells_what_follows_from_its_lease_also_before_it_is_entered(dsn: str) -> None:
    locker = PostgresLocker(dsn, lease=6)
    assert locker.timing == lease_timing(6)
    async with locker:
        [idle, statement] = [
            asked(dsn, f"SELECT setting FROM pg_settings WHERE name = '{name}'")[0]
            for name in ("idle_session_timeout", "statement_timeout")
        ]
        assert (idle, statement) == ("0", "0"), "the settings are those of the session alone"


# -- Batches -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tasks", [1, 10, 999])
async def test_all_who_ask_meanwhile_go_into_one_statement_and_are_answered_by_one_wake_up_of_trio(
    dsn: str, gate: Gate, tasks: int
) -> None:
    wake_ups: list[object] = []
    begun: list[int] = []
    may_stop = trio.Event()

    async def work(lease: Lease) -> None:
        begun.append(lease.lock_id)
        await may_stop.wait()

    async with PostgresLocker(dsn) as locker:
        assert locker._thread is not None
        in_trio = locker._thread._in_trio

        def counted(*call: Any, **options: Any) -> None:
            if threading.current_thread() is not threading.main_thread():
                wake_ups.append(call)
            in_trio(*call, **options)

        locker._thread._in_trio = counted
        with held_elsewhere(dsn, 10_000):
            gate.shut()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(locker.with_advisory_lock, 10_000, never)
                await until(gate.stopped.is_set)
                for lock_id in range(tasks):
                    nursery.start_soon(locker.with_advisory_lock, lock_id, work)
                await until(lambda: locker.statistics().waiting == tasks + 1)
                gate.open()
                await until(lambda: len(begun) == tasks)
                assert sorted(begun) == [*range(tasks)]
                [first, (releases, acquires)] = gate.statements
                assert first == ([], [10_000])
                assert (releases, sorted(acquires)) == ([], sorted(begun))
                assert len(wake_ups) == 2
                figures = locker.statistics()
                assert (figures.batches, figures.largest_batch) == (2, tasks)
                # All of them stop in one step of Trio. The first may be let go of before the second has stopped.
                gate.shut()
                may_stop.set()
                await until(lambda: locker.statistics().held == 0)
                gate.open()
        assert sorted(lock_id for releases, _ in gate.statements for lock_id in releases) == sorted(begun)
        assert len(gate.statements) <= 4
        assert locks(dsn) == []


async def test_what_is_to_be_let_go_of_goes_with_what_is_wanted(dsn: str, gate: Gate) -> None:
    may_stop = trio.Event()

    async def work(lease: Lease) -> None:
        await may_stop.wait()

    async with PostgresLocker(dsn) as locker, trio.open_nursery() as nursery:
        nursery.start_soon(locker.with_advisory_lock, 1, work)
        await until(lambda: locker.statistics().held == 1)
        gate.shut()
        nursery.start_soon(locker.with_advisory_lock, 2, work)
        await until(gate.stopped.is_set)
        nursery.start_soon(locker.with_advisory_lock, 3, work)
        await until(lambda: locker.statistics().waiting == 2)
        may_stop.set()
        await until(lambda: locker.statistics().held == 0)
        gate.open()
        await until(lambda: locker.statistics().batches >= 3)
        # The work under the lock 2 may have been done meanwhile.
        assert gate.statements[:2] == [([], [1]), ([], [2])]
        assert gate.statements[2] in (([1], [3]), ([1, 2], [3]))


def test_in_one_statement_the_releases_come_first(dsn: str) -> None:
    """Else the lock would not be free in between, and go to whoever has waited for it on the server."""

    def deadline() -> float:
        return boot_seconds() + 10

    session = Session(dsn, lease_timing(15), _short._wait)
    try:
        assert session.exchange((), (5, 6), deadline=deadline()) == [True, True]
        with waited_for(dsn, 5):
            assert session.exchange((5, 6), (5, 6), deadline=deadline()) == [False, True]
    finally:
        session.close()


def test_of_one_lock_alone_the_same_is_asked_by_a_shorter_statement(dsn: str) -> None:
    def deadline() -> float:
        return boot_seconds() + 10

    session = Session(dsn, lease_timing(15), _short._wait)
    try:
        assert session.exchange((), (-5,), deadline=deadline()) == [True]
        with psycopg.connect(dsn, autocommit=True) as rival:
            rival.execute("SELECT pg_advisory_lock(6)")
            assert session.exchange((), (6,), deadline=deadline()) == [False]
        assert session.exchange((-5,), (), deadline=deadline()) == []
        assert locks(dsn) == []
        with pytest.raises(DatabaseUnavailableError, match=r"did not hold a lock .*; of -5 it said \{f\}"):
            session.exchange((-5,), (), deadline=deadline())
        assert session.loss is Loss.MISMATCH
    finally:
        session.close()


# -- How many ----------------------------------------------------------------------------------------------------------


async def test_a_thousand_locks_take_one_session_and_the_next_one_is_refused_with_the_remedy(dsn: str) -> None:
    had: list[int] = []
    may_stop = trio.Event()

    async def work(lease: Lease) -> None:
        had.append(lease.lock_id)
        await may_stop.wait()

    async with PostgresLocker(dsn) as locker, trio.open_nursery() as nursery:
        for lock_id in range(1000):
            nursery.start_soon(locker.with_advisory_lock, lock_id, work)
        await until(lambda: len(had) == 1000)
        assert locker.statistics().held == 1000
        assert locker.statistics().largest_batch <= 1000
        backend(dsn)  # there is one
        with pytest.raises(LockerConfigurationError, match=r"holds 1000 locks already.*run fewer services per process"):
            await locker.with_advisory_lock(1000, never)
        assert await locker.with_advisory_lock(7, never) is False
        assert locker.statistics().sessions_lost == 0
        may_stop.set()


@pytest.mark.usefixtures("_tickrunner_binaries")
async def test_of_a_small_server_no_more_than_a_quarter_of_the_lock_table_is_taken() -> None:
    may_stop = trio.Event()

    async def work(lease: Lease) -> None:
        await may_stop.wait()

    with local_postgres(settings={"max_connections": 10, "max_locks_per_transaction": 10}) as server:
        async with PostgresLocker(server.dsn) as locker, trio.open_nursery() as nursery:
            for lock_id in range(25):
                nursery.start_soon(locker.with_advisory_lock, lock_id, work)
            await until(lambda: locker.statistics().held == 25)
            with pytest.raises(LockerConfigurationError, match=r"holds 25 locks.*or raise max_locks_per_transaction$"):
                await locker.with_advisory_lock(25, never)
            may_stop.set()
            await until(lambda: locker.statistics().held == 0)
            assert await locker.with_advisory_lock(25, nothing) is True


# -- Who holds what ----------------------------------------------------------------------------------------------------


async def test_the_holders_are_those_of_all_clients_by_id_with_who_they_are(dsn: str) -> None:
    may_stop = trio.Event()

    async def work(lease: Lease) -> None:
        await may_stop.wait()

    async with (
        PostgresLocker(make_conninfo(dsn, application_name="one")) as one,
        PostgresLocker(make_conninfo(dsn, application_name="other")) as other,
        trio.open_nursery() as nursery,
    ):
        for locker, lock_id in ((one, 5), (one, -MAX - 1), (other, -5), (other, 2**32)):
            nursery.start_soon(locker.with_advisory_lock, lock_id, work)
        await until(lambda: one.statistics().held + other.statistics().held == 4)
        with held_elsewhere(dsn, MAX, application_name="") as foreign:
            told = await one.holders()
            facts = {
                pid: (name, address, since)
                for pid, name, address, since in foreign.execute(
                    "SELECT pid, application_name, host(client_addr), backend_start FROM pg_stat_activity"
                )
            }
            assert [(holder.lock_id, holder.application_name) for holder in told] == [
                (-MAX - 1, "one"),
                (-5, "other"),
                (5, "one"),
                (2**32, "other"),
                (MAX, ""),
            ]
            for holder in told:
                name, address, since = facts[holder.pid]
                assert (holder.application_name, holder.client_address) == (name, address)
                assert holder.session_since is not None
                assert holder.session_since.tzinfo is dt.UTC
                assert abs(holder.session_since - since) < dt.timedelta(milliseconds=1)
            assert told == await other.holders()
            assert told == await PostgresLocker(dsn).holders(), "it need not be open"
        may_stop.set()
    assert await one.holders() == (), "nor open any more"


async def test_the_holders_name_the_replica_and_its_process(dsn: str) -> None:
    async with PostgresLocker(dsn) as locker:
        pid = backend(dsn)

        async def work(lease: Lease) -> None:
            [holder] = await locker.holders()
            assert holder.pid == pid
            assert holder.application_name.startswith(f"tickrunner_trio {os.getpid()} ")

        assert await locker.with_advisory_lock(5, work) is True


async def test_what_this_library_does_not_take_is_not_told_of(dsn: str) -> None:
    """Shared locks, those of two int4, those that somebody waits for, and those of other databases."""
    elsewhere = make_conninfo(dsn, dbname="postgres")
    with held_elsewhere(dsn, 5) as foreign, held_elsewhere(elsewhere, 99), waited_for(dsn, 5):
        foreign.execute("SELECT pg_advisory_lock_shared(77), pg_advisory_lock(1, 2)")
        told = await PostgresLocker(dsn).holders()
        assert [(holder.lock_id, holder.pid) for holder in told] == [(5, foreign.info.backend_pid)]


async def test_what_the_role_may_not_see_is_none(dsn: str) -> None:
    asked(dsn, "CREATE ROLE curious LOGIN PASSWORD 'sesame'")
    try:
        with held_elsewhere(dsn, 5, application_name="somebody") as foreign:
            [told] = await PostgresLocker(make_conninfo(dsn, user="curious", password="sesame")).holders()
            pid = foreign.info.backend_pid
        assert told == LockHolder(
            lock_id=5, pid=pid, application_name="somebody", client_address=None, session_since=None
        )
    finally:
        asked(dsn, "DROP ROLE curious")


async def test_the_holders_are_asked_for_on_a_connection_of_their_own_which_is_closed_afterwards(
    dsn: str, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while the thread of the locker is in the middle of a statement."""
    seen: list[str] = []
    ask = Connection.ask

    def noting(connection: Connection, statement: bytes, *, deadline: float) -> Any:
        seen.extend(asked(dsn, sessions))
        return ask(connection, statement, deadline=deadline)

    sessions = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'tickrunner_trio %'"
    async with PostgresLocker(dsn) as locker, trio.open_nursery() as nursery:
        [ours] = asked(dsn, sessions)
        gate.shut()
        nursery.start_soon(locker.with_advisory_lock, 5, nothing)
        await until(gate.stopped.is_set)
        monkeypatch.setattr(Connection, "ask", noting)
        assert await locker.holders() == ()
        assert ours in seen
        assert len(seen) == 2
        await until(lambda: asked(dsn, sessions) == [ours])
        gate.open()


async def test_holders_of_a_server_that_is_away_are_unavailable_and_of_one_that_refuses_a_configuration_error(
    dsn: str,
) -> None:
    with pytest.raises(DatabaseUnavailableError, match="refused"):
        await PostgresLocker("host=127.0.0.1 port=1 password=s3same").holders()
    with pytest.raises(LockerConfigurationError, match="correct the user, the password or the database") as caught:
        await PostgresLocker(make_conninfo(dsn, user="nobody_at_all", password="s3same")).holders()
    assert "s3same" not in repr(caught.value)


async def test_cancelled_while_the_server_says_nothing_holders_returns_at_once() -> None:
    [silent] = await trio.open_tcp_listeners(0, host="127.0.0.1")  # the kernel accepts, nobody answers
    async with silent:
        locker = PostgresLocker(f"host=127.0.0.1 port={silent.socket.getsockname()[1]} user=me")
        began_at = trio.current_time()
        with trio.move_on_after(0.2) as scope:
            await locker.holders()
        assert scope.cancelled_caught
        assert trio.current_time() - began_at < 1
    # The listener is closed, which ends the attempt of the worker thread.


def test_without_psycopg_asking_for_the_holders_names_the_remedy() -> None:
    program = (
        "import sys, trio; sys.modules['psycopg'] = None\n"
        "import tickrunner_trio as t\n"
        "try: trio.run(t.PostgresLocker('').holders)\n"
        "except t.LockerConfigurationError as error: print(error)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    assert "pip install 'psycopg[binary]'" in ran.stdout, ran.stderr
