"""What a service makes of a locker with a ledger: its slots, its outcomes, its reports. In virtual time."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import trio
from scripted import virtually

from tickrunner_trio import (
    Config,
    DatabaseUnavailableError,
    HealthState,
    LockLostError,
    MemoryLocker,
    Outcome,
    Service,
    ServicePausedError,
    Tick,
)
from tickrunner_trio._ledgered import LedgerTurn
from tickrunner_trio.abc import LedgerAnswer, LedgerLease, LedgerLocker, LedgerState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tickrunner_trio import TickReport
    from tickrunner_trio.testing import MemoryTelemetry

silent = logging.getLogger("tests.test_ledger_service")
silent.disabled = True

NOT_DUE, PAUSED, BUSY = LedgerState.NOT_DUE, LedgerState.PAUSED, LedgerState.BUSY


@dataclass
class _Lease:
    lock_id: int
    epoch: int
    reports: list[TickReport]
    lost: bool = False

    def report(self, report: TickReport) -> None:
        self.reports.append(report)


@dataclass
class LedgerOfATest:
    """A locker whose answers are given: a `LedgerAnswer`, an error, or the seconds to when it is due after a run."""

    answers: list[LedgerAnswer | Exception | float]
    asked: list[tuple[float, bool]] = field(default_factory=list)  #: When, since the beginning, and whether forced.
    reports: list[TickReport] = field(default_factory=list)
    held: list[tuple[float, float]] = field(default_factory=list)  #: From when to when the lock was.
    has_ledger: bool = True
    wakes: dict[str, Callable[[], object]] = field(default_factory=dict)
    last_success: dt.datetime | None = None

    async def with_advisory_lock(self, lock_id: int, fn: Any) -> bool:
        raise AssertionError("there is a ledger")

    async def with_due_lock(
        self,
        lock_id: int,
        fn: Callable[[LedgerLease], Awaitable[None]],
        *,
        service: str,
        interval: float,
        forced: bool,
    ) -> LedgerAnswer:
        await trio.lowlevel.checkpoint()
        began_at = trio.current_time()
        self.asked.append((began_at, forced))
        answer = self.answers.pop(0) if self.answers else LedgerAnswer(state=NOT_DUE, due_in=1e6)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, LedgerAnswer):
            return answer
        try:
            await fn(_Lease(lock_id, len(self.asked), self.reports))
        finally:
            self.held.append((began_at, trio.current_time()))
        return LedgerAnswer(state=LedgerState.RAN, due_in=answer, last_success=self.last_success)

    @contextlib.contextmanager
    def watching(self, service: str, wake: Callable[[], object]) -> Iterator[None]:
        self.wakes[service] = wake
        yield
        del self.wakes[service]


def service(locker: LedgerOfATest, work: Callable[[Tick], Awaitable[None]] | None = None, **options: Any) -> Service:
    async def one_second(tick: Tick) -> None:
        await trio.sleep(1)

    providers = options.pop("providers", {})
    config = {"name": "sweep", "interval": 100.0, "locker": locker, "work": work or one_second, "log": silent}
    return Service(Config(**config | options), **providers)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chance says one half, so that a random part of the interval's tenth is 5 seconds, and never less than now."""
    monkeypatch.setattr("random.random", lambda: 0.5)


def played(locker: LedgerOfATest, seconds: float = 1000.0, **options: Any) -> Service:
    made = service(locker, **options)

    async def main() -> None:
        with trio.move_on_after(seconds):
            await made.run()

    virtually(main)
    return made


def times(locker: LedgerOfATest) -> list[float]:
    return [round(at, 6) for at, _ in locker.asked]


def test_the_locker_of_a_test_is_one_with_a_ledger_and_one_without_is_not_asked_for_it() -> None:
    assert isinstance(LedgerOfATest([]), LedgerLocker)
    assert not isinstance(MemoryLocker(), LedgerLocker)


# -- Slots -------------------------------------------------------------------------------------------------------------


def test_the_first_slot_is_a_random_part_of_the_intervals_tenth_after_the_start() -> None:
    locker = LedgerOfATest([])
    made = played(locker, seconds=50)
    assert times(locker) == [5.0]
    assert made.health().last_outcome is Outcome.BUSY


def test_the_slot_after_a_run_or_a_tick_that_is_not_due_is_when_it_is_due_and_a_part() -> None:
    locker = LedgerOfATest([LedgerAnswer(state=NOT_DUE, due_in=40.0), 70.0, LedgerAnswer(state=NOT_DUE, due_in=10.0)])
    played(locker)
    assert times(locker) == [5.0, 50.0, 126.0, 141.0]  # 5 + 40 + 5; 50 + 1 + 70 + 5; 126 + 10 + 5


def test_what_is_overdue_is_asked_for_a_part_from_now() -> None:
    locker = LedgerOfATest([-30.0])
    played(locker)
    assert times(locker) == [5.0, 11.0]


def test_nothing_is_held_on_to_after_the_work() -> None:
    locker = LedgerOfATest([99.0])
    played(locker)
    assert locker.held == [(5.0, 6.0)]


@pytest.mark.parametrize("answer", [LedgerAnswer(state=BUSY), LedgerAnswer(state=BUSY, due_in=-3.0)])
def test_while_somebody_else_works_it_asks_again_within_the_tenth_of_the_interval(answer: LedgerAnswer) -> None:
    locker = LedgerOfATest([answer, answer])
    made = played(locker)
    assert times(locker) == [5.0, 12.5, 20.0]
    assert made.statistics().ticks[Outcome.BUSY] == 3


@pytest.mark.parametrize("error", [DatabaseUnavailableError("away"), LockLostError("gone")])
def test_what_a_lost_or_absent_server_left_undone_is_tried_again_soon(error: Exception) -> None:
    locker = LedgerOfATest([error])
    played(locker)
    assert times(locker) == [5.0, 12.5]


def test_an_error_of_the_locker_that_waiting_does_not_mend_waits_for_the_next_slot() -> None:
    locker = LedgerOfATest([RuntimeError("bug")])
    played(locker)
    assert times(locker) == [5.0, 105.0]


def test_a_day_long_interval_spreads_the_replicas_over_half_a_minute() -> None:
    locker = LedgerOfATest([LedgerAnswer(state=NOT_DUE, due_in=40.0)])
    played(locker, interval=86400.0)
    assert times(locker) == [15.0, 70.0]


def test_with_the_cadence_replica_the_slots_are_its_own_and_always_due() -> None:
    locker = LedgerOfATest([30.0, LedgerAnswer(state=BUSY), 30.0])
    played(locker, seconds=300, cadence="replica")
    assert locker.asked == [(25.0, True), (125.0, True), (225.0, True)]


# -- Paused, resumed, triggered ----------------------------------------------------------------------------------------


def test_a_paused_service_is_gated_and_the_report_says_by_whom_and_why() -> None:
    paused = LedgerAnswer(state=PAUSED, due_in=-5.0, paused_by="ada", pause_reason="the disk is full")
    reports: list[TickReport] = []

    async def main() -> None:
        locker = LedgerOfATest([paused, paused, paused])
        made = service(locker)
        reports.append(await made.tick())
        with trio.move_on_after(200):
            await made.run()
        assert times(locker) == [0.0, 5.0, 105.0]  # each interval, since nobody knows for how long
        assert made.health().state is HealthState.DISABLED
        assert made.statistics().ticks[Outcome.GATED] == 3

    virtually(main)
    [report] = reports
    assert report.outcome is Outcome.GATED
    error = report.error
    assert isinstance(error, ServicePausedError)
    assert (error.by, error.reason) == ("ada", "the disk is full")
    assert str(error) == "the service is paused by ada: the disk is full"
    assert str(ServicePausedError(by="", reason="")) == "the service is paused by somebody: no reason was given"


def test_a_pause_is_warned_of_once_while_it_lasts_on_one_line(caplog: pytest.LogCaptureFixture) -> None:
    def paused(reason: str) -> LedgerAnswer:
        return LedgerAnswer(state=PAUSED, due_in=-5.0, paused_by="ada", pause_reason=reason)

    first, other = paused("the disk is full"), paused("the disk is replaced")
    answers = [first, first, LedgerAnswer(state=BUSY), first, other, 500.0, other, other]

    async def main() -> None:
        made = service(LedgerOfATest(answers), log=None)
        for _ in range(8):
            await made.tick()

    virtually(main)
    told = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [record.message for record in told] == ["tick skipped"] * 3
    assert [str(record.exc_info and record.exc_info[1]).partition(": ")[2] for record in told] == [
        "the disk is full",
        "the disk is replaced",
        "the disk is replaced",
    ]
    assert {record.exc_info and record.exc_info[2] for record in told} == {None}


def test_who_is_woken_asks_at_once_and_then_as_the_answer_says() -> None:
    locker = LedgerOfATest([LedgerAnswer(state=NOT_DUE, due_in=500.0), 400.0])

    async def main() -> None:
        made = service(locker)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.run)
            await trio.sleep(33)
            locker.wakes["sweep"]()
            await trio.sleep(67)
            made.drain()
        assert locker.wakes == {}

    virtually(main)
    assert locker.asked == [(5.0, False), (33.0, False)]


def test_who_is_woken_while_it_works_finishes_first_and_follows_the_answer() -> None:
    locker = LedgerOfATest([60.0])

    async def main() -> None:
        made = service(locker)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.run)
            await trio.sleep(5.5)
            locker.wakes["sweep"]()
            await trio.sleep(100)
            made.drain()
            wake = locker.wakes["sweep"]
        wake()  # too late: it does nothing

    virtually(main)
    assert times(locker) == [5.0, 71.0]


def test_with_the_cadence_replica_who_is_woken_while_it_works_does_not_work_again_for_that() -> None:
    locker = LedgerOfATest([70.0])

    async def main() -> None:
        made = service(locker, cadence="replica")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.run)
            await trio.sleep(25.5)
            locker.wakes["sweep"]()
            await trio.sleep(50)
            made.drain()

    virtually(main)
    assert locker.asked == [(25.0, True)]


def test_with_the_cadence_replica_who_is_woken_asks_whether_somebody_else_has_run_and_keeps_its_own_slots() -> None:
    locker = LedgerOfATest([70.0, LedgerAnswer(state=BUSY), LedgerAnswer(state=NOT_DUE, due_in=9.0), 70.0])

    async def main() -> None:
        made = service(locker, cadence="replica")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.run)
            for _ in range(2):
                await trio.sleep(40)
                locker.wakes["sweep"]()
                locker.wakes["sweep"]()
            await trio.sleep(50)
            made.drain()

    virtually(main)
    assert locker.asked == [(25.0, True), (40.0, False), (80.0, False), (125.0, True)]


def test_a_forced_tick_says_so_and_moves_the_slots_as_any_other() -> None:
    locker = LedgerOfATest([LedgerAnswer(state=NOT_DUE, due_in=500.0), 99.0])

    async def main() -> None:
        made = service(locker)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.run)
            await trio.sleep(50)
            report = await made.tick()
            assert (report.outcome, report.epoch, report.forced) == (Outcome.SUCCESS, 2, True)
            await trio.sleep(110)
            made.drain()

    virtually(main)
    assert locker.asked == [(5.0, False), (50.0, True), (155.0, False)]


# -- Startup -----------------------------------------------------------------------------------------------------------


def test_a_startup_pass_that_is_not_due_is_done() -> None:
    async def never(tick: Tick) -> None:
        raise AssertionError("another replica has run it")

    locker = LedgerOfATest([LedgerAnswer(state=NOT_DUE, due_in=50.0), 90.0])
    played(locker, seconds=100, startup=never)
    assert times(locker) == [0.0, 55.0]


def test_a_startup_pass_that_succeeds_is_the_intervals_run_and_one_that_fails_is_tried_again() -> None:
    ran: list[str] = []

    async def boot(tick: Tick) -> None:
        ran.append("boot")
        if len(ran) == 1:
            raise OSError("not yet")

    async def work(tick: Tick) -> None:
        ran.append("work")

    locker = LedgerOfATest([10.0, 90.0, 90.0])
    played(locker, seconds=200, startup=boot, work=work)
    assert ran == ["boot", "boot", "work"]
    assert times(locker) == [0.0, 15.0, 110.0]


# -- What the ledger is told, and tells --------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [Outcome.SUCCESS, Outcome.FAILED, Outcome.TIMED_OUT, Outcome.UNAVAILABLE])
def test_the_report_is_given_before_the_lock_is_let_go(outcome: Outcome) -> None:
    async def work(tick: Tick) -> None:
        match outcome:
            case Outcome.FAILED:
                raise OSError("no")
            case Outcome.TIMED_OUT:
                await trio.sleep_forever()
            case Outcome.UNAVAILABLE:
                raise DatabaseUnavailableError("the work's own")
            case _:
                assert tick.epoch == 1

    locker = LedgerOfATest([1e6])
    played(locker, work=work, tick_timeout=3.0)
    [report] = locker.reports
    assert (report.outcome, report.epoch) == (outcome, 1)


def test_work_that_is_cancelled_is_reported_too_and_so_is_what_ends_the_program() -> None:
    async def work(tick: Tick) -> None:
        await trio.sleep_forever()

    locker = LedgerOfATest([1e6])
    played(locker, work=work, seconds=10)
    assert [report.outcome for report in locker.reports] == [Outcome.CANCELLED]

    async def ends(tick: Tick) -> None:
        raise SystemExit(3)

    locker = LedgerOfATest([1e6])
    with pytest.raises(SystemExit):
        played(locker, work=ends)
    assert [report.outcome for report in locker.reports] == [Outcome.FAILED]


def test_health_and_metrics_begin_with_the_clusters_last_success(tickrunner_telemetry: MemoryTelemetry) -> None:
    at = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    locker = LedgerOfATest([LedgerAnswer(state=NOT_DUE, due_in=1e6, last_success=at)])
    made = played(locker, providers=tickrunner_telemetry.providers)
    health = made.health()
    assert (health.last_success, health.state, health.consecutive_failures) == (at, HealthState.STANDBY, 0)
    assert at.timestamp() in tickrunner_telemetry.metrics("sweep").values()


def test_a_replica_that_has_succeeded_itself_knows_better() -> None:
    locker = LedgerOfATest([50.0], last_success=dt.datetime(2000, 1, 1, tzinfo=dt.UTC))
    made = played(locker)
    assert made.health().last_success != locker.last_success


async def test_work_of_which_there_is_no_report_is_not_told_of() -> None:
    locker = LedgerOfATest([1.0])
    turn = LedgerTurn(locker, service(locker).config, forced=False)

    async def fn(lease: LedgerLease) -> None:
        raise OSError("before anything was judged")

    with pytest.raises(OSError, match="before"):
        await turn.with_lock(1, fn, lambda: None)
    assert locker.reports == []
