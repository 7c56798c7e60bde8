"""What `PostgresLocker` promises while the server is well: exclusion, release, hand-over, entering and leaving."""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from postgres_view import asked, before_the_hand_over, blocked_until, locks, never, nothing, open_files, until
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tickrunner_trio import (
    AdvisoryLocker,
    DatabaseUnavailableError,
    LockerConfigurationError,
    LockLostError,
    PostgresLocker,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tickrunner_trio import Lease

HERE = Path(__file__).parent
MAX = 2**63 - 1


def python(*arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
    return subprocess.Popen(
        [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


# -- Exclusion ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lock_id", [0, 1, -1, 2**31, 2**32, -(2**32) + 5, MAX, -MAX - 1])
async def test_the_server_holds_the_lock_of_that_id_exactly_while_the_work_runs(dsn: str, lock_id: int) -> None:
    seen: list[list[int]] = []

    async def work(lease: Lease) -> None:
        assert (lease.lock_id, lease.epoch, lease.lost) == (lock_id, None, False)
        seen.append(locks(dsn))

    async with PostgresLocker(dsn) as locker:
        assert isinstance(locker, AdvisoryLocker)
        assert await locker.with_advisory_lock(lock_id, work) is True
        assert locks(dsn) == []
    assert seen == [[lock_id]]


def test_two_processes_exclude_each_other_and_the_death_of_one_lets_the_other_in(dsn: str) -> None:
    holders = [python(str(HERE / "lock_holder.py"), "-7") for _ in range(3)]

    def says(holder: subprocess.Popen[str]) -> str:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write(dsn + "\n")
        holder.stdin.flush()
        return holder.stdout.readline().strip()

    try:
        assert says(holders[0]) == "held"
        assert says(holders[1]) == "busy"
        holders[0].kill()
        blocked_until(lambda: not locks(dsn))
        assert says(holders[2]) == "held"
    finally:
        for holder in holders:
            holder.communicate(timeout=30)


async def test_two_lockers_exclude_each_other(dsn: str) -> None:
    async with PostgresLocker(dsn) as one, PostgresLocker(dsn) as other:

        async def work(lease: Lease) -> None:
            assert await other.with_advisory_lock(5, never) is False
            assert await other.with_advisory_lock(-5, nothing) is True

        assert await one.with_advisory_lock(5, work) is True
        assert await other.with_advisory_lock(5, nothing) is True


async def test_one_locker_refuses_an_id_that_it_holds_although_its_session_could_take_it_twice(dsn: str) -> None:
    async with PostgresLocker(dsn) as locker:

        async def work(lease: Lease) -> None:
            for _ in range(3):
                assert await locker.with_advisory_lock(5, never) is False
            assert locks(dsn) == [5]

        assert await locker.with_advisory_lock(5, work) is True
        assert locks(dsn) == []


async def test_of_many_tasks_that_ask_for_one_id_at_once_exactly_one_gets_it(dsn: str) -> None:
    answers: Counter[bool] = Counter()
    everybody_has_asked = trio.Event()

    async def work(lease: Lease) -> None:
        await everybody_has_asked.wait()

    async with PostgresLocker(dsn) as locker, trio.open_nursery() as nursery:

        async def ask() -> None:
            answers[await locker.with_advisory_lock(5, work)] += 1
            if answers[False] == 49:
                everybody_has_asked.set()

        for _ in range(50):
            nursery.start_soon(ask)
    assert answers == {False: 49, True: 1}


async def test_a_thousand_locks_are_held_at_once_and_all_let_go(dsn: str) -> None:
    ids = range(-500, 500)
    begun: list[int] = []
    go_on = trio.Event()

    async def work(lease: Lease) -> None:
        begun.append(lease.lock_id)
        await go_on.wait()

    async with PostgresLocker(dsn) as locker:
        async with trio.open_nursery() as nursery:
            for lock_id in ids:
                nursery.start_soon(locker.with_advisory_lock, lock_id, work)
            await until(lambda: len(begun) == 1000)
            assert locks(dsn) == list(ids)
            go_on.set()
        assert locks(dsn) == []


# -- Errors and release ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        ValueError("mine"),
        LockLostError("mine"),
        DatabaseUnavailableError("mine"),
        KeyboardInterrupt(),
        SystemExit(3),
        ExceptionGroup("mine", [ValueError()]),
        BaseExceptionGroup("mine", [KeyboardInterrupt(), ValueError()]),
    ],
    ids=repr,
)
async def test_what_the_work_raises_comes_out_as_the_same_object_and_the_lock_is_free(
    dsn: str, error: BaseException
) -> None:
    async def work(lease: Lease) -> None:
        raise error

    async with PostgresLocker(dsn) as locker:
        with pytest.raises(BaseException) as caught:  # noqa: PT011  # compared below
            await locker.with_advisory_lock(5, work)
        assert caught.value is error
        assert error.__cause__ is None
        assert locks(dsn) == []
        assert await locker.with_advisory_lock(5, nothing) is True


async def test_cancelled_work_keeps_the_lock_until_its_clean_up_has_ended(dsn: str) -> None:
    seen: list[list[int]] = []

    async def work(lease: Lease) -> None:
        try:
            scope.cancel()
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.05)
            assert not lease.lost
            seen.append(locks(dsn))

    async with PostgresLocker(dsn) as locker:
        with trio.CancelScope() as scope:
            await locker.with_advisory_lock(5, work)
        assert scope.cancelled_caught
        assert locks(dsn) == []
    assert seen == [[5]]


# -- Hand-over and cancellation ----------------------------------------------------------------------------------------


async def test_the_moment_of_the_cancellation_decides_even_if_the_answer_comes_before_the_caller_runs(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed_over: list[bool] = []  # for each work that began, whether that was settled before the cancellation
    reschedule = trio.lowlevel.reschedule

    def noting(task: trio.lowlevel.Task, answer: Any) -> None:
        settled.append(not scope.cancel_called)
        reschedule(task, answer)

    monkeypatch.setattr(trio.lowlevel, "reschedule", noting)

    async def work(lease: Lease) -> None:
        handed_over.extend(settled)
        await trio.sleep_forever()

    async with PostgresLocker(dsn) as locker:
        for _ in range(50):
            settled: list[bool] = []
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(locker.with_advisory_lock, 5, work)
                    while "1 held" not in repr(locker):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
                    time.sleep(0.002)  # noqa: ASYNC251  # the answer is there when Trio runs again
            await until(lambda: locks(dsn) == [])
    assert all(handed_over)
    assert len(handed_over) < 50, "the answer always came before the cancellation, so nothing was shown"


async def test_a_lock_granted_to_a_cancelled_caller_is_let_go(dsn: str) -> None:
    async with PostgresLocker(dsn) as locker:
        with trio.CancelScope() as scope:

            def granted() -> None:
                blocked_until(lambda: locks(dsn) == [5])
                scope.cancel()

            before_the_hand_over(locker, granted)
            await locker.with_advisory_lock(5, never)
        assert scope.cancelled_caught
        await until(lambda: locks(dsn) == [])
        assert await locker.with_advisory_lock(5, nothing) is True


async def test_after_a_storm_of_cancellations_no_lock_is_left_and_no_two_ran_together(dsn: str) -> None:
    chance = random.Random(7)
    running: Counter[int] = Counter()
    ended: Counter[str] = Counter()

    async def work(lease: Lease) -> None:
        running[lease.lock_id] += 1
        try:
            assert running[lease.lock_id] == 1
            assert not lease.lost
            await trio.sleep(chance.uniform(0, 0.003))
        finally:
            running[lease.lock_id] -= 1

    async with PostgresLocker(dsn) as locker, PostgresLocker(dsn) as other:

        async def caller() -> None:
            for _ in range(5):
                await trio.sleep(chance.uniform(0, 0.05))
                with trio.move_on_after(chance.uniform(0, 0.02)) as scope:
                    had = await chance.choice([locker, other]).with_advisory_lock(chance.randrange(60), work)
                    ended[str(had)] += 1
                ended["cancelled"] += scope.cancelled_caught

        async with trio.open_nursery() as nursery:
            for _ in range(300):
                nursery.start_soon(caller)
        # Releases of callers that are gone are under way.
        await until(lambda: locks(dsn) == [])
        for lock_id in range(60):
            assert await locker.with_advisory_lock(lock_id, nothing) is True
        assert "ready; 0 held" in repr(locker)
    assert sum(ended.values()) == 1500
    assert min(ended["True"], ended["cancelled"]) > 0, ended  # how many of which is up to the machine


async def test_a_cancelled_caller_asks_nobody(dsn: str) -> None:
    async with PostgresLocker(dsn) as locker:
        with trio.CancelScope() as scope:
            scope.cancel()
            await locker.with_advisory_lock(5, never)
        assert scope.cancelled_caught
        assert "0 held" in repr(locker)


# -- Entering and leaving ----------------------------------------------------------------------------------------------


async def test_leaving_leaves_no_thread_no_socket_and_no_session(dsn: str) -> None:
    async with PostgresLocker(dsn):
        pass  # psycopg is loaded now
    threads, files = threading.active_count(), open_files()
    async with PostgresLocker(dsn) as locker:
        await locker.with_advisory_lock(5, nothing)
        assert threading.active_count() == threads + 1
    assert threading.active_count() == threads
    assert open_files() == files


async def test_leaving_cancels_the_work_first_and_keeps_the_lock_until_it_has_stopped(dsn: str) -> None:
    seen: list[list[int]] = []
    begun = trio.Event()

    async def work(lease: Lease) -> None:
        try:
            begun.set()
            await trio.sleep_forever()
        finally:
            assert lease.lost
            with trio.CancelScope(shield=True):
                await trio.sleep(0.05)
            seen.append(locks(dsn))

    with pytest.RaisesGroup(pytest.RaisesExc(LockLostError, match="was left")):
        async with trio.open_nursery() as nursery:
            async with PostgresLocker(dsn) as locker:
                nursery.start_soon(locker.with_advisory_lock, 5, work)
                await begun.wait()
            await until(lambda: locks(dsn) == [])
    assert seen == [[5]]


async def test_leaving_waits_for_work_that_resists_for_one_lease_after_which_its_lock_is_free(dsn: str) -> None:
    begun, go_on = trio.Event(), trio.Event()

    async def work(lease: Lease) -> None:
        begun.set()
        with trio.CancelScope(shield=True):
            await go_on.wait()

    with pytest.RaisesGroup(pytest.RaisesExc(LockLostError)):
        async with trio.open_nursery() as nursery:
            async with PostgresLocker(dsn, lease=2.0) as locker:
                nursery.start_soon(locker.with_advisory_lock, 5, work)
                await begun.wait()
                left_at = trio.current_time()
            assert trio.current_time() - left_at < 3
            await until(lambda: locks(dsn) == [])
            go_on.set()


async def test_leaving_before_the_hand_over_runs_nothing(dsn: str) -> None:
    async with PostgresLocker(dsn) as locker:

        def granted() -> None:
            blocked_until(lambda: locker.statistics().held)
            locker._calls.are_closed = True  # as leaving does first of all

        before_the_hand_over(locker, granted)
        with pytest.raises(trio.ClosedResourceError):
            await locker.with_advisory_lock(5, never)
        assert locks(dsn) == []


async def test_leaving_under_a_cancellation_leaves_nothing(dsn: str) -> None:
    threads = threading.active_count()
    with trio.CancelScope() as scope:
        async with PostgresLocker(dsn):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert threading.active_count() == threads


async def test_where_no_thread_can_be_started_nothing_is_left(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    before = open_files()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        async with PostgresLocker(dsn):
            raise AssertionError
    assert open_files() == before


async def test_a_thread_that_hangs_in_the_resolver_is_told_of_and_does_not_hold_up_leaving(
    dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, autojump_clock: trio.abc.Clock
) -> None:
    answers = threading.Event()

    def resolve(parameters: object) -> list[object]:
        assert answers.wait(30)
        return []

    monkeypatch.setattr("tickrunner_trio.lockers._connection.conninfo_attempts", resolve)
    async with PostgresLocker(dsn):
        pass  # nobody has connected: the virtual time of the first attempt is over at once
    assert caplog.messages == [
        "the thread did not end in time: it will end when what holds it, DNS for example, lets go"
    ]
    answers.set()


async def test_on_a_clock_that_is_not_the_real_one_locks_are_had_all_the_same(
    dsn: str, mock_clock: trio.abc.Clock
) -> None:
    async with PostgresLocker(dsn) as locker:
        assert await locker.with_advisory_lock(5, nothing) is True
    assert locks(dsn) == []


async def test_a_locker_that_is_not_open_says_so(dsn: str) -> None:
    locker = PostgresLocker(dsn)
    assert repr(locker) == "<PostgresLocker: not entered>"
    with pytest.raises(RuntimeError, match="not open: use it inside 'async with"):
        await locker.with_advisory_lock(5, never)
    async with locker:
        with pytest.raises(RuntimeError, match="make a new one for each 'async with'"):
            await locker.__aenter__()
        with pytest.raises(RuntimeError, match="belongs to another Trio run"):
            await trio.to_thread.run_sync(trio.run, locker.with_advisory_lock, 5, never)
    with pytest.raises(trio.ClosedResourceError, match="closed: make a new one"):
        await locker.with_advisory_lock(5, never)
    with pytest.raises(RuntimeError, match="make a new one for each 'async with'"):
        await locker.__aenter__()


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: PostgresLocker(None), TypeError, "conninfo must be a str, got a NoneType"),  # type: ignore[arg-type]
        (lambda: PostgresLocker(b"host=x password=sesame"), TypeError, "got a bytes: write"),  # type: ignore[arg-type]
        (lambda: PostgresLocker("password=sesame\0"), ValueError, "conninfo must not contain a NUL"),
    ],
)
def test_a_bad_argument_is_refused_without_showing_it(make: Callable[[], object], kind: type, words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        make()
    assert "sesame" not in repr(caught.value)


@pytest.mark.parametrize(
    ("lock_id", "kind"),
    [(True, TypeError), ("5", TypeError), (None, TypeError), (2**63, ValueError), (-(2**63) - 1, ValueError)],
)
async def test_a_bad_lock_id_is_refused(dsn: str, lock_id: Any, kind: type) -> None:
    async with PostgresLocker(dsn) as locker:
        with pytest.raises(kind, match="lock_id must be"):
            await locker.with_advisory_lock(lock_id, never)


# -- The connection ----------------------------------------------------------------------------------------------------


async def test_the_session_tells_the_server_who_it_is_unless_the_user_does(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = (
        "SELECT application_name FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )

    async def name_of(conninfo: str) -> str:
        names: list[str] = []
        async with PostgresLocker(conninfo) as locker:

            async def work(lease: Lease) -> None:
                names.extend(
                    asked(dsn, query + " AND pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')"),
                )

            await locker.with_advisory_lock(5, work)
        [name] = names
        return str(name)

    name = await name_of(dsn)
    assert name.startswith(f"tickrunner_trio {os.getpid()} "), "the pid survives the cut after 63 bytes"
    assert await name_of(make_conninfo(dsn, application_name="mine")) == "mine"
    monkeypatch.setenv("PGAPPNAME", "ours")
    assert await name_of(dsn) == "ours"


def test_importing_the_package_does_not_load_psycopg() -> None:
    program = "import sys, tickrunner_trio.lockers; print(sorted(m for m in sys.modules if m.startswith('psycopg')))"
    assert python("-c", program).communicate(timeout=60)[0] == "[]\n"


def test_without_psycopg_entering_names_the_remedy() -> None:
    program = (
        "import sys, trio; sys.modules['psycopg'] = None\n"
        "import tickrunner_trio as t\n"
        "async def main():\n"
        "    async with t.PostgresLocker(''): pass\n"
        "try: trio.run(main)\n"
        "except t.LockerConfigurationError as error: print(error)\n"
    )
    assert "pip install 'psycopg[binary]'" in python("-c", program).communicate(timeout=60)[0]


async def test_a_server_older_than_14_is_refused(nursery: trio.Nursery) -> None:
    async def old_server(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        welcome = [b"R" + bytes(4), b"Sserver_version\x0013.9\0", b"K" + bytes(8), b"ZI"]
        for message in welcome:
            await stream.send_all(message[:1] + (len(message) + 3).to_bytes(4, "big") + message[1:])
        await stream.receive_some()

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, old_server, [listener])
    port = listener.socket.getsockname()[1]
    conninfo = f"host=127.0.0.1 port={port} user=me sslmode=disable gssencmode=disable target_session_attrs=any"
    with pytest.raises(LockerConfigurationError, match=r"is PostgreSQL 13\.9: PostgreSQL 14 or newer is needed"):
        async with PostgresLocker(conninfo):
            raise AssertionError("entered")
    nursery.cancel_scope.cancel()


# -- Passwords ---------------------------------------------------------------------------------------------------------

SECRET = "s3same:/?#@ 'x"
CODED = "s3same%3A%2F%3F%23%40%20'x"


@pytest.mark.parametrize(
    ("conninfo", "words"),
    [
        ("postgresql://postgres:{coded}@{host}:{port}/postgres", "password authentication failed"),
        (
            "host={host} port={port} dbname=postgres user=postgres password='s3same:/?#@ \\'x'",
            "password authentication",
        ),
        ("postgresql://postgres:s3same@{host}:{port}/postgres?sslmode=perhaps", "invalid sslmode value"),
        ("postgresql://postgres:s3same@{host}:{port}/no%20such", "authentication failed|does not exist"),
        ("postgresql://postgres:s3same@{host}:{port}/postgres?hots=x", "conninfo is not a connection string"),
        ("postgresql://postgres:x/s3same@{host}:{port}/postgres", "conninfo is not a connection string"),
        ("postgresql://postgres:x@s3same@{host}:{port}/postgres", "conninfo is not a connection string"),
        ("postgresql://postgres:s3same/@{host}:{port}/postgres", "conninfo is not a connection string"),
        ("postgresql://postgres:x%s3same@{host}:{port}/postgres", "conninfo is not a connection string"),
        ("postgresql://postgres:s3same?host={host}", "conninfo is not a connection string"),
        ("postgresql://postgres:s3same/postgres?host={host}", "conninfo is not a connection string"),
        ("host={host} port={port} password=s3same keepalives=zz", "correct that parameter"),
        ("host={host} password=x s3same", "conninfo is not a connection string"),
        ("host={host} password=x s3=same", "conninfo is not a connection string"),
        ("host={host} password='x s3same", "conninfo is not a connection string"),
        ("host={host} password=s3same\udc80", "conninfo is not a connection string"),
        ("host={host} port={port} password=s3same connect_timeout=soon", "connect_timeout"),
        ("host={host},{host} port=1,2,3 password=s3same", "could not match 3 port numbers to 2 hosts"),
        ("host=.. port={port} password=s3same", "invalid host name"),
        ("host=x hostaddr=garbage port={port} password=s3same", "could not parse network address"),
        ("service=nope password=s3same", "definition of service"),
    ],
)
async def test_a_wrong_connection_string_is_named_from_the_start_without_its_password(
    dsn: str, conninfo: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    where = conninfo_to_dict(dsn)
    locker = PostgresLocker(
        conninfo.format(coded=CODED, host=where.get("hostaddr", where.get("host")), port=where.get("port", 5432))
    )
    threads, files = threading.active_count(), open_files()
    with pytest.raises(LockerConfigurationError, match=words) as caught:
        async with locker:
            raise AssertionError("entered")
    assert caught.value.__context__ is None
    shown = "\n".join([caplog.text, repr(caught.value), repr(locker)])
    assert not [secret for secret in (SECRET, CODED, "s3same", "s3=same") if secret in shown], shown
    assert threading.active_count() <= threads, "an idle one of Trio's may have ended meanwhile"
    assert open_files() == files


async def test_no_password_is_shown_while_all_is_well(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    password = str(conninfo_to_dict(dsn).get("password", "none in this string"))
    async with PostgresLocker(dsn) as locker:
        shown = repr(locker)
        await locker.with_advisory_lock(5, nothing)
    assert "session opened: PostgreSQL" in caplog.text
    assert password not in shown + caplog.text
