"""That the lock of a `PostgresLocker` is a lease: kept while the server hears from us, over in time when it does not.

In real time, with the shortest lease. A rival tries for the lock all the while, on a way of its own to the server; it
must not get it before the work has stopped. What cuts the way of the locker off is the relay of the fault campaign.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import trio
from postgres_view import backend, locks, never, nothing, taken_at, terminate, until
from relayed import relayed

from tickrunner_trio import Config, DatabaseUnavailableError, LockLostError, PostgresLocker, Service
from tickrunner_trio.lockers import _connection, _session, _session_thread, _watchdog
from tickrunner_trio.lockers._clock import boot_seconds
from tickrunner_trio.lockers._lock_book import EXPIRED
from tickrunner_trio.lockers._session import Session
from tickrunner_trio.lockers._timing import lease_timing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tickrunner_trio import Lease, Tick
    from tickrunner_trio.lockers._lock_book import LockBook
    from tickrunner_trio.lockers._session_thread import SessionThread

LEASE = 2.0
TIMING = lease_timing(LEASE)

#: What the machine may take to wake somebody up, and to send and hear a word on loopback.
SLACK = 0.25


def thread_of(locker: PostgresLocker) -> SessionThread:
    assert locker._thread is not None
    return locker._thread


def book_of(locker: PostgresLocker) -> LockBook:
    return thread_of(locker).book


def answered_at(locker: PostgresLocker) -> float:
    """When the last statement was sent that has been answered: the c of the arithmetic."""
    return book_of(locker).deadline.server_ends_at() - locker.timing.lease


def hold_up(thread: SessionThread, seconds: float) -> None:
    """Have the thread sleep at once, in a place where it otherwise waits for the socket or a wake-up."""
    select = thread._select

    def asleep(fd: int | None, events: int, longest: float) -> bool:
        thread._select = select  # type: ignore[method-assign]
        time.sleep(seconds)
        return select(fd, events, longest)

    thread._select = asleep  # type: ignore[method-assign]
    thread._sleeper.wake()


def jumping_clock(patch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """The clock of all lockers that are entered from now on; call the result to set it forward, as a suspend does."""
    ahead = 0.0

    def now() -> float:
        return boot_seconds() + ahead

    def jump(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    for module in (_connection, _session, _session_thread, _watchdog):
        patch.setattr(module, "boot_seconds", now)
    return jump


@dataclasses.dataclass
class Times:
    """What came when, in `boot_seconds`."""

    began: float = 0.0
    cut: float = 0.0
    lost: float = 0.0
    cancelled: float = 0.0
    stopped: float = 0.0
    taken: float = 0.0
    """When a rival had the lock."""


async def work_against_a_rival(
    locker: PostgresLocker, dsn: str, *, cut: Callable[[], None], stops_within: float
) -> Times:
    """Run work under a lock, do ``cut``, and let the work stop so long after its cancellation; await the rival."""
    times = Times()
    has_begun = trio.Event()

    async def work(lease: Lease) -> None:
        has_begun.set()
        cut()
        times.cut = boot_seconds()
        try:
            await trio.sleep_forever()
        finally:
            times.cancelled = boot_seconds()
            assert lease.lost
            with trio.CancelScope(shield=True):
                await trio.sleep(stops_within)
            times.stopped = boot_seconds()

    async def rival() -> None:
        await has_begun.wait()
        times.taken = await trio.to_thread.run_sync(taken_at, dsn, 5)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(rival)
        with trio.fail_after(30), pytest.raises(LockLostError):
            await locker.with_advisory_lock(5, work)
    return times


# -- It is kept --------------------------------------------------------------------------------------------------------


async def test_work_that_blocks_the_trio_loop_for_longer_than_the_lease_keeps_its_lock(dsn: str) -> None:
    """The thread beats by itself, a fifth of the lease after the last statement, and nothing else is counted."""
    beats: set[float] = set()

    async def work(lease: Lease) -> None:
        until, before = boot_seconds() + 1.2 * LEASE, locker.statistics()
        with psycopg.connect(dsn, autocommit=True) as onlooker:
            while boot_seconds() < until:
                assert not lease.lost
                # Of a statement that is over: in the midst of one it is that of a message, of which there are two.
                query = "SELECT date_part('epoch', query_start) FROM pg_stat_activity WHERE pid = %s AND state = 'idle'"
                beats.update(*onlooker.execute(query, (pid,)).fetchall())
                time.sleep(0.02)  # noqa: ASYNC251  # the loop is to be blocked
        after = locker.statistics()
        assert after == dataclasses.replace(before, last_round_trip=after.last_round_trip)
        assert after.last_round_trip != before.last_round_trip

    async with PostgresLocker(dsn, lease=LEASE) as locker:
        pid = backend(dsn)
        assert await locker.with_advisory_lock(5, work) is True
        assert locker.statistics().sessions_opened == 1
    [first, *later] = sorted(beats)
    assert len(later) >= 4
    gaps = [after - before for before, after in zip([first, *later], later, strict=False)]
    assert TIMING.beat / 2 < min(gaps)
    assert max(gaps) < 1.9 * TIMING.beat


# -- It is over in time ------------------------------------------------------------------------------------------------


async def test_cut_off_in_silence_the_work_is_cancelled_within_two_thirds_and_stops_before_a_rival_is_let_in(
    dsn: str,
) -> None:
    async with relayed(dsn) as (relay, conninfo), PostgresLocker(conninfo, lease=LEASE) as locker:
        times = await work_against_a_rival(locker, dsn, cut=relay.partition, stops_within=TIMING.cleanup - SLACK)
        assert times.cancelled - times.cut < TIMING.cancel_after
        assert times.stopped <= times.taken
        # It was the server that let the rival in, for want of a word from us.
        assert LEASE - TIMING.beat < times.taken - times.cut < LEASE + SLACK


async def test_while_replies_alone_are_late_the_socket_stays_open_until_the_work_has_stopped(dsn: str) -> None:
    """The server hears from us and would notice at once that the socket is closed."""
    async with relayed(dsn) as (relay, conninfo), PostgresLocker(conninfo, lease=LEASE) as locker:
        times = await work_against_a_rival(
            locker, dsn, cut=lambda: relay.partition(to_server=False), stops_within=TIMING.cleanup - SLACK
        )
        assert times.cancelled - times.cut < TIMING.cancel_after
        assert times.stopped <= times.taken
        assert times.taken - times.stopped < SLACK, "then it is closed at once"


async def test_work_that_outlives_its_time_to_stop_is_told_of_once_and_its_socket_kept_for_the_whole_lease(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    kept_until = math.inf

    def told() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]

    async with relayed(dsn) as (relay, conninfo), PostgresLocker(conninfo, lease=LEASE) as locker:

        def cut() -> None:
            nonlocal kept_until
            relay.partition(to_server=False)
            kept_until = book_of(locker).deadline.server_ends_at()

        times = await work_against_a_rival(locker, dsn, cut=cut, stops_within=1.3)
        assert kept_until <= times.taken < kept_until + SLACK
        assert times.taken < times.stopped, "which is why it is told of"
        assert told() == ["the work under the lock 5 has outlived its lease: another replica may run it too"]
        assert locker.statistics().outlived == 1
    assert len(told()) == 1


async def test_work_that_outlives_its_lease_is_told_of_also_while_the_locker_is_being_left(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its session has ended before, and leaving waits for the work."""

    async def stubborn(lease: Lease) -> None:
        terminate(dsn)
        with trio.CancelScope(shield=True):
            await trio.sleep(TIMING.cleanup + 1)

    async def lose() -> None:
        with pytest.raises(LockLostError, match="terminating connection"):
            await locker.with_advisory_lock(5, stubborn)

    async with trio.open_nursery() as nursery, PostgresLocker(dsn, lease=LEASE) as locker:
        nursery.start_soon(lose)
        await until(lambda: locker.statistics().sessions_lost == 1)
    assert locker.statistics().outlived == 1
    assert [record.levelname for record in caplog.records].count("CRITICAL") == 1


async def test_in_a_silent_partition_a_lease_is_lost_in_time_although_the_trio_loop_is_blocked(dsn: str) -> None:
    """The relay is in the loop as well, so nothing is forwarded and nothing closed."""
    times = Times()

    async def work(lease: Lease) -> None:
        times.cut = boot_seconds()
        while not lease.lost:
            assert boot_seconds() - times.cut < 10
            time.sleep(0.001)  # noqa: ASYNC251  # the loop is to be blocked
        times.lost = boot_seconds()

    async with relayed(dsn) as (_, conninfo), PostgresLocker(conninfo, lease=LEASE) as locker:
        with pytest.raises(LockLostError, match="did not reply within"):
            await locker.with_advisory_lock(5, work)
    # A beat is sent, and its reply waited for.
    assert TIMING.reply < times.lost - times.cut < TIMING.beat + TIMING.reply + SLACK


async def test_with_the_loop_blocked_and_the_thread_held_up_a_lease_is_lost_at_its_deadline_all_the_same(
    dsn: str,
) -> None:
    async def work(lease: Lease) -> None:
        hold_up(thread_of(locker), TIMING.cancel_after + 0.2)
        while not lease.lost:
            assert boot_seconds() - answered_at(locker) < 10
            time.sleep(0.001)  # noqa: ASYNC251  # the loop is to be blocked
        assert 0 <= boot_seconds() - answered_at(locker) - TIMING.cancel_after < SLACK

    async with PostgresLocker(dsn, lease=LEASE) as locker:
        with pytest.raises(LockLostError, match=EXPIRED):
            await locker.with_advisory_lock(5, work)


async def test_while_the_thread_is_held_up_trio_cancels_in_time_and_answers_all_who_wait_after_one_lease(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By a log handler, for example. What the thread does when it wakes changes none of it."""
    times = Times()
    answered: dict[str, float] = {}
    is_held_up = trio.Event()

    async def work(lease: Lease) -> None:
        await until(lambda: locks(dsn) == [5, 7])
        hold_up(thread_of(locker), LEASE + 2 * TIMING.beat)
        times.cut = boot_seconds()
        is_held_up.set()
        try:
            await trio.sleep_forever()
        finally:
            times.cancelled = boot_seconds()

    async def lose() -> None:
        with pytest.raises(LockLostError, match=EXPIRED):
            await locker.with_advisory_lock(5, work)

    async def work_that_is_done(lease: Lease) -> None:
        await is_held_up.wait()

    async def wait_for_a_release() -> None:
        assert await locker.with_advisory_lock(7, work_that_is_done) is True
        answered["release"] = boot_seconds()

    async def wait_for_a_lock() -> None:
        await is_held_up.wait()
        with pytest.raises(DatabaseUnavailableError, match="has been held up for longer than the lease"):
            await locker.with_advisory_lock(6, never)
        answered["acquire"] = boot_seconds()

    async with PostgresLocker(dsn, lease=LEASE) as locker:
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for task in (lose, wait_for_a_release, wait_for_a_lock):
                    nursery.start_soon(task)
        assert 0 <= times.cancelled - answered_at(locker) - TIMING.cancel_after < SLACK
        for at in (answered["acquire"], answered["release"]):
            assert LEASE - TIMING.beat < at - times.cut < LEASE + TIMING.beat + SLACK
        await until(lambda: locker.statistics().sessions_opened == 2)
        assert locks(dsn) == []
        assert await locker.with_advisory_lock(6, nothing) is True
    assert "nobody confirmed the release of the lock 7 in time" in caplog.text


# -- A suspend counts as time ------------------------------------------------------------------------------------------


async def test_after_a_suspend_for_longer_than_the_lease_the_work_is_cancelled_within_a_second(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a timer of the kernel nor Trio's clock has noticed, and the next beat is far off."""
    suspend_for = jumping_clock(monkeypatch)
    times = Times()

    async def work(lease: Lease) -> None:
        await trio.sleep(0.1)  # until the thread sleeps
        suspend_for(60)
        assert lease.lost
        times.cut = boot_seconds()
        try:
            await trio.sleep_forever()
        finally:
            times.cancelled = boot_seconds()

    async with PostgresLocker(dsn, lease=10) as locker:
        with pytest.raises(LockLostError):
            await locker.with_advisory_lock(5, work)
        assert times.cancelled - times.cut < 1 + SLACK < locker.timing.beat - 0.1
        await until(lambda: locker.statistics().sessions_opened == 2)
        assert locks(dsn) == []


async def test_a_reply_that_comes_after_a_suspend_gives_no_lock_and_takes_no_loss_back(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    suspend_for = jumping_clock(monkeypatch)
    exchange = Session.exchange

    def suspended(session: Session, release: Sequence[int], acquire: Sequence[int], *, deadline: float) -> list[bool]:
        granted = exchange(session, release, acquire, deadline=deadline)
        if 6 in acquire:
            assert granted == [True]
            suspend_for(60)
        return granted

    monkeypatch.setattr(Session, "exchange", suspended)

    async def work(lease: Lease) -> None:
        with trio.CancelScope(shield=True), pytest.raises(DatabaseUnavailableError, match=EXPIRED):
            await locker.with_advisory_lock(6, never)
        assert lease.lost

    async with PostgresLocker(dsn, lease=10) as locker:
        with pytest.raises(LockLostError, match=EXPIRED):
            await locker.with_advisory_lock(5, work)
        await until(lambda: locker.statistics().sessions_opened == 2)
        assert locks(dsn) == []


# -- A hold ends by itself ---------------------------------------------------------------------------------------------

LONG_LEASE = 10.0  # so that no beat happens to be due when a hold ends


async def test_a_hold_ends_at_its_time_in_the_thread_while_the_trio_loop_is_blocked(dsn: str) -> None:
    times = Times()

    async def hold(lease: Any) -> None:
        assert lease.let_go_after(0.3) is True
        times.began = boot_seconds()
        times.taken = taken_at(dsn, 5)  # it blocks
        assert lease.lost
        assert lease.let_go_after(math.inf) is False

    async with PostgresLocker(dsn, lease=LONG_LEASE) as locker:
        assert await locker.with_advisory_lock(5, hold) is True
        assert 0.29 < times.taken - times.began < 0.3 + SLACK
        assert locker.statistics().held == 0
        assert locker.statistics().sessions_lost == 0
        await until(lambda: locks(dsn) == [])  # the rival is gone too
        assert await locker.with_advisory_lock(5, nothing) is True


async def test_a_hold_that_was_taken_back_lasts_as_long_as_the_work_and_one_that_was_put_off_until_then(
    dsn: str,
) -> None:
    times = Times()

    async def hold(lease: Any) -> None:
        assert lease.let_go_after(0.1) is True
        assert lease.let_go_after(math.inf) is True
        await trio.sleep(0.3)
        assert locks(dsn) == [5]
        assert lease.let_go_after(0.1) is True
        assert lease.let_go_after(0.3) is True
        times.began = boot_seconds()
        times.taken = taken_at(dsn, 5)  # it blocks

    async with PostgresLocker(dsn, lease=LONG_LEASE) as locker:
        assert await locker.with_advisory_lock(5, hold) is True
        assert 0.29 < times.taken - times.began < 0.3 + SLACK


async def test_the_hold_of_a_service_ends_while_the_trio_loop_is_blocked_and_another_locker_has_its_turn(
    dsn: str,
) -> None:
    """Of cadence cluster, at nine tenths of the interval from the start of the tick."""
    times = Times()
    interval = 0.8

    async def work(tick: Tick) -> None:
        times.began = times.began or boot_seconds()
        worked.set()

    def another_locker() -> None:
        async def take(lease: Lease) -> None:
            times.taken = boot_seconds()

        async def main() -> None:
            async with PostgresLocker(dsn, lease=LONG_LEASE) as other:
                with trio.fail_after(10):
                    while not await other.with_advisory_lock(5, take):  # noqa: ASYNC110  # of another process
                        await trio.sleep(0.002)

        trio.run(main)

    worked = trio.Event()
    async with PostgresLocker(dsn, lease=LONG_LEASE) as locker:
        service = Service(Config(name="sweep", interval=interval, locker=locker, work=work, lock_id=5))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.run)
            await worked.wait()
            await until(lambda: book_of(locker).due_at() < math.inf)
            rival = threading.Thread(target=another_locker)
            rival.start()
            time.sleep(1.5 * interval)  # noqa: ASYNC251  # the loop is to be blocked
            assert not rival.is_alive()
            rival.join()
            nursery.cancel_scope.cancel()
    assert 0.9 * interval - 0.01 < times.taken - times.began < 0.9 * interval + SLACK


async def test_leaving_the_locker_does_not_wait_for_who_sleeps_on_after_a_hold_that_has_ended(dsn: str) -> None:
    """Nor for a hold that would end just now: whoever holds is told, or the lock is lost."""
    ended = list[str]()

    async def hold(seconds: float, lease: Any) -> None:
        assert lease.let_go_after(seconds) is True
        try:
            await trio.sleep_forever()
        finally:
            ended.append("lost" if lease.loss else "let go")
            assert lease.let_go_after(1.0) is False

    async def run(lock_id: int, seconds: float) -> None:
        with contextlib.suppress(LockLostError):
            await locker.with_advisory_lock(lock_id, partial(hold, seconds))

    async with trio.open_nursery() as nursery:
        async with PostgresLocker(dsn, lease=LONG_LEASE) as locker:
            nursery.start_soon(run, 5, 0.1)
            nursery.start_soon(run, 6, 60.0)
            await until(lambda: locks(dsn) == [6])
            left_at = boot_seconds()
        assert boot_seconds() - left_at < LONG_LEASE / 2
    assert sorted(ended) == ["let go", "lost"]


# -- Nothing is carried over -------------------------------------------------------------------------------------------


async def test_what_was_asked_of_a_session_that_is_lost_is_not_asked_of_the_next_one(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An acquire and a release under way, others that wait for the next statement, and a hold."""
    exchange = Session.exchange
    asked_of: dict[Session, list[tuple[list[int], list[int]]]] = {}
    ended: dict[int, str] = {}
    is_under_way, go_on = threading.Event(), threading.Event()

    def noted(session: Session, release: Sequence[int], acquire: Sequence[int], *, deadline: float) -> list[bool]:
        if release or acquire:
            asked_of.setdefault(session, []).append(([*release], [*acquire]))
        if 2 in acquire:
            is_under_way.set()
            assert go_on.wait(10)
        return exchange(session, release, acquire, deadline=deadline)

    monkeypatch.setattr(Session, "exchange", noted)

    async def run(lock_id: int, work: Callable[[Lease], Any]) -> None:
        try:
            ended[lock_id] = str(await locker.with_advisory_lock(lock_id, work))
        except Exception as error:
            ended[lock_id] = type(error).__name__

    async def hold(lease: Any) -> None:
        assert lease.let_go_after(0.8) is True
        await trio.sleep_forever()

    async def wait(lease: Lease) -> None:
        await may_stop.wait()

    may_stop = trio.Event()
    async with PostgresLocker(dsn, lease=LEASE) as locker:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, 1, hold)
            nursery.start_soon(run, 3, wait)
            await until(lambda: locker.statistics().held == 2)
            nursery.start_soon(run, 2, never)
            await until(is_under_way.is_set)
            nursery.start_soon(run, 4, never)
            await until(lambda: locker.statistics().waiting == 2)
            may_stop.set()
            await until(lambda: locker.statistics().held == 1)
            terminate(dsn)
            go_on.set()
        assert ended == {
            1: "LockLostError",
            2: "DatabaseUnavailableError",
            3: "True",  # its work was done under the lock, and the lock is free
            4: "DatabaseUnavailableError",
        }
        await until(lambda: locker.statistics().sessions_opened == 2)
        assert locks(dsn) == []
        assert await locker.with_advisory_lock(9, nothing) is True
        await trio.sleep(1.0)  # beyond the end of the hold
    _, second = asked_of.values()
    assert second == [([], [9]), ([9], [])]
