"""What a `PostgresLocker` shows of its sessions, and of work that outlives its lease, on a real server."""

from __future__ import annotations

import contextlib
import gc
import time
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from postgres_view import backend, instead_of_the_statement, never, nothing, stopped, terminate, until
from scripted import service

from tickrunner_trio import DatabaseUnavailableError, LockerConfigurationError, LockLostError, Outcome, PostgresLocker
from tickrunner_trio.lockers import _session
from tickrunner_trio.lockers._lease import PostgresLease
from tickrunner_trio.lockers._lock_book import LockBook
from tickrunner_trio.lockers._losses import Loss
from tickrunner_trio.lockers._timing import lease_timing
from tickrunner_trio.testing._memory_telemetry import MemoryMetrics, key

if TYPE_CHECKING:
    from collections.abc import Callable

    from tickrunner_trio import Lease, Tick
    from tickrunner_trio._local_postgres import LocalPostgres


@pytest.fixture
def meters() -> MemoryMetrics:
    return MemoryMetrics()


def sessions(meters: MemoryMetrics) -> tuple[int, dict[str, int]]:
    """How many were opened, and for which reasons how many were lost."""
    read = meters.read()
    lost = {dict(attributes)["error.type"]: count for attributes, count in read["locker.sessions.lost"].items()}
    assert lost.keys() == {loss.value for loss in Loss}, "a small closed set, each counted from zero"
    assert {type(reason) for reason in lost} == {str}, "an enum's members would be other series than its values"
    return read["locker.sessions"][key({})], {reason: count for reason, count in lost.items() if count}


def end_it(dsn: str, patch: pytest.MonkeyPatch) -> None:
    terminate(dsn)


def answer_wrongly(dsn: str, patch: pytest.MonkeyPatch) -> None:
    instead_of_the_statement(patch, b"SELECT 1 / 0 WHERE $1::bigint[] = $2::bigint[]", acquiring=True)


def unlock_nothing(dsn: str, patch: pytest.MonkeyPatch) -> None:
    granted = b"SELECT 'ours', array_remove($1::bigint[], 0), ARRAY(SELECT true FROM unnest($2::bigint[]))"
    instead_of_the_statement(patch, granted, acquiring=True)


def break_the_thread(dsn: str, patch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> list[bool]:
        raise ZeroDivisionError("a bug")

    patch.setattr(_session.Session, "exchange", broken)


def answer_too_late(dsn: str, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LockBook, "answered", lambda *_: None)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (end_it, "ended"),
        (answer_wrongly, "statement"),
        (answer_too_late, "timeout"),
        (unlock_nothing, "mismatch"),
        (break_the_thread, "bug"),
    ],
)
async def test_a_lost_session_is_counted_by_its_reason(
    dsn: str,
    meters: MemoryMetrics,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[str, pytest.MonkeyPatch], None],
    reason: str,
) -> None:
    locker = PostgresLocker(dsn, meter_provider=meters.provider)
    assert sessions(meters) == (0, {})
    async with locker:
        await locker.with_advisory_lock(4, nothing)
        assert sessions(meters) == (1, {})
        with monkeypatch.context() as patch:
            fault(dsn, patch)
            with contextlib.suppress(DatabaseUnavailableError, LockerConfigurationError, RuntimeError):
                await locker.with_advisory_lock(5, nothing)
            await until(lambda: locker.statistics().sessions_lost == 1)
        if reason != "bug":
            await until(lambda: locker.statistics().sessions_opened == 2)
        assert sessions(meters) == (1 if reason == "bug" else 2, {reason: 1})
    assert sessions(meters)[1] == {reason: 1}, "to leave it is no loss"


async def test_a_server_that_does_not_answer_is_a_timeout(own_postgres: LocalPostgres, meters: MemoryMetrics) -> None:
    async with PostgresLocker(own_postgres.dsn, lease=2.0, meter_provider=meters.provider) as locker:
        with stopped(backend(own_postgres.dsn)), pytest.raises(DatabaseUnavailableError, match="did not reply"):
            await locker.with_advisory_lock(6, never)
        await until(lambda: locker.statistics().sessions_opened == 2)
        assert sessions(meters) == (2, {"timeout": 1})


async def test_two_lockers_of_a_provider_add_up(dsn: str, meters: MemoryMetrics) -> None:
    one, other = (PostgresLocker(dsn, meter_provider=meters.provider) for _ in range(2))
    async with one, other:
        assert sessions(meters) == (2, {})
    assert sessions(meters) == (2, {})
    await trio.testing.wait_all_tasks_blocked()  # their watchdogs have ended
    del one
    gc.collect()
    assert sessions(meters) == (2, {}), "what a locker that is gone has counted stays while another one goes on"
    del other
    gc.collect()
    assert "locker.sessions" not in meters.read()


async def test_work_that_outlives_its_lease_is_counted_for_its_service_while_it_still_runs(
    dsn: str, meters: MemoryMetrics
) -> None:
    seen: list[int] = []

    async def work(tick: Tick) -> None:
        terminate(dsn)
        with trio.CancelScope(shield=True):
            await until(lambda: meters.of("sweep")["lease.overstayed"])
        seen.append(meters.of("sweep")["lease.overstayed"])

    async with PostgresLocker(dsn, lease=2.0, meter_provider=meters.provider) as locker:
        other = service(work, locker, name="other", telemetry=meters.providers)
        report = await service(work, locker, telemetry=meters.providers).tick()
        assert report.outcome is Outcome.LOCK_LOST
        assert seen == [1]
        assert meters.of("other")["lease.overstayed"] == 0
        del other


async def test_a_lease_tells_for_how_long_it_has_been_lost(dsn: str) -> None:
    seen: list[tuple[float, float]] = []

    async def work(lease: Lease) -> None:
        assert lease.lost_for() == 0  # type: ignore[attr-defined]
        ended_at = time.monotonic()
        terminate(dsn)
        with trio.CancelScope(shield=True):
            await until(lambda: lease.lost)
            await trio.sleep(0.3)
        lost_for = lease.lost_for()  # type: ignore[attr-defined]
        seen.append((lost_for, time.monotonic() - ended_at))

    async with PostgresLocker(dsn) as locker:
        with pytest.raises(LockLostError):
            await locker.with_advisory_lock(5, work)
    [(lost_for, since)] = seen
    assert 0.25 < lost_for <= since


TIMING = lease_timing(15.0)


class Desk:
    """A book of locks with one lock held since 0, on a clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.book = LockBook(TIMING, lambda: self.now, lambda *, at_once: None)
        self.book.session_opened(0.0, 1_000)
        self.lease = PostgresLease(self.book, 5)
        assert self.book.want(self.lease)
        assert self.book.answered(self.book.next_batch(), [True], 0.0) == [(self.lease, True)]

    def lose_session(self) -> None:
        self.book.lose_session("hung", (DatabaseUnavailableError, "hung"), left=False, server_has_it=True)


def test_a_lock_is_lost_from_the_moment_at_which_the_session_was() -> None:
    desk = Desk()
    desk.now = 4.0
    assert desk.lease.lost_for() == 0
    desk.lose_session()
    desk.now = 6.5
    assert desk.lease.lost_for() == 2.5


@pytest.mark.parametrize("seen_by", ["whoever asks", "the thread", "the work's end"])
def test_a_lease_that_is_over_is_lost_from_its_end_and_not_from_when_somebody_looked(seen_by: str) -> None:
    desk = Desk()
    desk.now = TIMING.cancel_after + 2
    if seen_by == "the thread":
        desk.lose_session()
    elif seen_by == "the work's end":
        desk.book.give_back(desk.lease)
    desk.now += 1
    assert desk.lease.lost_for() == pytest.approx(3)
    desk.lose_session()
    assert desk.lease.lost_for() == pytest.approx(3)


def test_what_the_application_itself_measures_is_none_of_the_librarys(meters: MemoryMetrics) -> None:
    meters.provider.get_meter("shop").create_counter("tickrunner.ticks").add(1)
    assert meters.read() == {}
