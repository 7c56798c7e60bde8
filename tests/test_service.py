"""The loop of a service under virtual time: slots, holds, startup, forced ticks, drains. Times are exact."""

from __future__ import annotations

import contextlib
import gc
import itertools
import random
import signal
import sys
import threading
import weakref
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from scripted import always, names, run_for, service, virtually

from tickrunner_trio import (
    AdvisoryLocker,
    Config,
    DatabaseUnavailableError,
    HealthState,
    Lease,
    LockLostError,
    MemoryLocker,
    Outcome,
    Service,
    Tick,
    TickReport,
    _forced,
    _service,
    request_id,
)
from tickrunner_trio._schedule import Schedule
from tickrunner_trio.testing import Busy, Fails, Grant, ScriptedLocker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import FrameType


@pytest.fixture
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slot 0 at the entry of `run`; a failure is not held at all."""
    monkeypatch.setattr(random, "random", lambda: 0.0)


@pytest.fixture
def half_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slot 0 at a quarter of the interval of 10 s: 2.5 s; a failure is held for 1.25 s."""
    monkeypatch.setattr(random, "random", lambda: 0.5)


class Diary:
    """Work that takes the given seconds, run by run (the last figure for all further runs), and writes down when."""

    def __init__(self, *seconds: float | BaseException) -> None:
        self.seconds = list(seconds) or [0.0]
        self.starts: list[float] = []
        self.ends: list[float] = []
        self.ticks: list[Tick] = []

    async def __call__(self, tick: Tick) -> None:
        self.ticks.append(tick)
        self.starts.append(trio.current_time())
        takes = self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]
        if isinstance(takes, BaseException):
            raise takes
        await trio.sleep(takes)
        self.ends.append(trio.current_time())

    def late_by(self) -> list[float]:
        return [(tick.started_at - tick.scheduled_at).total_seconds() for tick in self.ticks]


async def nothing(tick: Tick) -> None:
    """Work that is done at once."""


def outcomes_of(subject: Service) -> list[tuple[Outcome, float]]:
    """Write down each outcome as health hears it, with the time."""
    heard: list[tuple[Outcome, float]] = []
    publish = subject._publish

    def note(attempt: Any, outcome: Outcome) -> None:
        heard.append((outcome, trio.current_time()))
        publish(attempt, outcome)

    subject._publish = note  # type: ignore[method-assign]
    return heard


# Schedule.


@given(interval=st.floats(0.001, 1e6), seed=st.integers())
def test_the_first_tick_comes_at_a_jitter_below_half_the_interval_and_below_a_minute(
    interval: float, seed: int
) -> None:
    random.seed(seed)
    work = Diary()
    virtually(run_for, min(interval / 2, 60) * 1.001, service(work, interval=interval))
    assert len(work.starts) == 1
    assert 0 <= work.starts[0] < min(interval / 2, 60)


@pytest.mark.usefixtures("half_jitter")
def test_ticks_come_once_an_interval_without_drift() -> None:
    work = Diary(1.7)
    virtually(run_for, 100, service(work))
    assert work.starts == [2.5 + 10 * k for k in range(10)]
    assert work.late_by() == [0.0] * 10
    assert [tick.number for tick in work.ticks] == list(range(1, 11))


@pytest.mark.usefixtures("no_jitter")
def test_an_overrun_is_followed_at_once_by_one_tick_for_the_latest_slot_passed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Slot 0 takes until 35; slots 1 and 2 are missed, slot 3 is caught up at 35. Its hold ends at 44, so slot 4 at 40
    # is missed as well, and slot 5 comes in time.
    work = Diary(35, 1)
    virtually(run_for, 55, service(work))
    assert work.starts == [0, 35, 50]
    assert work.late_by() == [0, 5, 0]
    assert [vars(record)["missed"] for record in caplog.records if "missed" in record.message] == [2]


@pytest.mark.usefixtures("no_jitter")
def test_with_the_cadence_replica_an_overrun_loses_no_later_slot() -> None:
    work = Diary(35, 1)
    virtually(run_for, 55, service(work, cadence="replica"))
    assert work.starts == [0, 35, 40, 50]


@pytest.mark.usefixtures("no_jitter")
def test_a_service_that_always_overruns_ticks_back_to_back_and_never_in_a_burst() -> None:
    work = Diary(15)
    virtually(run_for, 61, service(work))
    assert work.starts == [0, 15, 30, 45, 60]
    assert work.late_by() == [0, 5, 0, 5, 0]


# Cadence and holds.


@pytest.mark.usefixtures("no_jitter")
def test_after_a_success_the_lock_is_held_until_nine_tenths_of_the_interval_from_the_start() -> None:
    locker = always(Grant(answers_after=0.5))
    virtually(run_for, 10, service(Diary(2), locker))
    assert locker.events == [("locked", 0.5), ("unlocked", 9.5)]


@pytest.mark.usefixtures("half_jitter")
@pytest.mark.parametrize(
    ("error", "held_for"), [(OSError(), 1.25), (DatabaseUnavailableError(), 1.25), (LockLostError("own"), 1.25)]
)
def test_after_a_failure_the_lock_is_held_until_a_random_point_of_the_first_quarter(
    error: Exception, held_for: float
) -> None:
    locker = ScriptedLocker()
    virtually(run_for, 10, service(Diary(error), locker))
    assert locker.events == [("locked", 2.5), ("unlocked", 2.5 + held_for)]


@pytest.mark.usefixtures("half_jitter")
def test_work_that_took_longer_than_its_hold_lets_the_lock_go_at_once() -> None:
    locker = ScriptedLocker()
    virtually(run_for, 12.2, service(Diary(9.5), locker))
    assert locker.events == [("locked", 2.5), ("unlocked", 12.0)]


@pytest.mark.usefixtures("half_jitter")
@pytest.mark.parametrize("work", [Diary(1), Diary(OSError())])
def test_with_the_cadence_replica_the_lock_is_held_only_while_the_work_runs(work: Diary) -> None:
    locker = ScriptedLocker()
    virtually(run_for, 12, service(work, locker, cadence="replica"))
    assert locker.events == [("locked", 2.5), ("unlocked", work.ends[0] if work.ends else 2.5)]


@given(seed=st.integers(), replicas=st.integers(2, 6), takes=st.floats(0, 9))
def test_over_all_replicas_two_successes_start_nine_tenths_of_the_interval_apart(
    seed: int, replicas: int, takes: float
) -> None:
    random.seed(seed)
    locker, work = MemoryLocker(), Diary(takes)
    virtually(run_for, 300, *(service(work, locker) for _ in range(replicas)))
    gaps = [after - before for before, after in zip(work.starts, work.starts[1:], strict=False)]
    assert min(gaps) >= 9 - 1e-9
    assert 28 <= len(work.starts) <= 34


@pytest.mark.usefixtures("no_jitter")
def test_a_failing_replica_does_not_starve_one_that_can_do_the_work() -> None:
    locker, good = MemoryLocker(), Diary(0.1)
    failing = service(Diary(OSError("broken here")), locker)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_for, 60, failing)
            await trio.sleep(4)
            await run_for(40, service(good, locker))
            nursery.cancel_scope.cancel()

    virtually(main)
    assert len(good.starts) >= 3


@pytest.mark.usefixtures("no_jitter")
def test_a_lock_lost_in_the_hold_is_logged_and_the_tick_stands(caplog: pytest.LogCaptureFixture) -> None:
    work = Diary(1)
    subject = service(work, always(Grant(lost_after=5)))
    virtually(run_for, 15, subject)
    assert work.starts == [0, 10]
    assert subject.health().state is HealthState.OK
    assert any("the tick stands" in record.message for record in caplog.records)


@pytest.mark.usefixtures("no_jitter")
def test_outside_of_the_work_there_is_no_request_id() -> None:
    seen: list[str | None] = []

    class Watching(ScriptedLocker):
        def note(self, event: str) -> None:
            seen.append(request_id())

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(service(nothing, Watching()).run)
            await trio.sleep(5)
            assert request_id() is None
            nursery.cancel_scope.cancel()

    virtually(main)
    assert [bool(seen_id) for seen_id in seen] == [True, True]


# Startup.


@pytest.mark.usefixtures("half_jitter")
def test_startup_runs_at_the_entry_is_the_intervals_run_and_holds() -> None:
    locker, startup, work = ScriptedLocker(), Diary(1), Diary(0)
    virtually(run_for, 25, service(work, locker, startup=startup))
    assert startup.starts == [0]
    assert work.starts == [10, 20]
    assert locker.events[:2] == [("locked", 0), ("unlocked", 9)]


@pytest.mark.usefixtures("half_jitter")
def test_the_first_slot_is_one_interval_after_the_start_of_a_startup_that_waited_for_its_lock() -> None:
    work = Diary()
    virtually(run_for, 25, service(work, always(Grant(answers_after=0.5)), startup=Diary()))
    assert [tick.scheduled_at - work.ticks[0].scheduled_at for tick in work.ticks] == [
        timedelta(0),
        timedelta(seconds=10),
    ]
    assert work.starts == [11, 21]


@pytest.mark.usefixtures("half_jitter")
def test_startup_that_finds_the_lock_busy_is_done_and_the_jittered_slots_follow() -> None:
    locker, startup, work = always(Busy()), Diary(), Diary()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(service(work, locker, startup=startup).run)
            await trio.sleep(1)
            locker.otherwise = Grant()
            await trio.sleep(22)
            nursery.cancel_scope.cancel()

    virtually(main)
    assert startup.starts == []
    assert work.starts == [2.5, 12.5, 22.5]


@pytest.mark.usefixtures("half_jitter")
def test_with_the_cadence_replica_a_busy_startup_is_tried_again_and_a_success_shifts_no_slot() -> None:
    locker, startup, work = always(Busy()), Diary(), Diary()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(service(work, locker, startup=startup, cadence="replica").run)
            await trio.sleep(1)
            locker.otherwise = Grant()
            await trio.sleep(22)
            nursery.cancel_scope.cancel()

    virtually(main)
    assert startup.starts == [2.5]
    assert work.starts == [12.5, 22.5]


@pytest.mark.usefixtures("half_jitter")
@pytest.mark.parametrize(
    "step", [Fails(DatabaseUnavailableError("away")), Fails(OSError("bug")), Grant(lost_after=0.5)]
)
def test_startup_that_did_not_run_is_tried_again_in_place_of_each_slot(step: Fails | Grant) -> None:
    locker, startup, work = always(step), Diary(1), Diary(1)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(service(work, locker, startup=startup).run)
            await trio.sleep(5)
            locker.otherwise = Grant()
            await trio.sleep(30)
            nursery.cancel_scope.cancel()

    virtually(main)
    assert startup.ends == [13.5]
    assert work.starts == [22.5, 32.5]


@pytest.mark.usefixtures("half_jitter")
def test_startup_that_fails_is_tried_again_until_it_succeeds() -> None:
    startup, work = Diary(OSError("1"), OSError("2"), 0), Diary()
    virtually(run_for, 33, service(work, startup=startup))
    assert startup.starts == [0, 2.5, 12.5]
    assert work.starts == [22.5, 32.5]


def test_started_comes_before_startup_and_before_the_first_lock() -> None:
    locker, startup = ScriptedLocker(), Diary(5)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(service(nothing, locker, startup=startup).run)
            assert locker.events == []
            assert startup.starts == []
            nursery.cancel_scope.cancel()

    virtually(main)


# Forced ticks.


@pytest.mark.usefixtures("half_jitter")
def test_a_forced_tick_shifts_no_schedule_and_lets_its_lock_go_at_once() -> None:
    locker, work = ScriptedLocker(), Diary(0.5)
    subject = service(work, locker)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(subject.run)
            await trio.sleep(1)
            report = await subject.tick()
            assert report.forced
            assert report.outcome is Outcome.SUCCESS
            await trio.sleep(12)
            nursery.cancel_scope.cancel()

    virtually(main)
    assert work.starts == [1, 2.5, 12.5]
    assert [tick.forced for tick in work.ticks] == [True, False, False]
    assert locker.events[:4] == [("locked", 1), ("unlocked", 1.5), ("locked", 2.5), ("unlocked", 11.5)]


@pytest.mark.usefixtures("no_jitter")
def test_a_forced_tick_in_the_hold_runs_under_the_same_lock_and_moves_its_end_not_at_all() -> None:
    locker, work = always(Grant()), Diary(1)
    subject = service(work, locker)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(subject.run)
            await trio.sleep(5)
            report = await subject.tick()
            assert (report.outcome, report.epoch, report.duration) == (Outcome.SUCCESS, 7, 1)
            assert trio.current_time() == 6
            await trio.sleep(9)
            nursery.cancel_scope.cancel()

    virtually(main)
    assert work.starts == [0, 5, 10]
    assert locker.events == [("locked", 0), ("unlocked", 9), ("locked", 10), ("unlocked", 15)]


@pytest.mark.usefixtures("no_jitter")
def test_a_forced_tick_in_the_hold_goes_through_the_gate() -> None:
    work = Diary()
    subject = service(work, should_run=lambda: trio.current_time() < 5)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(subject.run)
            await trio.sleep(6)
            assert (await subject.tick()).outcome is Outcome.GATED
            nursery.cancel_scope.cancel()

    virtually(main)
    assert work.starts == [0]


@pytest.mark.usefixtures("no_jitter")
def test_forced_ticks_queue_behind_the_tick_in_flight_and_behind_each_other() -> None:
    work = Diary(2)
    subject = service(work)
    reports: list[TickReport] = []

    async def force() -> None:
        reports.append(await subject.tick())

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(subject.run)
            await trio.sleep(1)
            nursery.start_soon(force)
            nursery.start_soon(force)
            await trio.sleep(8)
            nursery.cancel_scope.cancel()

    virtually(main)
    assert work.starts == [0, 2, 4]
    assert [report.lateness for report in reports] == [1, 3]


@pytest.mark.usefixtures("no_jitter")
@pytest.mark.parametrize("forced_at", [0.5, 5])
def test_cancelling_the_caller_cancels_its_tick_and_nothing_else(forced_at: float) -> None:
    """Forced in the hold, and behind a tick that overruns, where it takes the lock itself."""
    locker = ScriptedLocker()
    work = Diary(1, 60, 1)
    subject = service(work, locker, cadence="cluster" if forced_at == 5 else "replica")
    heard = outcomes_of(subject)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(subject.run)
            await trio.sleep(forced_at)
            with trio.move_on_after(2) as scope:
                await subject.tick()
            assert scope.cancelled_caught
            assert trio.current_time() == forced_at + 2
            await trio.sleep(9)
            nursery.cancel_scope.cancel()

    virtually(main)
    assert [outcome for outcome, _ in heard] == [Outcome.SUCCESS, Outcome.CANCELLED, Outcome.SUCCESS]
    assert work.starts == [0, max(forced_at, 1), 10]


@pytest.mark.usefixtures("no_jitter")
def test_cancelling_a_caller_in_the_queue_drops_its_tick() -> None:
    work = Diary(5)
    subject = service(work, cadence="replica")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(subject.run)
            await trio.sleep(0.5)
            with trio.move_on_after(1):
                await subject.tick()
            assert trio.current_time() == 1.5
            await trio.sleep(7)
            nursery.cancel_scope.cancel()

    virtually(main)
    assert work.starts == [0]


@pytest.mark.usefixtures("no_jitter")
def test_a_cancelled_caller_waits_until_its_work_has_stopped() -> None:
    stopped: list[float] = []

    async def work(tick: Tick) -> None:
        if not tick.forced:
            return
        try:
            await trio.sleep(60)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)
            stopped.append(trio.current_time())

    subject = service(work)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(subject.run)
            await trio.sleep(1)
            with trio.move_on_after(1):
                await subject.tick()
            assert stopped == [trio.current_time()] == [5]
            nursery.cancel_scope.cancel()

    virtually(main)


@pytest.mark.usefixtures("no_jitter")
@pytest.mark.parametrize("cancelled_at", [1, 3])
def test_a_forced_tick_is_answered_also_when_run_is_cancelled_under_it(cancelled_at: float) -> None:
    """Queued behind the work in flight, and while its own work runs."""
    subject = service(Diary(2))
    reports: list[TickReport] = []

    async def force() -> None:
        await trio.sleep(0.5)
        reports.append(await subject.tick())

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(force)
            await run_for(cancelled_at, subject)

    virtually(main)
    assert [report.outcome for report in reports] == [Outcome.CANCELLED]


@pytest.mark.usefixtures("no_jitter")
def test_a_forced_tick_is_answered_also_when_its_work_ends_run() -> None:
    class Goodbye(BaseException):
        pass

    async def work(tick: Tick) -> None:
        if tick.forced:
            raise Goodbye

    subject = service(work)
    reports: list[TickReport] = []

    async def force() -> None:
        await trio.sleep(0.5)
        reports.append(await subject.tick())

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(force)
            with pytest.raises(Goodbye):
                await subject.run()

    virtually(main)
    assert [report.outcome for report in reports] == [Outcome.FAILED]


@pytest.mark.skipif(sys.platform == "win32", reason="raises a signal in its own process")
@pytest.mark.usefixtures("half_jitter")
def test_a_ctrl_c_at_any_call_under_a_forced_tick_leaves_no_caller_waiting_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The wait for the answer is shielded: nothing would end it, and so the program would not end."""
    files = {_service.__file__, _forced.__file__}
    requests: list[_forced.Request] = []

    class Kept(_forced.Request):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            requests.append(self)

    monkeypatch.setattr(_service, "Request", Kept)

    def interrupted_at(nth: int) -> bool:
        """Whether there was an nth moment at which CPython looks for signals: a call, or the end of one of C's."""
        seen = 0
        late: list[_forced.Request] = []
        locker = MemoryLocker()
        subject = service(Diary(0), locker=locker, interval=10)

        def profile(frame: FrameType, event: str, arg: object) -> None:  # pragma: no cover - tracers are not traced
            nonlocal seen
            if frame.f_code.co_filename in files and event in ("call", "c_return"):
                seen += 1
                if seen == nth:
                    signal.raise_signal(signal.SIGINT)

        async def rescue() -> None:  # pragma: no cover - what it waits for is that a caller hangs
            await trio.sleep(100)
            late.extend(request for request in requests if not request.answered.is_set())
            for request in late:
                request.answered.set()

        async def main() -> None:
            trio.lowlevel.spawn_system_task(rescue)
            async with trio.open_nursery() as nursery:
                await nursery.start(subject.run)
                for forced_at in (1, 5):  # without a hold, and in one
                    await trio.sleep(forced_at - trio.current_time())
                    nursery.start_soon(subject.tick)
                    sys.setprofile(profile)
                    await trio.sleep(0.5)
                    sys.setprofile(None)
                nursery.cancel_scope.cancel()

        requests.clear()
        with contextlib.suppress(BaseExceptionGroup):
            virtually(main)
        sys.setprofile(None)
        assert not late, f"the caller hung after the {nth}. moment"
        assert repr(locker) == "<MemoryLocker: 0 held>"
        assert subject._run_task is None
        return seen >= nth

    moments = next(nth for nth in itertools.count(1) if not interrupted_at(nth))
    assert moments > 10


def test_without_run_two_forced_ticks_at_once_exclude_each_other() -> None:
    subject = service(Diary(1), MemoryLocker())
    outcomes: list[Outcome] = []

    async def force() -> None:
        outcomes.append((await subject.tick()).outcome)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(force)
            nursery.start_soon(force)

    virtually(main)
    assert sorted(outcomes) == [Outcome.BUSY, Outcome.SUCCESS]


@pytest.mark.usefixtures("no_jitter")
def test_work_that_awaits_a_tick_of_its_own_service_is_told_so_instead_of_hanging() -> None:
    async def work(tick: Tick) -> None:
        await subject.tick()

    subject = service(work)
    virtually(run_for, 1, subject)
    assert "RuntimeError" in subject.health().last_error
    assert "its own service" in subject.health().last_error


def test_a_run_executes_the_tick_of_a_task_that_was_started_beside_it() -> None:
    executed_by: list[object] = []
    running: list[object] = []

    async def work(tick: Tick) -> None:
        executed_by.append(trio.lowlevel.current_task())

    async def main() -> None:
        subject = service(work)

        async def run() -> None:
            running.append(trio.lowlevel.current_task())
            await subject.run()

        async def force() -> None:
            await subject.tick()
            subject.drain()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            nursery.start_soon(force)

    for _ in range(20):  # Trio takes tasks that are ready in one of two orders, at random
        virtually(main)
    assert executed_by == running
    assert len(executed_by) == 20


def test_a_run_whose_start_was_awaited_executes_the_tick_that_follows() -> None:
    async def work(tick: Tick) -> None:
        assert trio.lowlevel.current_task() in nursery.child_tasks

    async def main() -> None:
        nonlocal nursery
        subject = service(work)
        async with trio.open_nursery() as nursery:
            await nursery.start(subject.run)
            assert (await subject.tick()).outcome is Outcome.SUCCESS
            subject.drain()

    nursery: trio.Nursery
    for _ in range(20):  # as above
        virtually(main)


@pytest.mark.usefixtures("no_jitter")
def test_forced_ticks_without_end_do_not_starve_the_slots() -> None:
    work = Diary(1)
    subject = service(work, cadence="replica")

    async def force() -> None:
        while True:
            await subject.tick()

    async def main() -> None:
        with trio.move_on_after(50.5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(force)
                nursery.start_soon(force)
                nursery.start_soon(subject.run)

    virtually(main)
    scheduled = [tick for tick in work.ticks if not tick.forced]
    assert len(scheduled) == 6


# Drain.


@pytest.mark.usefixtures("no_jitter")
@pytest.mark.parametrize(
    ("drained_at", "ended_at", "runs"),
    [
        (0.25, 0.25, 0),  # while the lock is tried: dropped
        (2, 3.5, 1),  # while the work runs: it finishes
        (7, 7, 1),  # in the hold: it ends
        (9.75, 9.75, 1),  # between hold and slot
    ],
)
def test_a_drain_lets_work_in_flight_finish_and_nothing_else(drained_at: float, ended_at: float, runs: int) -> None:
    locker, work = always(Grant(answers_after=0.5)), Diary(3)
    subject = service(work, locker)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(subject.run)
            await trio.sleep(drained_at)
            subject.drain()
            subject.drain()
        assert trio.current_time() == ended_at

    virtually(main)
    assert len(work.ends) == runs
    assert not locker.held
    assert subject.health().last_outcome is (Outcome.SUCCESS if runs else Outcome.CANCELLED)


@pytest.mark.usefixtures("no_jitter")
def test_a_drain_answers_queued_forced_ticks_with_cancelled() -> None:
    work = Diary(3)
    subject = service(work)
    reports: list[TickReport] = []

    async def force() -> None:
        reports.append(await subject.tick())

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(subject.run)
            await trio.sleep(1)
            nursery.start_soon(force)
            await trio.sleep(1)
            subject.drain()

    virtually(main)
    assert work.starts == [0]
    assert [report.outcome for report in reports] == [Outcome.CANCELLED]


def test_a_drain_answers_queued_forced_ticks_at_once() -> None:
    subject = service(Diary(20))
    answered_at: list[float] = []

    async def force() -> None:
        await trio.sleep(11)
        report = await subject.tick()
        answered_at.append(trio.current_time())
        assert (report.outcome, report.lateness) == (Outcome.CANCELLED, 1)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(subject.run)
            nursery.start_soon(force)
            await trio.sleep(12)
            subject.drain()

    virtually(main)
    assert answered_at == [12]


@pytest.mark.usefixtures("no_jitter")
def test_a_drain_ends_work_that_waits_for_a_tick_of_its_own_service() -> None:
    async def work(tick: Tick) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(subject.tick)

    subject = service(work)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(subject.run)
            await trio.sleep(1000)
            subject.drain()
        assert trio.current_time() == 1000

    virtually(main)


@pytest.mark.usefixtures("no_jitter")
def test_no_slot_is_taken_after_a_drain_that_came_during_a_forced_tick() -> None:
    work = Diary(1, 15)
    subject = service(work, cadence="replica")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(subject.run)
            await trio.sleep(5)
            nursery.start_soon(subject.tick)
            await trio.sleep(6)
            subject.drain()

    virtually(main)
    assert work.starts == [0, 5]


@pytest.mark.usefixtures("no_jitter")
def test_callers_without_end_do_not_move_the_end_of_a_hold() -> None:
    locker = ScriptedLocker()
    subject = service(Diary(0.5), locker)

    async def force() -> None:
        while True:
            await subject.tick()

    async def main() -> None:
        with trio.move_on_after(9.7):
            async with trio.open_nursery() as nursery:
                await nursery.start(subject.run)
                await trio.sleep(1)
                nursery.start_soon(force)
                nursery.start_soon(force)

    virtually(main)
    assert locker.events[:2] == [("locked", 0), ("unlocked", 9)]


@pytest.mark.parametrize("locker", [always(Grant()), always(Busy()), MemoryLocker()], ids=["free", "busy", "memory"])
def test_a_drain_from_the_gate_stops_the_very_tick(locker: AdvisoryLocker) -> None:
    def gate() -> bool:
        subject.drain()
        return True

    work = Diary()
    subject = service(work, locker, should_run=gate)

    async def main() -> None:
        await subject.run()

    virtually(main)
    assert work.starts == []
    assert subject.health().last_outcome is Outcome.CANCELLED


def test_a_drain_from_the_gate_asks_for_no_lock() -> None:
    """There is no scope that would be cancelled for it where nobody waits for a lock."""

    def gate() -> bool:
        subject.drain()
        return True

    async def rival(lease: Lease) -> None:
        await subject.run()

    locker = MemoryLocker()
    subject = service(Diary(), locker, should_run=gate)
    virtually(locker.with_advisory_lock, subject.lock_id, rival)
    assert subject.health().last_outcome is Outcome.CANCELLED


class WaitingLocker(MemoryLocker):
    """Overrides the question, and asks somebody first."""

    async def with_advisory_lock(self, lock_id: int, fn: Callable[[Lease], Awaitable[None]]) -> bool:
        await trio.sleep(100)
        return await super().with_advisory_lock(lock_id, fn)  # pragma: no cover - it is drained before


class WrappedLocker:
    """Waits as well, and passes on whatever else the locker within has."""

    def __init__(self) -> None:
        self.within = MemoryLocker()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.within, name)

    async def with_advisory_lock(self, lock_id: int, fn: Callable[[Lease], Awaitable[None]]) -> bool:
        await trio.sleep(100)
        return await self.within.with_advisory_lock(lock_id, fn)  # pragma: no cover - as above


@pytest.mark.usefixtures("no_jitter")
@pytest.mark.parametrize("make", [WaitingLocker, WrappedLocker])
def test_a_drain_ends_the_wait_for_a_lock_also_where_a_locker_that_waits_is_made_of_one_that_does_not(
    make: Callable[[], AdvisoryLocker],
) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            subject = service(Diary(), make())
            await nursery.start(subject.run)
            await trio.sleep(20)
            subject.drain()
        assert trio.current_time() == 20
        assert subject.health().last_outcome is Outcome.CANCELLED

    virtually(main)


def test_a_drained_service_never_works_again() -> None:
    work = Diary()
    subject = service(work, startup=work)

    async def main() -> None:
        subject.drain()
        await subject.run()
        assert (await subject.tick()).outcome is Outcome.CANCELLED

    virtually(main)
    assert work.starts == []


@pytest.mark.usefixtures("no_jitter")
def test_a_forced_tick_without_run_is_dropped_by_a_drain_before_its_work() -> None:
    subject = service(Diary(), always(Grant(answers_after=5)))

    async def main() -> None:
        async with trio.open_nursery() as nursery:

            async def force() -> None:
                assert (await subject.tick()).outcome is Outcome.CANCELLED
                assert trio.current_time() == 1

            nursery.start_soon(force)
            await trio.sleep(1)
            subject.drain()

    virtually(main)


# Errors never end the service; other things pass.


@pytest.mark.usefixtures("no_jitter")
@pytest.mark.parametrize(
    "error", [OSError("x"), ExceptionGroup("two", [OSError(), ValueError()]), LockLostError("own")]
)
def test_an_exception_of_the_work_never_ends_the_service(error: Exception) -> None:
    subject = service(Diary(error))
    virtually(run_for, 35, subject)
    assert subject.health().consecutive_failures == 4
    assert subject.health().state is HealthState.FAILING


@pytest.mark.usefixtures("no_jitter")
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_ends_run_unwrapped_with_the_lock_let_go(kind: type[BaseException]) -> None:
    locker, error = ScriptedLocker(), kind("now")
    with pytest.raises(kind) as caught:
        virtually(service(Diary(error), locker).run)
    assert caught.value is error
    assert names(locker) == ["locked", "unlocked"]


@given(cancelled_at=st.floats(0, 40), cadence=st.sampled_from(["cluster", "replica"]), fails=st.booleans())
def test_run_cancelled_at_any_time_leaves_no_lock(cancelled_at: float, cadence: Any, fails: bool) -> None:
    locker = always(Grant(answers_after=0.5))
    work = Diary(OSError()) if fails else Diary(3)
    virtually(run_for, cancelled_at, service(work, locker, cadence=cadence, startup=work))
    assert not locker.held
    assert names(locker) == ["locked", "unlocked"] * (len(locker.events) // 2)


def test_two_tasks_cannot_run_one_service() -> None:
    async def main() -> None:
        subject = service(nothing)
        async with trio.open_nursery() as nursery:
            await nursery.start(subject.run)
            with pytest.raises(trio.BusyResourceError, match="sweep"):
                await subject.run()
            nursery.cancel_scope.cancel()

    virtually(main)


@pytest.mark.usefixtures("half_jitter")
def test_run_can_be_cancelled_also_where_a_locker_shields_all_that_it_does() -> None:
    """A hold's sleep within the shield is no checkpoint of the loop's own."""

    class Shielding:
        def __init__(self) -> None:
            self.inner = MemoryLocker()

        async def with_advisory_lock(self, lock_id: int, fn: Callable[[Lease], Awaitable[None]]) -> bool:
            with trio.CancelScope(shield=True):
                return await self.inner.with_advisory_lock(lock_id, fn)

    async def main() -> None:
        with trio.move_on_after(25):
            await subject.run()
        assert trio.current_time() == 32.5  # when the hold ended in which it came

    async def work(tick: Tick) -> None:
        await trio.sleep(1)
        if tick.number > 9:
            subject.drain()  # pragma: no cover - or this test would not end where it fails

    subject = service(work, Shielding())
    virtually(main)


def test_a_service_can_be_run_again_after_it_was_cancelled() -> None:
    work = Diary()
    subject = service(work)

    async def main() -> None:
        await run_for(6, subject)
        await run_for(6, subject)

    virtually(main)
    assert len(work.starts) == 2


def test_a_service_can_be_run_again_after_its_locker_would_not_say_whether_it_answers_at_once() -> None:
    class Moody(MemoryLocker):
        is_moody = False

        @property
        def answers_at_once(self) -> bool:
            if self.is_moody:
                raise OSError("not today")
            return False

    locker, work = Moody(), Diary()
    subject = service(work, locker)
    locker.is_moody = True
    with pytest.raises(OSError, match="not today"):
        virtually(subject.run)
    locker.is_moody = False
    virtually(run_for, 6, subject)
    assert len(work.starts) == 1


def test_a_service_wants_a_config() -> None:
    with pytest.raises(TypeError, match="config must be a Config, got 'sweep'"):
        Service("sweep")  # type: ignore[arg-type]


def test_the_properties_say_what_the_config_says() -> None:
    config = Config(name="rebalance", interval=5, locker=MemoryLocker(), work=nothing)
    subject = Service(config)
    assert (subject.name, subject.interval, subject.config) == ("rebalance", 5, config)
    assert subject.lock_id == -3371678497705346647
    assert "rebalance" in repr(subject)
    assert service(nothing, lock_id=0).lock_id == 0
    for field in ("name", "interval", "lock_id", "config"):
        with pytest.raises(AttributeError):
            setattr(subject, field, None)


# Health.


@pytest.mark.usefixtures("no_jitter")
def test_health_is_stalled_when_no_outcome_came_for_four_intervals_and_the_timeout() -> None:
    subject = service(Diary(1, 1000), tick_timeout=100)

    async def main() -> None:
        assert subject.health().state is HealthState.STARTING
        async with trio.open_nursery() as nursery:
            await nursery.start(subject.run)
            await trio.sleep(5)
            assert subject.health().state is HealthState.OK
            nursery.cancel_scope.cancel()

    virtually(main)

    async def blocked() -> None:
        async with trio.open_nursery() as nursery:
            stuck = service(Diary(1000), name="stuck")
            timed = service(Diary(1000), name="timed", tick_timeout=50)
            late = service(nothing, always(Grant(answers_after=1000)), name="late")
            for each in (stuck, timed, late):
                await nursery.start(each.run)
            await trio.sleep(39.9)
            assert {each.health().state for each in (stuck, timed, late)} == {HealthState.STARTING}
            await trio.sleep(0.2)
            assert stuck.health().state is HealthState.STALLED
            assert late.health().state is HealthState.STALLED
            assert timed.health().state is HealthState.STARTING
            await trio.sleep(49)
            assert timed.health().state is HealthState.FAILING
            nursery.cancel_scope.cancel()
        assert stuck.health().state is HealthState.STARTING, "nobody runs it now, so it is not late"

    virtually(blocked)


def test_a_service_that_crashed_is_stalled_until_somebody_runs_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Schedule, "take", lambda *_: 1 // 0)
    subject = service(nothing)

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await subject.run()
        await trio.sleep(50)
        assert subject.health().state is HealthState.STALLED

    virtually(main)


def test_a_service_that_is_not_run_is_never_stalled() -> None:
    subject = service(nothing)

    async def main() -> None:
        await subject.tick()
        await trio.sleep(1000)
        assert subject.health().state is HealthState.OK

    virtually(main)


@pytest.mark.usefixtures("no_jitter")
def test_skips_of_every_kind_keep_a_service_from_being_stalled() -> None:
    subject = service(nothing, always(Busy()))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(subject.run)
            await trio.sleep(500)
            assert subject.health().state is HealthState.STANDBY
            nursery.cancel_scope.cancel()

    virtually(main)


def test_health_is_read_from_any_thread_also_when_it_is_stalled() -> None:
    subject = service(Diary(1000), interval=0.001)
    states: list[HealthState] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(subject.run)
            await trio.sleep(0.05)
            thread = threading.Thread(target=lambda: states.append(subject.health().state))
            thread.start()
            await trio.to_thread.run_sync(thread.join)
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert states == [HealthState.STALLED]


# Time.


@pytest.mark.usefixtures("no_jitter")
def test_reports_under_a_virtual_clock_show_virtual_hours() -> None:
    work = Diary()
    virtually(run_for, 3600 * 5 + 1, service(work, interval=3600), service(work, name="other", interval=3600))
    assert work.ticks[-1].started_at - work.ticks[0].started_at == timedelta(hours=5)
    assert len({tick.started_at for tick in work.ticks}) == 6, "services of one run share one offset"


def test_a_hold_keeps_no_tick() -> None:
    """It would last for nine tenths of the time, and 10,000 of them take 2 MB."""

    async def work(tick: Tick) -> None:
        assert tick.number

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            subject = service(work, MemoryLocker(), name="holding")
            await nursery.start(subject.run)
            await trio.sleep(8)
            assert subject.statistics().holds_lock
            ticks = [each for each in gc.get_objects() if type(each) is Tick]
            assert "holding" not in [getattr(each, "service", "") for each in ticks]
            nursery.cancel_scope.cancel()

    virtually(main)


@pytest.mark.usefixtures("half_jitter")
@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("raised_by", ["work", "locker"])
def test_an_error_and_what_its_frames_hold_are_gone_with_the_tick_without_the_garbage_collector(
    raised_by: str, *, forced: bool
) -> None:
    """A connection that the work had open would live on for as long as nothing else is collected."""

    class KeptError(Exception):
        def __init__(self) -> None:
            raised.append(weakref.ref(self))

    class Failing:
        async def with_advisory_lock(self, lock_id: int, fn: Callable[[Lease], Awaitable[None]]) -> bool:
            await trio.lowlevel.checkpoint()
            raise KeptError

    async def work(tick: Tick) -> None:
        await trio.sleep(1)
        raise KeptError

    async def main() -> None:
        locker = MemoryLocker() if raised_by == "work" else Failing()
        subject = service(work, locker, on_error=lambda error: None)
        await (subject.tick() if forced else run_for(25, subject))

    raised: list[weakref.ref[KeptError]] = []
    gc.disable()
    try:
        virtually(main)
        assert raised
        assert [kept() for kept in raised if kept() is not None] == []
    finally:
        gc.enable()
